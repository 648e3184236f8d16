//! Every way of getting a message into a queue, moving it, and taking it out again.

use std::io::Write;
use std::sync::{Arc, PoisonError};

use anyhow::{Result, ensure};

use crate::actors::{Kind, Pair, Scene, any};
use crate::queues;
use crate::queues::Queue;
use crate::server::{COMMITS, EXCEPTIONS, topic};

const fn kind(name: &'static str, act: fn(&mut Pair, &Scene) -> Result<String>) -> Kind<Pair> {
    Kind { name, is_for: any, later: 0, since: 14, act }
}

const fn kind_later(
    name: &'static str,
    act: fn(&mut Pair, &Scene) -> Result<String>,
) -> Kind<Pair> {
    Kind { name, is_for: any, later: DELAYED, since: 14, act }
}

const fn kind_for(
    name: &'static str,
    is_for: fn(&Queue) -> bool,
    act: fn(&mut Pair, &Scene) -> Result<String>,
) -> Kind<Pair> {
    Kind { name, is_for, later: DELAYED, since: 14, act }
}

/// The longest delay, in milliseconds.
const DELAYED: u64 = 1500;

/// All of them.
pub(crate) const KINDS: [Kind<Pair>; 46] = [
    kind("send", |pair, scene| send(pair, scene, "")),
    kind_later("send delayed", |pair, scene| {
        send(pair, scene, &format!(", clock_timestamp() + interval '{} ms'", delay(scene)))
    }),
    kind_later("send delayed, whole seconds", |pair, scene| send(pair, scene, ", 1")),
    kind("send_batch", |pair, scene| batch(pair, scene, "")),
    kind_later("send_batch delayed", |pair, scene| {
        batch(pair, scene, &format!(", clock_timestamp() + interval '{} ms'", delay(scene)))
    }),
    kind("INSERT", |pair, scene| insert(pair, scene, "clock_timestamp()", scene.draw.count)),
    kind_later("INSERT mixed delays", |pair, scene| {
        let step = delay(scene) / 2;
        let vt = format!("clock_timestamp() + (n - 1) * interval '{step} ms'");
        insert(pair, scene, &vt, scene.draw.count.min(3))
    }),
    kind("INSERT many", |pair, scene| insert(pair, scene, "now()", 300)),
    kind("INSERT … ON CONFLICT", |pair, scene| {
        let sql = format!(
            "INSERT INTO {} (vt, message) VALUES (now(), '{{}}') ON CONFLICT DO NOTHING",
            scene.t
        );
        run(pair, &[&sql])
    }),
    kind_for("INSERT … ON CONFLICT, some do", has_unique_index, |pair, scene| {
        // Half of them conflict with each other, and some of the rest with what is there.
        let sql = format!(
            "INSERT INTO {} (vt, message) SELECT now(), jsonb_build_object('once', ({} + n / 2) % 50)
               FROM generate_series(1, 6) n ON CONFLICT ((message ->> 'once')) DO NOTHING",
            scene.t, scene.draw.pick
        );
        run(pair, &[&sql])
    }),
    kind_for("INSERT … ON CONFLICT DO UPDATE", has_unique_index, |pair, scene| {
        let sql = format!(
            "INSERT INTO {} AS q (vt, message)
             SELECT clock_timestamp() + interval '{} ms', jsonb_build_object('once', ({} + n) % 50)
               FROM generate_series(1, 3) n
                 ON CONFLICT ((message ->> 'once')) DO UPDATE SET vt = excluded.vt",
            scene.t,
            delay(scene),
            scene.draw.pick
        );
        run(pair, &[&sql])
    }),
    kind("send_topic", |pair, scene| {
        let sent = format!("SELECT pgmq.send_topic('{}', '{{}}')", topic(&scene.queue));
        reached(pair, &sent)
    }),
    kind_later("send_topic delayed", |pair, scene| {
        let sent = format!("SELECT pgmq.send_topic('{}', '{{}}', 1)", topic(&scene.queue));
        reached(pair, &sent)
    }),
    kind("send with a group", |pair, scene| {
        let sql = format!(
            "SELECT pgmq.send({}, '{{}}', jsonb_build_object('x-pgmq-group', 'g' || {}))",
            scene.q,
            scene.draw.pick % 3
        );
        run(pair, &[&sql])
    }),
    kind_later("send_batch with groups", |pair, scene| {
        let sql = format!(
            "SELECT pgmq.send_batch({}, array_agg('{{}}'::jsonb),
                    array_agg(jsonb_build_object('x-pgmq-group', 'g' || n % 2)), {})
               FROM generate_series(1, {}) n",
            scene.q,
            scene.draw.pick % 2,
            scene.draw.count
        );
        run(pair, &[&sql])
    }),
    kind_later("read_grouped and abandon", |pair, scene| {
        let sql = format!("SELECT pgmq.read_grouped({}, 1, {})", scene.q, scene.draw.count);
        run(pair, &[&sql])
    }),
    kind("read_grouped rolled back", |pair, scene| {
        given_back(pair, scene, "read_grouped", ", 30, 2")
    }),
    kind("function with exceptions", |pair, scene| {
        run(pair, &[&format!("SELECT {EXCEPTIONS}({}, {})", scene.q, scene.draw.count)])
    }),
    kind("CALL of one that commits", |pair, scene| {
        run(pair, &[&format!("CALL {COMMITS}({}, {})", scene.q, scene.draw.count)])
    }),
    kind("COPY", |pair, scene| copy(pair, scene, false)),
    kind_later("COPY delayed", |pair, scene| copy(pair, scene, true)),
    kind("rolled back", |pair, scene| run(pair, &["BEGIN", &sent(scene), "ROLLBACK"])),
    kind("savepoint rolled back", |pair, scene| {
        let sent = sent(scene);
        run(pair, &["BEGIN", &sent, "SAVEPOINT s", &sent, "ROLLBACK TO s", "COMMIT"])
    }),
    kind("only in a savepoint", |pair, scene| {
        let sent = sent(scene);
        let undone = ["SAVEPOINT s", &sent, "ROLLBACK TO s"];
        run(
            pair,
            &[&["BEGIN"], &undone[..], &["SAVEPOINT t", &sent, "RELEASE t", "COMMIT"]].concat(),
        )
    }),
    kind("PL/pgSQL exception", |pair, scene| {
        let sql = format!(
            "DO $$ BEGIN
                 BEGIN PERFORM pgmq.send({q}, '{{}}'); RAISE 'undone'; EXCEPTION WHEN raise_exception THEN NULL; END;
                 BEGIN PERFORM pgmq.send({q}, '{{}}'); EXCEPTION WHEN raise_exception THEN NULL; END;
             END $$",
            q = scene.q
        );
        run(pair, &[&sql])
    }),
    kind("PL/pgSQL commits", |pair, scene| {
        let sql = format!(
            "DO $$ BEGIN FOR i IN 1..3 LOOP
                 PERFORM pgmq.send({}, '{{}}'); COMMIT; PERFORM pg_sleep(0.03);
             END LOOP; END $$",
            scene.q
        );
        run(pair, &[&sql])
    }),
    kind("long transaction", |pair, scene| {
        let sleep = format!("SELECT pg_sleep({})", scene.draw.length / 2.0);
        run(pair, &["BEGIN", &sent(scene), &sleep, "COMMIT"])
    }),
    kind("SERIALIZABLE", |pair, scene| {
        let count = format!("SELECT count(*) FROM {}", scene.t);
        run(pair, &["BEGIN ISOLATION LEVEL SERIALIZABLE", &count, &sent(scene), "COMMIT"])
    }),
    kind("REPEATABLE READ", |pair, scene| {
        run(pair, &["BEGIN ISOLATION LEVEL REPEATABLE READ", &sent(scene), "COMMIT"])
    }),
    kind("delivery = transaction", |pair, scene| by_itself(pair, &sent(scene))),
    kind_later("delivery = transaction, delayed", |pair, scene| {
        let sent = format!(
            "SELECT pgmq.send({}, '{{}}', clock_timestamp() + interval '{} ms')",
            scene.q,
            delay(scene)
        );
        by_itself(pair, &sent)
    }),
    kind("set_vt to now", |pair, scene| set_vt(pair, scene, "clock_timestamp()")),
    kind_later("set_vt to soon", |pair, scene| {
        set_vt(pair, scene, &format!("clock_timestamp() + interval '{} ms'", delay(scene)))
    }),
    kind_later("UPDATE vt", |pair, scene| {
        let sql = format!(
            "UPDATE {} SET vt = clock_timestamp() + interval '{} ms' WHERE msg_id = {}",
            scene.t,
            delay(scene),
            one(scene)
        );
        run(pair, &[&sql])
    }),
    kind_later("read and abandon", |pair, scene| {
        let sql = format!("SELECT pgmq.read({}, 1, {})", scene.q, scene.draw.count);
        run(pair, &[&sql])
    }),
    kind("read and archive", |pair, scene| {
        let sql = format!(
            "SELECT pgmq.archive({q}, msg_id) FROM pgmq.read({q}, 2, {})",
            scene.draw.count,
            q = scene.q
        );
        run(pair, &[&sql])
    }),
    kind("read rolled back", |pair, scene| given_back(pair, scene, "read", ", 30, 2")),
    kind("pop rolled back", |pair, scene| given_back(pair, scene, "pop", "")),
    kind("pop", |pair, scene| run(pair, &[&format!("SELECT pgmq.pop({})", scene.q)])),
    kind("archive", |pair, scene| {
        run(pair, &[&format!("SELECT pgmq.archive({}, {}::bigint)", scene.q, one(scene))])
    }),
    kind("delete", |pair, scene| {
        run(pair, &[&format!("SELECT pgmq.delete({}, {}::bigint)", scene.q, one(scene))])
    }),
    kind("DELETE of old ones", old),
    kind("COMMIT PREPARED", |pair, scene| prepared(pair, scene, &sent(scene), "COMMIT")),
    kind_later("COMMIT PREPARED, delayed", |pair, scene| {
        let sent = format!(
            "SELECT pgmq.send({}, '{{}}', clock_timestamp() + interval '{} ms')",
            scene.q,
            delay(scene)
        );
        prepared(pair, scene, &sent, "COMMIT")
    }),
    kind("ROLLBACK PREPARED", |pair, scene| prepared(pair, scene, &sent(scene), "ROLLBACK")),
    kind("ROLLBACK PREPARED of a read", |pair, scene| {
        prepared(pair, scene, &format!("SELECT pgmq.read({}, 30, 2)", scene.q), "ROLLBACK")
    }),
];

