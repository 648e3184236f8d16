//! Where results and pictures are kept.

use std::path::{Path, PathBuf};

use aimq_lab::majors::Major;
use aimq_lab::shell;

/// Where the results are that go into git.
pub(crate) fn kept_results(major: Major) -> PathBuf {
    shell::root().join(format!("bench/results/pg{}.json", major.0))
}

/// Where the README's pictures are.
pub(crate) fn kept_pictures() -> PathBuf {
    shell::root().join("docs/pictures")
}

/// Where all other results go.
pub(crate) fn unkept() -> PathBuf {
    shell::target().join("bench")
}

/// A file, from the checkout where it is in there.
pub(crate) fn shown(file: &Path) -> String {
    file.strip_prefix(shell::root()).unwrap_or(file).display().to_string()
}
