//! `make lint`: what is checked without running anything.

mod pgspot;

use std::process::Command;

use aimq_lab::progress::step;
use aimq_lab::tools::{self, cargo_command};
use aimq_lab::{drivers, majors, setup, shell};
use anyhow::Result;

/// `make lint`.
pub(crate) fn run() -> Result<()> {
    setup::prepare(majors::DEFAULT_MAJOR)?;
    let feature = majors::DEFAULT_MAJOR.feature();
    let cargo = |arguments: &[&str]| -> Result<Command> {
        let mut command = cargo_command()?;
        command.args(arguments);
        command.env("PGRX_PG_CONFIG_PATH", tools::pg_config(majors::DEFAULT_MAJOR)?);
        Ok(command)
    };
    // The flags that cargo-pgrx builds with: else every crate would be compiled once more. Behind the command's name,
    // since clippy's passes on only what is there.
    let all = ["--config", tools::PGRX_RUSTFLAGS, "--workspace", "--no-default-features"];
    let linters = drivers::linters()?;
    let linter = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(linters.join(name));
        step(name, command.current_dir(shell::root()).args(arguments))
    };
    linter("typos", &[])?;
    linter("taplo", &["fmt", "--check"])?;
    step("cargo fmt", &mut cargo(&["fmt", "--all", "--check"])?)?;
    step(
        "clippy",
        cargo(&["clippy"])?.args(all).arg("--all-targets").args([
            "--features",
            &format!("{feature},pg_test,bench_shapes"),
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step(
        "rustdoc",
        cargo(&["doc"])?
            .args(all)
            .args(["--features", &feature, "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"),
    )?;
    pgspot::run()
}

/// `make deny`: the licences and sources of the crates that this project depends on. Not a part of `make lint`, because
/// cargo-deny takes more than a minute to build.
pub(crate) fn deny() -> Result<()> {
    tools::build_cargo_tool("cargo-deny", DENY_VERSION)?;
    step("cargo deny", cargo_command()?.args(["deny", "check", "bans", "licenses", "sources"]))?;
    Ok(())
}

const DENY_VERSION: &str = "0.20.2";
