//! The programs in examples/, all at once, each in a database of its own: on servers that are restarted, promoted and
//! overloaded under them, and on one that counts their statements. What they promise is in examples/README.md.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aimq_client_tests::programs::*;
use aimq_client_tests::relay::Relay;
use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use postgres::{Client, NoTls};
use serde_json::json;

const PRELOAD: &str = "shared_preload_libraries=aimq,pg_stat_statements";

/// While its worker is connected, no message lies unread for longer, unless the worker is busy with others.
const WHILE_UP: Duration = Duration::from_secs(2);

/// And after an outage, counted from when the server takes connections again. The back-off's delay is at most as long
/// as the outage was and half a second; and a pooler tries again once a second, as ours is set up.
fn when_back(outage: Duration, program: Program) -> Duration {
    let pooler = Duration::from_secs(u64::from(!program.listens));
    (outage + Duration::from_secs(2)).min(Duration::from_secs(32)) + pooler
}

/// The server's clock.
fn now(client: &mut Client) -> String {
    value(client, "SELECT clock_timestamp()::text")
}

fn send(clients: &mut [Client]) {
    for client in clients {
        run(client, "SELECT pgmq.send('emails', '{}')");
    }
}

/// Waits until each program has archived all, and checks how long messages lay there since `from`.
fn assert_read_in_time(
    stage: &Stage,
    clients: &mut [Client],
    what: &str,
    from: &str,
    limit: impl Fn(Program) -> Duration,
) {
    for (running, client) in stage.running.iter().zip(clients) {
        wait_until_empty(client, running.program);
        let (longest, limit) = (longest_unread(client, from), limit(running.program));
        let name = running.program.name;
        println!("{what}: {name}: longest unread {longest:?}, allowed {limit:?}");
        assert!(
            longest <= limit,
            "{what}: {name}: a message was unread for {longest:?}, not {limit:?}"
        );
        let archived: i64 = value(client, "SELECT count(*) FROM pgmq.a_emails");
        assert_eq!(i64::try_from(running.jobs()).ok(), Some(archived), "{what}: {name}: jobs");
    }
}

/// They are woken once more, without a poll.
fn assert_awake(stage: &Stage, clients: &mut [Client], what: &str) {
    for (running, client) in stage.running.iter().zip(&mut *clients) {
        wait_until_idle(client, running.program);
    }
    let from = now(&mut clients[0]);
    send(clients);
    assert_read_in_time(stage, clients, what, &from, |_| WHILE_UP);
}

#[test]
fn a_server_is_restarted_under_them() {
    let _alone = alone();
    let mut stage = Stage::at_work(server_for_all(&[PRELOAD]));
    let begun = Instant::now();
    stage.cluster.shut_down("fast").expect("shutdown");
    stage.wait_until_backing_off(2);
    stage.cluster.run().expect("a start");
    let mut clients = stage.clients();
    let from = now(&mut clients[0]);
    send(&mut clients);
    let outage = begun.elapsed();
    assert_read_in_time(&stage, &mut clients, "restarted", &from, |it| when_back(outage, it));
    assert_awake(&stage, &mut clients, "after the restart");
    stage.cluster.shut_down("fast").expect("shutdown");
    // Where its worker waits then.
    stage.wait_until_pooler_fails();
    end(&mut stage.running, "without a server", "TERM", Duration::from_secs(2));
}

#[test]
fn a_standby_is_promoted_under_them() {
    let _alone = alone();
    let primary = server_for_all(&[PRELOAD, "wal_level=replica", "max_wal_senders=5"]);
    send(&mut clients(&primary));
    let standby = primary.standby().expect("a standby");
    drop(primary);
    let begun = Instant::now();
    let stage = Stage::start(standby);
    stage.wait_until_backing_off(3);
    stage.cluster.promote().expect("promotion");
    let mut clients = stage.clients();
    let from = now(&mut clients[0]);
    let outage = begun.elapsed();
    send(&mut clients);
    assert_read_in_time(&stage, &mut clients, "promoted", &from, |it| when_back(outage, it));
    assert_awake(&stage, &mut clients, "after the promotion");
}

/// The messages of a burst, for each program.
const BURST: i64 = 1500;

/// Enqueues half of a burst: by turns one, and a batch of up to 20.
fn produce(mut client: Client) {
    let mut left = BURST / 2;
    for turn in 0.. {
        let count = if turn % 2 == 0 { 1 } else { (1 + turn / 2 % 20).min(left) };
        run(
            &mut client,
            &format!("SELECT pgmq.send_batch('emails', array_fill('{{}}'::jsonb, '{{{count}}}'))"),
        );
        left -= count;
        if left == 0 {
            return;
        }
    }
}

