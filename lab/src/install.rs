//! What goes into a PostgreSQL of the user's own.

use anyhow::{Result, ensure};

use crate::own::Own;
use crate::packages::install_packages_to_build;
use crate::progress::step;
use crate::setup::write_pgmq;
use crate::shell::target;
use crate::tools::{build_cargo_pgrx, cargo_command, write_pgrx_config};

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
         Then, in each database with queues: CREATE EXTENSION aimq CASCADE;",
        if major.0 < 17 {
            ": before PostgreSQL 17 nobody is woken for messages that become readable later without that"
        } else {
            ": without that, a notifier begins only with the first enqueue after a start"
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
    write_pgmq(&folder)?;
    own.put(&package)?;
    println!("\nInstalled. In each database that is to have queues: CREATE EXTENSION pgmq;");
    Ok(())
}
