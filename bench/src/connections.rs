//! Any number of connections in one thread, so that they take no more of the machine than they must.

use std::future::poll_fn;
use std::thread::JoinHandle;

use aimq_lab::cluster::Cluster;
use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{AsyncMessage, Config, Connection, Notification, Socket};

/// The thread. It ends when dropped.
pub(crate) struct Thread {
    thread: Option<JoinHandle<Result<()>>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Thread {
    /// Does `work`. What that returns is kept, and the tasks that it has spawned go on, until the end.
    pub(crate) fn start<T>(work: impl AsyncFnOnce() -> Result<T> + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async move {
                let _kept = work().await?;
                let _ = stopped.await;
                Ok(())
            })
        });
        Self { thread: Some(thread), stop: Some(stop) }
    }

    /// Says what went wrong, if anything did.
    pub(crate) fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take() {
            Some(thread) => thread.join().ok().context("the connections' thread")?,
            None => Ok(()),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// How to connect, under a name that the server shows.
pub(crate) fn config(cluster: &Cluster, database: &str, name: &str) -> Config {
    let mut config = Config::new();
    config.host_path(cluster.folder()).user("postgres").dbname(database).application_name(name);
    config
}

/// Keeps a connection going, and passes on each notification.
pub(crate) async fn drive(
    mut connection: Connection<Socket, NoTlsStream>,
    mut hear: impl FnMut(&Notification),
) {
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(notification) = message {
            hear(&notification);
        }
    }
}
