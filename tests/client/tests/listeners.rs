//! Listeners to pgmq's own notifications notice nothing when aimq takes over: `aimq.adopt_pgmq_notify`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aimq_client_tests::*;
use postgres::Client;

const CHANNEL_OF_A: &str = "pgmq.q_a.INSERT";

/// A queue that pgmq announces, without its throttle: that drops wake-ups.
fn announced(client: &mut Client, queue: &str) {
    run(client, &format!("SELECT pgmq.create('{queue}'), pgmq.enable_notify_insert('{queue}', 0)"));
}

fn pgmqs_triggers(client: &mut Client) -> i64 {
    value(
        client,
        "SELECT count(*) FROM pg_trigger WHERE tgname = 'trigger_notify_queue_insert_listeners' AND tgparentid = 0",
    )
}

fn realtime(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT concat_ws(' ', queue, channel, event, sink, ids) FROM aimq.queues WHERE realtime ORDER BY queue",
    )
}

#[test]
fn pgmqs_trigger_is_swapped_for_ours_on_the_same_channel() {
    let database = Database::new();
    let mut client = database.connect();
    announced(&mut client, "a");
    run(&mut client, "SELECT pgmq.create('b')");
    let mut listener = Listener::over(database.connect(), CHANNEL_OF_A);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.wait_for_one(), "");

    assert!(boolean(&mut client, "SELECT aimq.adopt_pgmq_notify('A')"));
    assert_eq!(realtime(&mut client), ["a pgmq.q_a.INSERT insert notify f"]);
    assert_eq!(pgmqs_triggers(&mut client), 0);
    let throttles = "SELECT count(*) FROM pgmq.notify_insert_throttle";
    assert_eq!(value::<i64>(&mut client, throttles), 0, "pgmq has forgotten it too");
    // What was there when the notifier looked, and what came then.
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    let payload: serde_json::Value =
        serde_json::from_str(&listener.wait_for_one()).expect("a payload");
    assert_eq!(payload["event"], "insert");
    assert!(payload["queues"]["a"]["count"].as_i64() >= Some(1), "{payload}");

    // Nothing to swap, nothing to do.
    for queue in ["a", "b"] {
        assert!(!boolean(&mut client, &format!("SELECT aimq.adopt_pgmq_notify('{queue}')")));
    }
    assert_eq!(realtime(&mut client).len(), 1);
    let error = failure(&mut client, "SELECT aimq.adopt_pgmq_notify('gone')");
    assert_eq!(error.code().code(), "42704");
}

#[test]
fn all_are_swapped_but_those_that_pgmq_does_not_announce() {
    let database = Database::new();
    let mut client = database.connect();
    for queue in ["a", "b", "off"] {
        announced(&mut client, queue);
    }
    run(
        &mut client,
        "SELECT pgmq.create('c'), aimq.create_queue('d');
         ALTER TABLE pgmq.q_off DISABLE TRIGGER trigger_notify_queue_insert_listeners",
    );
    let all = "SELECT aimq.adopt_pgmq_notify_all()";
    assert_eq!(names(&mut client, all), ["a", "b"]);
    assert_eq!(names(&mut client, all), [""; 0]);
    assert_eq!(
        realtime(&mut client),
        [
            "a pgmq.q_a.INSERT insert notify f",
            "b pgmq.q_b.INSERT insert notify f",
            "d aimq:jobs job_enqueued notify f"
        ]
    );
    assert_eq!(pgmqs_triggers(&mut client), 1, "the one that is disabled");
}

