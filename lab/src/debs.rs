//! Debian's packages that only tests need: downloaded and unpacked below target/, not installed.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::majors::Major;
use crate::progress::step;
use crate::shell::{self, target};

/// What a shared library that pgbouncer needs is called in Debian and Ubuntu. Debian's package has others too, which
/// every Debian has.
const PGBOUNCER_LIBRARIES: [(&str, &str); 5] = [
    ("libcares.so", "libc-ares2"),
    ("libevent-2.1.so", "libevent-2.1-7"),
    ("libssl.so", "libssl3"),
    ("libcrypto.so", "libssl3"),
    ("libpam.so", "libpam0g"),
];

/// pg_partman's SQL, of which pgmq.create_partitioned makes use. It is plain SQL and PL/pgSQL, so it serves every
/// major that it works with.
pub fn partman(majors: &[Major]) -> Result<()> {
    let unpacked = debs().join("usr/share/postgresql/15/extension");
    if !unpacked.join("pg_partman.control").exists() {
        unpack_debs(&["postgresql-15-partman"], "the tests of partitioned queues")?;
    }
    for major in majors {
        for file in std::fs::read_dir(&unpacked)?.flatten() {
            std::fs::copy(file.path(), major.extensions().join(file.file_name()))?;
        }
    }
    Ok(())
}

/// pgbouncer, and where it finds those shared libraries that the machine lacks.
pub fn pgbouncer() -> Result<(PathBuf, PathBuf)> {
    let why = "the tests of blocking calls through a pooler";
    let program = debs().join("usr/sbin/pgbouncer");
    let libraries = debs().join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    if !program.exists() {
        unpack_debs(&["pgbouncer"], why)?;
    }
    let missing = || {
        let needs =
            shell::output(Command::new("ldd").arg(&program).env("LD_LIBRARY_PATH", &libraries))?;
        let lines = needs.lines().filter(|line| line.contains("not found"));
        Ok::<_, anyhow::Error>(lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>())
    };
    let package = |line: &String| {
        let known = PGBOUNCER_LIBRARIES.iter().find(|(library, _)| line.starts_with(library));
        Ok(known.with_context(|| format!("pgbouncer needs {line}"))?.1)
    };
    let mut packages = missing()?.iter().map(package).collect::<Result<Vec<_>>>()?;
    packages.dedup();
    if !packages.is_empty() {
        unpack_debs(&packages, why)?;
        let still = missing()?;
        ensure!(still.is_empty(), "pgbouncer does not find its libraries: {}", still.join(", "));
    }
    Ok((program, libraries))
}

/// Where they are unpacked.
fn debs() -> PathBuf {
    target().join("debs/unpacked")
}

/// Downloads and unpacks some.
fn unpack_debs(names: &[&str], why: &str) -> Result<()> {
    let list = names.join(" and ");
    // A folder of their own: what else was downloaded is unpacked already.
    let folder = target().join("debs").join(names[0]);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let mut download = Command::new("apt-get");
    download.current_dir(&folder).arg("download").args(names);
    let title = format!("download {list}");
    let lacking = || format!("{why} need Debian's packages, unpacked and not installed: {list}");
    if !shell::is_root() {
        step(&title, &mut download).with_context(lacking)?;
    } else if step(&title, &mut download).is_err() {
        step("apt-get update", Command::new("apt-get").arg("update")).with_context(lacking)?;
        step(&title, &mut download).with_context(lacking)?;
    }
    let mut unpack = Command::new("sh");
    unpack.arg("-euc").arg(r#"for deb in "$1"/*.deb; do dpkg-deb -x "$deb" "$2"; done"#);
    shell::output(unpack.arg("sh").arg(&folder).arg(debs())).map(drop)
}
