//! The control plane: what it answers, what it locks, who may use it.

use aimq_client_tests::*;
use postgres::Client;

#[test]
fn enabling_says_whether_something_changed() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('a')");
    let mut on = database.listen(CHANNEL);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(on.raw(), [""; 0]);
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.enable_realtime('a', 'aimq:jobs', 'job_enqueued')"));
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(on.raw().len(), 1);
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a', channel => 'x')"));
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a', channel => 'x', event => 'y')"));
    assert!(!boolean(
        &mut client,
        "SELECT aimq.enable_realtime('a', channel => 'x', event => 'y')"
    ));
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM pg_trigger WHERE tgname = 'aimq_realtime'"),
        1
    );
    assert!(boolean(&mut client, "SELECT aimq.disable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.disable_realtime('a')"));
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(on.raw(), [""; 0]);
    // A statement sees what an earlier one of its transaction did.
    run(&mut client, "BEGIN");
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(boolean(&mut client, "SELECT aimq.disable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.disable_realtime('a')"));
    run(&mut client, "COMMIT");
}

#[test]
fn a_trigger_that_was_disabled_or_is_not_as_it_should_be_is_mended() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue('a'); ALTER TABLE pgmq.q_a DISABLE TRIGGER aimq_realtime",
    );
    assert!(!boolean(&mut client, "SELECT realtime FROM aimq.queues"));
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(boolean(&mut client, "SELECT realtime FROM aimq.queues"));
    run(
        &mut client,
        "DROP TRIGGER aimq_realtime ON pgmq.q_a;
         CREATE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_a FOR EACH ROW WHEN (NEW.read_ct > 5)
         EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'a')",
    );
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
}

#[test]
fn a_trigger_without_its_arguments_hides_no_other_queue() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a'), pgmq.create('b')");
    for arguments in ["", "'x'", "'x', 'y'"] {
        run(
            &mut client,
            &format!(
                "CREATE OR REPLACE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_a FOR EACH ROW
                 EXECUTE FUNCTION aimq.realtime_trigger({arguments})"
            ),
        );
        assert!(!boolean(&mut client, "SELECT realtime FROM aimq.queues WHERE queue = 'a'"));
    }
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('b')"));
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(boolean(&mut client, "SELECT bool_and(realtime) FROM aimq.queues"));
}

#[test]
fn asking_for_what_is_so_takes_no_transaction_id() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a'), pgmq.create('b')");
    run(&mut client, "BEGIN READ ONLY");
    assert!(!boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.disable_realtime('b')"));
    assert!(boolean(&mut client, "SELECT pg_current_xact_id_if_assigned() IS NULL"));
}

#[test]
fn a_queue_that_is_dropped_while_it_is_enabled_is_said_to_be_gone() {
    let database = Database::new();
    let mut dropper = database.connect();
    run(&mut dropper, "SELECT pgmq.create('a')");
    for (sql, expected) in [
        ("aimq.enable_realtime('a')", Some("42P01")),
        ("count(*) FROM aimq.enable_realtime_all()", None),
    ] {
        run(&mut dropper, "SELECT pgmq.create('a')");
        run(&mut dropper, "BEGIN; LOCK TABLE pgmq.q_a");
        let mut client = database.connect();
        let waiting = pid(&mut client);
        let sql = format!("SELECT {sql}");
        let thread = std::thread::spawn(move || {
            client
                .simple_query(&sql)
                .err()
                .map(|error| error.as_db_error().expect("the server's").clone())
        });
        wait_until_blocked(&database, waiting);
        run(&mut dropper, "SELECT pgmq.drop_queue('a'); COMMIT");
        let error = thread.join().expect("no panic");
        assert_eq!(error.as_ref().map(|error| error.code().code()), expected, "{error:?}");
    }
}

