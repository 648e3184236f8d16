//! What happens to queues' tables and triggers, with messages that come meanwhile.

use anyhow::Result;

use crate::actors::{Kind, Scene, any};
use crate::contestant::Contestant;
use crate::contestant::enable;
use crate::hands::Hands;
use crate::processes::PATIENCE;
use crate::queues;
use crate::queues::{OTHER_CHANNEL, Queue};
use crate::server::{ABLE, UNABLE, made};

const fn kind(name: &'static str, act: fn(&mut Hands, &Scene) -> Result<String>) -> Kind<Hands> {
    Kind { name, is_for: any, later: 700, since: 14, act }
}

const fn kind_for(
    name: &'static str,
    is_for: fn(&Queue) -> bool,
    act: fn(&mut Hands, &Scene) -> Result<String>,
) -> Kind<Hands> {
    Kind { name, is_for, later: 700, since: 14, act }
}

/// All of them.
pub(crate) const KINDS: [Kind<Hands>; 36] = [
    kind("off, INSERT, on: at once", |hands, scene| {
        hands.at_once(scene, &[&off(scene), &came(scene), &on(scene)]).map(|()| String::new())
    }),
    kind("off, INSERT, on: apart", |hands, scene| apart(hands, scene, &off(scene), &on(scene))),
    kind("DISABLE, INSERT, ENABLE: at once", |hands, scene| {
        hands
            .at_once(
                scene,
                &[&triggers(scene, "DISABLE"), &came(scene), &triggers(scene, "ENABLE")],
            )
            .map(|()| String::new())
    }),
    kind("DISABLE, INSERT, ENABLE: apart", |hands, scene| {
        apart(hands, scene, &triggers(scene, "DISABLE"), &triggers(scene, "ENABLE"))
    }),
    kind("DISABLE, INSERT, rewrite, ENABLE", |hands, scene| {
        let all = [
            &triggers(scene, "DISABLE"),
            &came(scene)[..],
            &rewrite(scene),
            &triggers(scene, "ENABLE"),
        ];
        hands.at_once(scene, &all).map(|()| String::new())
    }),
    kind("rewrite", |hands, scene| run(hands, scene, &[&rewrite(scene)])),
    kind("VACUUM FULL", |hands, scene| run(hands, scene, &[&format!("VACUUM FULL {}", scene.t)])),
    kind("create, enable and send: at once", |hands, scene| {
        let name = temporary(scene);
        let made = [
            format!("SELECT aimq.create_queue('{name}')"),
            format!("SELECT pgmq.send('{name}', '{{}}'{})", delay(scene)),
        ];
        hands.at_once(scene, &[&made[0], &made[1]])?;
        drop_later(hands, scene, &name)
    }),
    kind("create and send, enable", |hands, scene| {
        let name = temporary(scene);
        let made = [
            format!("SELECT pgmq.create('{name}')"),
            format!("SELECT pgmq.send('{name}', '{{}}'{})", delay(scene)),
            format!("SELECT aimq.enable_realtime('{name}')"),
        ];
        run(hands, scene, &[&made[0], &made[1], &made[2]])?;
        drop_later(hands, scene, &name)
    }),
    kind("drop and create again", |hands, scene| {
        let name = temporary(scene);
        let made = format!("SELECT aimq.create_queue('{name}')");
        let dropped = format!("SELECT pgmq.drop_queue('{name}')");
        let sent = format!("SELECT pgmq.send('{name}', '{{}}'{})", delay(scene));
        run(hands, scene, &[&made, &sent])?;
        hands.at_once(scene, &[&dropped, &made, &sent])?;
        drop_later(hands, scene, &name)
    }),
    kind("rename there and back", |hands, scene| {
        let table = scene.queue.table();
        let there = format!("ALTER TABLE {} RENAME TO {table}_away", scene.t);
        let back = format!("ALTER TABLE IF EXISTS pgmq.{table}_away RENAME TO {table}");
        let insert = inserted(scene, &format!("pgmq.{table}_away"));
        away(hands, scene, &there, &insert, &back)
    }),
    kind("SET SCHEMA there and back", |hands, scene| {
        let table = scene.queue.table();
        let there = format!("ALTER TABLE {} SET SCHEMA elsewhere", scene.t);
        let back = format!("ALTER TABLE IF EXISTS elsewhere.{table} SET SCHEMA pgmq");
        let insert = inserted(scene, &format!("elsewhere.{table}"));
        away(hands, scene, &there, &insert, &back)
    }),
    kind_for("ATTACH and DETACH PARTITION", is_partitioned, partition),
    kind("channel changed and back", |hands, scene| {
        run(hands, scene, &[&enable(&scene.queue, OTHER_CHANNEL), &came(scene)])?;
        hands.world.nap(scene.draw.millis(300, 1500));
        hands.restore(scene, &[&on(scene)])?;
        run(hands, scene, &[&came(scene)])
    }),
    kind("channel changed: at once", |hands, scene| {
        let other = enable(&scene.queue, OTHER_CHANNEL);
        hands.at_once(scene, &[&other, &came(scene), &on(scene)]).map(|()| String::new())
    }),
    kind("owner with USAGE", |hands, scene| {
        hands.at_once(scene, &[&owner(scene, ABLE), &came(scene)])?;
        hands.world.nap(scene.draw.millis(300, 1500));
        hands.restore(scene, &[&owner(scene, "postgres")])?;
        Ok(String::new())
    }),
    kind("owner without USAGE, GRANT", |hands, scene| {
        let world = std::sync::Arc::clone(&hands.world);
        // An owner that may not look can't know; the queue is announced now and then.
        let _excuse = hands.excuse(&world, scene, "the owner has no USAGE")?;
        hands.at_once(scene, &[&owner(scene, UNABLE), &came(scene)])?;
        hands.world.nap(scene.draw.millis(500, 1500));
        let granted =
            run(hands, scene, &[&format!("GRANT USAGE ON SCHEMA pgmq TO {UNABLE}"), &came(scene)]);
        hands.world.nap(scene.draw.millis(500, 1500));
        let back = format!("REVOKE USAGE ON SCHEMA pgmq FROM {UNABLE}");
        hands.restore(scene, &[&owner(scene, "postgres"), &back])?;
        granted
    }),
    kind("RLS on and off", |hands, scene| {
        // On a queue that has it anyway: off and on.
        let all = ["ENABLE", "DISABLE"].map(|how| row_security(scene, how));
        let [one, back] =
            if scene.queue.is_guarded() { [&all[1], &all[0]] } else { [&all[0], &all[1]] };
        apart(hands, scene, one, back)
    }),
    kind("RLS forced, the owner sees all", |hands, scene| forced(hands, scene, "true")),
    kind("RLS forced, the owner sees some", |hands, scene| {
        let world = std::sync::Arc::clone(&hands.world);
        // Nothing is known of such a table; what comes is announced.
        let _excuse = hands.excuse(&world, scene, "the owner does not see all")?;
        forced(hands, scene, "msg_id % 2 = 0")
    }),
    kind("aimq_realtime disabled for a while", |hands, scene| {
        apart(hands, scene, &trigger(scene, "DISABLE", INSERTS), &trigger(scene, "ENABLE", INSERTS))
    }),
    kind("aimq_realtime_vt disabled for a while", |hands, scene| {
        hands.one(scene).run(&[&trigger(scene, "DISABLE", UPDATES)])?;
        hands.world.nap(scene.draw.millis(0, 400));
        let moved = format!(
            "UPDATE {t} SET vt = {} WHERE msg_id = (SELECT max(msg_id) FROM {t})",
            vt(scene),
            t = scene.t
        );
        let came = hands.other(scene).run(&[&came(scene), &moved]);
        hands.restore(scene, &[&trigger(scene, "ENABLE", UPDATES)])?;
        came.map(|()| String::new())
    }),
    kind("queue dropped and created again", |hands, scene| {
        let mut statements = vec![format!("SELECT pgmq.drop_queue({})", scene.q)];
        statements.extend(made(&scene.queue, Contestant::Aimq));
        statements.push(came(scene));
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        if scene.draw.count.is_multiple_of(2) {
            return hands.at_once(scene, &statements).map(|()| "at once".into());
        }
        hands.one(scene).run(&statements[..1])?;
        hands.world.nap(scene.draw.millis(0, 500));
        // What is half made is rolled back.
        hands.restore(scene, &[&statements[1..].join("; ")])?;
        Ok("apart".into())
    }),
    kind("aimq dropped and created again", again),
    kind("ALTER EXTENSION pgmq UPDATE", |hands, scene| {
        let sql = "SELECT extversion::text FROM pg_extension WHERE extname = 'pgmq'";
        let version = hands.one(scene).value::<String>(sql)?.unwrap_or_default();
        run(hands, scene, &[&format!("ALTER EXTENSION pgmq UPDATE TO '{version}'")])
    }),
    kind("events changed and back", |hands, scene| {
        let more = format!(
            "SELECT aimq.enable_realtime({}, channel => {}, ids => {},
                 events => '{{job_enqueued,job_started,job_archived,job_deleted}}')",
            scene.q,
            queues::literal(scene.queue.channel),
            scene.draw.count.is_multiple_of(2)
        );
        run(hands, scene, &[&more, &came(scene)])?;
        hands.world.nap(scene.draw.millis(300, 1500));
        hands.restore(scene, &[&on(scene)])?;
        run(hands, scene, &[&came(scene)])
    }),
    kind("aimq.enabled off for the database", |hands, scene| {
        let world = std::sync::Arc::clone(&hands.world);
        let database = &world.databases[scene.database];
        hands.one(scene).run(&["LOAD 'aimq'"])?;
        // What comes meanwhile is announced when `recheck` is called.
        let _excuse = hands.excuse(&world, scene, "aimq.enabled was off")?;
        hands.one(scene).run(&[&format!("ALTER DATABASE {database} SET aimq.enabled = off")])?;
        // Only a new session has the setting.
        let came = world
            .connect(database, "hunt-silent")
            .and_then(|mut silent| Ok(silent.batch_execute(&came(scene))?));
        let back = format!("ALTER DATABASE {database} RESET aimq.enabled");
        hands.restore(scene, &[&back, "SELECT aimq.recheck()"])?;
        came.map(|()| String::new())
    }),
    kind("ANALYZE", |hands, scene| run(hands, scene, &[&format!("ANALYZE {}", scene.t)])),
    kind("VACUUM", |hands, scene| run(hands, scene, &[&format!("VACUUM {}", scene.t)])),
    kind("VACUUM FREEZE", |hands, scene| {
        run(hands, scene, &[&format!("VACUUM (FREEZE) {}", scene.t)])
    }),
    kind("purge", |hands, scene| {
        run(hands, scene, &[&format!("SELECT pgmq.purge_queue({})", scene.q)])
    }),
    kind("TRUNCATE and INSERT", |hands, scene| {
        let truncate = format!("TRUNCATE {}", scene.t);
        hands.at_once(scene, &[&truncate, &came(scene)]).map(|()| String::new())
    }),
    kind("locked for a while", |hands, scene| {
        let locked = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", scene.t);
        let sleep = format!("SELECT pg_sleep({})", 0.1 + scene.draw.length);
        hands.at_once(scene, &[&locked, &came(scene), &sleep]).map(|()| String::new())
    }),
    kind("SHARE lock for a while", |hands, scene| {
        let locked = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", scene.t);
        let sleep = format!("SELECT pg_sleep({})", 0.1 + scene.draw.length / 2.0);
        hands.at_once(scene, &[&locked, &came(scene), &sleep]).map(|()| String::new())
    }),
    kind("CREATE and DROP INDEX", |hands, scene| {
        let name = format!("hunt_{}", scene.draw.number);
        let made = format!("CREATE INDEX {name} ON {} (enqueued_at)", scene.t);
        run(hands, scene, &[&made, &format!("DROP INDEX pgmq.{name}")])
    }),
    kind("aimq.recheck", |hands, scene| {
        let silent = if scene.draw.count.is_multiple_of(2) {
            "SET LOCAL session_replication_role = replica"
        } else {
            "SET LOCAL aimq.enabled = off"
        };
        hands.at_once(scene, &[silent, &came(scene)])?;
        hands.restore(scene, &["SELECT aimq.recheck()"])?;
        Ok(silent.into())
    }),
];

