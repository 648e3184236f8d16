//! Connections that LISTEN and really read what they are sent.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use anyhow::Result;
use tokio_postgres::NoTls;

use crate::connections;
use crate::contestants::Key;

/// A notification as the first listener received it.
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) payload: String,
}

/// A number of listeners. They leave when dropped.
pub(crate) struct Listeners {
    _thread: connections::Thread,
    first: mpsc::Receiver<Heard>,
}

impl Listeners {
    /// Returns once all of them listen.
    pub(crate) fn start(
        cluster: &Cluster,
        database: &str,
        channel: &str,
        count: u32,
    ) -> Result<Self> {
        let config = connections::config(cluster, database, "listener");
        let listen = format!("LISTEN \"{channel}\"");
        let (heard, first) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let mut thread = connections::Thread::start(async move || {
            let mut clients = Vec::new();
            for number in 0..count {
                let (client, connection) = config.connect(NoTls).await?;
                let heard = (number == 0).then(|| heard.clone());
                tokio::spawn(connections::drive(connection, move |notification| {
                    let (at, payload) = (Instant::now(), notification.payload());
                    if let Some(heard) = &heard {
                        let _ = heard.send(Heard { at, payload: payload.to_owned() });
                    }
                }));
                client.batch_execute(&listen).await?;
                clients.push(client);
            }
            ready.send(())?;
            Ok(clients)
        });
        if is_ready.recv().is_err() {
            thread.end()?;
        }
        Ok(Self { _thread: thread, first })
    }

    /// The next notification that the first listener receives.
    pub(crate) fn next(&mut self, deadline: Instant) -> Option<Heard> {
        self.first.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Forgets what has been received so far.
    pub(crate) fn forget(&mut self) {
        self.first.try_iter().for_each(drop);
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
}
