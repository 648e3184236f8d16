//! Where things are, and how other programs are called.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// The ignored folder for everything that is downloaded, built or logged.
pub fn target() -> PathBuf {
    root().join("target")
}

/// Whether we are root: then servers run as somebody else, and missing packages are installed.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// The user that servers run as where we are root, because Postgres refuses to run as root. Debian's `nobody`.
pub const NOBODY: u32 = 65534;

/// How `setpriv` lets somebody else than root reach the checkout wherever it lies, below a folder that
/// is root's alone too. Without the first, access(2) would not count the capability, and initdb asks it.
pub const KEEP_READING: [&str; 4] = [
    "--securebits=+no_setuid_fixup",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
];

/// A command that Postgres' own programs are run with: not as root, able to read the checkout
/// wherever it lies, and ended when we end.
pub fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=INT");
    if is_root() {
        command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")[..]]);
        command.args(KEEP_READING);
    }
    command.arg("--").arg(program);
    // A predictable server: no settings of the user's, messages in English.
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    command.current_dir("/");
    command
}

/// A path for a POSIX shell.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Writes a script that can be run. It is left alone where it is there: somebody may run it.
pub fn write_program(file: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(file.parent().context("a program has a folder")?)?;
    if std::fs::read_to_string(file).is_ok_and(|found| found == text) {
        return Ok(());
    }
    std::fs::write(file, text)?;
    Ok(std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))?)
}

/// Runs a command and returns what it printed; an error carries what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let said = command.output().with_context(|| format!("cannot run {command:?}"))?;
    anyhow::ensure!(
        said.status.success(),
        "{command:?} failed ({}):\n{}{}",
        said.status,
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The same command with so many seconds to live: then it is ended with all that it has started, and its status is
/// [`TIME_IS_OVER`].
pub fn limited(command: &Command, seconds: u32) -> Command {
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=10", &seconds.to_string()]);
    limited.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// The status of a command that took too long (coreutils).
pub const TIME_IS_OVER: i32 = 124;