fn is_partitioned(queue: &Queue) -> bool {
    queue.kind == queues::Kind::Partitioned
}

fn run(hands: &mut Hands, scene: &Scene, statements: &[&str]) -> Result<String> {
    hands.one(scene).run(statements)?;
    Ok(String::new())
}

/// When what comes can be read: at once, or soon.
fn vt(scene: &Scene) -> String {
    let millis = if scene.draw.count.is_multiple_of(3) { 700 } else { 0 };
    format!("clock_timestamp() + interval '{millis} ms'")
}

/// The same as an argument of pgmq.send.
fn delay(scene: &Scene) -> String {
    format!(", {}", vt(scene))
}

/// A message.
fn inserted(scene: &Scene, table: &str) -> String {
    format!("INSERT INTO {table} (vt, message) VALUES ({}, '{{}}')", vt(scene))
}

/// One that comes to the queue's table.
fn came(scene: &Scene) -> String {
    inserted(scene, &scene.t)
}

fn on(scene: &Scene) -> String {
    enable(&scene.queue, scene.queue.channel)
}

fn off(scene: &Scene) -> String {
    format!("SELECT aimq.disable_realtime({})", scene.q)
}

fn triggers(scene: &Scene, how: &str) -> String {
    format!("ALTER TABLE {} {how} TRIGGER USER", scene.t)
}

