//! A worker on the queue `emails`: woken by aimq, with a poll as a mere backstop.

use std::time::Duration;

use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, Error, NoTls};

/// A wake-up is a hint, and a hint may be missed.
const BACKSTOP: Duration = Duration::from_secs(60);

fn work(url: &str) -> Result<(), Error> {
    let mut client = Client::connect(url, NoTls)?;
    client.batch_execute("LISTEN \"aimq:jobs\"")?;
    loop {
        // Clear the wake-ups that have come, then read until the queue is empty.
        client.notifications().iter().count()?;
        loop {
            let jobs = client.query(
                "SELECT msg_id, message::text FROM pgmq.read('emails', vt => 30, qty => 10)",
                &[],
            )?;
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                let (id, message): (i64, String) = (job.get(0), job.get(1));
                println!("job {id} {message}");
                client.execute("SELECT pgmq.archive('emails', $1::bigint)", &[&id])?;
            }
        }
        // Wait for a wake-up: one that came during the reads is still there.
        client.notifications().timeout_iter(BACKSTOP).next()?;
    }
}

fn main() {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL");
    loop {
        // After every reconnect it starts over with LISTEN and a read.
        if let Err(error) = work(&url) {
            eprintln!("connection lost: {error}");
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
