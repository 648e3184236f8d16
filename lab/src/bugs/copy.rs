//! A copy of the checkout below target/, in which the bugs are made: nobody's sources are touched.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use aimq_lab::shell::{self, target};
use anyhow::{Context, Result};

use super::list::Bug;

/// What is not copied, wherever it is.
const LEFT_OUT: [&str; 4] = ["target", ".git", "node_modules", "__pycache__"];

/// The folder of all that belongs to the bugs.
pub(super) fn folder() -> PathBuf {
    target().join("bugs")
}

/// The copy. A file is written only if it differs, so that cargo builds no more than it must.
#[derive(Debug)]
pub(super) struct Copy {
    root: PathBuf,
}

impl Copy {
    /// Makes the copy, or makes an old one as the checkout is now.
    pub(super) fn make() -> Result<Self> {
        let copy = Self { root: folder().join("tree") };
        copy_folder(shell::root(), &copy.root)?;
        Ok(copy)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a bug.
    pub(super) fn infect(&self, bug: &Bug) -> Result<()> {
        let text = fs::read_to_string(shell::root().join(&bug.file))
            .with_context(|| format!("{}: there is no {}", bug.name, bug.file))?;
        let is_there = text.matches(&bug.was).count() == 1;
        anyhow::ensure!(is_there, "{}: not exactly once in {}", bug.name, bug.file);
        Ok(fs::write(self.root.join(&bug.file), bug.infected(&text))?)
    }

    /// Takes it back.
    pub(super) fn heal(&self, bug: &Bug) -> Result<()> {
        Ok(fs::copy(shell::root().join(&bug.file), self.root.join(&bug.file)).map(drop)?)
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let mut wanted = HashSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|it| name == *it) {
            continue;
        }
        let (source, copy) = (entry.path(), to.join(&name));
        wanted.insert(name);
        if entry.file_type()?.is_dir() {
            copy_folder(&source, &copy)?;
        } else {
            let bytes = fs::read(&source)?;
            if !fs::read(&copy).is_ok_and(|found| found == bytes) {
                fs::write(&copy, bytes)?;
            }
        }
    }
    // What a former checkout had.
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if wanted.contains(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}