/// The trigger for what comes.
const INSERTS: &str = "aimq_realtime";
/// The one for what is moved, taken and given back.
const UPDATES: &str = "aimq_realtime_vt";

fn trigger(scene: &Scene, how: &str, name: &str) -> String {
    format!("ALTER TABLE {} {how} TRIGGER {name}", scene.t)
}

fn row_security(scene: &Scene, how: &str) -> String {
    format!("ALTER TABLE {} {how} ROW LEVEL SECURITY", scene.t)
}

/// Has an owner that sees those rows of its table of which a condition holds.
fn forced(hands: &mut Hands, scene: &Scene, condition: &str) -> Result<String> {
    let policy = format!("CREATE POLICY hunt_owner ON {} TO {ABLE} USING ({condition})", scene.t);
    let on = [row_security(scene, "ENABLE"), row_security(scene, "FORCE")];
    hands.at_once(scene, &[&owner(scene, ABLE), &policy, &on[0], &on[1], &came(scene)])?;
    hands.world.nap(scene.draw.millis(300, 1500));
    let came = hands.other(scene).run(&[&came(scene)]);
    let mut back = vec![
        format!("DROP POLICY IF EXISTS hunt_owner ON {}", scene.t),
        row_security(scene, "NO FORCE"),
        owner(scene, "postgres"),
    ];
    if !scene.queue.is_guarded() {
        back.push(row_security(scene, "DISABLE"));
    }
    hands.restore(scene, &back.iter().map(String::as_str).collect::<Vec<_>>())?;
    came.map(|()| String::new())
}

