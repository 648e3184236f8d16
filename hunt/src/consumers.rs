//! Consumers that never poll: sessions that LISTEN and note what they hear, and sessions that block in aimq's calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aimq_core::payload::Payload;
use anyhow::{Result, bail};
use fastrand::Rng;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, SimpleQueryMessage};

use crate::clock::now;
use crate::hearing::{Calls, Hearing, Stay, Wake};
use crate::locking::lock;
use crate::session::Session;
use crate::world::{CHANNEL, OTHER_CHANNEL, OWN_CHANNEL, World, told};

/// The application name of the sessions that block.
pub(crate) const READER: &str = "hunt-reader";

/// The listeners of a database.
pub(crate) fn hearings(databases: usize) -> Vec<(usize, Mutex<Hearing>)> {
    let one = |name: &str, database: usize, channels: &[&str]| {
        let channels = channels.iter().map(ToString::to_string).collect();
        let name = format!("{name}-{database}");
        (database, Mutex::new(Hearing { name, channels, ..Hearing::default() }))
    };
    (0..databases)
        .flat_map(|database| {
            [
                one("ear", database, &[CHANNEL, OWN_CHANNEL, OTHER_CHANNEL]),
                one("jobs-ear", database, &[CHANNEL]),
            ]
        })
        .collect()
}

/// How a session blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Read,
    ReadFor,
    Wait,
    WaitFor,
}

/// The sessions that block in a database: on which queue, how.
const READERS: [(&str, Way); 6] = [
    ("shared", Way::Read),
    ("pool", Way::Read),
    ("pool", Way::ReadFor),
    ("pool", Way::Wait),
    ("pool", Way::WaitFor),
    ("pool", Way::Read),
];

/// Their calls, to be filled.
pub(crate) fn calls(databases: usize) -> Vec<(usize, Mutex<Calls>)> {
    let one = |database: usize, number: usize| {
        let (queue, way) = READERS[number];
        let name = format!("reader-{database}.{number} ({way:?})");
        (database, Mutex::new(Calls { name, table: format!("q_{queue}"), calls: Vec::new() }))
    };
    (0..databases)
        .flat_map(|database| (0..READERS.len()).map(move |number| one(database, number)))
        .collect()
}

/// Listens until the end.
pub(crate) fn listen(world: &World, number: usize) {
    let (database, hearing) = &world.hearings[number];
    let (name, channels) = {
        let hearing = lock(hearing);
        (hearing.name.clone(), hearing.channels.clone())
    };
    while !world.is_ended() {
        let session = || -> Result<()> {
            let mut client = world.connect(&world.databases[*database], &name)?;
            for channel in &channels {
                client.batch_execute(&format!("LISTEN \"{channel}\""))?;
            }
            lock(hearing).stays.push(Stay { from: now(), until: None });
            hear(world, &mut client, hearing)
        };
        let failed = session().is_err();
        if let Some(stay) = lock(hearing).stays.last_mut() {
            stay.until.get_or_insert(now());
        }
        if failed {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn hear(world: &World, client: &mut Client, hearing: &Mutex<Hearing>) -> Result<()> {
    while !world.is_ended() {
        {
            let mut notifications = client.notifications();
            let mut coming = notifications.timeout_iter(Duration::from_millis(100));
            while let Some(one) = coming.next()? {
                let at = now();
                let payload = serde_json::from_str::<Payload>(one.payload()).ok();
                let queues = payload.and_then(|payload| payload.queues);
                let queues = queues.map(|queues| queues.into_keys().collect());
                lock(hearing).wakes.push(Wake { at, channel: one.channel().to_owned(), queues });
            }
        }
        if client.is_closed() {
            bail!("the connection is lost");
        }
    }
    Ok(())
}

/// Blocks, reads and deletes until the end.
pub(crate) fn block(world: &Arc<World>, number: usize, chance: Rng) {
    let (database, calls) = &world.calls[number];
    let (queue, way) = READERS[number % READERS.len()];
    let settings = "SET statement_timeout = '60s'; SET lock_timeout = 0";
    let session = Session::new(world, *database, READER, settings);
    let mut reader = Reader { session, calls, queue, way, chance };
    while !world.is_ended() {
        let done = reader.turn();
        if let Some(call) = lock(calls).calls.last_mut() {
            call.until.get_or_insert(now());
        }
        match done {
            Ok(()) => world.history.count("consumer", name(way), None),
            // A fault of ours, or the end.
            Err(error) => {
                world.history.count("consumer", name(way), Some(told(&error)));
                std::thread::sleep(Duration::from_millis(30));
            }
        }
    }
}

/// What the counts call it.
fn name(way: Way) -> &'static str {
    match way {
        Way::Read => "aimq.read",
        Way::ReadFor => "aimq.read_for",
        Way::Wait => "aimq.wait",
        Way::WaitFor => "aimq.wait_for",
    }
}

/// Makes the kinds known.
pub(crate) fn expect(world: &World) {
    READERS.iter().for_each(|(_, way)| world.history.expect("consumer", name(*way)));
}

struct Reader<'a> {
    session: Session,
    calls: &'a Mutex<Calls>,
    queue: &'static str,
    way: Way,
    chance: Rng,
}

impl Reader<'_> {
    /// One call, and what there is to do with what it found.
    fn turn(&mut self) -> Result<()> {
        let (queue, quantity) = (self.queue, self.chance.u32(1..4));
        let abandons = self.chance.u32(..8) == 0;
        let vt = if abandons { 1 } else { 30 };
        let sql = match self.way {
            Way::Read => format!(
                "SELECT array_agg(msg_id) FROM aimq.read('{queue}', {vt}, {quantity}, max_wait => '20 s')"
            ),
            Way::ReadFor => format!("CALL aimq.read_for('{queue}', {vt}, {quantity}, '20 s')"),
            Way::Wait => format!("SELECT aimq.wait('{{{queue}}}', '20 s')"),
            Way::WaitFor => format!("CALL aimq.wait_for('{{{queue}}}', '20 s')"),
        };
        self.session.client()?;
        lock(self.calls).calls.push(Stay { from: now(), until: None });
        // As text: a JSON array of objects, an array, or a number of ids.
        let answer = self.session.client()?.simple_query(&sql);
        if let Some(call) = lock(self.calls).calls.last_mut() {
            call.until.get_or_insert(now());
        }
        let answer = self.session.after(answer)?;
        let text = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let text = text.unwrap_or("{}");
        let ids: Vec<i64> = match self.way {
            Way::Read => {
                text.trim_matches(['{', '}']).split(',').filter_map(|id| id.parse().ok()).collect()
            }
            Way::ReadFor => {
                let messages: serde_json::Value = serde_json::from_str(text)?;
                let all = messages.as_array().into_iter().flatten();
                all.filter_map(|message| message["msg_id"].as_i64()).collect()
            }
            // A listener that is told of a queue reads until it is empty.
            Way::Wait | Way::WaitFor => {
                if text == "{}" {
                    return Ok(());
                }
                let sql = format!(
                    "SELECT coalesce(array_agg(msg_id), '{{}}') FROM pgmq.read('{queue}', {vt}, 1000)"
                );
                self.session.value(&sql)?.unwrap_or_default()
            }
        };
        if !ids.is_empty() && !abandons {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let sql = format!("SELECT pgmq.delete('{queue}', ARRAY[{}]::bigint[])", ids.join(", "));
            self.session.run(&[&sql])?;
        }
        Ok(())
    }
}