#[test]
fn nothing_to_change_takes_no_lock_stronger_than_a_read() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a'); SELECT pgmq.create('b')");
    let mut holder = database.connect();
    // EXCLUSIVE conflicts with every lock but ACCESS SHARE.
    run(&mut holder, "BEGIN; LOCK TABLE pgmq.q_a, pgmq.q_b IN EXCLUSIVE MODE");
    run(&mut client, "SET lock_timeout = '10ms'");
    assert!(!boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.disable_realtime('b')"));
    assert_eq!(failure(&mut client, "SELECT aimq.enable_realtime('b')").code().code(), "55P03");
}

#[test]
fn two_sessions_may_enable_at_once() {
    let database = Database::new();
    let mut first = database.connect();
    run(&mut first, "SELECT pgmq.create('a')");
    run(&mut first, "BEGIN");
    assert!(boolean(&mut first, "SELECT aimq.enable_realtime('a')"));

    let mut second = database.connect();
    let waiting = pid(&mut second);
    let thread =
        std::thread::spawn(move || boolean(&mut second, "SELECT aimq.enable_realtime('a')"));
    wait_until_blocked(&database, waiting);
    run(&mut first, "COMMIT");
    assert!(!thread.join().expect("no error"), "the first session had done it");

    // And at once with another setting: the later one stands.
    run(&mut first, "BEGIN");
    assert!(boolean(&mut first, "SELECT aimq.enable_realtime('a', 'one')"));
    let mut second = database.connect();
    let waiting = pid(&mut second);
    let thread =
        std::thread::spawn(move || boolean(&mut second, "SELECT aimq.enable_realtime('a', 'two')"));
    wait_until_blocked(&database, waiting);
    run(&mut first, "COMMIT");
    assert!(thread.join().expect("no error"));
    assert_eq!(names(&mut first, "SELECT channel FROM aimq.queues"), ["two"]);
}

#[test]
fn two_sessions_may_disable_at_once() {
    let database = Database::new();
    let mut first = database.connect();
    run(&mut first, "SELECT aimq.create_queue('a')");
    run(&mut first, "BEGIN");
    assert!(boolean(&mut first, "SELECT aimq.disable_realtime('a')"));
    let mut second = database.connect();
    let waiting = pid(&mut second);
    let thread =
        std::thread::spawn(move || boolean(&mut second, "SELECT aimq.disable_realtime('a')"));
    wait_until_blocked(&database, waiting);
    run(&mut first, "COMMIT");
    assert!(!thread.join().expect("no error"));
}

#[test]
fn enabling_sees_what_others_did_even_with_an_old_snapshot() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('a')");
    let mut old = database.connect();
    run(&mut old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(!boolean(&mut old, "SELECT aimq.enable_realtime('a')"));
}

#[test]
fn enabling_and_changing_while_producers_run_loses_and_fails_nothing() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('a')");
    let mut one = database.listen("one");
    let mut two = database.listen("two");
    let stop = AtomicBool::new(false);
    let started = std::sync::Barrier::new(5);
    let sent: u64 = std::thread::scope(|scope| {
        let producers: Vec<_> = (0..4)
            .map(|_| {
                let mut client = database.connect();
                let (stop, started) = (&stop, &started);
                scope.spawn(move || {
                    let mut sent = 0;
                    while !stop.load(Ordering::Relaxed) {
                        run(&mut client, "SELECT pgmq.send('a', '{}')");
                        sent += 1;
                        if sent == 1 {
                            started.wait();
                        }
                    }
                    sent
                })
            })
            .collect();
        started.wait();
        // From this commit on there is a trigger at every moment. The enable keeps others from
        // enqueueing until then, so the messages after the last one that it sees are all announced.
        run(
            &mut client,
            "BEGIN; SELECT aimq.enable_realtime('a', 'one');
             CREATE TABLE enabled_at AS SELECT max(msg_id) AS id FROM pgmq.q_a; COMMIT",
        );
        for round in 0..20 {
            let channel = ["two", "one"][round % 2];
            assert!(boolean(
                &mut client,
                &format!("SELECT aimq.enable_realtime('a', '{channel}')")
            ));
        }
        stop.store(true, Ordering::Relaxed);
        producers.into_iter().map(|producer| producer.join().expect("no producer failed")).sum()
    });
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_a").unsigned_abs(), sent);
    let after: i64 =
        value(&mut client, "SELECT count(*) FROM pgmq.q_a, enabled_at WHERE msg_id > id");
    let heard: u64 = [one.counts(), two.counts()].concat().iter().map(|queues| queues["a"]).sum();
    assert_eq!(heard, after.unsigned_abs(), "every message after the enable, once");
}