/// Milliseconds until a message can be read.
fn delay(scene: &Scene) -> u64 {
    scene.draw.millis(20, DELAYED)
}

/// A unique index over a partitioned table would need the partitions' column.
fn has_unique_index(queue: &Queue) -> bool {
    queue.kind != queues::Kind::Partitioned
}

/// Sends to a topic, which must have a queue.
fn reached(pair: &mut Pair, sql: &str) -> Result<String> {
    let queues = pair.one.value::<i32>(sql)?.unwrap_or_default();
    ensure!(queues > 0, "the topic has no queue");
    Ok(format!("{queues}"))
}

fn run(pair: &mut Pair, statements: &[&str]) -> Result<String> {
    pair.one.run(statements)?;
    Ok(String::new())
}

/// In a transaction that notifies by itself. There must be room for that.
fn by_itself(pair: &mut Pair, sent: &str) -> Result<String> {
    let world = Arc::clone(&pair.one.world);
    let _room = world.by_themselves.read().unwrap_or_else(PoisonError::into_inner);
    run(pair, &["BEGIN; SET LOCAL aimq.delivery = transaction", sent, "COMMIT"])
}

/// The statement that sends one.
fn sent(scene: &Scene) -> String {
    format!("SELECT pgmq.send({}, '{{}}')", scene.q)
}

