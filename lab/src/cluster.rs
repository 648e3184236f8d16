//! A throw-away Postgres server: in a temporary folder, on a unix socket, gone when dropped, when we
//! are interrupted, and when we are killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use postgres::{Client, NoTls};

use crate::majors::Major;
use crate::shell;

/// How long a server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The servers that run now, for when we are interrupted.
static RUNNING: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// A server, as soon as its folder is there.
#[derive(Debug)]
struct Server {
    folder: PathBuf,
    /// `None` before it runs.
    postmaster: Option<Child>,
}

/// A handle that stops its server when dropped.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    major: Major,
    settings: Vec<String>,
}

impl Cluster {
    /// A folder for a server.
    fn prepare(major: Major, settings: Vec<String>) -> Result<Self> {
        // A short path: a unix socket's has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("aimq-").tempdir()?.keep();
        running().push(Server { folder: folder.clone(), postmaster: None });
        let made = Self { folder: folder.clone(), major, settings };
        if shell::is_root() {
            std::os::unix::fs::chown(&folder, Some(shell::NOBODY), Some(shell::NOBODY))?;
        }
        Ok(made)
    }

    /// Makes and starts a server. `settings` are lines of postgresql.conf.
    pub fn start(major: Major, settings: &[&str]) -> Result<Self> {
        Self::start_under(major, settings, &[])
    }

    /// The same, run by another program, such as valgrind: its words, in which `{}` is the server's folder.
    pub fn start_under(major: Major, settings: &[&str], under: &[&str]) -> Result<Self> {
        let settings = settings.iter().map(ToString::to_string).collect();
        let made = Self::prepare(major, settings)?;
        made.fill()?;
        made.run_under(under)?;
        Ok(made)
    }

    /// Makes the data folder: by initdb, or as a copy of what that has made before, which takes a tenth of the time.
    /// Of a PostgreSQL of the user's own nothing is kept, because it may be another the next time.
    fn fill(&self) -> Result<()> {
        // Beside the programs, with which it goes.
        let kept = self.major.home().join("initdb");
        let keeps = self.major.own().is_none();
        let copy = |from: &Path, to: &Path| {
            shell::output(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
        };
        if keeps && kept.exists() {
            if copy(&kept, &self.data()).is_ok() {
                return Ok(());
            }
            // It is another user's.
            let _ = std::fs::remove_dir_all(self.data());
        }
        let mut initdb = shell::unprivileged(&self.major.program("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "-D"]);
        shell::output(initdb.arg(self.data()))?;
        if keeps {
            let unfinished = tempfile::Builder::new().tempdir_in(self.major.home())?;
            let whole = unfinished.path().join("data");
            copy(&self.data(), &whole)?;
            // Somebody else may have been faster.
            let _ = std::fs::rename(whole, kept);
        }
        Ok(())
    }

    /// A standby of this server: a copy that follows it.
    pub fn standby(&self) -> Result<Self> {
        let made = Self::prepare(self.major, self.settings.clone())?;
        shell::output(
            shell::unprivileged(&self.major.program("pg_basebackup"))
                .args(["-R", "--checkpoint=fast", "--no-sync", "-U", "postgres", "-h"])
                .arg(&self.folder)
                .arg("-D")
                .arg(made.data()),
        )?;
        made.run()?;
        Ok(made)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts the server that lies in the folder, and waits until it takes connections.
    pub fn run(&self) -> Result<()> {
        self.run_under(&[])
    }

    fn run_under(&self, under: &[&str]) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let here = self.folder.display().to_string();
        let postgres = self.major.program("postgres");
        let mut server = match under {
            [] => shell::unprivileged(&postgres),
            [program, words @ ..] => {
                let mut server = shell::unprivileged(Path::new(program));
                server.args(words.iter().map(|word| word.replace("{}", &here))).arg(&postgres);
                server
            }
        };
        // The libpq that a standby connects with is loaded with a module that may not say where it is: without this the
        // system's is found, which may be too old for what pg_basebackup has written.
        if let Some(libraries) = own_libraries(&postgres) {
            server.env("LD_LIBRARY_PATH", libraries);
        }
        server.arg("-D").arg(self.data()).args(["-c", "listen_addresses="]);
        server.arg("-c").arg(format!("unix_socket_directories={}", self.folder.display()));
        for setting in &self.settings {
            server.args(["-c", setting]);
        }
        let postmaster =
            server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        if let Some(server) = running().iter_mut().find(|server| server.folder == self.folder) {
            server.postmaster = Some(postmaster);
        }
        self.wait_until_ready()
    }

    /// Stops the server in one of pg_ctl's ways: smart, fast, immediate. Says how long it took.
    pub fn shut_down(&self, mode: &str) -> Result<Duration> {
        let begun = Instant::now();
        self.control(&["stop", "-m", mode])?;
        let took = begun.elapsed();
        let mut running = running();
        let server = running.iter_mut().find(|server| server.folder == self.folder);
        if let Some(mut postmaster) = server.and_then(|server| server.postmaster.take()) {
            postmaster.wait()?;
        }
        Ok(took)
    }

    /// Makes a primary of a standby.
    pub fn promote(&self) -> Result<()> {
        self.control(&["promote"])
    }

    fn control(&self, arguments: &[&str]) -> Result<()> {
        let mut control = shell::unprivileged(&self.major.program("pg_ctl"));
        shell::output(control.args(arguments).args(["-w", "-D"]).arg(self.data()))?;
        Ok(())
    }

    /// What the server writes to.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.connect("postgres") {
                Ok(_) => return Ok(()),
                Err(_) if Instant::now() < deadline && !self.exited() => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => {
                    let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                    return Err(error).with_context(|| format!("the server did not start:\n{log}"));
                }
            }
        }
    }

