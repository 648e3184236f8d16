//! Workers that block in a call, or read when they are notified.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use anyhow::{Context, Result, bail};
use postgres::Client;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls, Statement};

use crate::contestants::Key;
use crate::{connections, cpu, wait};

/// How long all of them may take to connect, to begin a call, or to end it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many connect at the same time: a socket that is asked by a thousand at once refuses some.
const CONNECTING: usize = 16;

/// How a worker gets its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    /// `aimq.read`, which sleeps until the notifier calls it.
    Blocks,
    /// It listens, and reads one message for each notification.
    Listens,
    /// `pgmq.read_with_poll`, which asks each 100 ms.
    Polls,
}

impl Call {
    /// Whose database it is tried in.
    pub(crate) fn contestant(self) -> Key {
        if self == Self::Polls { Key::None } else { Key::Notifier }
    }

    /// As people read it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Blocks => "aimq.read",
            Self::Listens => "LISTEN, a read each",
            Self::Polls => "pgmq.read_with_poll, 100 ms",
        }
    }

    /// The statement that gets at most one message of the queue `$1`, and what its sender wrote into it.
    fn statement(self) -> String {
        let from = match self {
            // In a minute nothing ends by itself, while a measure lasts seconds.
            Self::Blocks => "aimq.read($1, 60, 1, '10 min')",
            Self::Listens => "pgmq.read($1, 60, 1)",
            Self::Polls => "pgmq.read_with_poll($1, 60, 1, 30)",
        };
        format!("SELECT msg_id, coalesce((message->>'at')::bigint, 0) FROM {from}")
    }
}

/// What a caller says.
pub(crate) enum Said {
    /// It is connected, as this process of the server.
    Ready {
        number: usize,
        pid: u32,
    },
    /// It has a message, so many microseconds after its sender wrote it.
    Has {
        number: usize,
        us: u32,
    },
    /// It has archived the message.
    Done,
    /// It was notified, and found nothing.
    Nothing,
    Failed(String),
}

/// A number of callers. They leave when dropped.
pub(crate) struct Callers {
    thread: connections::Thread,
    work: watch::Sender<bool>,
    said: mpsc::Receiver<Said>,
    clock: Instant,
    /// The processes of the server, by the callers' numbers.
    pids: Vec<u32>,
    /// To see to them from outside.
    server: Client,
}

impl Callers {
    /// Returns once all are connected; each is given a queue by its number. They call nothing yet.
    pub(crate) fn start(
        cluster: &Cluster,
        call: Call,
        count: usize,
        queue: impl Fn(usize) -> String,
    ) -> Result<Self> {
        let database = call.contestant().database();
        let config = connections::config(cluster, &database, "caller");
        let (says, said) = mpsc::channel();
        let (work, works) = watch::channel(false);
        let clock = Instant::now();
        let connecting = Arc::new(Semaphore::new(CONNECTING));
        let callers: Vec<Caller> = (0..count)
            .map(|number| Caller {
                number,
                call,
                queue: queue(number),
                config: config.clone(),
                works: works.clone(),
                says: says.clone(),
                clock,
                connecting: Arc::clone(&connecting),
            })
            .collect();
        let server = cluster.connect(&database)?;
        let thread = connections::Thread::start(async move || {
            for caller in callers {
                tokio::spawn(caller.run());
            }
            Ok(())
        });
        let mut callers = Self { thread, work, said, clock, pids: vec![0; count], server };
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..count {
            let first = callers.next(deadline)?;
            let Some(Said::Ready { number, pid }) = first else {
                bail!("not all callers could connect");
            };
            callers.pids[number] = pid;
        }
        Ok(callers)
    }

