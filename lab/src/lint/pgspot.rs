//! pgspot: whether somebody else's function, operator or schema can take the place of what our SQL means.

use std::path::Path;
use std::process::Command;

use aimq_lab::majors::DEFAULT_MAJOR;
use aimq_lab::progress::step;
use aimq_lab::{drivers, setup, shell};
use anyhow::{Context, Result};

/// What pgspot warns of and we mean: these functions have no search_path of their own. The procedures commit, and
/// PostgreSQL lets no procedure do that which has one. The functions call pgmq.read, under which a table's own triggers
/// run: a path that is set around it would be theirs as well. pgspot looks into the bodies all the same, where each
/// name has its schema.
const WITHOUT_SEARCH_PATH: [&str; 4] = [
    "aimq.read(queue text,vt integer,qty integer,max_wait interval,conditional jsonb)",
    "aimq.wait(queues text[],max_wait interval)",
    "aimq.wait_for(queues text[],max_wait interval,INOUT ready text[])",
    "aimq.read_for(queue text,vt integer,qty integer,max_wait interval,conditional jsonb,INOUT messages jsonb)",
];

/// Looks at the install script, as it is put together with what pgrx makes, and at the migration.
pub(super) fn run() -> Result<()> {
    let packages = drivers::pgspot()?;
    setup::install(DEFAULT_MAJOR, setup::Profile::Debug, &[])?;
    let pgspot = |what: &str, file: &Path, without: &[&str]| {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", &packages).args(["-m", "pgspot"]);
        for function in without {
            command.args(["--proc-without-search-path", function]);
        }
        step(&format!("pgspot, {what}"), command.arg(file)).map(drop)
    };
    let version = env!("CARGO_PKG_VERSION");
    let script = DEFAULT_MAJOR.extensions().join(format!("aimq--{version}.sql"));
    std::fs::metadata(&script).context("the install script is not where it was installed")?;
    pgspot("the install script", &script, &WITHOUT_SEARCH_PATH)?;
    let migration = shell::root().join("sql/migrations/aimq_on_supabase.sql");
    pgspot("the migration", &migration, &[])
}