#[test]
fn a_server_is_overloaded_under_them() {
    let _alone = alone();
    let settings = [PRELOAD, "max_connections=40", "superuser_reserved_connections=0"];
    let stage = Stage::at_work(server_for_all(&settings));
    let mut clients = stage.clients();
    bursts_come_while_the_processors_are_busy(&stage, &mut clients);
    there_is_no_connection_left_for_them(&stage, &mut clients);
}

fn bursts_come_while_the_processors_are_busy(stage: &Stage, clients: &mut [Client]) {
    let from = now(&mut clients[0]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let producers: Vec<_> = (0..2)
            .flat_map(|_| stage.clients())
            .map(|client| scope.spawn(|| produce(client)))
            .collect();
        let produced = producers.into_iter().all(|it| it.join().is_ok());
        for (client, program) in clients.iter_mut().zip(PROGRAMS) {
            wait_until_empty(client, program);
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(produced);
    });
    assert_read_in_time(stage, clients, "bursts", &from, |_| WHILE_UP);
    for client in &mut *clients {
        assert_eq!(value::<i64>(client, "SELECT count(*) FROM pgmq.a_emails"), BURST + 1);
    }
    assert_awake(stage, clients, "after the bursts");
}

fn there_is_no_connection_left_for_them(stage: &Stage, clients: &mut [Client]) {
    let mut others = Vec::new();
    let begun = Instant::now();
    // Each loses its connection, and somebody else is faster.
    wait_until("them to find no connection", || {
        for client in &mut *clients {
            run(
                client,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'lab'",
            );
        }
        while let Ok(other) = config(stage.cluster.folder()).connect(NoTls) {
            others.push(other);
        }
        stage.running.iter().all(|it| it.backs_off(3))
    });
    send(clients);
    let from = now(&mut clients[0]);
    drop(others);
    let outage = begun.elapsed();
    assert_read_in_time(stage, clients, "no connection", &from, |it| when_back(outage, it));
    assert_awake(stage, clients, "with a connection again");
}

/// All that a server which is well can show, over TCP.
#[test]
fn they_work_when_woken_and_only_then() {
    let _alone = alone();
    let mut stage = Stage::empty(server_for_all(&[PRELOAD]));
    let relays = PROGRAMS.map(|program| Relay::start(stage.folder_for(program)).expect("a relay"));
    stage.set_to_work(|stage| {
        for (program, relay) in PROGRAMS.iter().zip(&relays) {
            let place = format!("host=127.0.0.1&port={}", relay.port);
            stage.running.push(program.start_at(&place));
        }
    });
    let mut outside = connect(&stage.cluster);
    run(&mut outside, "CREATE EXTENSION pg_stat_statements");
    let mut count = |pattern: &str| PROGRAMS.map(|program| calls(&mut outside, program, pattern));
    let mut clients = stage.clients();

    no_statement_runs_while_nothing_comes(&mut count);
    a_connection_that_goes_deaf_is_noticed(&relays);
    each_read_finds_a_message_or_was_called_for(&mut clients, &mut count);
    what_means_others_brings_no_read_about(&stage, &mut clients, &mut count);
    what_is_notified_during_a_read_is_kept(&stage, &mut clients);
    a_job_that_fails_comes_back_when_its_visibility_timeout_ends(&stage, &mut clients);
}

/// How many statements were run in the programs' databases, of those that match a pattern.
type Count<'a> = &'a mut dyn FnMut(&str) -> [i64; PROGRAMS.len()];

fn calls(client: &mut Client, program: Program, pattern: &str) -> i64 {
    value(
        client,
        &format!(
            "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
              WHERE datname = '{}' AND query ~ '{pattern}'",
            program.name
        ),
    )
}

/// What they read with.
const READS: &str = r"(pgmq|aimq)\.read\(";

/// This is the one thing that can only be waited out: nothing at all runs in their databases. But for what was still
/// under way when the first look was taken.
fn no_statement_runs_while_nothing_comes(count: Count<'_>) {
    let mut ran = [0; PROGRAMS.len()];
    let is_quiet = |ran: &[i64]| {
        // A call of aimq.read may have ended.
        ran.iter().zip(PROGRAMS).all(|(ran, program)| *ran <= i64::from(!program.listens))
    };
    for _ in 0..2 {
        let before = count("");
        std::thread::sleep(Duration::from_secs(3));
        let after = count("");
        ran = std::array::from_fn(|at| after[at] - before[at]);
        println!("idle for 3 s: {ran:?} statements");
        if is_quiet(&ran) {
            break;
        }
    }
    assert!(is_quiet(&ran), "they ran {ran:?} statements while nothing came");
}