    /// Has all of them call, and go on calling. Returns once they sleep, where that can be seen.
    pub(crate) fn call(&mut self, call: Call) -> Result<()> {
        self.work.send(true)?;
        if call == Call::Blocks {
            self.wait_for_waiters(self.pids.len())?;
        }
        // The rest is a matter of milliseconds; and what they do first, planning, is not to be measured.
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Ends all calls; the connections stay.
    pub(crate) fn rest(&mut self) -> Result<()> {
        self.work.send(false)?;
        self.wait_for_waiters(0)
    }

    /// Waits until so many block.
    fn wait_for_waiters(&mut self, count: usize) -> Result<()> {
        let sql = if count == 0 {
            "SELECT count(pg_cancel_backend(pid)) FROM aimq.waiters"
        } else {
            "SELECT count(*) FROM aimq.waiters"
        };
        let mut found = 0;
        let reached = wait::until(PATIENCE, || {
            found = self.server.query_one(sql, &[])?.get::<_, i64>(0);
            Ok((usize::try_from(found)? == count).then_some(()))
        })?;
        reached.with_context(|| format!("{found} sessions block instead of {count}"))
    }

    /// What a message has to say of the moment when it is sent.
    pub(crate) fn message(&self) -> String {
        format!("{{\"at\": {}}}", self.clock.elapsed().as_micros())
    }

    /// The next thing that one of them says.
    pub(crate) fn next(&self, deadline: Instant) -> Result<Option<Said>> {
        match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Said::Failed(why)) => bail!("a caller failed: {why}"),
            Ok(said) => Ok(Some(said)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("all callers are gone"),
        }
    }

    /// How often each session's process has gone to sleep so far.
    pub(crate) fn sleeps(&self) -> Result<Vec<u64>> {
        let sleeps = self.pids.iter().map(|pid| cpu::sleeps(*pid));
        sleeps.collect::<Result<_>>().context("a caller's session has ended")
    }
}

impl Drop for Callers {
    /// Ends the sessions: one that blocks would not see that its client is gone.
    fn drop(&mut self) {
        let ours = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE application_name = 'caller' AND datname = current_database()";
        let _ = self.work.send(false);
        let gone = |row: postgres::Row| row.get::<_, i64>(0) == 0;
        let _ = wait::until(PATIENCE, || {
            Ok(self.server.query_one(ours, &[]).is_ok_and(gone).then_some(()))
        });
        let _ = self.thread.end();
    }
}

/// One of them.
struct Caller {
    number: usize,
    call: Call,
    queue: String,
    config: Config,
    works: watch::Receiver<bool>,
    says: mpsc::Sender<Said>,
    clock: Instant,
    connecting: Arc<Semaphore>,
}

impl Caller {
    async fn run(mut self) {
        if let Err(error) = self.work().await {
            let _ = self.says.send(Said::Failed(format!("{error:#}")));
        }
    }

    async fn work(&mut self) -> Result<()> {
        let turn = self.connecting.acquire().await?;
        let (client, connection) = self.config.connect(NoTls).await?;
        let bell = Arc::new(Notify::new());
        let rung = Arc::clone(&bell);
        tokio::spawn(connections::drive(connection, move |_| rung.notify_one()));
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let get = client.prepare(&self.call.statement()).await?;
        let archive = client.prepare("SELECT pgmq.archive($1, $2::bigint)").await?;
        if self.call == Call::Listens {
            let channel = self.call.contestant().channel(&self.queue);
            client.batch_execute(&format!("LISTEN \"{channel}\"")).await?;
            // As the calls that block do: a session that has planned its statements is faster.
            client.query(&get, &[&self.queue]).await?;
        }
        drop(turn);
        self.says.send(Said::Ready { number: self.number, pid: pid.cast_unsigned() })?;
        loop {
            self.works.wait_for(|works| *works).await?;
            if self.call == Call::Listens {
                bell.notified().await;
            }
            let found = match client.query_opt(&get, &[&self.queue]).await {
                // It is to rest.
                Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => continue,
                found => found?,
            };
            match found {
                Some(row) => self.finish(&client, &archive, &row).await?,
                None if self.call == Call::Listens => self.says.send(Said::Nothing)?,
                None => {}
            }
        }
    }

    async fn finish(
        &self,
        client: &tokio_postgres::Client,
        archive: &Statement,
        row: &tokio_postgres::Row,
    ) -> Result<()> {
        let now = i64::try_from(self.clock.elapsed().as_micros())?;
        let us = u32::try_from((now - row.get::<_, i64>(1)).max(0)).unwrap_or(u32::MAX);
        self.says.send(Said::Has { number: self.number, us })?;
        client.execute(archive, &[&self.queue, &row.get::<_, i64>(0)]).await?;
        Ok(self.says.send(Said::Done)?)
    }
}
