//! What a PostgreSQL of the user's own, or the machine that it runs on, may lack. The tests that need it are left out
//! there, and counted.

use aimq_lab::own::Own;
use aimq_lab::tools::cargo_command;
use aimq_lab::{debs, drivers, shell};
use anyhow::Result;

use super::count::named;

/// Something that is missing.
pub(crate) struct Lack {
    /// The first line of what stood in its way.
    why: String,
    /// The files under tests/client/tests that need it as a whole.
    pub(crate) files: &'static [&'static str],
    /// How the names of the other tests begin that need it.
    pub(crate) prefix: Option<&'static str>,
}

/// What is missing for this one.
pub(crate) fn of(own: &Own) -> Result<Vec<Lack>> {
    let extensions = own.major.extensions();
    let mut lacks = vec![Lack {
        why: "it needs stand-ins for other versions of pgmq, which are written into no PostgreSQL but ours".into(),
        files: &[],
        prefix: Some("stand_in_"),
    }];
    if !extensions.join("pg_partman.control").exists() {
        let why = format!("{} has no pg_partman", own.version);
        lacks.push(Lack { why, files: &[], prefix: Some("partman_") });
    }
    let modules =
        [extensions.join("pg_stat_statements.control"), own.libraries()?.join("auto_explain.so")];
    if modules.iter().any(|file| !file.exists()) {
        let why = format!("{} has no pg_stat_statements or auto_explain", own.version);
        lacks.push(Lack { why, files: &["examples", "busy"], prefix: Some("contrib_") });
    }
    let first_line = |error: &anyhow::Error| {
        let said = format!("{error:#}");
        said.lines().next().unwrap_or_default().to_owned()
    };
    let mut need = |found: Result<()>, files| {
        if let Err(error) = found {
            lacks.push(Lack { why: first_line(&error), files, prefix: None });
        }
    };
    need(debs::pgbouncer().map(drop), &["pooler", "examples", "busy"]);
    need(drivers::node(), &["examples", "busy"]);
    need(drivers::browser(), &["live"]);
    Ok(lacks)
}

impl Lack {
    /// Those of its tests that are in `files` and wanted, and why they are left out.
    pub(crate) fn tests(&self, files: &[&'static str]) -> Result<Vec<(String, String)>> {
        let (whole, partly): (Vec<_>, Vec<_>) =
            files.iter().partition(|file| self.files.contains(*file));
        let mut tests = list(&whole, "")?;
        if let Some(prefix) = self.prefix {
            tests.extend(list(&partly, prefix)?);
        }
        let name = named().unwrap_or_default();
        tests.retain(|test| test.contains(&name));
        Ok(tests.into_iter().map(|test| (test, self.why.clone())).collect())
    }
}

/// The tests in these files whose names begin so.
fn list(files: &[&str], prefix: &str) -> Result<Vec<String>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let mut tests = cargo_command()?;
    tests.args(["test", "--quiet", "-p", "aimq-client-tests"]);
    tests.args(files.iter().flat_map(|file| ["--test", file]));
    let said = shell::output(tests.args(["--", "--list", "--format", "terse"]))?;
    let names = said.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
}