/// That packets get lost cannot be staged here; that the kernel looks after the connection can be seen.
fn a_connection_that_goes_deaf_is_noticed(relays: &[Relay]) {
    for (relay, program) in relays.iter().zip(PROGRAMS) {
        let mut after = None;
        // While something is under way another timer runs.
        wait_until(&format!("a keepalive timer of {}", program.name), || {
            after = relay.keepalive();
            after.is_some()
        });
        println!("{}: the kernel looks after {after:?}", program.name);
        assert!(after <= Some(Duration::from_secs(10)), "{}", program.name);
    }
}

/// One message after the other.
fn each_read_finds_a_message_or_was_called_for(clients: &mut [Client], count: Count<'_>) {
    const MESSAGES: i64 = 10;
    let wake_ups = |clients: &mut [Client]| -> Vec<i64> {
        let sql = "SELECT notifications + calls FROM aimq.stats";
        clients.iter_mut().map(|client| value(client, sql)).collect()
    };
    let (reads, called) = (count(READS), wake_ups(clients));
    for _ in 0..MESSAGES {
        send(clients);
        for (client, program) in clients.iter_mut().zip(PROGRAMS) {
            wait_until_idle(client, program);
        }
    }
    let (reads_after, called_after) = (count(READS), wake_ups(clients));
    for (at, program) in PROGRAMS.iter().enumerate() {
        let (read, called) = (reads_after[at] - reads[at], called_after[at] - called[at]);
        println!("{MESSAGES} messages: {}: {read} reads, {called} wake-ups", program.name);
        // The last call of aimq.read is not over.
        assert!((MESSAGES - 1..=MESSAGES + called).contains(&read), "{}", program.name);
    }
}

/// Notifications that mean others, and pings; but what cannot be understood does.
fn what_means_others_brings_no_read_about(stage: &Stage, clients: &mut [Client], count: Count<'_>) {
    let reads = count(READS);
    const TIMES: usize = 5;
    for _ in 0..TIMES {
        for others in [
            r#"NOTIFY "aimq:jobs", '{"event":"job_enqueued","queues":{"others":{"count":1}}}'"#,
            r#"NOTIFY "aimq:jobs", '{"event":"job_started","queues":{"emails":{"count":1}}}'"#,
        ] {
            clients.iter_mut().for_each(|client| run(client, others));
        }
        assert_answered(stage);
    }
    for (at, program) in PROGRAMS.iter().enumerate() {
        // One may still have been under way.
        assert!(count(READS)[at] - reads[at] <= 1, "{}", program.name);
    }
    // Nobody can answer this one. A worker that can't even read it takes it for news.
    let half = r#"NOTIFY "aimq:jobs", '{"event":"ping","reply_to":"\ud800"}'"#;
    clients.iter_mut().for_each(|client| run(client, half));
    let deep = "[".repeat(7900);
    for text in ["not JSON", r#"{"event":"job_enqueued"}"#, "7", &deep] {
        for (at, program) in PROGRAMS.iter().enumerate().filter(|(_, it)| it.listens) {
            wait_until_idle(&mut clients[at], *program);
            let reads = count(READS)[at];
            run(&mut clients[at], &format!("NOTIFY \"aimq:jobs\", '{text}'"));
            wait_until("a read", || count(READS)[at] > reads);
        }
    }
}

/// Each that listens says so when asked, with the session that does.
fn assert_answered(stage: &Stage) {
    for (client, program) in stage.clients().into_iter().zip(PROGRAMS) {
        if !program.listens {
            continue;
        }
        let mut listener = Listener::over(client, "pongs");
        // Nobody can answer those, and nobody must mind.
        for reply_to in ["''", "repeat('x', 64)"] {
            let ping = format!(
                "SELECT pg_notify('aimq:jobs', json_build_object('event', 'ping', 'reply_to', {reply_to})::text)"
            );
            run(listener.client(), &ping);
            let error = failure(listener.client(), &format!("SELECT aimq.ping({reply_to})"));
            assert_eq!(error.code().code(), "42602");
        }
        let nul = r#"NOTIFY "aimq:jobs", '{"event":"ping","reply_to":"\u0000"}'"#;
        run(listener.client(), nul);
        run(listener.client(), "SELECT aimq.ping('pongs')");
        let pong: serde_json::Value = serde_json::from_str(&listener.wait_for_one()).expect("JSON");
        let pid: i32 = value(
            listener.client(),
            "SELECT pid FROM pg_stat_activity
              WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'lab'",
        );
        assert_eq!(pong, json!({"event": "pong", "pid": pid, "queues": ["emails"]}), "{program:?}");
    }
}

