//! The observer: it looks at each database's tables, not at what aimq says, and demands a wake-up for each message
//! that has become readable.

pub(crate) mod table;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Result;
use postgres::error::SqlState;
use postgres::{Client, Statement};

use crate::clock::{MILLI, Micros, now};
use crate::contestant::Contestant;
use crate::excuses::{Place, Scope};
use crate::queues;
use crate::report::Loss;
use crate::verdict::{self, Demand, Limits, Outcome};
use crate::world::World;
use aimq_lab::locking::lock;
use table::{Look, Route, Row, Table};

/// How often it looks.
const TICK: Duration = Duration::from_millis(50);

/// A tick that comes later than this after the one before: the machine stood still, or the server did. Less where a
/// wake-up may be less late, but more than a look takes after an idle tick.
const STALL: (Micros, Micros) = (120 * MILLI, 300 * MILLI);

/// A wake-up belongs to what became readable so long before.
const LATELY: Micros = 500 * MILLI;

/// Every table of pgmq's schema that has aimq's triggers, each with whether they fire and their arguments.
const QUEUES: &str = "
    SELECT c.oid, c.relname::text, t.tgargs,
           t.tgenabled IN ('O', 'A') AND EXISTS (
               SELECT FROM pg_trigger v
                WHERE v.tgrelid = c.oid AND v.tgname = 'aimq_realtime_vt' AND v.tgenabled IN ('O', 'A'))
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'aimq_realtime'
     WHERE n.nspname = 'pgmq' AND c.relname ^@ 'q_' AND c.relkind IN ('r', 'p') AND NOT c.relispartition";

/// The messages of a table whose time has come.
fn messages(table: &str) -> String {
    format!(
        "SELECT msg_id, (extract(epoch FROM vt) * 1000000)::bigint, read_ct,
                (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint,
                CASE WHEN xmax = '0'::xid THEN false ELSE pg_xact_status(xmax::text::xid8) = 'in progress' END
           FROM pgmq.\"{table}\" WHERE vt <= clock_timestamp()"
    )
}

/// A queue's table as the catalogs have it.
struct Found {
    oid: u32,
    name: String,
    route: Option<Route>,
}

struct Observer<'a> {
    world: &'a World,
    database: usize,
    limits: Limits,
    tables: HashMap<u32, Table>,
    /// Messages that were reported: table, id, visibility time, number of reads.
    reported: HashSet<(Place, i64, Micros, i32)>,
    /// The last names of the tables, for reports.
    names: HashMap<u32, String>,
    /// See [`STALL`].
    stall: Micros,
    /// When the last tick began.
    last: Micros,
    /// The first wake-up that is still to be looked at, and the end of those that came before this tick.
    wakes: std::ops::Range<usize>,
}

