//! `make env`: what a shell needs in which somebody calls cargo-pgrx by hand.

use std::path::{Path, PathBuf};

use aimq_lab::majors::Major;
use aimq_lab::setup;
use aimq_lab::shell::{self, quoted, target};
use aimq_lab::stand_ins;
use aimq_lab::tools::{self, LINKER_FLAGS};
use anyhow::{Context, Result};

/// Prints the lines for the shell's `eval`, and warns of what would happen without them.
pub(crate) fn print(major: Major) -> Result<()> {
    setup::prepare(major)?;
    warn_of_others();
    println!("# For the shell: eval \"$(make env PG={})\"", major.0);
    let pg_config = tools::pg_config(major)?;
    // `cargo pgrx package` asks the first pg_config that it finds.
    let bin = pg_config.parent().context("a program has a folder")?.to_owned();
    let mut folders = vec![bin, target().join("tools/bin")];
    if shell::is_root() {
        // PostgreSQL does not run as root: the harness calls sudo because of that.
        println!("export CARGO_PGRX_TEST_RUNAS={}", stand_ins::RUN_AS);
        folders.insert(0, target().join("lab/bin"));
        stand_ins::sudo(&folders[0])?;
    }
    println!("export PGRX_HOME={}", quoted(&tools::pgrx_home()));
    // As make has it: otherwise pgrx would be compiled again, by hand and then by make.
    println!("export PGRX_PG_CONFIG_PATH={}", quoted(&pg_config));
    let folders: Vec<_> = folders.iter().map(|folder| quoted(folder)).collect();
    println!("export PATH={}:\"$PATH\"", folders.join(":"));
    // The harness asks for it.
    println!("export USER=\"${{USER:-$(id -un)}}\"");
    // They would take the place of cargo-pgrx's.
    println!("unset {}", LINKER_FLAGS.join(" "));
    Ok(())
}

/// Warns if cargo-pgrx, as it is called now, would write into a PostgreSQL that is not ours: without a word it takes
/// the place of the library that is there.
fn warn_of_others() {
    let told = std::env::var_os("PGRX_HOME").map(PathBuf::from);
    let Some(home) = told.or_else(|| Some(std::env::home_dir()?.join(".pgrx"))) else { return };
    let file = home.join("config.toml");
    let Ok(config) = std::fs::read_to_string(&file) else { return };
    // Each line of it is `pg17 = "/path/to/pg_config"`.
    let paths = config.lines().filter_map(|line| line.split('"').nth(1));
    let others: Vec<_> = paths.filter(|path| !Path::new(path).starts_with(target())).collect();
    if !others.is_empty() {
        eprintln!(
            "\nWARNING: {} names a PostgreSQL that does not belong to this checkout:\n    {}\n\
             In a shell without the lines of `make env`, `cargo pgrx run`, `cargo pgrx test` and\n\
             `cargo pgrx install` put a debug build there, in the place of the aimq that it has.\n",
            file.display(),
            others.join("\n    ")
        );
    }
}
