//! pgrx' own harness: `#[pg_test]`, each in a transaction of a server that is rolled back.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use aimq_lab::majors::Major;
use aimq_lab::{shell, stand_ins, tools};

/// `cargo pgrx test`. As root it runs its servers by `sudo -u`, which a bare Debian lacks and root has no need of:
/// there a `sudo` of ours stands in front of the PATH. It makes its server in `folder`, and stops it when its tests are
/// over.
pub(crate) fn command(major: Major, folder: &Path) -> Result<Command> {
    let mut tests = tools::cargo_command()?;
    tests.args(["pgrx", "test", &major.feature(), "--no-default-features", "--pgdata"]);
    tests.arg(folder);
    // As in the shells of many who try this. It must not stand in an error's DETAIL.
    tests.env("RUST_BACKTRACE", "1");
    // As where aimq is installed: otherwise pgrx would be compiled again, here and then there.
    tests.env("PGRX_PG_CONFIG_PATH", tools::pg_config(major)?);
    if shell::is_root() {
        std::os::unix::fs::chown(folder, Some(shell::NOBODY), Some(shell::NOBODY))?;
        let bin = shell::target().join("lab/bin");
        stand_ins::sudo(&bin)?;
        tests
            .env("PATH", tools::path(&[bin])?)
            .env("USER", "root")
            .args(["--runas", stand_ins::RUN_AS]);
    } else if std::env::var_os("USER").is_none() {
        tests.env("USER", shell::output(Command::new("id").arg("-un"))?.trim());
    }
    Ok(tests)
}
