//! `make uninstall`: takes aimq's files out of a PostgreSQL, unless a server of that PostgreSQL still needs them.
//!
//! PostgreSQL looks for a trigger's library when the trigger first fires in a session. With the library gone, that fails,
//! and each enqueue with it: no code of ours runs which could help. An event trigger fails each DDL in the same way, and a
//! server that preloads the library does not start any more. So the databases come first, and the files last.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::own::Own;
use crate::progress::step;
use crate::shell::{self, KEEP_READING};

/// The databases that have functions in the library.
const DATABASES: &str = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn";
const NEEDS_IT: &str =
    "SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc WHERE probin = '$libdir/aimq'";

/// What gets a database ready for it.
const IN_EACH_DATABASE: &str = "SELECT aimq.disable_realtime_all(); DROP EXTENSION aimq;";

/// A server that runs, as its process says.
struct Server {
    pid: u32,
    data: Option<PathBuf>,
}

/// `make uninstall`. By force, it does not ask.
pub fn run(pg_config: &str, is_forced: bool) -> Result<()> {
    ensure!(
        !pg_config.is_empty(),
        "say which PostgreSQL: make uninstall PG_CONFIG=/path/to/its/pg_config"
    );
    let own = Own::of(pg_config.as_ref())?;
    let mut reasons = Vec::new();
    if !is_forced {
        for server in servers(&own.program("postgres")?)? {
            reasons.extend(needs(&own, &server).unwrap_or_else(|error| {
                vec![format!("process {}: it can't be asked: {error:#}", server.pid)]
            }));
        }
    }
    if !reasons.is_empty() {
        bail!(
            "nothing was removed. With the library gone, each enqueue to a realtime queue fails, each DDL where the \
             extension is, and each start of a server that preloads it.\n\n    {}\n\nFirst run, in each of these \
             databases: {IN_EACH_DATABASE}\nThen take aimq out of shared_preload_libraries and restart. A server that \
             can't be asked from here you have to look after yourself; PGUSER=postgres asks as another superuser, and \
             FORCE=1 asks none.",
            reasons.join("\n    ")
        );
    }
    let files = files(&own)?;
    if files.is_empty() {
        println!("{} has no files of aimq's.", own.version);
        return Ok(());
    }
    let mut remove = Command::new(if own.is_writable()? { "env" } else { "sudo" });
    remove.args(["rm", "-f", "--"]).args(&files);
    step("remove aimq's files", &mut remove)?;
    files.iter().for_each(|file| println!("removed {}", file.display()));
    Ok(())
}

/// aimq's files in a PostgreSQL.
fn files(own: &Own) -> Result<Vec<PathBuf>> {
    let is_ours = |name: &str| {
        ["aimq.so", "aimq.dylib", "aimq.control"].contains(&name)
            || name.starts_with("aimq--") && name.ends_with(".sql")
    };
    let mut found = Vec::new();
    for folder in [own.libraries()?, own.extensions()?] {
        for file in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let file = file?;
            if file.file_name().to_str().is_some_and(is_ours) {
                found.push(file.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The servers of this program that run on this machine. Those in containers of their own may be out of sight.
fn servers(program: &Path) -> Result<Vec<Server>> {
    let program = std::fs::canonicalize(program)?;
    let mut found = Vec::new();
    let processes = std::fs::read_dir("/proc")
        .context("there is no /proc to find servers in. FORCE=1 looks for none")?;
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Everybody may read it. Backends and workers have words of their own in there.
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let mut words = words.split('\0');
        if words.next().and_then(|word| std::fs::canonicalize(word).ok()).as_ref() != Some(&program)
        {
            continue;
        }
        let data = words.skip_while(|word| *word != "-D").nth(1).map(PathBuf::from);
        let data = data.or_else(|| std::fs::read_link(process.path().join("cwd")).ok());
        found.push(Server { pid, data });
    }
    Ok(found)
}

/// Why a server needs the files: a line for each reason.
fn needs(own: &Own, server: &Server) -> Result<Vec<String>> {
    let data = server.data.as_ref().context("it does not say where its data is")?;
    let owner = std::fs::metadata(data).with_context(|| data.display().to_string())?;
    let file = data.join("postmaster.pid");
    let said = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let lines: Vec<_> = said.lines().collect();
    let [_, _, _, port, socket, ..] = lines[..] else { bail!("{} is too short", file.display()) };
    let psql = own.program("psql")?;
    let ask = |database: &str, sql: &str| -> Result<Vec<String>> {
        // As the owner of the data, who is the superuser in most places. PGUSER and PGPASSWORD are heeded.
        let mut command = if shell::is_root() {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid())]);
            command.args(KEEP_READING).arg("--").arg(&psql);
            command
        } else {
            Command::new(&psql)
        };
        command.args(["-XAtqw", "-v", "ON_ERROR_STOP=1", "-h", socket.trim(), "-p", port.trim()]);
        let said = shell::output(command.args(["-d", database, "-c", sql]))?;
        Ok(said.lines().map(str::to_owned).collect())
    };
    let pid = server.pid;
    let mut reasons = Vec::new();
    for name in ask("postgres", DATABASES)? {
        if ask(&name, NEEDS_IT)? != ["0"] {
            reasons.push(format!("process {pid}, {}: database {name} uses it", data.display()));
        }
    }
    // What the files say counts when it starts again.
    let preloads = "SELECT 1 FROM pg_catalog.pg_file_settings
                     WHERE name = 'shared_preload_libraries' AND setting ~ '(^|[ ,/\"])aimq([\" ,]|$)'
                     UNION ALL
                    SELECT 1 WHERE pg_catalog.current_setting('shared_preload_libraries') ~ '(^|[ ,/\"])aimq([\" ,]|$)'";
    if !ask("postgres", preloads)?.is_empty() {
        reasons
            .push(format!("process {pid}, {}: shared_preload_libraries names it", data.display()));
    }
    Ok(reasons)
}