fn send(pair: &mut Pair, scene: &Scene, more: &str) -> Result<String> {
    let sql = format!("SELECT pgmq.send({}, '{{}}'{more})", scene.q);
    Ok(format!("{:?}", pair.one.value::<i64>(&sql)?))
}

fn batch(pair: &mut Pair, scene: &Scene, more: &str) -> Result<String> {
    let messages = vec!["'{}'"; scene.draw.count as usize].join(", ");
    let sql = format!(
        "SELECT array_agg(id) FROM pgmq.send_batch({}, ARRAY[{messages}]::jsonb[]{more}) id",
        scene.q
    );
    Ok(format!("{:?}", pair.one.value::<Vec<i64>>(&sql)?))
}

fn insert(pair: &mut Pair, scene: &Scene, vt: &str, count: u32) -> Result<String> {
    let sql = format!(
        "WITH new AS (INSERT INTO {} (vt, message) SELECT {vt}, '{{}}' FROM generate_series(1, {count}) n RETURNING msg_id)
         SELECT min(msg_id) || '–' || max(msg_id) FROM new",
        scene.t
    );
    Ok(pair.one.value::<String>(&sql)?.unwrap_or_default())
}

fn copy(pair: &mut Pair, scene: &Scene, is_delayed: bool) -> Result<String> {
    let add = if is_delayed { delay(scene) } else { 0 };
    let vt: Option<String> =
        pair.one.value(&format!("SELECT (clock_timestamp() + interval '{add} ms')::text"))?;
    let vt = vt.unwrap_or_default();
    let sql = format!("COPY {} (vt, message) FROM STDIN", scene.t);
    let client = pair.one.client()?;
    let mut copy = || {
        let mut writer = client.copy_in(&sql)?;
        for _ in 0..scene.draw.count {
            // What can't be written fails at the end.
            let _ = writeln!(writer, "{vt}\t{{}}");
        }
        writer.finish()
    };
    let done = copy();
    Ok(pair.one.after(done)?.to_string())
}