/// Drops aimq, and creates it again with all queues realtime.
fn again(hands: &mut Hands, scene: &Scene) -> Result<String> {
    let world = std::sync::Arc::clone(&hands.world);
    // Without a queue the notifier goes; only the launcher starts another.
    let _beside = world.launcher.read();
    if scene.draw.count.is_multiple_of(2) {
        hands.one(scene).run(&["DROP EXTENSION aimq CASCADE"])?;
    } else {
        hands.at_once(scene, &["SELECT aimq.disable_realtime_all()", "DROP EXTENSION aimq"])?;
    }
    hands.world.nap(scene.draw.millis(0, 400));
    let came = hands.other(scene).run(&[&came(scene)]);
    hands.world.nap(scene.draw.millis(0, 400));
    // Each of its own: who brings back a queue that is away just now needs aimq.
    hands.restore(scene, &["CREATE EXTENSION aimq"])?;
    for queue in &queues::QUEUES {
        hands.restore(scene, &[&enable(queue, queue.channel)])?;
    }
    if world.plan.preload == 1 {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity
                    WHERE backend_type = 'aimq watcher' AND datname = current_database())";
        hands.until("a watcher", PATIENCE, |hands| {
            matches!(hands.one(scene).value::<bool>(sql), Ok(Some(true)))
        })?;
    }
    came.map(|()| String::new())
}

