//! `make demo`, `make test`, `make install` and `make lint` are this program.

mod demo;
mod pgrx;
mod tests;

use aimq_lab::{cluster, setup};
use anyhow::{Result, bail};

const USAGE: &str = "\
Usage: lab COMMAND

  setup [--pg MAJOR]...      make everything ready: PostgreSQL, pgmq, aimq
  demo [--pg MAJOR]          show a worker being woken
  test [KIND]... [--pg MAJOR]...  run the tests: unit, client, pgrx, commands; on all
                             majors or those named
  install PG_CONFIG          build a release of aimq and install it into a PostgreSQL of yours
  lint                       formatting, clippy, documentation
";

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nlab: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let mut majors = Vec::new();
    let mut words = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--pg" => majors.push(setup::Major::parse(&arguments.next().unwrap_or_default())?),
            _ => words.push(argument),
        }
    }
    let one = || majors.first().copied().unwrap_or(setup::DEFAULT_MAJOR);
    if command != "demo-worker" {
        cluster::clean_up_on_signals()?;
    }
    match command.as_str() {
        "setup" => {
            let majors = if majors.is_empty() { setup::ALL_MAJORS.to_vec() } else { majors };
            majors.iter().try_for_each(|major| setup::ready(*major, setup::Profile::Release))
        }
        "demo" => demo::run(one()),
        "demo-worker" => demo::worker(&words),
        "test" => tests::run(&words, &majors),
        "install" => setup::install_into(words.first().map_or("", String::as_str)),
        "lint" => tests::lint(),
        _ => bail!("{USAGE}"),
    }
}
