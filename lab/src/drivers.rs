//! What the examples in Python and TypeScript need: drivers, pinned, each below target/; nothing is installed into the system's
//! Python or Node. (Those in Rust are in Cargo.lock.)

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::progress::step;
use crate::setup::packages;
use crate::shell::{self, root, target};

/// A module and what pip knows it as.
const PYTHON: [(&str, &str); 2] =
    [("psycopg", "psycopg[binary]==3.3.9"), ("asyncpg", "asyncpg==0.32.0")];

/// Where the Python packages are.
pub fn python_packages() -> PathBuf {
    target().join("python")
}

/// The Python packages.
pub fn python() -> Result<()> {
    let folder = python_packages();
    for (module, package) in PYTHON {
        if folder.join(module).exists() {
            continue;
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "-q", "--no-cache-dir", "--disable-pip-version-check"]);
        pip.args(["--only-binary=:all:", package, "--target"]).arg(&folder);
        step(&format!("download {module}"), &mut pip)?;
    }
    Ok(())
}

/// Where the example in TypeScript is built.
pub fn node_folder() -> PathBuf {
    target().join("node")
}

/// Node, and the example in TypeScript, compiled beside its packages: a copy, for npm would put them into the checkout.
pub fn node() -> Result<()> {
    let lacks = |program: &str| shell::output(Command::new(program).arg("--version")).is_err();
    if lacks("node") || lacks("npm") {
        packages(&["nodejs", "npm"], "the example in TypeScript")?;
    }
    let folder = node_folder();
    std::fs::create_dir_all(&folder)?;
    // What differs from the copy, which is made when the step that uses it has been done.
    let differs = |name: &&str| {
        let of = |file: PathBuf| std::fs::read(file).ok();
        let given = of(root().join("examples/node").join(name));
        given.is_none() || given != of(folder.join(name))
    };
    let copy = |names: &[&str]| {
        let from = root().join("examples/node");
        names
            .iter()
            .try_for_each(|name| std::fs::copy(from.join(name), folder.join(name)).map(drop))
    };
    let npm = |words: &[&str]| {
        let mut command = Command::new("npm");
        command.current_dir(&folder).args(words);
        command
    };
    let packages = ["package.json", "package-lock.json", ".npmrc"];
    let sources = ["tsconfig.json", "worker.ts"];
    if packages.iter().any(differs) || !folder.join("node_modules").exists() {
        let _ = std::fs::remove_dir_all(folder.join("node_modules"));
        copy(&packages)?;
        let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
        step("download the packages of the example in TypeScript", &mut npm(&install))?;
    }
    if sources.iter().any(differs) || !folder.join("worker.js").exists() {
        let _ = std::fs::remove_file(folder.join("worker.js"));
        copy(&sources)?;
        let compiled = step("compile the example in TypeScript", &mut npm(&["run", "build"]));
        if compiled.is_err() {
            // TypeScript writes also what it finds faulty.
            let _ = std::fs::remove_file(folder.join("worker.js"));
        }
        compiled?;
    }
    Ok(())
}