/// Observes a database until the end.
pub(crate) fn observe(world: &World, database: usize) {
    let slack = world.plan.slack() * MILLI;
    let mut observer = Observer {
        world,
        database,
        // A session that polls while there is no notifier does so each second.
        limits: Limits { slack, blocked: slack + 500 * MILLI },
        stall: slack.clamp(STALL.0, STALL.1),
        tables: HashMap::new(),
        reported: HashSet::new(),
        names: HashMap::new(),
        last: now(),
        wakes: 0..0,
    };
    while !world.is_ended() {
        let done = world
            .connect(&world.databases[database], "hunt-observer")
            .and_then(|client| observer.session(client));
        if let (Err(error), true) = (done, world.plan.verbose) {
            eprintln!("observer of {database}: {}", crate::world::told(&error));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    observer.judge(now());
}

impl Observer<'_> {
    fn session(&mut self, mut client: Client) -> Result<()> {
        client.batch_execute("SET lock_timeout = '30ms'; SET statement_timeout = '10s'")?;
        let mut statements = HashMap::new();
        while !self.world.is_ended() {
            self.tick(&mut client, &mut statements)?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    fn tick(
        &mut self,
        client: &mut Client,
        statements: &mut HashMap<(u32, String), Statement>,
    ) -> Result<()> {
        let begun = now();
        let heard = self.ear().wakes.len();
        self.wakes = self.wakes.end..heard;
        let found = queues(client, self.world.plan.contestant)?;
        let mut seen = Vec::new();
        for one in &found {
            let looked = look(client, statements, one, begun)?;
            let last = self.last;
            let table = self.tables.entry(one.oid).or_insert_with(|| Table::new(last));
            self.names.insert(one.oid, one.name.clone());
            seen.push(one.oid);
            // A session that is locked out sees it when the lock is over; the time until then is excused.
            let Some(looked) = looked else { continue };
            let looked_at = table.last();
            if looked.ended - looked_at > self.stall {
                let place = Place { database: self.database, table: one.oid };
                let why = "the table was locked, or the observer held up";
                lock(&self.world.excuses).add(Scope::Table(place), looked_at, looked.ended, why);
            }
            table.see(&looked);
            self.count_for_nothing(one);
        }
        for (oid, table) in &mut self.tables {
            if !seen.contains(oid) {
                table.is_away(begun);
            }
        }
        let ended = now();
        if ended - self.last > self.stall {
            let (scope, why) = (Scope::Database(self.database), "the observer was held up");
            lock(&self.world.excuses).add(scope, self.last, ended, why);
        }
        self.last = begun;
        self.judge(now());
        Ok(())
    }

    /// The listener that hears everything of this database.
    fn ear(&self) -> std::sync::MutexGuard<'_, crate::hearing::Hearing> {
        let mut hearings = self.world.hearings.iter();
        let ear = hearings.find(|(database, _)| *database == self.database);
        lock(&ear.unwrap_or(&self.world.hearings[0]).1)
    }

    /// Counts wake-ups that came although nothing had become readable lately, on queues that nobody reads.
    fn count_for_nothing(&self, found: &Found) {
        let Some(route) = &found.route else { return };
        let is_read = self.world.calls.iter().any(|(_, calls)| lock(calls).table == found.name);
        let news = self.tables.get(&found.oid).map_or(0, Table::last_news);
        let (named, for_nothing) = {
            let ear = self.ear();
            let channels = [route.channel.clone()];
            let of = ear.wakes[self.wakes.clone()]
                .iter()
                .filter(|wake| wake.queues.is_some() && wake.is_of(&channels, &route.queue));
            let late = of.clone().filter(|wake| !is_read && wake.at > news + LATELY).count();
            (of.count(), late)
        };
        let mut findings = lock(&self.world.findings);
        findings.wake_ups += named as u64;
        findings.for_nothing += for_nothing as u64;
    }

    /// Decides what can be decided.
    fn judge(&mut self, now: Micros) {
        let names = &self.names;
        for (oid, table) in &mut self.tables {
            let place = Place { database: self.database, table: *oid };
            let name = names.get(oid).map_or("", String::as_str);
            let mut losses: Vec<Loss> = Vec::new();
            for demand in std::mem::take(&mut table.open) {
                match decide(self.world, &demand, place, name, self.limits, now) {
                    None => table.open.push(demand),
                    Some(whom) => {
                        table.settle(&demand);
                        // One that was owed meanwhile may have been demanded again.
                        let message = (place, demand.id, demand.vt, demand.reads);
                        if !whom.is_empty() && self.reported.insert(message) {
                            losses.push(Loss { place, table: name.to_owned(), demand, whom });
                        }
                    }
                }
            }
            if !losses.is_empty() {
                crate::report::losses(self.world, losses);
            }
        }
    }
}

/// The consumers that should have been woken for a message and were not, with what came too late. `None` while it is
/// not known.
fn decide(
    world: &World,
    demand: &Demand,
    place: Place,
    name: &str,
    limits: Limits,
    now: Micros,
) -> Option<Vec<(String, Option<Micros>)>> {
    let excuses = lock(&world.excuses);
    let mut lost = Vec::new();
    let (mut is_open, mut is_gone) = (false, true);
    let mut latest: Option<Micros> = None;
    let here = world.hearings.iter().filter(|(database, _)| *database == place.database);
    for (_, hearing) in here {
        let hearing = lock(hearing);
        match verdict::heard(demand, &hearing, place, &excuses, limits, now) {
            Outcome::Open => is_open = true,
            Outcome::Woken(at) => {
                is_gone = false;
                latest = latest.max(Some(at));
            }
            Outcome::Exempt => {}
            Outcome::Lost(next) => lost.push((hearing.name.clone(), next)),
        }
    }
    let here = world.calls.iter().filter(|(database, _)| *database == place.database);
    for (_, calls) in here {
        let calls = lock(calls);
        if calls.table != name {
            continue;
        }
        match verdict::slept_beside(demand, &calls, place, &excuses, limits, now) {
            Outcome::Open => is_open = true,
            Outcome::Lost(next) => lost.push((calls.name.clone(), next)),
            Outcome::Woken(_) | Outcome::Exempt => {}
        }
    }
    if is_open {
        return None;
    }
    let mut findings = lock(&world.findings);
    if lost.is_empty() && is_gone {
        findings.gone += 1;
    } else {
        findings.checked += 1;
    }
    if let Some(at) = latest.filter(|_| demand.is_exact) {
        // Where nothing excuses.
        if excuses.outside(place, demand.earliest, at) == at - demand.earliest {
            findings.lateness.push(crate::clock::millis(at - demand.earliest));
        }
    }
    Some(lost)
}

/// The queues of a database.
fn queues(client: &mut Client, contestant: Contestant) -> Result<Vec<Found>> {
    let rows = client.query(QUEUES, &[])?;
    if contestant.is_other() {
        // Nothing happens to them, nor to the triggers.
        let found = rows.iter().map(|row| {
            let name: String = row.get(1);
            let queue = queues::QUEUES.iter().find(|queue| queue.table() == name);
            let route = |queue: &queues::Queue| Route {
                channel: contestant.channel(queue),
                queue: queue.name.to_owned(),
            };
            Found { oid: row.get(0), route: queue.map(route), name }
        });
        return Ok(found.collect());
    }
    let found = rows.iter().map(|row| {
        let name: String = row.get(1);
        let arguments: Option<Vec<u8>> = row.get(2);
        let words: Vec<String> = arguments
            .unwrap_or_default()
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let route = match &words[..] {
            // Channel, event, queue. A table that was renamed is not what its trigger says.
            [channel, _, queue, ..] if row.get::<_, Option<bool>>(3) == Some(true) => {
                Some(Route { channel: channel.clone(), queue: queue.clone() })
            }
            _ => None,
        };
        let is_away =
            words.get(2).is_some_and(|queue| format!("q_{}", queue.to_lowercase()) != name);
        (!is_away).then(|| Found { oid: row.get(0), name, route })
    });
    Ok(found.flatten().collect())
}

/// One look at a table. `None` where it is locked, or has just gone.
fn look(
    client: &mut Client,
    statements: &mut HashMap<(u32, String), Statement>,
    found: &Found,
    asked: Micros,
) -> Result<Option<Look>> {
    let key = (found.oid, found.name.clone());
    let begun = now();
    let prepared = match statements.get(&key) {
        Some(statement) => Ok(statement.clone()),
        None => client.prepare(&messages(&found.name)),
    };
    let rows = prepared.and_then(|statement| {
        let rows = client.query(&statement, &[]);
        statements.insert(key.clone(), statement);
        rows
    });
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            statements.remove(&key);
            let code = error.code();
            let known = [
                &SqlState::LOCK_NOT_AVAILABLE,
                &SqlState::UNDEFINED_TABLE,
                &SqlState::FEATURE_NOT_SUPPORTED,
                &SqlState::QUERY_CANCELED,
                &SqlState::T_R_DEADLOCK_DETECTED,
                &SqlState::INTERNAL_ERROR,
            ];
            if code.is_some_and(|code| known.contains(&code)) {
                return Ok(None);
            }
            return Err(error.into());
        }
    };
    let ended = now();
    let rows = rows.iter().map(|row| Row {
        id: row.get(0),
        vt: row.get(1),
        reads: row.get(2),
        committed: row.get(3),
        is_locked: row.get::<_, Option<bool>>(4).unwrap_or(false),
    });
    Ok(Some(Look { asked, begun, ended, route: found.route.clone(), rows: rows.collect() }))
}
