//! The list of bugs, lab/bugs.toml.

use std::path::PathBuf;

use aimq_lab::shell;
use anyhow::{Context, Result};
use serde::Deserialize;

/// From the checkout's root.
pub(super) const PATH: &str = "lab/bugs.toml";

/// What has to catch a bug. In the order in which they are tried.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A unit test of core/.
    Unit,
    /// A test of core/ in which loom tries every interleaving.
    Loom,
    /// A client test, on a server with the bug in it.
    Client,
}

impl Kind {
    /// As the list has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Loom => "loom",
            Self::Client => "client",
        }
    }
}

/// A bug: a small change of one file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bug {
    /// What it is called.
    pub(super) name: String,
    /// Why it is one.
    pub(super) why: String,
    /// Which file it is in, from the checkout's root.
    pub(super) file: String,
    /// What stands there, once.
    pub(super) was: String,
    /// What stands there with the bug.
    pub(super) is: String,
    /// What has to catch it.
    pub(super) kind: Kind,
    /// The test's name, as cargo shows it. Of a client test the file comes first: `notifier::a_test`.
    pub(super) test: String,
}

impl Bug {
    /// The file of a client test, and its name in there.
    pub(super) fn client_test(&self) -> Result<(&str, &str)> {
        self.test
            .split_once("::")
            .with_context(|| format!("{}: {} has no ::", self.name, self.test))
    }

    /// The file with the bug in it.
    pub(super) fn infected(&self, text: &str) -> String {
        text.replacen(&self.was, &self.is, 1)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    bug: Vec<Bug>,
}

/// All bugs.
pub(super) fn read() -> Result<Vec<Bug>> {
    let path: PathBuf = shell::root().join(PATH);
    let text = std::fs::read_to_string(&path)?;
    let list: List = toml::from_str(&text).with_context(|| format!("{PATH} can't be read"))?;
    Ok(list.bug)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    fn text(file: &str) -> String {
        std::fs::read_to_string(shell::root().join(file)).unwrap_or_default()
    }

    /// All that is in Rust files below a folder.
    fn all_below(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                all_below(&path, all);
            } else if path.extension().is_some_and(|it| it == "rs") {
                all.push_str(&std::fs::read_to_string(path).expect("a text"));
            }
        }
    }

    #[test]
    fn what_a_bug_replaces_stands_in_its_file_once() {
        let wrong: Vec<_> = read()
            .expect("a list")
            .into_iter()
            .map(|bug| (text(&bug.file).matches(&bug.was).count(), bug))
            .filter(|(count, _)| *count != 1)
            .map(|(count, bug)| format!("{}: {count} times in {}", bug.name, bug.file))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_tests_that_catch_bugs_are_there() {
        let mut core = String::new();
        all_below(&shell::root().join("core/src"), &mut core);
        for bug in read().expect("a list") {
            let (in_file, name) = match bug.kind {
                Kind::Client => {
                    let (file, name) = bug.client_test().expect("a file");
                    (text(&format!("tests/client/tests/{file}.rs")), name)
                }
                Kind::Unit | Kind::Loom => {
                    (core.clone(), bug.test.rsplit("::").next().expect("a name"))
                }
            };
            assert!(in_file.contains(&format!("fn {name}(")), "{}: no {}", bug.name, bug.test);
        }
    }

    #[test]
    fn no_two_bugs_have_one_name_or_do_the_same() {
        let (mut names, mut changes) = (HashSet::new(), HashSet::new());
        for bug in read().expect("a list") {
            assert_ne!(bug.was, bug.is, "{}", bug.name);
            assert!(names.insert(bug.name.clone()), "{}", bug.name);
            assert!(changes.insert((bug.was, bug.is)), "{}", bug.name);
        }
    }
}