#[test]
fn nobody_who_listens_elsewhere_becomes_deaf() {
    let database = Database::new();
    let mut client = database.connect();
    announced(&mut client, "a");
    for (setting, detail) in [
        (
            "",
            "It notifies on channel \"aimq:jobs\", and pgmq's listeners wait on \"pgmq.q_a.INSERT\". A queue has one channel.",
        ),
        (
            ", channel => 'pgmq.q_a.INSERT', sink => 'supabase'",
            "It does not notify, and pgmq's listeners wait on channel \"pgmq.q_a.INSERT\".",
        ),
    ] {
        run(&mut client, &format!("SELECT aimq.enable_realtime('a'{setting})"));
        let before = realtime(&mut client);
        for call in ["aimq.adopt_pgmq_notify('a')", "aimq.adopt_pgmq_notify_all()"] {
            let error = failure(&mut client, &format!("SELECT {call}"));
            assert_eq!(
                (error.code().code(), error.message()),
                ("55000", "queue \"a\" is realtime elsewhere")
            );
            assert_eq!(error.detail(), Some(detail));
            assert!(error.hint().is_some_and(|hint| hint.contains("pgmq.disable_notify_insert")));
        }
        assert_eq!((realtime(&mut client), pgmqs_triggers(&mut client)), (before, 1));
    }
    // The right channel already: it stays as it was asked for.
    run(&mut client, "SELECT aimq.enable_realtime('a', 'pgmq.q_a.INSERT', 'mine', ids => true)");
    assert!(boolean(&mut client, "SELECT aimq.adopt_pgmq_notify('a')"));
    assert_eq!(realtime(&mut client), ["a pgmq.q_a.INSERT mine notify t"]);
    assert_eq!(pgmqs_triggers(&mut client), 0);
}

