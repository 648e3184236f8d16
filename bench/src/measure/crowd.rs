//! What a thousand sessions that block, each for a queue of its own, cost producers: for a queue that none of
//! them wants, and for theirs. The connections are there in both cases; only whether they block differs.

use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use aimq_lab::progress::Spinner;
use anyhow::{Result, ensure};
use postgres::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::callers::{Call, Callers, Said};
use crate::contestants::Key;
use crate::cpu::Meter;
use crate::load::Load;
use crate::measure::{Bench, producers};
use crate::results::Crowd;
use crate::servers::{self, PRELOADED, SETTINGS, truncate};

/// Their queues are w1, w2, …
const PREFIX: &str = "w";
/// What has not been read by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server of its own: the others have no room for so many connections.
const ROOM: [&str; 2] = ["max_connections=1200", "aimq.max_waiters=2000"];

/// The crowd and its server, which is dropped last.
struct Place {
    callers: Callers,
    producers: Vec<Client>,
    client: Client,
    sessions: u32,
    is_blocked: bool,
    cluster: Cluster,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let spinner = Spinner::new("many sessions that block, each for its queue");
    let mut place = Place::enter(bench, &spinner)?;
    place.warm_up()?;
    let rounds = bench.plan.rounds + bench.plan.more_rounds;
    // Round 0 warms up the producers and is thrown away.
    for round in 0..=rounds {
        place.client.batch_execute("CHECKPOINT")?;
        // Each round begins as the one before has ended.
        for turn in 0..2 {
            let is_blocked = (round + turn) % 2 == 0;
            let state = if is_blocked { "blocking" } else { "idle" };
            spinner.say(&format!("round {round} of {rounds}: {} {state} sessions", place.sessions));
            place.change_to(is_blocked)?;
            let elsewhere = place.elsewhere(bench, round)?;
            if round == 0 {
                continue;
            }
            bench.results.crowd.push(elsewhere);
            // What comes close to a bound is measured more often than what has none.
            if round <= bench.plan.few_rounds {
                let theirs = place.theirs(bench, round)?;
                bench.results.crowd.push(theirs);
            }
        }
    }
    drop(place);
    spinner.end(true);
    Ok(())
}

impl Place {
    fn enter(bench: &Bench, spinner: &Spinner) -> Result<Self> {
        let sessions = bench.plan.waiters;
        make_room(u64::from(sessions) + 100)?;
        spinner.say("start a server");
        let wished: Vec<&str> = bench.plan.settings.iter().map(String::as_str).collect();
        let settings = [&SETTINGS[..], &PRELOADED, &ROOM, &wished].concat();
        let cluster = Cluster::start(bench.major, &settings)?;
        let key = Key::Notifier;
        servers::make(&cluster, key, true)?;
        let mut client = cluster.connect(&key.database())?;
        spinner.say("make the queues");
        producers::make(&mut client, "aimq.create_queue", PREFIX, sessions)?;
        spinner.say("connect the producers and the sessions");
        let callers = Callers::start(&cluster, Call::Blocks, sessions as usize, |number| {
            format!("{PREFIX}{}", number + 1)
        })?;
        let producers = producers::enter(&cluster, &key.database(), PREFIX, sessions)?;
        let mut place = Self { callers, producers, client, sessions, is_blocked: false, cluster };
        place.clear()?;
        Ok(place)
    }

    /// A message to each session, all at once: what it does first, planning, is not to be measured.
    fn warm_up(&mut self) -> Result<()> {
        self.change_to(true)?;
        self.producers[0].execute(&producers::each(PREFIX, self.sessions), &[])?;
        let sent = u64::from(self.sessions);
        let finished = self.finished(sent)?;
        ensure!(finished == sent, "only {finished} sessions read their message");
        Ok(())
    }

    /// Has the sessions block, or not.
    fn change_to(&mut self, is_blocked: bool) -> Result<()> {
        if is_blocked && !self.is_blocked {
            self.callers.call(Call::Blocks)?;
        } else if !is_blocked {
            self.callers.rest()?;
        }
        self.is_blocked = is_blocked;
        Ok(())
    }

    /// One run of pgbench, to a queue that none of them wants.
    fn elsewhere(&mut self, bench: &Bench, round: usize) -> Result<Crowd> {
        truncate(&mut self.client)?;
        let seconds = bench.plan.seconds;
        let load = Load { clients: 16, seconds, rate: None, synchronous_commit: true };
        let cpu = Meter::start(&self.cluster)?;
        let tps = load.run(bench.major, &self.cluster, Key::Notifier)?;
        let cpu_us = cpu.so_far()?.us_each(tps * f64::from(seconds));
        Ok(self.found(round, false, tps, cpu_us))
    }

    /// Messages to their queues, which the sessions that block read and archive.
    fn theirs(&mut self, bench: &Bench, round: usize) -> Result<Crowd> {
        let (queues, time) = (self.sessions, bench.plan.growth_time);
        let cpu = Meter::start(&self.cluster)?;
        let (sent, seconds) =
            producers::send_at_random(&mut self.producers, PREFIX, queues, round, time)?;
        let unread = if self.is_blocked { sent - self.finished(sent)? } else { 0 };
        let cpu_us = cpu.so_far()?.us_each(sent as f64);
        if !self.is_blocked || unread > 0 {
            self.clear()?;
        }
        let found = self.found(round, true, sent as f64 / seconds, cpu_us);
        Ok(Crowd { unread, ..found })
    }

    /// How many of so many messages the sessions have finished, once it is all of them or no more will be.
    fn finished(&self, sent: u64) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        let mut done = 0;
        while done < sent {
            match self.callers.next(deadline)? {
                Some(Said::Done) => done += 1,
                Some(_) => {}
                None => break,
            }
        }
        Ok(done)
    }

    /// Empties their queues.
    fn clear(&mut self) -> Result<()> {
        Ok(self.client.batch_execute(&format!(
            "DO $$ BEGIN
                 FOR n IN 1..{} LOOP EXECUTE 'DELETE FROM pgmq.q_{PREFIX}' || n; END LOOP;
             END $$",
            self.sessions
        ))?)
    }

    fn found(&self, round: usize, is_theirs: bool, tps: f64, cpu_us: f64) -> Crowd {
        Crowd {
            round,
            sessions: self.sessions,
            is_blocked: self.is_blocked,
            is_theirs,
            tps: (tps * 10.0).round() / 10.0,
            cpu_us,
            unread: 0,
        }
    }
}

/// Lets this process have so many connections, where its user may: many systems begin with 1,024 files.
fn make_room(files: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|it| it < files) {
        let current = Some(maximum.map_or(files, |most| most.min(files)));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    }
    Ok(())
}