#[test]
fn all_queues_at_once() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('b'), pgmq.create('Ä'), aimq.create_queue('c')");
    let all = |client: &mut Client, sql| {
        names(client, &format!("SELECT * FROM {sql} q ORDER BY q COLLATE \"C\""))
    };
    assert_eq!(all(&mut client, "aimq.enable_realtime_all()"), ["b", "Ä"]);
    assert_eq!(all(&mut client, "aimq.enable_realtime_all()"), [""; 0]);
    assert_eq!(all(&mut client, "aimq.enable_realtime_all('x')"), ["b", "c", "Ä"]);
    assert_eq!(
        names(&mut client, "SELECT DISTINCT channel || event FROM aimq.queues"),
        ["xjob_enqueued"]
    );
    // A queue whose table is gone does not stop the others.
    run(&mut client, "DROP TABLE pgmq.q_b");
    assert_eq!(all(&mut client, "aimq.disable_realtime_all()"), ["c", "Ä"]);
    assert_eq!(all(&mut client, "aimq.disable_realtime_all()"), [""; 0]);
}

#[test]
fn creating_a_queue_in_one_step() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue('a'); SELECT aimq.create_queue('b', realtime => false)",
    );
    run(&mut client, "SELECT aimq.create_queue('c', channel => 'x', event => 'y')");
    // A queue that exists is kept with its messages.
    run(&mut client, "SELECT pgmq.send('b', '{}'); SELECT aimq.create_queue('b')");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_b"), 1);
    assert_eq!(
        names(
            &mut client,
            "SELECT concat_ws(' ', queue, realtime, channel, event) FROM aimq.queues ORDER BY queue"
        ),
        ["a t aimq:jobs job_enqueued", "b t aimq:jobs job_enqueued", "c t x y"]
    );
    assert_eq!(failure(&mut client, "SELECT aimq.create_queue('a', NULL)").code().code(), "22004");
    // pgmq's own word on a name that it does not take.
    let error = failure(&mut client, "SELECT aimq.create_queue(repeat('x', 48))");
    assert!(error.message().contains("too long"), "{error}");
}

#[test]
fn any_spelling_that_pgmq_accepts_finds_the_queue() {
    let database = Database::new();
    let mut client = database.connect();
    let longest = "x".repeat(47);
    // 47 characters of two bytes: pgmq takes the name, and Postgres cuts the table's.
    let cut = "é".repeat(47);
    let queues = [
        "plain",
        "MixedCase",
        "with space",
        "with \"quotes\"",
        "ünïcode Ärger 東京",
        "semi.colon/and%\\",
        &longest,
        &cut,
    ];
    let channel = "c".repeat(63);
    let mut listener = database.listen(&channel);
    for queue in queues {
        client
            .execute("SELECT aimq.create_queue($1, channel => $2)", &[&queue, &channel])
            .expect(queue);
        for spelling in [queue.to_owned(), queue.to_lowercase(), queue.to_uppercase()] {
            let changed: bool = client
                .query_one("SELECT aimq.enable_realtime($1, $2)", &[&spelling, &channel])
                .unwrap_or_else(|error| panic!("{spelling}: {error}"))
                .get(0);
            assert!(!changed, "{spelling}");
            client.execute("SELECT pgmq.send($1, '{}')", &[&spelling]).expect("send");
            assert_eq!(listener.counts(), one([(queue, 1)]), "named as pgmq.meta has it");
        }
        let shown = client
            .query_one("SELECT realtime, channel FROM aimq.queues WHERE queue = $1", &[&queue])
            .expect("shown");
        assert_eq!((shown.get(0), shown.get::<_, String>(1)), (true, channel.clone()), "{queue}");
        let off: bool = client
            .query_one("SELECT aimq.disable_realtime($1)", &[&queue.to_uppercase()])
            .expect("off")
            .get(0);
        assert!(off, "{queue}");
    }
}