/// A read that has found nothing is held up. Meanwhile a message comes, and its notification, which the server passes
/// on at the end of the read.
fn what_is_notified_during_a_read_is_kept(stage: &Stage, clients: &mut [Client]) {
    for (client, program) in clients.iter_mut().zip(PROGRAMS).filter(|(_, it)| it.listens) {
        run(
            client,
            "CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql
                AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
             CREATE TRIGGER hold_up AFTER UPDATE ON pgmq.q_emails FOR EACH STATEMENT EXECUTE FUNCTION hold_up()",
        );
        let mut holder = stage.cluster.connect(program.name).expect("connect");
        run(&mut holder, "SELECT pg_advisory_lock(1)");
        run(client, "NOTIFY \"aimq:jobs\", 'look'");
        wait_until("a read to be held up", || {
            boolean(
                client,
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'advisory')",
            )
        });
        let notified = "SELECT notifications FROM aimq.stats";
        let before: i64 = value(client, notified);
        run(client, "SELECT pgmq.send('emails', '{}')");
        wait_until("the notification", || value::<i64>(client, notified) > before);
        drop(holder);
        wait_until_empty(client, program);
    }
}

fn a_job_that_fails_comes_back_when_its_visibility_timeout_ends(
    stage: &Stage,
    clients: &mut [Client],
) {
    let fail = r#"SELECT pgmq.send('emails', '{"error": "as told"}')"#;
    let ids: Vec<i64> = clients.iter_mut().map(|client| value(client, fail)).collect();
    send(clients);
    for ((running, client), id) in stage.running.iter().zip(clients).zip(&ids) {
        let left =
            "SELECT array_agg(msg_id), min(read_ct), min(vt) > now() + '20 s' FROM pgmq.q_emails";
        wait_until("only that which failed to be left", || {
            let row = client.query_one(left, &[]).expect("the queue");
            row.get::<_, Option<Vec<i64>>>(0).is_some_and(|left| left == [*id])
                && row.get::<_, i32>(1) == 1
                && row.get(2)
        });
        assert_eq!(running.count("failed:"), 1);
        // Its time is soon over, of which nobody but aimq tells the worker.
        run(client, &format!("SELECT pgmq.set_vt('emails', {id}, 1)"));
    }
    for running in &stage.running {
        wait_until("another try", || running.count("failed:") == 2);
    }
}

#[test]
fn they_end_well_and_soon_whatever_they_do() {
    let _alone = alone();
    let mut stage = Stage::at_work(server_for_all(&[PRELOAD]));
    let mut clients = stage.clients();
    let soon = Duration::from_secs(2);
    end(&mut stage.running, "idle", "TERM", soon);
    for client in &mut clients {
        // Else a call would go on without its client, and read a message in vain.
        assert_eq!(value::<i64>(client, "SELECT count(*) FROM aimq.waiters"), 0);
    }

    // Over a job, which is finished; what was read with it is given back.
    stage.restart();
    for (client, program) in clients.iter_mut().zip(PROGRAMS) {
        wait_until_idle(client, program);
    }
    for client in &mut clients {
        let three = r#"ARRAY['{"seconds": 1}', '{}', '{}']::jsonb[]"#;
        run(client, &format!("SELECT pgmq.send_batch('emails', {three})"));
    }
    for running in &stage.running {
        wait_until("a job", || running.jobs() == 1);
    }
    end(&mut stage.running, "over a job", "INT", soon);
    for (client, program) in clients.iter_mut().zip(PROGRAMS) {
        let left =
            "SELECT count(*), count(*) FILTER (WHERE vt <= clock_timestamp()) FROM pgmq.q_emails";
        let row = client.query_one(left, &[]).expect("the queue");
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 2), "{}", program.name);
    }

    // In a read that hangs.
    stage.restart();
    let mut lockers = Vec::new();
    for (client, program) in clients.iter_mut().zip(PROGRAMS) {
        wait_until_idle(client, program);
        let mut locker = stage.cluster.connect(program.name).expect("connect");
        run(&mut locker, "BEGIN");
        run(&mut locker, "LOCK pgmq.q_emails");
        lockers.push(locker);
        run(client, "NOTIFY \"aimq:jobs\", 'look'");
        wait_until("a read to hang", || {
            let hangs = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND database =
                            (SELECT oid FROM pg_database WHERE datname = current_database()))";
            !program.listens || boolean(client, hangs)
        });
    }
    end(&mut stage.running, "in a read", "TERM", Duration::from_secs(7));
}

#[test]
fn they_end_well_and_soon_while_they_back_off() {
    let nowhere = root().join("target/no-server");
    let mut programs: Vec<_> = PROGRAMS.iter().map(|program| program.start(&nowhere)).collect();
    for running in &programs {
        wait_until("a long delay", || running.delays().last().is_some_and(|it| *it > 3.0));
        for (number, delay) in (0..).zip(running.delays()) {
            let longest = 0.5 * 1.5_f64.powi(number);
            // As it is said, with one decimal.
            assert!(delay <= longest + 0.06 && delay >= longest / 2.0 - 0.06, "{number}: {delay}");
        }
    }
    end(&mut programs, "backing off", "TERM", Duration::from_secs(2));
}
