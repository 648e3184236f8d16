//! A worker on the queue `emails`, woken by aimq: Rust with tokio-postgres. It never polls while it is connected.
//!
//! One direct connection listens and reads. A task drives it and notes what is notified, during a query too, so nothing
//! is missed between a read and the wait; and a connection that can read is known to be one that listens. The server
//! keeps all that a connection which listens has not yet taken, so the task reads this one while a job runs.

use std::error::Error;
use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

const READ: &str = "SELECT msg_id, message::text FROM pgmq.read('emails', vt => 30, qty => 10)";
const GIVE_BACK: &str = "SELECT pgmq.set_vt('emails', $1::bigint, 0)";
const ARCHIVE: &str = "SELECT pgmq.archive('emails', $1::bigint)";
/// What happens to jobs later is for pages that show them: there is nothing to read.
const LATER: [&str; 3] = ["job_started", "job_archived", "job_deleted"];
const PONG: &str = "SELECT pg_notify($1::text, json_build_object(
                            'event', 'pong', 'pid', pg_backend_pid(), 'queues', ARRAY['emails'])::text)
                     WHERE octet_length($1::text) BETWEEN 1 AND 63";
/// The driver's own time-out ends with the socket's connect, and some accept that and then say nothing.
const CONNECT: Duration = Duration::from_secs(5);
const FIRST_DELAY: f64 = 0.5;

/// The job itself. This one takes as long as the message says, and fails where it says so. It must not hold the runtime
/// up: what computes, or blocks, belongs into `spawn_blocking`.
async fn work(message: &str) -> Result<(), Box<dyn Error>> {
    let message: Value = serde_json::from_str(message)?;
    let seconds = message["seconds"].as_f64().unwrap_or(0.0);
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    message.get("error").map_or(Ok(()), |error| Err(error.to_string().into()))
}

/// Reads once and works off what there is. True if there was something: then there may be more.
async fn read(client: &Client, stop: &watch::Receiver<bool>) -> Result<bool, Box<dyn Error>> {
    let jobs = client.query(READ, &[]).await?;
    for job in &jobs {
        let (id, text): (i64, String) = (job.get(0), job.get(1));
        if *stop.borrow() {
            client.execute(GIVE_BACK, &[&id]).await?;
            continue;
        }
        println!("job {id} {text}");
        match work(&text).await {
            Ok(()) => drop(client.execute(ARCHIVE, &[&id]).await?),
            // It can be read again when vt is over, and is announced then.
            Err(error) => println!("failed: {id} {error}"),
        }
    }
    Ok(!jobs.is_empty())
}

/// Notes what was notified, in little space, however long a job takes: that there is something to read, which is noted
/// once, and who has pinged.
fn hear(payload: &str, wake: &mpsc::Sender<()>, pings: &mpsc::Sender<String>) {
    let news: Value = serde_json::from_str(payload).unwrap_or_default(); // not aimq's: may mean anything
    let event = news["event"].as_str().unwrap_or("");
    if let ("ping", Some(to)) = (event, news["reply_to"].as_str()) {
        if !to.contains('\0') {
            let _ = pings.try_send(to.to_owned()); // a NUL can't be sent
        }
    } else if !LATER.contains(&event)
        && news["queues"].as_object().is_none_or(|queues| queues.contains_key("emails"))
    {
        let _ = wake.try_send(());
    }
}

/// Listens, reads until the queue is empty, and waits; again and again.
async fn serve(
    config: &Config,
    stop: &mut watch::Receiver<bool>,
    delay: &mut f64,
) -> Result<(), Box<dyn Error>> {
    let (client, mut connection) = timeout(CONNECT, config.connect(NoTls)).await??;
    let ((wake, mut woken), (ping, mut pings)) = (mpsc::channel(1), mpsc::channel(100));
    // Ends, and with it the channels, when the connection or the client does.
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(note) = message {
                hear(note.payload(), &wake, &ping);
            }
        }
    });
    // Outside of a transaction: it takes effect at the commit (autocommit).
    client.batch_execute("LISTEN \"aimq:jobs\"").await?;
    let mut awake = true; // the first read finds what came while nobody listened
    while !*stop.borrow() {
        if awake {
            awake = read(&client, stop).await?;
            *delay = FIRST_DELAY;
            awake |= woken.try_recv().is_ok();
        } else {
            tokio::select! {
                it = woken.recv() => awake = it.map(|()| true).ok_or("closed")?,
                Some(to) = pings.recv() => drop(client.execute(PONG, &[&to]).await?),
                _ = stop.changed() => {}
            }
        }
        if let Ok(to) = pings.try_recv() {
            client.execute(PONG, &[&to]).await?;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut config: Config = std::env::var("DATABASE_URL")?.parse()?;
    // A connection that went deaf is noticed after 25 s, and a statement or a connect that hangs after 5.
    config.keepalives_idle(Duration::from_secs(10)).keepalives_interval(Duration::from_secs(5));
    config.keepalives_retries(3).tcp_user_timeout(Duration::from_secs(25));
    config.options("-c statement_timeout=5s");
    let (stopping, mut stop) = watch::channel(false);
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        let _ = stopping.send(true);
        std::future::pending::<()>().await // `stop` still needs the other end
    });
    let mut delay = FIRST_DELAY;
    while !*stop.borrow() {
        if let Err(error) = serve(&config, &mut stop, &mut delay).await {
            let pause = delay * rand::random_range(0.5..1.0);
            println!("connection lost: {error}; again in {pause:.1} s");
            delay = (delay * 1.5).min(30.0);
            let _ = timeout(Duration::from_secs_f64(pause), stop.changed()).await;
        }
    }
    Ok(())
}
