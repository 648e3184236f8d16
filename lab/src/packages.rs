//! System packages: installed where we may, otherwise named.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::progress::step;
use crate::shell;

/// Installs what is missing, and what building aimq needs besides.
pub(crate) fn install_packages_to_build(missing: &mut Vec<&str>) -> Result<()> {
    if !has_libclang() {
        missing.push("libclang-dev");
    }
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    install_packages(missing, "needed to build aimq and to run the servers")
}

/// Where bindgen's loader (clang-sys) looks for libclang.
fn has_libclang() -> bool {
    let mut folders: Vec<PathBuf> = ["/usr/lib", "/usr/lib64", "/usr/local/lib"]
        .iter()
        .map(PathBuf::from)
        .chain(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from))
        .collect();
    for parent in ["/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"] {
        let children = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.push(parent.into());
        folders.extend(
            children
                .filter(|child| child.file_name().to_string_lossy().starts_with("llvm"))
                .map(|child| child.path().join("lib")),
        );
    }
    let is_libclang = |name: &str| {
        name.starts_with("libclang.so") || name.starts_with("libclang-1") && name.contains(".so")
    };
    folders.iter().any(|folder| {
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .any(|file| is_libclang(&file.file_name().to_string_lossy()))
    })
}

/// Installs pip, where it is missing.
pub(crate) fn ensure_pip(why: &str) -> Result<()> {
    if shell::output(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
        install_packages(&["python3-pip"], why)?;
    }
    Ok(())
}

/// Installs system packages where we may. Otherwise it says the one line that does.
pub(crate) fn install_packages(names: &[&str], why: &str) -> Result<()> {
    let list = names.join(" ");
    let has_apt = Path::new("/usr/bin/apt-get").exists();
    if !shell::is_root() || !has_apt {
        let line = if has_apt {
            format!("sudo apt-get install -y {list}")
        } else {
            format!("(your package manager's equivalent of Debian's) apt-get install {list}")
        };
        bail!("system packages are missing ({why}). Run this, then try again:\n\n    {line}\n");
    }
    eprintln!("  installing system packages: {list} ({why})");
    let install = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["install", "-y", "--no-install-recommends"]).args(names);
        command
    };
    if shell::output(&mut install()).is_ok() {
        return Ok(());
    }
    step("apt-get update", Command::new("apt-get").arg("update"))?;
    step(&format!("apt-get install {list}"), &mut install()).map(drop)
}
