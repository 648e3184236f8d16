//! What the examples in Python and TypeScript, and the tests in Python, need: packages, pinned, each below target/;
//! nothing is installed into the system's Python or Node. (Those in Rust are in Cargo.lock.)

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::packages::{ensure_pip, install_packages};
use crate::progress::step;
use crate::shell::{self, root, target};

/// What the examples and the tests' own Python programs import, pinned.
const PYTHON: [&str; 6] = [
    "psycopg[binary]==3.3.9",
    "asyncpg==0.32.0",
    "psycopg-pool==3.3.3",
    "orjson==3.13.0",
    "pydantic==2.14.3",
    "pydantic-settings==2.16.3",
];

/// Clients whose own code is tested, without what else they need: for `aimq` that is torch, and much more.
const PYTHON_ALONE: [&str; 2] = ["aimq==0.1.2", "pgmq==1.1.4"];

/// Where the Python packages are.
pub fn python_packages() -> PathBuf {
    target().join("python")
}

/// The Python packages.
pub fn python() -> Result<()> {
    let alone: &[&str] = &["--no-deps", "--ignore-requires-python"];
    install_wheels(&python_packages(), &[(&PYTHON, &[]), (&PYTHON_ALONE, alone)])
}

/// Programs that `make lint` runs, pinned. They are written in Rust: PyPI has them built, and to build them here takes
/// minutes.
const LINTERS: [&str; 2] = ["typos==1.52.0", "taplo==0.9.3"];

/// Installs these programs, and returns the folder in which they are.
pub fn linters() -> Result<PathBuf> {
    let folder = target().join("lint");
    install_wheels(&folder, &[(&LINTERS, &[])])?;
    Ok(folder.join("bin"))
}

/// What `make lint` looks for holes in our SQL with, pinned.
const PGSPOT: [&str; 2] = ["pgspot==0.9.4", "pglast==7.21"];

/// Installs pgspot, and returns the folder in which Python finds it.
pub fn pgspot() -> Result<PathBuf> {
    let folder = target().join("pgspot");
    install_wheels(&folder, &[(&PGSPOT, &[])])?;
    Ok(folder)
}

/// Installs groups of packages into a folder, each with options of pip's.
fn install_wheels(folder: &Path, groups: &[(&[&str], &[&str])]) -> Result<()> {
    let names: Vec<_> = groups.iter().flat_map(|(packages, _)| *packages).copied().collect();
    let (done, wanted) = (folder.join(".installed"), names.join("\n"));
    if std::fs::read_to_string(&done).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    ensure_pip("wheels are downloaded with pip")?;
    let _ = std::fs::remove_dir_all(folder);
    for (packages, options) in groups {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "-q", "--no-cache-dir", "--disable-pip-version-check"]);
        pip.arg("--only-binary=:all:").args(*options).args(*packages).arg("--target").arg(folder);
        step(&format!("download {}", packages.join(", ")), &mut pip)?;
    }
    Ok(std::fs::write(done, wanted)?)
}

/// Where the example in TypeScript is built.
pub fn node_folder() -> PathBuf {
    target().join("node")
}

/// Node, and the example in TypeScript, compiled beside its packages: a copy, because npm would put them into the
/// checkout.
pub fn node() -> Result<()> {
    node_itself("the example in TypeScript")?;
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
            // TypeScript also writes files in which it finds errors.
            let _ = std::fs::remove_file(folder.join("worker.js"));
        }
        compiled?;
    }
    Ok(())
}

fn node_itself(why: &str) -> Result<()> {
    let lacks = |program: &str| shell::output(Command::new(program).arg("--version")).is_err();
    if lacks("node") || lacks("npm") {
        install_packages(&["nodejs", "npm"], why)?;
    }
    Ok(())
}

/// Where the live page of the examples is run from: beside the packages that it needs.
pub fn live_page() -> PathBuf {
    target().join("live")
}

/// The live page with its npm packages, pinned, and the browser that its test drives. The checkout gets no
/// node_modules.
pub fn browser() -> Result<()> {
    let why = "the test of the live page";
    if !Path::new("/usr/bin/chromium").exists() {
        install_packages(&["chromium"], why)?;
    }
    node_itself(why)?;
    let (from, folder) = (root().join("examples/live"), live_page());
    std::fs::create_dir_all(&folder)?;
    for file in ["server.mjs", "queues.mjs", "index.html", "package.json"] {
        std::fs::copy(from.join(file), folder.join(file))?;
    }
    let (wanted, found) = (from.join("package-lock.json"), folder.join("package-lock.json"));
    let text = std::fs::read_to_string(wanted)?;
    // What npm writes last of all.
    let is_complete = folder.join("node_modules/.package-lock.json").exists();
    if is_complete && std::fs::read_to_string(&found).is_ok_and(|found| found == text) {
        return Ok(());
    }
    std::fs::write(&found, text)?;
    let mut npm = Command::new("npm");
    npm.current_dir(&folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    step("download the live page's packages", &mut npm).map(drop)
}