/// The id of some message, as a subquery.
fn one(scene: &Scene) -> String {
    let offset = scene.draw.pick % 5;
    format!("(SELECT msg_id FROM {} ORDER BY msg_id DESC OFFSET {offset} LIMIT 1)", scene.t)
}

fn set_vt(pair: &mut Pair, scene: &Scene, vt: &str) -> Result<String> {
    let sql = format!("SELECT (pgmq.set_vt({}, {}, {vt})).msg_id", scene.q, one(scene));
    Ok(format!("{:?}", pair.one.value::<i64>(&sql)?))
}

/// Takes messages in a transaction that fails, after a while in which it can be seen that it has them.
fn given_back(pair: &mut Pair, scene: &Scene, how: &str, more: &str) -> Result<String> {
    let take = format!("SELECT array_agg(msg_id) FROM pgmq.{how}({}{more})", scene.q);
    pair.one.run(&["BEGIN"])?;
    let ids: Option<Vec<i64>> = pair.one.value(&take)?;
    let sleep = format!("SELECT pg_sleep({})", 0.15 + scene.draw.length / 5.0);
    pair.one.run(&[&sleep, "ROLLBACK"])?;
    Ok(format!("{ids:?}"))
}

/// Deletes what is old, so that queues don't grow.
fn old(pair: &mut Pair, scene: &Scene) -> Result<String> {
    let sql = format!(
        "WITH old AS (DELETE FROM {} WHERE enqueued_at < now() - interval '6 s' RETURNING 1) SELECT count(*) FROM old",
        scene.t
    );
    Ok(format!("{:?}", pair.one.value::<i64>(&sql)?))
}

/// Prepares in one session, and ends it in another that has done nothing else.
fn prepared(pair: &mut Pair, scene: &Scene, sql: &str, end: &str) -> Result<String> {
    // What a fault has left behind.
    let mine = format!("hunt {} {}", scene.database, pair.one.name());
    let sql_left = format!("SELECT min(gid) FROM pg_prepared_xacts WHERE gid ^@ '{mine}:'");
    if let Some(left) = pair.other.value::<String>(&sql_left)? {
        pair.other.run(&[&format!("ROLLBACK PREPARED '{left}'")])?;
    }
    let gid = format!("{mine}:{}", scene.draw.number);
    let prepare = format!("PREPARE TRANSACTION '{gid}'");
    pair.one.run(&["BEGIN; SET LOCAL aimq.delivery = auto", sql, &prepare])?;
    pair.one.world.nap(scene.draw.millis(50, 500));
    pair.other.leave();
    pair.other.run(&[&format!("{end} PREPARED '{gid}'")])?;
    Ok(String::new())
}