fn owner(scene: &Scene, role: &str) -> String {
    format!("ALTER TABLE {} OWNER TO {role}", scene.t)
}

fn rewrite(scene: &Scene) -> String {
    format!("ALTER TABLE {} ALTER message TYPE jsonb USING message || '{{}}'", scene.t)
}

/// Switches something off; messages come; and on again.
fn apart(hands: &mut Hands, scene: &Scene, off: &str, on: &str) -> Result<String> {
    hands.one(scene).run(&[off])?;
    hands.world.nap(scene.draw.millis(0, 400));
    let came = hands.other(scene).run(&[&came(scene)]);
    hands.world.nap(scene.draw.millis(0, 300));
    hands.restore(scene, &[on])?;
    came.map(|()| String::new())
}

/// Moves a table away; messages come; and back.
fn away(hands: &mut Hands, scene: &Scene, there: &str, insert: &str, back: &str) -> Result<String> {
    hands.one(scene).run(&[there])?;
    hands.world.nap(scene.draw.millis(50, 400));
    let came = hands.other(scene).run(&[insert]);
    hands.world.nap(scene.draw.millis(50, 300));
    hands.restore(scene, &[back])?;
    came.map(|()| String::new())
}

/// The name of a queue that lives for a while.
fn temporary(scene: &Scene) -> String {
    format!("Temp{}", scene.draw.number)
}

/// Waits until its message must have been announced, and drops it.
fn drop_later(hands: &mut Hands, scene: &Scene, name: &str) -> Result<String> {
    let slack = hands.world.plan.slack().unsigned_abs();
    hands.world.nap(slack + 1200);
    hands.restore(scene, &[&format!("SELECT pgmq.drop_queue('{name}')")])?;
    Ok(name.to_owned())
}

/// A partition with rows is attached, detached, filled, attached again, and dropped.
fn partition(hands: &mut Hands, scene: &Scene) -> Result<String> {
    let part = format!("pgmq.part{}", scene.draw.number);
    let first = 10_000_000 + scene.draw.number * 1000;
    let insert = |id: u64| {
        format!("INSERT INTO {part} (msg_id, vt, message) VALUES ({id}, {}, '{{}}')", vt(scene))
    };
    let made = format!("CREATE TABLE {part} (LIKE {} INCLUDING DEFAULTS)", scene.t);
    run(hands, scene, &[&made, &insert(first)])?;
    hands.world.nap(scene.draw.millis(0, 300));
    let slack = hands.world.plan.slack().unsigned_abs();
    let attach = format!(
        "ALTER TABLE {} ATTACH PARTITION {part} FOR VALUES FROM ({first}) TO ({})",
        scene.t,
        first + 1000
    );
    let detach = format!("ALTER TABLE {} DETACH PARTITION {part}", scene.t);
    let done = (|| {
        for id in [first + 1, first + 2] {
            run(hands, scene, &[&attach])?;
            hands.world.nap(slack + 400);
            run(hands, scene, &[&detach, &insert(id)])?;
        }
        Ok(part.clone())
    })();
    hands.restore(scene, &[&format!("DROP TABLE IF EXISTS {part}")])?;
    done
}
