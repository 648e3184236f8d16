//! cargo and cargo-pgrx, as every command here calls them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::majors::{ALL_MAJORS, Major};
use crate::own;
use crate::progress::step;
use crate::shell::{self, target};
use crate::stand_ins;

const PGRX_VERSION: &str = "0.18.1";

/// How cargo-pgrx has the SQL entities kept in the library (its cargo.rs). Overridden by RUSTFLAGS.
pub const PGRX_RUSTFLAGS: &str = "target.'cfg(all(target_family = \"unix\", not(target_os = \"macos\")))'.rustflags = [\"-C\", \"link-arg=-Wl,--no-gc-sections\"]";

/// What of the user's would take the place of these flags.
pub const LINKER_FLAGS: [&str; 3] =
    ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"];

fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// A cargo command in the checkout, with our own cargo-pgrx and its settings, and without what would
/// override cargo-pgrx's linker flags.
pub fn cargo_command() -> Result<Command> {
    let mut command = Command::new(cargo());
    command.current_dir(shell::root()).env("PATH", path(&[])?).env("PGRX_HOME", pgrx_home());
    command.env("CARGO_TARGET_DIR", target());
    for name in LINKER_FLAGS {
        command.env_remove(name);
    }
    if let Some(own) = own::tested() {
        command.env(own::VARIABLE, own.program("pg_config")?);
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

/// Where cargo-pgrx has its list of PostgreSQLs, and what it runs by hand.
pub fn pgrx_home() -> PathBuf {
    target().join(if own::tested().is_some() { "pgrx-own" } else { "pgrx" })
}

/// cargo-pgrx, and its list of the PostgreSQLs under target/, or of the one that is tested.
pub(crate) fn cargo_pgrx() -> Result<()> {
    build_cargo_pgrx()?;
    let tested = own::tested().map(|own| [own.major]);
    let majors = tested.as_ref().map_or(&ALL_MAJORS[..], |own| own);
    let majors = majors.iter().filter(|major| major.program("pg_config").exists());
    let all = majors.map(|major| Ok((*major, pg_config(*major)?)));
    write_pgrx_config(&pgrx_home(), &all.collect::<Result<Vec<_>>>()?)
}

/// cargo-pgrx takes headers and programs from this list. Written by us: `cargo pgrx init` would run
/// initdb where it can.
pub(crate) fn write_pgrx_config(folder: &Path, postgres: &[(Major, PathBuf)]) -> Result<()> {
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

pub(crate) fn build_cargo_pgrx() -> Result<()> {
    build_cargo_tool("cargo-pgrx", PGRX_VERSION)
}

/// Builds a subcommand of cargo's below target/, where it is not there yet.
pub fn build_cargo_tool(name: &str, version: &str) -> Result<()> {
    let tools = target().join("tools");
    let mut installed = cargo_command()?;
    installed.args([name.trim_start_matches("cargo-"), "--version"]);
    let found = shell::output(&mut installed).unwrap_or_default();
    if !found.contains(version) || !tools.join("bin").join(name).exists() {
        step(
            &format!("build {name} {version} (once, some minutes)"),
            cargo_command()?
                // Its own target folder would be thrown away; ours would mix two lock files.
                .env_remove("CARGO_TARGET_DIR")
                // Nobody debugs it.
                .env("CARGO_PROFILE_DEV_DEBUG", "false")
                .args(["install", name, "--locked", "--debug", "--force"])
                .args(["--version", &format!("={version}"), "--root"])
                .arg(&tools),
        )?;
    }
    Ok(())
}

/// Where cargo unpacked a crate of our Cargo.lock.
pub(crate) fn crate_folder(name: &str) -> Result<PathBuf> {
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

/// The pg_config that cargo-pgrx is given. For root it is a stand-in, because `cargo pgrx run` calls initdb and pg_ctl as
/// its own user, and these refuse root. The stand-in names a folder of programs. Each of them runs the real one as
/// another user.
pub fn pg_config(major: Major) -> Result<PathBuf> {
    if !shell::is_root() || own::tested().is_some() {
        return Ok(major.program("pg_config"));
    }
    stand_ins::programs(major)
}
