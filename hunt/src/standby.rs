//! A standby that is promoted while everything else goes on, with consumers of its own. Its messages are not the
//! observer's: what is to come is known here.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, NoTls};

use crate::actors::{Kind, Scene, any};
use crate::clock::{MILLI, Micros, SECOND, now};
use crate::hands::Hands;
use crate::world::World;
use aimq_lab::locking::lock;

/// How long the copy may take to catch up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after the copy is there a message becomes readable: the promotion and the consumers come before.
const LATER: Micros = 6 * SECOND;

/// How much later than on the server itself a wake-up may be, because all processes of aimq's start.
const STARTS: Micros = 2 * SECOND;

/// The only kind.
pub(crate) const KINDS: [Kind<Hands>; 1] =
    [Kind { name: "standby promoted", is_for: any, later: 0, since: 14, act: promote }];

fn promote(hands: &mut Hands, scene: &Scene) -> Result<String> {
    let world = Arc::clone(&hands.world);
    let name = format!("Standby{}", scene.draw.number);
    let queues = [format!("{name}a"), format!("{name}b")];
    for queue in &queues {
        hands.one(scene).run(&[&format!("SELECT aimq.create_queue('{queue}')")])?;
    }
    let done = copied(&world, hands, scene, &queues);
    for queue in &queues {
        hands.restore(scene, &[&format!("SELECT pgmq.drop_queue('{queue}')")])?;
    }
    done
}

fn copied(
    world: &Arc<World>,
    hands: &mut Hands,
    scene: &Scene,
    queues: &[String; 2],
) -> Result<String> {
    let standby = world.cluster.standby()?;
    let vt = now() + LATER;
    for queue in queues {
        let sent = format!("SELECT pgmq.send('{queue}', '{{}}', to_timestamp({}))", seconds(vt));
        hands.one(scene).run(&[&sent])?;
    }
    let position: Option<String> =
        hands.one(scene).value("SELECT pg_current_wal_flush_lsn()::text")?;
    let position = position.context("the server's position")?;
    let database = &world.databases[scene.database];
    let connect = || world.connect_to(standby.folder(), database, "hunt-standby");
    let mut client = connect()?;
    let there = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
    hands.until("the standby", PATIENCE, |_| is(&mut client, &there))?;
    standby.promote()?;
    client.batch_execute("LISTEN \"aimq:jobs\"")?;
    let mut reader = connect()?;
    let (cancel, sql) = (
        reader.cancel_token(),
        format!("SELECT msg_id FROM aimq.read('{}', 30, 1, '60 s')", queues[1]),
    );
    if world.plan.preload == 0 {
        // There, the first enqueue in a database brings its notifier.
        let nudge = format!("SELECT pgmq.send('{}', '{{}}', 600)", queues[0]);
        client.batch_execute(&nudge)?;
    }
    let realtime = format!(
        "SELECT count(*) = 2 FROM aimq.queues WHERE realtime AND queue IN ('{}', '{}')",
        queues[0], queues[1]
    );
    ensure!(is(&mut client, &realtime), "aimq was away when it was copied");
    let reads = std::thread::spawn(move || {
        let read = reader.query_opt(&sql, &[]);
        read.ok().flatten().map(|_| now())
    });
    ensure!(now() < vt, "the promotion took too long");
    let until = vt + world.plan.slack() * MILLI + STARTS;
    let heard = hears(&mut client, &queues[0], vt, until);
    let begun = now();
    while !reads.is_finished() && now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = cancel.cancel_query(NoTls);
    let read = reads.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    let mut findings = lock(&world.findings);
    for (who, at) in [("a listener", heard?), ("a reader", read)] {
        match at.filter(|at| *at <= until.max(begun)) {
            Some(_) => findings.checked += 1,
            None => {
                findings.lost += 1;
                let at = world.since_begun(vt);
                let report = format!(
                    "a promoted standby of {database}, readable since {at:.3} s: {who} was not woken"
                );
                println!("\nLOST  {report}\n      the standby's log:\n{}", tail(&standby.log()));
                findings.reports.push(report);
            }
        }
    }
    Ok(String::new())
}

fn seconds(at: Micros) -> f64 {
    at as f64 / SECOND as f64
}

fn is(client: &mut Client, sql: &str) -> bool {
    client.query_one(sql, &[]).is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
}

/// When a notification of a queue comes, from a time on and up to another.
fn hears(client: &mut Client, queue: &str, from: Micros, until: Micros) -> Result<Option<Micros>> {
    let name = format!("\"{queue}\"");
    while now() < until {
        let mut notifications = client.notifications();
        let mut coming = notifications.timeout_iter(Duration::from_millis(100));
        while let Some(one) = coming.next()? {
            let at = now();
            if at >= from && one.payload().contains(&name) {
                return Ok(Some(at));
            }
        }
    }
    Ok(None)
}

/// The last lines of a log.
fn tail(log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
