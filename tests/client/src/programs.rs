//! The programs in examples/, as processes: what they say, how they end, and how long messages lay unread before them.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use aimq_lab::drivers;
use aimq_lab::pgbouncer::Pgbouncer;
use postgres::Client;

use crate::servers::{connect, kill};
use crate::*;

/// One of the examples.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Also the name of its database.
    pub name: &'static str,
    /// What runs it.
    command: &'static [&'static str],
    /// Whether it listens. Otherwise it blocks in `aimq.read`, behind a pooler.
    pub listens: bool,
}

/// All of them. `{}` is the folder target/ of the checkout.
pub const PROGRAMS: [Program; 5] = [
    Program {
        name: "psycopg",
        command: &["python3", "{}/../examples/psycopg_worker.py"],
        listens: true,
    },
    Program {
        name: "asyncpg",
        command: &["python3", "{}/../examples/asyncpg_worker.py"],
        listens: true,
    },
    Program { name: "node", command: &["node", "{}/node/worker.js"], listens: true },
    Program {
        name: "tokio_postgres",
        command: &["{}/debug/examples/tokio_postgres_worker"],
        listens: true,
    },
    Program {
        name: "pooled",
        command: &["python3", "{}/../examples/pooled_worker.py"],
        listens: false,
    },
];

impl Program {
    /// Starts it; `folder` has the socket. It ends with this thread at the latest.
    pub fn start(self, folder: &Path) -> Running {
        self.start_at(&format!("host={}", folder.display()))
    }

    /// Starts it; `place` is the end of its address.
    pub fn start_at(self, place: &str) -> Running {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig=KILL", "--"]);
        let target = aimq_lab::shell::target().display().to_string();
        command.args(self.command.iter().map(|word| word.replace("{}", &target)));
        command.env("PYTHONPATH", drivers::python_packages());
        let url = format!("postgresql://postgres@/{}?{place}", self.name);
        command.env("DATABASE_URL", url);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect(self.name);
        let said = Said::default();
        said.keep(child.stdout.take());
        said.keep(child.stderr.take());
        Running { program: self, child, said }
    }
}

/// The lines of a program.
#[derive(Clone, Debug, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    fn keep(&self, pipe: Option<impl Read + Send + 'static>) {
        let lines = Arc::clone(&self.0);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe.expect("a pipe")).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One that runs. Killed when dropped; where a test has failed, it is told what it said.
#[derive(Debug)]
pub struct Running {
    /// Which.
    pub program: Program,
    child: Child,
    said: Said,
}

impl Running {
    /// How often it has begun a job.
    pub fn jobs(&self) -> usize {
        self.count("job ")
    }

    /// How often it has said a line that begins so.
    pub fn count(&self, start: &str) -> usize {
        self.said.lines().iter().filter(|line| line.starts_with(start)).count()
    }

    /// The back-off delays that it has announced, in seconds.
    pub fn delays(&self) -> Vec<f64> {
        let lines = self.said.lines();
        let delay =
            |line: &String| line.rsplit_once("; again in ")?.1.strip_suffix(" s")?.parse().ok();
        lines.iter().filter_map(delay).collect()
    }

    /// Whether it has said so often that it waits for another try. Behind a pooler a call fails once; the next waits in
    /// the pooler until that has a connection again.
    pub fn backs_off(&self, times: usize) -> bool {
        self.delays().len() >= if self.program.listens { times } else { 1 }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// What Linux says of its memory, in kB: `VmRSS` now, `VmHWM` at most until now.
    pub fn memory(&self, name: &str) -> u64 {
        memory_of(self.pid(), name)
    }

    /// Whether it has ended; it must have ended well.
    pub fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait().expect("a child");
        if let Some(status) = status {
            let end = (status.code(), status.signal());
            assert_eq!(end, (Some(0), None), "how {} ended", self.program.name);
        }
        status.is_some()
    }
}

/// What Linux says of a process's memory, in kB: one of the lines of `/proc/PID/status`.
pub fn memory_of(pid: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|it| it.trim().strip_suffix(" kB")?.parse().ok()).expect(name)
}

/// Sends all a signal. They must end well, none of them later than after `limit`.
pub fn end(all: &mut Vec<Running>, what: &str, signal: &str, limit: Duration) {
    let begun = Instant::now();
    for running in &mut *all {
        kill(signal, running.pid());
    }
    wait_until("all programs to end", || {
        all.retain_mut(|running| {
            let (name, took) = (running.program.name, begun.elapsed());
            let has_ended = running.has_ended();
            if has_ended {
                println!("{what}: {name}: ended after {took:?}");
            }
            assert!(took < limit, "{what}: {name} does not end on {signal}");
            !has_ended
        });
        all.is_empty()
    });
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let lines = self.said.lines();
            let from = lines.len().saturating_sub(12);
            eprintln!("{} said at last:\n  {}", self.program.name, lines[from..].join("\n  "));
        }
    }
}

