//! Connections that LISTEN and really read what they are sent: any number of them in one thread.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::contestants::Key;

/// A notification as the first listener received it.
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) payload: String,
}

/// A number of listeners. They leave when dropped.
pub(crate) struct Listeners {
    thread: Option<JoinHandle<Result<()>>>,
    stop: Option<oneshot::Sender<()>>,
    first: mpsc::Receiver<Heard>,
    kept: VecDeque<Heard>,
    others: Arc<AtomicU64>,
}

impl Listeners {
    /// Returns once all of them listen.
    pub(crate) fn start(
        cluster: &Cluster,
        database: &str,
        channels: &[String],
        count: u32,
    ) -> Result<Self> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(cluster.folder()).user("postgres").dbname(database);
        config.application_name("listener");
        let listen: String = channels.iter().map(|it| format!("LISTEN \"{it}\";")).collect();
        let (heard, first) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let others = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&others);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async move {
                let mut clients = Vec::new();
                for number in 0..count {
                    let (client, mut connection) = config.connect(NoTls).await?;
                    let heard = (number == 0).then(|| heard.clone());
                    let counter = Arc::clone(&counter);
                    tokio::spawn(async move {
                        while let Some(Ok(message)) =
                            poll_fn(|context| connection.poll_message(context)).await
                        {
                            let AsyncMessage::Notification(notification) = message else {
                                continue;
                            };
                            let at = Instant::now();
                            match &heard {
                                Some(heard) => {
                                    let payload = notification.payload().to_owned();
                                    let _ = heard.send(Heard { at, payload });
                                }
                                None => {
                                    counter.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    });
                    client.batch_execute(&listen).await?;
                    clients.push(client);
                }
                let _ = ready.send(());
                let _ = stopped.await;
                Ok(())
            })
        });
        let mut listeners =
            Self { thread: Some(thread), stop: Some(stop), first, kept: VecDeque::new(), others };
        if is_ready.recv().is_err() {
            listeners.leave()?;
        }
        Ok(listeners)
    }

    /// The next notification that the first listener receives.
    pub(crate) fn next(&mut self, deadline: Instant) -> Option<Heard> {
        if let Some(heard) = self.kept.pop_front() {
            return Some(heard);
        }
        self.first.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Forgets what has been received so far.
    pub(crate) fn forget(&mut self) {
        self.kept.clear();
        self.first.try_iter().for_each(drop);
        self.others.store(0, Ordering::Relaxed);
    }

    /// What the first listener received since [`Self::forget`]: for aimq until the payloads tell of so many
    /// messages, at most `patience`; else until nothing has come for a while. The number of
    /// notifications, and of the messages that they tell of.
    pub(crate) fn tally(&mut self, key: Key, messages: u64, patience: Duration) -> (u64, u64) {
        const QUIET: Duration = Duration::from_millis(50);
        let deadline = Instant::now() + patience;
        let (mut notifications, mut counted) = (0, 0);
        loop {
            let complete = key.is_aimq() && counted >= messages;
            let until = if key.is_aimq() && !complete { deadline } else { Instant::now() + QUIET };
            let Some(heard) = self.next(until) else {
                return (notifications, counted);
            };
            notifications += 1;
            counted += Key::counted(&heard.payload);
        }
    }

    fn leave(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take() {
            Some(thread) => thread.join().ok().context("the listeners' thread")?,
            None => Ok(()),
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        let _ = self.leave();
    }
}