    fn exited(&self) -> bool {
        running().iter_mut().any(|server| {
            server.folder == self.folder
                && server.postmaster.as_mut().is_none_or(|it| !matches!(it.try_wait(), Ok(None)))
        })
    }

    /// Connects as the superuser.
    pub fn connect(&self, database: &str) -> Result<Client> {
        let mut config = postgres::Config::new();
        config.host_path(&self.folder).user("postgres").dbname(database).application_name("lab");
        Ok(config.connect(NoTls)?)
    }

    /// The process id of the server, once it runs.
    pub fn postmaster(&self) -> Option<u32> {
        let running = running();
        let server = running.iter().find(|server| server.folder == self.folder)?;
        Some(server.postmaster.as_ref()?.id())
    }

    /// The folder with the socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut running = running();
        if let Some(at) = running.iter().position(|server| server.folder == self.folder) {
            let server = running.swap_remove(at);
            drop(running);
            server.stop();
        }
    }
}

impl Server {
    /// Immediate shutdown: nothing in there is worth keeping.
    fn stop(mut self) {
        if let Some(postmaster) = &mut self.postmaster {
            quit(&postmaster.id().to_string());
            let _ = postmaster.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The folder of libraries beside a program's, if there is a libpq in it.
fn own_libraries(program: &Path) -> Option<PathBuf> {
    let libraries = program.parent()?.parent()?.join("lib");
    libraries.join("libpq.so.5").exists().then_some(libraries)
}

/// The shell's own `kill`: a bare Debian has no other.
fn quit(pid: &str) {
    let _ = std::process::Command::new("sh")
        .args(["-c", "kill -QUIT \"$1\"", "sh", pid])
        .stderr(Stdio::null())
        .status();
}

fn running() -> std::sync::MutexGuard<'static, Vec<Server>> {
    RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// On Ctrl-C, SIGTERM and SIGHUP: stop every server, remove its folder, go.
pub fn clean_up_on_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        for server in running().drain(..) {
            server.stop();
        }
        eprintln!("\ninterrupted; nothing is left running");
        std::process::exit(130);
    })?;
    Ok(())
}
