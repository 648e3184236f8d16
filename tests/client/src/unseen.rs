//! Messages that get into a queue's table while no trigger fires, and whether anybody learns of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aimq_core::payload::Payload;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use crate::blocking::{READ, block};
use crate::*;

/// How long it may take until somebody learns of what he can read. On an idle machine some milliseconds; here others
/// may be at work.
pub const SOON: Duration = Duration::from_secs(8);

/// What comes into the table.
#[derive(Clone, Copy, Debug)]
pub enum Rows {
    /// A message that could be read since an hour.
    Readable,
    /// A message that can be read in [`DELAY`].
    Delayed,
}

/// How far ahead the visibility time of a delayed message is.
pub const DELAY: Duration = Duration::from_secs(3);

impl Rows {
    /// Its visibility time.
    pub fn vt(self) -> String {
        match self {
            Self::Readable => "now() - interval '1 hour'".into(),
            Self::Delayed => format!("clock_timestamp() + interval '{} s'", DELAY.as_secs()),
        }
    }

    /// The statement that puts it into a queue's table.
    pub fn insert_into(self, table: &str) -> String {
        format!("INSERT INTO {table} (vt, message) VALUES ({}, '{{}}')", self.vt())
    }
}

/// The session that has to learn of it: one that listens and never polls, or one that blocks in `aimq.read`.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// A worker that reads when a notification names its queue.
    Listener,
    /// A session that sleeps.
    Blocked,
}

/// Both kinds of messages, and both who are to learn of them.
pub const ALL_WAYS: [(Rows, Who); 4] = [
    (Rows::Readable, Who::Listener),
    (Rows::Delayed, Who::Listener),
    (Rows::Readable, Who::Blocked),
    (Rows::Delayed, Who::Blocked),
];

/// For a listener only: where the blocking calls themselves go and come again.
pub const LISTENER_WAYS: [(Rows, Who); 2] = [ALL_WAYS[0], ALL_WAYS[1]];

/// A database with the realtime queue `a` and a notifier that sleeps.
pub fn with_a() -> Database {
    started(&["a"]).0
}

/// Somebody learns of each message that `gap` puts into the queue `a`. Each way has a database of its own, which `make`
/// makes; what `gap` does is done in sessions of its own.
#[track_caller]
pub fn assert_learned(
    ways: &[(Rows, Who)],
    make: impl Fn() -> Database + Sync,
    gap: impl Fn(&Database, Rows) + Sync,
) {
    let unheard: Vec<_> = std::thread::scope(|threads| {
        let each = |&(rows, who): &(Rows, Who)| {
            let (make, gap) = (&make, &gap);
            let thread = threads.spawn(move || learns(&make(), rows, who, gap));
            (rows, who, thread)
        };
        let all: Vec<_> = ways.iter().map(each).collect();
        let judged = all.into_iter().map(|(rows, who, thread)| {
            (format!("{rows:?} for {who:?}"), thread.join().expect("what came before it"))
        });
        judged.filter(|(_, has_learned)| !has_learned).map(|(way, _)| way).collect()
    });
    assert!(unheard.is_empty(), "nobody learned of what came: {unheard:?}");
}

fn learns(database: &Database, rows: Rows, who: Who, gap: impl Fn(&Database, Rows)) -> bool {
    let has_learned = tries(database, rows, who, gap);
    if !has_learned {
        println!("{rows:?} for {who:?}: {:#?}", what_is_known(&mut database.connect()));
    }
    has_learned
}

/// What aimq says of its processes and queues: why nobody learned of something.
fn what_is_known(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT to_jsonb(n)::text FROM aimq.notifiers n WHERE database = current_database()
          UNION ALL SELECT to_jsonb(s)::text FROM aimq.stats s
          UNION ALL SELECT to_jsonb(d)::text FROM aimq.doctor() d
          UNION ALL SELECT 'now ' || clock_timestamp()
          UNION ALL SELECT 'readable from ' || vt FROM pgmq.q_a
          UNION ALL SELECT concat_ws(' ', pid, backend_type, state, wait_event, query_start, query)
            FROM pg_stat_activity WHERE datname = current_database()",
    )
}

fn tries(database: &Database, rows: Rows, who: Who, gap: impl Fn(&Database, Rows)) -> bool {
    match who {
        Who::Listener => {
            let mut listener = database.listen(CHANNEL);
            gap(database, rows);
            worked(listener.client(), &["a"], 1, DELAY + SOON)["a"] == 1
        }
        Who::Blocked => {
            let blocked = block(database, READ);
            gap(database, rows);
            let ended = blocked.ends_by(Instant::now() + DELAY + SOON);
            ended.is_some_and(|came| came.expect("a read").len() == 1)
        }
    }
}

/// Works as one does who never polls: whenever a notification names one of `queues`, it reads what is there. Ends when
/// it has `wanted` messages, or when the time is over. How many of each queue it had.
pub fn worked(
    client: &mut Client,
    queues: &[&str],
    wanted: i64,
    within: Duration,
) -> BTreeMap<String, i64> {
    let deadline = Instant::now() + within;
    let mut had: BTreeMap<_, _> = queues.iter().map(|queue| ((*queue).to_owned(), 0)).collect();
    while had.values().sum::<i64>() < wanted {
        let Some(payload) = heard_by(client, deadline) else {
            break;
        };
        for (queue, had) in &mut had {
            if payload.queues.as_ref().is_none_or(|named| named.contains_key(queue)) {
                let read = format!("SELECT count(*) FROM pgmq.read('{queue}', 600, 100)");
                *had += value::<i64>(client, &read);
            }
        }
    }
    had
}

/// The next notification, if there is one before a time.
pub fn heard_by(client: &mut Client, deadline: Instant) -> Option<Payload> {
    let rest = deadline.saturating_duration_since(Instant::now());
    let one = client.notifications().timeout_iter(rest).next().expect("listening")?;
    Some(serde_json::from_str(one.payload()).expect("JSON"))
}
