//! A PostgreSQL of the user's own, named by its pg_config.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::packages::install_packages_to_build;
use crate::progress::step;
use crate::setup::Major;
use crate::shell::{self, target};
use crate::tools::{build_cargo_pgrx, cargo_command, write_pgrx_config};

/// How the client tests, which are processes of their own, are told which one is tested.
pub(crate) const VARIABLE: &str = "AIMQ_TEST_PG_CONFIG";

/// A PostgreSQL that is not below target/.
#[derive(Debug)]
pub struct Own {
    /// Its major version.
    pub major: Major,
    /// What it says of itself: `PostgreSQL 17.6 (Debian …)`.
    pub version: String,
    pg_config: PathBuf,
}

impl Own {
    /// The one that this pg_config speaks for.
    fn of(pg_config: &OsStr) -> Result<Self> {
        let pg_config = std::fs::canonicalize(pg_config)
            .with_context(|| format!("there is no {}", Path::new(pg_config).display()))?;
        let mut own = Self { major: Major(0), version: String::new(), pg_config };
        own.version = own.says("--version")?;
        let mut numbers = own.version.split(|c: char| !c.is_ascii_digit());
        own.major = Major::parse(numbers.find(|part| !part.is_empty()).unwrap_or_default())?;
        Ok(own)
    }

    fn says(&self, what: &str) -> Result<String> {
        Ok(shell::output(Command::new(&self.pg_config).arg(what))?.trim().to_owned())
    }

    /// One of its programs. Its pg_config need not lie beside the others.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        if name == "pg_config" {
            return Ok(self.pg_config.clone());
        }
        Ok(Path::new(&self.says("--bindir")?).join(name))
    }

    /// Where extensions' control files and SQL are.
    pub(crate) fn extensions(&self) -> Result<PathBuf> {
        Ok(Path::new(&self.says("--sharedir")?).join("extension"))
    }

    /// Where extensions' libraries are.
    pub fn libraries(&self) -> Result<PathBuf> {
        self.says("--pkglibdir").map(PathBuf::from)
    }

    /// Whether we may write into its folders.
    fn is_writable(&self) -> Result<bool> {
        Ok([self.libraries()?, self.extensions()?].iter().all(|folder| {
            let file = folder.join(".aimq");
            std::fs::write(&file, "").is_ok() && std::fs::remove_file(&file).is_ok()
        }))
    }

    fn ensure_it_has_headers(&self) -> Result<()> {
        let Self { version, major, .. } = self;
        ensure!(
            Path::new(&self.says("--includedir-server")?).join("postgres.h").exists(),
            "{version} has no server headers: install them first (Debian's package is postgresql-server-dev-{})",
            major.0
        );
        Ok(())
    }

    /// What must be so before tests run on it.
    pub(crate) fn prepare(&self) -> Result<()> {
        let Self { version, pg_config, .. } = self;
        self.ensure_it_has_headers()?;
        let extensions = self.extensions()?;
        ensure!(
            extensions.join("pgmq.control").exists(),
            "{version} has no pgmq. This installs the one that aimq is tested with:\n\n    \
             make pgmq PG_CONFIG={}\n",
            pg_config.display()
        );
        ensure!(
            self.program("initdb")?.exists(),
            "{version} has no initdb: {} is not that of a server",
            pg_config.display()
        );
        ensure!(
            self.is_writable()?,
            "the tests install a build of aimq, and you may not write into {} and {}: run them as somebody who \
             may, or on a copy of this PostgreSQL",
            self.libraries()?.display(),
            extensions.display()
        );
        install_packages_to_build(&mut Vec::new())
    }

    /// Puts the files of a package into their places. Each is put beside the old one and takes its place in one step:
    /// sessions that have the old library keep it, and new ones always find one. By sudo where the user may not write:
    /// no build ever runs as root because of that.
    fn put(&self, package: &Path) -> Result<()> {
        let mut copy = Command::new(if self.is_writable()? { "env" } else { "sudo" });
        copy.args(["sh", "-euc"]).arg(
            r#"cd "$1"
               find . -type f | while read -r file; do
                   to="/${file#./}"
                   case "$file" in *.sql | *.control) mode=644 ;; *) mode=755 ;; esac
                   install -D -m "$mode" "$file" "$to.new"
                   mv -f "$to.new" "$to"
                   echo "$to"
               done"#,
        );
        step("copy its files", copy.arg("sh").arg(package)).map(drop)
    }
}

/// The one that is tested, where it is not one of ours.
pub fn tested() -> Option<&'static Own> {
    TESTED
        .get_or_init(|| {
            let told = std::env::var_os(VARIABLE)?;
            Some(Own::of(&told).expect("a pg_config that was asked before"))
        })
        .as_ref()
}

static TESTED: OnceLock<Option<Own>> = OnceLock::new();

/// Has the tests run on this one.
pub fn test_on(pg_config: &str) -> Result<&'static Own> {
    let own = Own::of(pg_config.as_ref())?;
    TESTED.get_or_init(|| Some(own)).as_ref().context("another PostgreSQL is tested already")
}

/// `make install`: a release build.
pub fn install_into(pg_config: &str) -> Result<()> {
    ensure!(
        !pg_config.is_empty(),
        "say which PostgreSQL: make install PG_CONFIG=/path/to/its/pg_config"
    );
    let own = Own::of(pg_config.as_ref())?;
    let Own { major, version, pg_config } = &own;
    own.ensure_it_has_headers()?;
    install_packages_to_build(&mut Vec::new())?;
    build_cargo_pgrx()?;
    let home = target().join("pgrx-install");
    write_pgrx_config(&home, &[(*major, pg_config.clone())])?;
    let package = target().join("package");
    let _ = std::fs::remove_dir_all(&package);
    let mut command = cargo_command()?;
    command.env("PGRX_HOME", home);
    command.args(["pgrx", "package", "--no-default-features"]);
    command.args(["--features", &major.feature(), "--pg-config"]).arg(pg_config);
    command.arg("--out-dir").arg(&package).env("PGRX_PG_CONFIG_PATH", pg_config);
    step(&format!("build aimq for {version}"), &mut command)?;
    own.put(&package)?;
    println!(
        "\nInstalled. Add aimq to shared_preload_libraries and restart the server{}.\n\
         Then, in each database that has pgmq: CREATE EXTENSION aimq;",
        if major.0 < 17 {
            ": before PostgreSQL 17 nobody is woken for messages that become readable later without that"
        } else {
            ": without that, a notifier is there only after the first enqueue"
        }
    );
    Ok(())
}

/// `make pgmq`: the pgmq that aimq is tested with, where there is none.
pub fn install_pgmq_into(pg_config: &str) -> Result<()> {
    ensure!(
        !pg_config.is_empty(),
        "say which PostgreSQL: make pgmq PG_CONFIG=/path/to/its/pg_config"
    );
    let own = Own::of(pg_config.as_ref())?;
    let extensions = own.extensions()?;
    if let Ok(control) = std::fs::read_to_string(extensions.join("pgmq.control")) {
        let version = control.lines().find(|line| line.starts_with("default_version"));
        println!("{} has pgmq ({}).", own.version, version.unwrap_or("of no version").trim());
        return Ok(());
    }
    let package = target().join("package-pgmq");
    let _ = std::fs::remove_dir_all(&package);
    let folder = package.join(extensions.strip_prefix("/")?);
    std::fs::create_dir_all(&folder)?;
    crate::setup::write_pgmq(&folder)?;
    own.put(&package)?;
    println!("\nInstalled. In each database that is to have queues: CREATE EXTENSION pgmq;");
    Ok(())
}
