//! A PostgreSQL of the user's own, named by its pg_config.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::majors::Major;
use crate::packages::install_packages_to_build;
use crate::progress::step;
use crate::shell::{self, target};

/// How the client tests, which are processes of their own, are told which one is tested.
pub(crate) const VARIABLE: &str = "AIMQ_TEST_PG_CONFIG";

/// A PostgreSQL that is not below target/.
#[derive(Debug)]
pub struct Own {
    /// Its major version.
    pub major: Major,
    /// What it says of itself: `PostgreSQL 17.6 (Debian …)`.
    pub version: String,
    pub(crate) pg_config: PathBuf,
}

impl Own {
    /// The one that this pg_config speaks for.
    pub(crate) fn of(pg_config: &OsStr) -> Result<Self> {
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
    pub(crate) fn is_writable(&self) -> Result<bool> {
        Ok([self.libraries()?, self.extensions()?].iter().all(|folder| {
            let file = folder.join(".aimq");
            std::fs::write(&file, "").is_ok() && std::fs::remove_file(&file).is_ok()
        }))
    }

    pub(crate) fn ensure_it_has_headers(&self) -> Result<()> {
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
    pub(crate) fn put(&self, package: &Path) -> Result<()> {
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

/// Where a PostgreSQL is: one of ours, or the user's own in its place.
impl Major {
    pub(crate) fn home(self) -> PathBuf {
        target().join("pg").join(self.0.to_string())
    }

    /// The user's own PostgreSQL, if that is tested in the place of ours.
    pub(crate) fn own(self) -> Option<&'static Own> {
        tested().filter(|own| own.major == self)
    }

    /// One of this PostgreSQL's own programs.
    pub fn program(self, name: &str) -> PathBuf {
        match self.own() {
            Some(own) => own.program(name).expect("a pg_config that was asked before"),
            None => self.home().join("bin").join(name),
        }
    }

    /// Where extensions' control files and SQL are.
    pub fn extensions(self) -> PathBuf {
        match self.own() {
            Some(own) => own.extensions().expect("a pg_config that was asked before"),
            None => self.home().join("share/extension"),
        }
    }
}

/// The one that is tested, where it is not one of ours.
pub fn tested() -> Option<&'static Own> {
    if TESTED.get().is_none() {
        let told = std::env::var_os(VARIABLE)?;
        TESTED.get_or_init(|| Own::of(&told).expect("a pg_config that was asked before"));
    }
    TESTED.get()
}

static TESTED: OnceLock<Own> = OnceLock::new();

/// Has the tests run on this one from here on.
pub fn test_on(pg_config: &str) -> Result<&'static Own> {
    let own = Own::of(pg_config.as_ref())?;
    Ok(TESTED.get_or_init(|| own))
}
