//! The floors of the house: which room may know which. No arrow runs up, and no files import each other in a circle.
//!
//! An arrow is a path in the code: `use crate::…`, `super::…`, or such a path anywhere else. Not seen are paths in the
//! arguments of macros. A module that hands on names of its own children (`pub use`) knows nothing by that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// From the ground up. Each room knows only rooms on lower floors; rooms on one floor are strangers.
const FLOORS: [&[&str]; 6] = [
    &["pg"],
    &["error", "settings"],
    &["shared", "catalog"],
    &["enqueue", "delivery", "ddl", "waiting", "notifier", "api"],
    &["callbacks"],
    &["lib"],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file by its place among the modules: `["notifier", "worker", "looks"]`; the root is empty.
type Module = Vec<String>;

/// The files of a crate, without its tests.
fn files(folder: &Path) -> BTreeMap<Module, PathBuf> {
    let mut all = BTreeMap::new();
    let mut folders = vec![(folder.to_path_buf(), Module::new())];
    while let Some((folder, module)) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
            if matches!(&*stem, "tests" | "model") {
                continue;
            }
            let mut own = module.clone();
            if path.is_dir() {
                own.push(stem);
                folders.push((path, own));
            } else if path.extension().is_some_and(|it| it == "rs") {
                if !matches!(&*stem, "mod" | "lib" | "main") {
                    own.push(stem);
                }
                all.insert(own, path);
            }
        }
    }
    all
}

/// Gathers the paths of a file, as segments from the root of its crate.
struct Paths {
    /// With the modules that stand within the file.
    module: Module,
    found: BTreeSet<Module>,
}

impl Paths {
    fn add(&mut self, segments: &[String]) {
        let (mut path, rest) = match segments.first().map(String::as_str) {
            Some("crate") => (Module::new(), &segments[1..]),
            Some("self") => (self.module.clone(), &segments[1..]),
            Some("super") => (self.module.clone(), segments),
            _ => return,
        };
        let ups = rest.iter().take_while(|it| *it == "super").count();
        path.truncate(path.len().saturating_sub(ups));
        path.extend_from_slice(&rest[ups..]);
        self.found.insert(path);
    }

    fn add_tree(&mut self, tree: &syn::UseTree, before: &mut Module) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_tree(tree, before));
            }
            syn::UseTree::Name(syn::UseName { ident, .. })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                before.push(ident.to_string());
                self.add(before);
                before.pop();
            }
            syn::UseTree::Glob(_) => self.add(before),
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    let is_cfg = |it: &&syn::Attribute| it.path().is_ident("cfg");
    attributes.iter().filter(is_cfg).any(|it| match &it.meta {
        syn::Meta::List(list) => {
            list.tokens.to_string().split([' ', '(', ',']).any(|it| it == "test")
        }
        _ => false,
    })
}

impl<'ast> Visit<'ast> for Paths {
    // `pub(crate)` has a path too.
    fn visit_visibility(&mut self, _visibility: &'ast syn::Visibility) {}

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // What is handed on belongs to who defines it.
        if matches!(item.vis, syn::Visibility::Inherited) && !is_test(&item.attrs) {
            self.add_tree(&item.tree, &mut Module::new());
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }
}

type Arrows = BTreeSet<(Module, Module)>;

/// Which file of a crate knows which other one.
fn arrows(folder: &Path) -> Arrows {
    let files = files(folder);
    let mut arrows = Arrows::new();
    for (module, path) in &files {
        let code = std::fs::read_to_string(path).expect("a file");
        let mut paths = Paths { module: module.clone(), found: BTreeSet::new() };
        paths.visit_file(
            &syn::parse_file(&code).unwrap_or_else(|error| panic!("{path:?}: {error}")),
        );
        for mut target in paths.found {
            while !files.contains_key(&target) {
                target.pop();
            }
            if target != *module {
                arrows.insert((module.clone(), target));
            }
        }
    }
    arrows
}

fn name(module: &Module) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("::") }
}

/// A way from a file back to itself, if there is one.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk<'a>(
        arrows: &'a Arrows,
        at: &'a Module,
        way: &mut Vec<&'a Module>,
        done: &mut BTreeSet<&'a Module>,
    ) -> Option<Vec<String>> {
        if let Some(begin) = way.iter().position(|it| *it == at) {
            return Some(way[begin..].iter().map(|it| name(it)).collect());
        }
        if !done.insert(at) {
            return None;
        }
        way.push(at);
        let next = arrows.iter().filter(|(from, _)| from == at);
        let found = next.into_iter().find_map(|(_, to)| walk(arrows, to, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    arrows.iter().find_map(|(from, _)| walk(arrows, from, &mut Vec::new(), &mut done))
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for folder in
        ["src", "core/src", "lab/src", "bench/src", "hunt/src", "sqlfuzz/src", "tests/client/src"]
    {
        let arrows = arrows(&root().join(folder));
        assert!(!arrows.is_empty(), "{folder}: nothing was read");
        assert_eq!(circle(&arrows), None, "in {folder}");
    }
}

fn room(module: &Module) -> String {
    module.first().cloned().unwrap_or_else(|| "lib".to_owned())
}

fn floor(room: &str) -> usize {
    FLOORS
        .iter()
        .position(|rooms| rooms.contains(&room))
        .unwrap_or_else(|| panic!("src/{room} is on no floor"))
}

#[test]
fn rooms_know_only_those_on_lower_floors() {
    let mut rooms = BTreeSet::new();
    for (from, to) in arrows(&root().join("src")) {
        let (from_room, to_room) = (room(&from), room(&to));
        if from_room != to_room {
            assert!(
                floor(&from_room) > floor(&to_room),
                "src: {} knows {}, which is not on a lower floor",
                name(&from),
                name(&to)
            );
            rooms.insert((from_room, to_room));
        }
    }
    println!("{} arrows between rooms:", rooms.len());
    for (from, to) in &rooms {
        println!("  {from} -> {to}");
    }
    assert!(rooms.len() > 20, "few arrows: are they read?");
}

#[test]
fn a_circle_is_found() {
    let module = |name: &str| vec![name.to_owned()];
    let arrow = |from, to| (module(from), module(to));
    let all = [arrow("a", "b"), arrow("b", "c"), arrow("c", "b"), arrow("a", "c")];
    assert_eq!(circle(&all.into()), Some(vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!(circle(&[arrow("a", "b"), arrow("a", "c"), arrow("b", "c")].into()), None);
}
