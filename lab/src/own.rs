//! A PostgreSQL of the user's own, named by its pg_config.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::packages::install_packages_to_build;
use crate::progress::step;
use crate::setup::Major;
use crate::shell::{self, target};
use crate::tools::{build_cargo_pgrx, cargo_command, write_pgrx_config};

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
    install_packages_to_build(&mut Vec::new())?;
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