#[test]
fn channels_are_taken_to_the_letter() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a')");
    for channel in ["UPPER", "with \"quotes\" and 'apostrophes'", "東京", "a\\b", "$$"] {
        let mut listener = database.listen(channel);
        let changed: bool = client
            .query_one("SELECT aimq.enable_realtime('a', $1, $1)", &[&channel])
            .expect(channel)
            .get(0);
        assert!(changed);
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        assert_eq!(listener.payloads()[0].event, channel);
        assert_eq!(names(&mut client, "SELECT channel FROM aimq.queues"), [channel]);
    }
}

#[test]
fn bad_input_is_refused_with_its_own_sqlstate_and_changes_nothing() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('a'); SELECT pgmq.create('gone'); DROP TABLE pgmq.q_gone");
    for (sql, code, message, help) in [
        (
            "aimq.enable_realtime('nope')",
            "42704",
            "queue \"nope\" does not exist",
            "aimq.create_queue('nope')",
        ),
        (
            "aimq.disable_realtime('nope')",
            "42704",
            "queue \"nope\" does not exist",
            "aimq.create_queue('nope')",
        ),
        (
            "aimq.enable_realtime('no''pe\"')",
            "42704",
            "queue \"no'pe\"\" does not exist",
            "aimq.create_queue('no''pe\"')",
        ),
        ("aimq.enable_realtime('gone')", "42P01", "queue \"gone\" has no table", "drop_queue"),
        ("aimq.enable_realtime(NULL)", "22004", "queue must not be null", "Name the queue."),
        ("aimq.enable_realtime('a', NULL)", "22004", "channel must not be null", "default"),
        ("aimq.enable_realtime('a', event => NULL)", "22004", "event must not be null", "default"),
        ("aimq.disable_realtime(NULL)", "22004", "queue must not be null", "Name the queue."),
        ("aimq.create_queue(NULL)", "22004", "queue must not be null", "Name the queue."),
        ("aimq.create_queue('new', NULL)", "22004", "realtime must not be null", "default"),
        ("aimq.enable_realtime('')", "42602", "queue must not be empty", "Name"),
        ("aimq.enable_realtime('a', '')", "42602", "channel must not be empty", "Name"),
        ("aimq.enable_realtime('a', event => '')", "42602", "event must not be empty", "Name"),
        ("aimq.create_queue('')", "42602", "queue must not be empty", "Name"),
        ("aimq.create_queue('new', channel => '')", "42602", "channel must not be empty", "Name"),
        ("aimq.enable_realtime('a', repeat('x', 64))", "42622", "channel is too long", "64 bytes"),
        ("aimq.enable_realtime('a', repeat('é', 32))", "42622", "channel is too long", "64 bytes"),
        (
            "aimq.create_queue('new', channel => repeat('x', 64))",
            "42622",
            "channel is too long",
            "64 bytes",
        ),
        ("aimq.enable_realtime_all(repeat('x', 64))", "42622", "channel is too long", "64 bytes"),
        (
            "aimq.enable_realtime('a', event => repeat('x', 7700))",
            "54000",
            "event is too long",
            "7700 bytes",
        ),
        (
            "aimq.enable_realtime_all(event => repeat('\"', 4000))",
            "54000",
            "event is too long",
            "4000 bytes",
        ),
    ] {
        let error = failure(&mut client, &format!("SELECT {sql}"));
        assert_eq!((error.code().code(), error.message()), (code, message), "{sql}");
        let texts =
            format!("{} {}", error.detail().unwrap_or_default(), error.hint().unwrap_or_default());
        assert!(texts.contains(help), "{sql}: {texts:?} should speak of {help:?}");
        assert!(error.hint().is_some(), "{sql} has a hint");
    }
    assert_eq!(
        names(&mut client, "SELECT queue_name::text FROM pgmq.meta ORDER BY 1"),
        ["a", "gone"]
    );
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM pg_trigger WHERE tgname = 'aimq_realtime'"),
        0
    );
}