/// pgmq itself never announces these two: its trigger looks for the throttle under the table's name.
#[test]
fn partman_queues_that_pgmq_fails_to_announce_are_announced() {
    let database = Database::new();
    let mut client = database.connect();
    create_partitioned(&mut client, "parts");
    run(
        &mut client,
        "SELECT pgmq.create('Capital');
         SELECT pgmq.enable_notify_insert('parts', 0), pgmq.enable_notify_insert('Capital', 0)",
    );
    for (queue, channel) in [("parts", "pgmq.q_parts.INSERT"), ("Capital", "pgmq.q_capital.INSERT")]
    {
        let mut listener = Listener::over(database.connect(), channel);
        run(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
        assert!(boolean(&mut client, &format!("SELECT aimq.adopt_pgmq_notify('{queue}')")));
        run(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
        assert_ne!(listener.wait_for_one(), "", "the first that is heard is aimq's");
    }
    assert_eq!(pgmqs_triggers(&mut client), 0);
}

#[test]
fn a_channel_that_is_too_long_is_refused() {
    let database = Database::new();
    let mut client = database.connect();
    // pgmq takes 47 characters, however many bytes they have.
    let queue = "é".repeat(30);
    announced(&mut client, &queue);
    let error = failure(&mut client, &format!("SELECT aimq.adopt_pgmq_notify('{queue}')"));
    assert_eq!((error.code().code(), error.message()), ("42622", "channel is too long"));
    assert_eq!(pgmqs_triggers(&mut client), 1);
}

#[test]
fn it_takes_the_owner_and_no_lock_where_there_is_nothing_to_swap() {
    let database = Database::new();
    let mut client = database.connect();
    announced(&mut client, "a");
    run(&mut client, "SELECT pgmq.create('b')");
    let role = database.role("user");
    run(
        &mut client,
        &format!(
            "GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT SELECT ON pgmq.meta TO {role}; GRANT TRIGGER ON pgmq.q_a TO {role}"
        ),
    );
    let mut user = database.connect_as(&role);
    let error = failure(&mut user, "SELECT aimq.adopt_pgmq_notify('a')");
    assert_eq!(
        (error.code().code(), error.message()),
        ("42501", "must be owner of queue table pgmq.q_a")
    );

    let mut holder = database.connect();
    // EXCLUSIVE conflicts with every lock but ACCESS SHARE.
    run(&mut holder, "BEGIN; LOCK TABLE pgmq.q_a, pgmq.q_b IN EXCLUSIVE MODE");
    run(&mut client, "SET lock_timeout = '10ms'");
    assert!(!boolean(&mut client, "SELECT aimq.adopt_pgmq_notify('b')"));
    let error = failure(&mut client, "SELECT aimq.adopt_pgmq_notify('a')");
    assert_eq!(error.code().code(), "55P03");
}

/// It waits for its lock without holding another on the table, which would be a deadlock here.
#[test]
fn whoever_has_looked_at_a_queue_may_still_enqueue_while_it_waits() {
    let database = Database::new();
    let mut client = database.connect();
    announced(&mut client, "a");
    let mut worker = database.connect();
    run(&mut worker, "BEGIN; SELECT count(*) FROM pgmq.q_a");
    let waiting = pid(&mut client);
    let thread =
        std::thread::spawn(move || boolean(&mut client, "SELECT aimq.adopt_pgmq_notify('a')"));
    wait_until_blocked(&database, waiting);
    run(&mut worker, "SELECT pgmq.send('a', '{}'); COMMIT");
    assert!(thread.join().expect("it is swapped"));
}

/// pgmq's own listener, in a process of its own, ended with it.
struct Worker {
    process: Child,
    heard: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Worker {
    fn on_a(database: &Database, client: &mut Client) -> Self {
        let socket = std::env::var("AIMQ_TEST_SOCKET").expect("a server");
        let mut process = Command::new("python3")
            .arg(root().join("tests/client/python/pgmq_listener.py"))
            .arg("a")
            .env("PYTHONPATH", aimq_lab::drivers::python_packages())
            .env("DATABASE_URL", format!("host={socket} user=postgres dbname={}", database.name))
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let (lines, kept) =
            (BufReader::new(process.stdout.take().expect("a pipe")), Arc::clone(&heard));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                kept.lock().expect("not poisoned").push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        let listens =
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                          AND state = 'idle' AND query LIKE 'LISTEN \"pgmq.q_a.INSERT\"%')";
        wait_until("it to listen", || boolean(client, listens));
        Self { process, heard }
    }

    /// How many wake-ups were pgmq's, and how many messages aimq's told of.
    fn heard(&self) -> (i64, i64) {
        let heard = self.heard.lock().expect("not poisoned");
        let is_pgmqs = |it: &&serde_json::Value| it["payload_empty"] == true;
        let count = |it: &serde_json::Value| it["queues"]["a"]["count"].as_i64().unwrap_or(0);
        (heard.iter().filter(is_pgmqs).count() as i64, heard.iter().map(count).sum())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn package_pgmqs_listener_is_woken_by_each_send_before_and_after() {
    let database = Database::new();
    let mut client = database.connect();
    announced(&mut client, "a");
    let worker = Worker::on_a(&database, &mut client);
    for is_adopted in [false, true] {
        if is_adopted {
            assert!(boolean(&mut client, "SELECT aimq.adopt_pgmq_notify('a')"));
        }
        for _ in 0..5 {
            run(&mut client, "SELECT pgmq.send('a', '{}')");
            // It never polls: so it was woken.
            wait_until("the worker to have read", || {
                value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_a") == 0
            });
        }
    }
    // It prints once it has read.
    wait_until("it to have said so", || {
        let (by_pgmq, by_aimq) = worker.heard();
        by_pgmq == 5 && by_aimq >= 1
    });
}

/// Producers enqueue all the time. Each message meets pgmq's trigger or ours: never none, and never both.
#[test]
fn package_pgmqs_listener_misses_nothing_while_its_queue_is_swapped() {
    let database = Database::new();
    let mut client = database.connect();
    announced(&mut client, "a");
    probe_triggers(&mut client, "a", "trigger_notify_queue_insert_listeners");
    let worker = Worker::on_a(&database, &mut client);
    let is_over = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..3)
        .map(|_| {
            let (mut producer, is_over) = (database.connect(), Arc::clone(&is_over));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    run(&mut producer, "SELECT pgmq.send('a', '{}')");
                }
            })
        })
        .collect();
    let sent =
        |client: &mut Client| value::<i64>(client, "SELECT last_value FROM pgmq.q_a_msg_id_seq");
    wait_until("producers to be at it", || sent(&mut client) > 50);
    assert!(boolean(&mut client, "SELECT aimq.adopt_pgmq_notify('a')"));
    let before = sent(&mut client);
    wait_until("as many afterwards", || sent(&mut client) > before + 50);
    is_over.store(true, Ordering::Relaxed);
    producers.into_iter().for_each(|producer| producer.join().expect("no enqueue fails"));
    let had = ["{aimq_realtime}", "{trigger_notify_queue_insert_listeners}"];
    assert_eq!(probed_triggers(&mut client, "a"), had);
    // pgmq notifies once for each of its transactions.
    let by_pgmq = "SELECT count(*) FROM met_a WHERE had <> '{aimq_realtime}'";
    let by_pgmq: i64 = value(&mut client, by_pgmq);
    wait_until("each to have been heard", || worker.heard().0 == by_pgmq);
    wait_until("the worker to have read all", || {
        value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_a") == 0
    });
}
