//! A throw-away pgbouncer in transaction mode, in front of a server of ours.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use postgres::{Client, Config, NoTls};

use crate::{debs, shell};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A handle that ends it when dropped. Its folder is in the server's, and goes with that at the latest.
#[derive(Debug)]
pub struct Pgbouncer {
    folder: PathBuf,
    process: Child,
}

impl Pgbouncer {
    /// Starts one for the server whose socket is in the folder `server`, with `pool` connections to each of its
    /// databases.
    pub fn start(server: &Path, pool: u32) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (program, libraries) = debs::pgbouncer()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = server.join(format!("pgbouncer-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder)?;
        if shell::is_root() {
            std::os::unix::fs::chown(&folder, Some(shell::NOBODY), Some(shell::NOBODY))?;
        }
        let ini = folder.join("pgbouncer.ini");
        // `any`: as trust, without a list of the users. Every client is the superuser.
        std::fs::write(
            &ini,
            format!(
                "[databases]\n\
                 * = host={} user=postgres\n\
                 [pgbouncer]\n\
                 pool_mode = transaction\n\
                 default_pool_size = {pool}\n\
                 max_client_conn = 1000\n\
                 server_login_retry = 1\n\
                 auth_type = any\n\
                 admin_users = postgres\n\
                 listen_addr =\n\
                 listen_port = 5432\n\
                 unix_socket_dir = {}\n",
                server.display(),
                folder.display()
            ),
        )?;
        let log = std::fs::File::create(folder.join("log"))?;
        // A signal that ends it at once: on SIGINT it would wait for its clients.
        let process = shell::unprivileged(Path::new("setpriv"))
            .args(["--pdeathsig=KILL", "--"])
            .args([&program, &ini])
            .env("LD_LIBRARY_PATH", libraries)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut made = Self { folder, process };
        made.wait_until_ready()?;
        Ok(made)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Err(error) = self.connect("pgbouncer") else {
                return Ok(());
            };
            if Instant::now() >= deadline || !matches!(self.process.try_wait(), Ok(None)) {
                return Err(error)
                    .with_context(|| format!("pgbouncer did not start:\n{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Connects through it. Only simple queries: it knows nothing of prepared statements. `pgbouncer` is a database
    /// of its own, with commands that show what it does.
    pub fn connect(&self, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config.host_path(&self.folder).user("postgres").dbname(database);
        Ok(config.application_name("pooled").connect(NoTls)?)
    }

    /// The folder with the socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Pgbouncer {
    /// Nothing in there is worth keeping, except where a failure has to be explained.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let end: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("pgbouncer's log, backwards:\n{}", end.join("\n"));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