/// A server with a database for each program, in which the queue `emails` is realtime; a pooler in front of it; and the
/// programs, once they run.
#[derive(Debug)]
pub struct Stage {
    /// All that run.
    pub running: Vec<Running>,
    pooler: Pgbouncer,
    /// The server.
    pub cluster: Cluster,
}

/// A server with a database for each program. Nothing runs yet.
pub fn server_for_all(settings: &[&str]) -> Cluster {
    let cluster = servers::bare(settings);
    let mut client = connect(&cluster);
    run(&mut client, "CREATE DATABASE template");
    run(&mut cluster.connect("template").expect("connect"), "CREATE EXTENSION aimq CASCADE");
    for program in PROGRAMS {
        run(&mut client, &format!("CREATE DATABASE {} TEMPLATE template", program.name));
    }
    for client in &mut clients(&cluster) {
        run(client, "SELECT aimq.create_queue('emails')");
        wait_until_settled(client, 1);
    }
    cluster
}

impl Stage {
    /// A server with a pooler, on which nothing runs yet.
    pub fn empty(cluster: Cluster) -> Self {
        let pooler = Pgbouncer::start(cluster.folder(), 5).expect("pgbouncer");
        Self { running: Vec::new(), pooler, cluster }
    }

    /// Starts all programs on a server.
    pub fn start(cluster: Cluster) -> Self {
        let mut stage = Self::empty(cluster);
        stage.restart();
        stage
    }

    /// Starts all programs again.
    pub fn restart(&mut self) {
        self.running = PROGRAMS.map(|program| program.start(self.folder_for(program))).into();
    }

    /// The folder with the socket that is for a program.
    pub fn folder_for(&self, program: Program) -> &Path {
        if program.listens { self.cluster.folder() } else { self.pooler.folder() }
    }

    /// The same, and waits until each has had its first message and waits for more.
    pub fn at_work(cluster: Cluster) -> Self {
        let mut stage = Self::empty(cluster);
        stage.set_to_work(Self::restart);
        stage
    }

    /// The same for programs that are started in a way of the caller's.
    pub fn set_to_work(&mut self, start: impl FnOnce(&mut Self)) {
        let mut clients = self.clients();
        for client in &mut clients {
            run(client, "SELECT pgmq.send('emails', '{}')");
        }
        start(self);
        for (client, program) in clients.iter_mut().zip(PROGRAMS) {
            wait_until_idle(client, program);
        }
    }

    /// Waits until the pooler has tried in vain to connect to the server, with a worker waiting for it.
    pub fn wait_until_pooler_fails(&self) {
        let fails = || self.pooler.log().matches("connect failed").count();
        let before = fails();
        wait_until("the pooler to fail", || fails() > before + 1);
    }

    /// A session in each program's database.
    pub fn clients(&self) -> Vec<Client> {
        clients(&self.cluster)
    }

    /// Waits until all have said that they wait for another try, so often.
    pub fn wait_until_backing_off(&self, times: usize) {
        for running in &self.running {
            let what = format!("{} to have failed {times} times", running.program.name);
            wait_until(&what, || running.backs_off(times));
        }
    }
}

/// A session in each program's database.
pub fn clients(cluster: &Cluster) -> Vec<Client> {
    PROGRAMS.iter().map(|program| cluster.connect(program.name).expect("connect")).collect()
}

/// Waits until a program has archived all, and its session sleeps.
pub fn wait_until_idle(client: &mut Client, program: Program) {
    wait_until_empty(client, program);
    let asleep = if program.listens {
        "SELECT count(*) = 1 FROM pg_stat_activity
          WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'lab'
            AND state = 'idle' AND query NOT LIKE '%archive%'"
    } else {
        "SELECT count(*) = 1 FROM aimq.waiters"
    };
    wait_until(&format!("{} to sleep", program.name), || boolean(client, asleep));
}

/// Waits until all messages are archived, as long as there are fewer and fewer.
pub fn wait_until_empty(client: &mut Client, program: Program) {
    let left = "SELECT count(*) FROM pgmq.q_emails";
    let mut before: i64 = value(client, left);
    while before > 0 {
        let mut now = before;
        wait_until(&format!("{} to archive", program.name), || {
            now = value(client, left);
            now < before
        });
        before = now;
    }
}

/// How long a message lay unread at most while its worker could have read it: since it was enqueued, since `from`, and
/// since the worker was done with what it had read before. All must have been read once.
pub fn longest_unread(client: &mut Client, from: &str) -> Duration {
    assert_eq!(value::<i64>(client, "SELECT count(*) FROM pgmq.a_emails WHERE read_ct <> 1"), 0);
    let seconds: f64 = value(
        client,
        &format!(
            "SELECT coalesce(max(extract(epoch FROM last_read_at - greatest(enqueued_at, free_at, '{from}'))), 0)::float8
               FROM (SELECT *, max(archived_at) OVER (ORDER BY last_read_at RANGE BETWEEN UNBOUNDED PRECEDING
                                                            AND '1 us' PRECEDING) AS free_at
                       FROM pgmq.a_emails) a
              WHERE last_read_at > '{from}'"
        ),
    );
    Duration::from_secs_f64(seconds.max(0.0))
}
