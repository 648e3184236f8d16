//! Consumers that never poll: sessions that LISTEN and note what they hear, and sessions that block in aimq's calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};
use fastrand::Rng;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, SimpleQueryMessage};

use crate::clock::{MILLI, Micros, now};
use crate::contestant::Contestant;
use crate::drivers::{self, Driver};
use crate::hearing::{Calls, Hearing, Stay};
use crate::queues::{GROUPS, GUARDED};
use crate::session::Session;
use crate::world::{World, told};
use aimq_lab::locking::lock;

/// The application name of the sessions that block.
pub(crate) const READER: &str = "hunt-reader";

/// The listeners of a database.
pub(crate) fn hearings(databases: usize, contestant: Contestant) -> Vec<(usize, Mutex<Hearing>)> {
    let one = |name: &str, database: usize, channels: Vec<String>| {
        let name = format!("{name}-{database}");
        (database, Mutex::new(Hearing { name, channels, ..Hearing::default() }))
    };
    (0..databases)
        .flat_map(|database| {
            let ours = [
                one("ear", database, contestant.channels()),
                one("jobs-ear", database, contestant.channels()[..1].to_vec()),
            ];
            // One of each is enough: to start an interpreter takes much of a processor, after each crash.
            let others = Driver::ALL.into_iter().enumerate().filter_map(move |(at, driver)| {
                let is_here = at % databases == database;
                is_here.then(|| one(driver.ear(), database, contestant.channels()))
            });
            ours.into_iter().chain(others)
        })
        .collect()
}

/// How a session blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Read,
    /// Through pgbouncer in transaction mode.
    PooledRead,
    PooledReadFor,
    /// As a role that sees all by a policy.
    GuardedRead,
    ReadFor,
    Wait,
    /// And reads by groups.
    WaitGrouped,
    WaitFor,
}

/// The sessions that block in a database: on which queue, how.
const READERS: [(&str, Way); 10] = [
    ("shared", Way::Read),
    ("shared", Way::PooledRead),
    ("shared", Way::PooledReadFor),
    ("pool", Way::Read),
    ("pool", Way::ReadFor),
    ("pool", Way::Wait),
    ("pool", Way::WaitFor),
    ("pool", Way::Read),
    (GUARDED, Way::GuardedRead),
    (GROUPS, Way::WaitGrouped),
];

/// How many of them pgbouncer has to have connections for, in each database.
pub(crate) const POOLED: u32 = 2;

/// After a time without the server, pgbouncer asks for it again a second later.
const RETRY: Micros = 1500 * MILLI;

/// Their calls, to be filled.
pub(crate) fn calls(databases: usize) -> Vec<(usize, Mutex<Calls>)> {
    let one = |database: usize, number: usize| {
        let (queue, way) = READERS[number];
        let name = format!("reader-{database}.{number} ({way:?})");
        let more = if way.is_pooled() { RETRY } else { 0 };
        (database, Mutex::new(Calls { name, table: format!("q_{queue}"), more, calls: Vec::new() }))
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
    let driver = Driver::ALL.into_iter().find(|driver| name.starts_with(driver.ear()));
    while !world.is_ended() {
        let session = || -> Result<()> {
            if let Some(driver) = driver {
                let database = &world.databases[*database];
                return drivers::listen(world, driver, database, &channels, hearing);
            }
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
                lock(hearing).note(now(), one.channel(), one.payload());
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
    let session = match way {
        Way::PooledRead | Way::PooledReadFor => Session::pooled(world, *database, READER),
        Way::GuardedRead => Session::new(world, *database, READER, AS_SEES_ALL),
        _ => Session::new(world, *database, READER, SETTINGS),
    };
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

/// What sessions that block set.
const SETTINGS: &str = "SET statement_timeout = '60s'; SET lock_timeout = 0";
/// The same with the role that sees all by a policy.
const AS_SEES_ALL: &str =
    "SET statement_timeout = '60s'; SET lock_timeout = 0; SET ROLE hunt_sees_all";

impl Way {
    fn is_pooled(self) -> bool {
        matches!(self, Self::PooledRead | Self::PooledReadFor)
    }
}

/// What the counts call it.
fn name(way: Way) -> &'static str {
    match way {
        Way::Read => "aimq.read",
        Way::PooledRead => "aimq.read through pgbouncer",
        Way::PooledReadFor => "aimq.read_for through pgbouncer",
        Way::GuardedRead => "aimq.read under RLS",
        Way::ReadFor => "aimq.read_for",
        Way::Wait => "aimq.wait",
        Way::WaitGrouped => "aimq.wait and read_grouped",
        Way::WaitFor => "aimq.wait_for",
    }
}

/// Makes the kinds known.
pub(crate) fn expect(world: &World) {
    if world.calls.is_empty() {
        return;
    }
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
            Way::Read | Way::PooledRead | Way::GuardedRead => format!(
                "SELECT array_agg(msg_id) FROM aimq.read('{queue}', {vt}, {quantity}, max_wait => '20 s')"
            ),
            Way::ReadFor | Way::PooledReadFor => {
                format!("CALL aimq.read_for('{queue}', {vt}, {quantity}, '20 s')")
            }
            Way::Wait | Way::WaitGrouped => format!("SELECT aimq.wait('{{{queue}}}', '20 s')"),
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
            Way::Read | Way::PooledRead | Way::GuardedRead => {
                text.trim_matches(['{', '}']).split(',').filter_map(|id| id.parse().ok()).collect()
            }
            Way::ReadFor | Way::PooledReadFor => {
                let messages: serde_json::Value = serde_json::from_str(text)?;
                let all = messages.as_array().into_iter().flatten();
                all.filter_map(|message| message["msg_id"].as_i64()).collect()
            }
            // A listener that is told of a queue reads until it is empty.
            Way::Wait | Way::WaitGrouped | Way::WaitFor => {
                if text == "{}" {
                    return Ok(());
                }
                let how = if self.way == Way::WaitGrouped { "read_grouped" } else { "read" };
                let sql = format!(
                    "SELECT coalesce(array_agg(msg_id), '{{}}') FROM pgmq.{how}('{queue}', {vt}, 1000)"
                );
                let ids: Vec<i64> = self.session.value(&sql)?.unwrap_or_default();
                if self.way == Way::WaitGrouped && ids.is_empty() {
                    // The first of a group is in work: aimq.wait returns at once as long as that is so, and a worker
                    // had better not ask at once.
                    std::thread::sleep(Duration::from_millis(100));
                }
                ids
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
