//! What a listener hears of what is committed.

use std::io::Write;

use aimq_client_tests::*;
use postgres::Client;

/// A database with realtime queues a, b and c, and a listener.
fn three_queues() -> (Database, Client, Listener) {
    let database = Database::new();
    let mut client = database.connect();
    client
        .batch_execute("SELECT aimq.create_queue(q) FROM unnest('{a,b,c}'::text[]) q")
        .expect("queues");
    let listener = database.listen(CHANNEL);
    (database, client, listener)
}

#[test]
fn every_way_to_enqueue_wakes() {
    let (_database, mut client, mut listener) = three_queues();
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.raw(), [r#"{"event":"job_enqueued","queues":{"a":{"count":1}}}"#]);

    run(&mut client, "SELECT pgmq.send_batch('a', array_fill('{}'::jsonb, '{7}'))");
    assert_eq!(listener.counts(), one([("a", 7)]));

    run(&mut client, "SELECT pgmq.bind_topic('jobs.*', 'a'), pgmq.bind_topic('jobs.*', 'b')");
    run(&mut client, "SELECT pgmq.send_topic('jobs.new', '{}')");
    assert_eq!(listener.counts(), one([("a", 1), ("b", 1)]));

    run(&mut client, "INSERT INTO pgmq.q_a (vt, message) VALUES (now(), '{}'), (now(), NULL)");
    assert_eq!(listener.counts(), one([("a", 2)]));

    let mut copy = client.copy_in("COPY pgmq.q_a (vt, message) FROM STDIN").expect("COPY");
    for number in 0..5000 {
        writeln!(copy, "2026-01-01 00:00:00+00\t{{\"n\": {number}}}").expect("a line");
    }
    copy.finish().expect("COPY");
    assert_eq!(listener.counts(), one([("a", 5000)]));
}

#[test]
fn reading_and_finishing_jobs_wakes_nobody() {
    let (_database, mut client, mut listener) = three_queues();
    run(&mut client, "SELECT pgmq.send_batch('a', array_fill('{}'::jsonb, '{4}'))");
    assert_eq!(listener.raw().len(), 1);
    run(
        &mut client,
        "SELECT pgmq.read('a', 0, 10); SELECT pgmq.archive('a', 1); SELECT pgmq.delete('a', 2);
         SELECT pgmq.pop('a'); SELECT pgmq.set_vt('a', 4, 0); SELECT pgmq.purge_queue('a')",
    );
    assert_eq!(listener.raw(), [""; 0]);
}

#[test]
fn a_thousand_sends_and_nested_savepoints_make_one_notification_with_exact_counts() {
    let (_database, mut client, mut listener) = three_queues();
    let mut transaction = client.transaction().expect("BEGIN");
    let mut expected = [0_u64; 3];
    let mut sent = 0_usize;
    let mut send = |transaction: &mut postgres::Transaction<'_>, kept: &mut [u64; 3]| {
        let queue = sent % 3;
        sent += 1;
        let name = ["a", "b", "c"][queue];
        transaction.execute("SELECT pgmq.send($1, '{}')", &[&name]).expect("send");
        kept[queue] += 1;
    };
    // 40 rounds of 25 sends: 5 outside, 10 in a savepoint, 10 in one nested in it. Every third inner
    // and every fifth outer savepoint is rolled back.
    for round in 0..40 {
        (0..5).for_each(|_| send(&mut transaction, &mut expected));
        let mut outer = transaction.savepoint("outer_one").expect("SAVEPOINT");
        let mut in_outer = [0; 3];
        (0..10).for_each(|_| send(&mut outer, &mut in_outer));
        let mut inner = outer.savepoint("inner_one").expect("SAVEPOINT");
        let mut in_inner = [0; 3];
        (0..10).for_each(|_| send(&mut inner, &mut in_inner));
        if round % 3 == 0 {
            inner.rollback().expect("ROLLBACK TO");
        } else {
            inner.commit().expect("RELEASE");
            (0..3).for_each(|queue| in_outer[queue] += in_inner[queue]);
        }
        if round % 5 == 0 {
            outer.rollback().expect("ROLLBACK TO");
        } else {
            outer.commit().expect("RELEASE");
            (0..3).for_each(|queue| expected[queue] += in_outer[queue]);
        }
    }
    assert_eq!(sent, 1000);
    transaction.commit().expect("COMMIT");
    let [a, b, c] = expected;
    assert!(a + b + c < 1000, "something was rolled back");
    assert_eq!(listener.counts(), one([("a", a), ("b", b), ("c", c)]));
    for (queue, count) in ["a", "b", "c"].into_iter().zip(expected) {
        let rows: i64 = value(&mut client, &format!("SELECT count(*) FROM pgmq.q_{queue}"));
        assert_eq!(rows.unsigned_abs(), count, "the counts are those of the rows that stayed");
    }

    // A transaction that is rolled back: none. The next one in the same session: unaffected.
    run(
        &mut client,
        "BEGIN; SELECT pgmq.send('a', '{}'); SAVEPOINT s; SELECT pgmq.send('b', '{}'); ROLLBACK",
    );
    assert_eq!(listener.raw(), [""; 0]);
    run(&mut client, "SELECT pgmq.send('c', '{}')");
    assert_eq!(listener.counts(), one([("c", 1)]));
}

#[test]
fn one_notification_for_each_channel() {
    let (database, mut client, mut listener) = three_queues();
    run(&mut client, "SELECT aimq.enable_realtime('b', 'other')");
    let mut other = database.listen("other");
    run(
        &mut client,
        "BEGIN; SELECT pgmq.send('a', '{}'); SELECT pgmq.send('b', '{}'); SELECT pgmq.send('c', '{}');
         SELECT pgmq.send('b', '{}'); COMMIT",
    );
    assert_eq!(listener.counts(), one([("a", 1), ("c", 1)]));
    assert_eq!(other.counts(), one([("b", 2)]));
}

#[test]
fn an_event_of_its_own_gets_a_payload_of_its_own() {
    let (_database, mut client, mut listener) = three_queues();
    run(&mut client, "SELECT aimq.enable_realtime('b', event => 'report_wanted')");
    run(&mut client, "BEGIN; SELECT pgmq.send('a', '{}'); SELECT pgmq.send('b', '{}'); COMMIT");
    assert_eq!(
        listener.raw(),
        [
            r#"{"event":"job_enqueued","queues":{"a":{"count":1}}}"#,
            r#"{"event":"report_wanted","queues":{"b":{"count":1}}}"#
        ]
    );
}

#[test]
fn a_setting_that_changes_within_a_transaction_is_followed() {
    let (_database, mut client, mut listener) = three_queues();
    run(
        &mut client,
        "BEGIN; SELECT pgmq.send('a', '{}'); SELECT aimq.enable_realtime('a', event => 'x');
         SELECT pgmq.send('a', '{}'); COMMIT",
    );
    assert_eq!(
        listener.raw(),
        [
            r#"{"event":"job_enqueued","queues":{"a":{"count":1}}}"#,
            r#"{"event":"x","queues":{"a":{"count":1}}}"#
        ]
    );
}

#[test]
fn exception_blocks_are_savepoints() {
    let (_database, mut client, mut listener) = three_queues();
    run(
        &mut client,
        "DO $$
         BEGIN
             PERFORM pgmq.send('a', '{}');
             BEGIN
                 PERFORM pgmq.send('a', '{}');
                 PERFORM pgmq.send('b', '{}');
                 PERFORM 1 / 0;
             EXCEPTION WHEN division_by_zero THEN
                 PERFORM pgmq.send('c', '{}');
             END;
             BEGIN
                 PERFORM pgmq.send('a', '{}');
             EXCEPTION WHEN division_by_zero THEN NULL;
             END;
         END $$",
    );
    assert_eq!(listener.counts(), one([("a", 2), ("c", 1)]));
}

#[test]
fn a_released_savepoint_outlives_the_next_one_and_falls_with_the_one_around_it() {
    let (_database, mut client, mut listener) = three_queues();
    run(
        &mut client,
        "BEGIN; SAVEPOINT s; SELECT pgmq.send('a', '{}'); RELEASE s;
         SAVEPOINT s; SELECT pgmq.send('a', '{}'); SELECT pgmq.send('b', '{}'); ROLLBACK TO s;
         SAVEPOINT t; SAVEPOINT u; SELECT pgmq.send('c', '{}'); RELEASE u; ROLLBACK TO t; COMMIT",
    );
    assert_eq!(listener.counts(), one([("a", 1)]));
}

#[test]
fn the_first_message_of_a_queue_may_be_rolled_back_and_the_second_still_wakes() {
    let (_database, mut client, mut listener) = three_queues();
    run(
        &mut client,
        "BEGIN; SAVEPOINT s; SELECT pgmq.send('a', '{}'); ROLLBACK TO s; SELECT pgmq.send('a', '{}'); COMMIT",
    );
    assert_eq!(listener.counts(), one([("a", 1)]));
}

#[test]
fn a_failed_statement_in_a_savepoint_leaves_nothing() {
    let (_database, mut client, mut listener) = three_queues();
    let mut transaction = client.transaction().expect("BEGIN");
    transaction.batch_execute("SELECT pgmq.send('b', '{}')").expect("send");
    {
        let mut savepoint = transaction.savepoint("s").expect("SAVEPOINT");
        savepoint
            .batch_execute("INSERT INTO pgmq.q_a (vt) SELECT 1 / (3 - n) * interval '1 s' + now() FROM generate_series(1, 5) n")
            .expect_err("division by zero after two rows");
        savepoint.rollback().expect("ROLLBACK TO");
    }
    transaction.commit().expect("COMMIT");
    assert_eq!(listener.counts(), one([("b", 1)]));
}

#[test]
fn a_procedure_notifies_once_per_commit() {
    let (_database, mut client, mut listener) = three_queues();
    run(
        &mut client,
        "CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
         BEGIN
             FOR round IN 1..4 LOOP
                 FOR n IN 1..round LOOP PERFORM pgmq.send('a', '{}'); END LOOP;
                 IF round = 3 THEN ROLLBACK; ELSE COMMIT; END IF;
             END LOOP;
         END $$",
    );
    run(&mut client, "CALL work()");
    let expected: Vec<_> = [1, 2, 4].into_iter().flat_map(|count| one([("a", count)])).collect();
    assert_eq!(listener.counts(), expected);
}

#[test]
fn a_prepared_transaction_is_possible_and_leaks_nothing() {
    let (database, mut quiet, mut listener) = three_queues();
    let (mut client, heard) = database.connect_hearing();
    let name = format!("{}_prepared", database.name);
    run(&mut client, "SELECT 1");
    assert!(heard.warnings().is_empty());
    run(
        &mut client,
        &format!("BEGIN; SELECT pgmq.send('a', '{{}}'); PREPARE TRANSACTION '{name}'"),
    );
    let warnings = heard.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].code().code(), "0A000");
    assert_eq!(warnings[0].detail().map(|text| text.contains("Queues: a.")), Some(true));
    assert!(warnings[0].hint().is_some());

    // The next transaction of the same session knows nothing of it.
    run(&mut client, "SELECT 1");
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    // The notifier and its watcher, which come for prepared transactions, look at everything when they begin. So they
    // may name a queue once more.
    let own = pid(&mut client);
    let [sent, seen] = listener.counts_by(own);
    assert_eq!(sent, one([("b", 1)]));
    assert!(seen.iter().all(|it| *it == sent[0]), "{seen:?}");
    // Committed by another session: the message is there. Nobody has to be told; but a notifier that follows
    // the time may see it, and what else is unread.
    run(&mut quiet, &format!("COMMIT PREPARED '{name}'"));
    assert_eq!(value::<i64>(&mut quiet, "SELECT count(*) FROM pgmq.q_a"), 1);

    run(
        &mut client,
        &format!("BEGIN; SELECT pgmq.send('a', '{{}}'); PREPARE TRANSACTION '{name}'"),
    );
    run(&mut client, &format!("ROLLBACK PREPARED '{name}'"));
    run(&mut client, &format!("BEGIN; PREPARE TRANSACTION '{name}'"));
    run(&mut client, &format!("COMMIT PREPARED '{name}'"));
    assert_eq!(heard.warnings().len(), 1, "none for a transaction that enqueued nothing");
    run(&mut client, "SELECT pgmq.send('c', '{}')");
    let [sent, seen] = listener.counts_by(own);
    assert_eq!(sent, one([("c", 1)]));
    assert!(seen.iter().filter_map(|queues| queues.get("c")).all(|count| *count == 1), "{seen:?}");
}

#[test]
fn the_kill_switch_works_for_session_role_and_database() {
    let (database, mut client, mut listener) = three_queues();
    run(&mut client, "SET aimq.enabled = off");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.raw(), [""; 0]);
    run(&mut client, "RESET aimq.enabled");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.counts(), one([("a", 1)]));
    run(&mut client, "BEGIN; SET LOCAL aimq.enabled = off; SELECT pgmq.send('a', '{}'); COMMIT");
    assert_eq!(listener.raw(), [""; 0]);

    let role = database.role("quiet");
    run(
        &mut client,
        &format!("ALTER ROLE {role} SET aimq.enabled = off; ALTER ROLE {role} SUPERUSER"),
    );
    run(&mut database.connect_as(&role), "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.raw(), [""; 0]);

    run(&mut client, &format!("ALTER DATABASE {} SET aimq.enabled = off", database.name));
    run(&mut database.connect(), "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.raw(), [""; 0]);
    // A session that was there before goes on as it was.
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.counts(), one([("a", 1)]));
}

#[test]
fn more_queues_than_fit_mean_check_all_your_queues() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue(format('a_rather_long_name_for_a_queue_%s', n)) FROM generate_series(1, 200) n",
    );
    let mut listener = database.listen(CHANNEL);
    run(&mut client, "SELECT pgmq.send(queue, '{}') FROM aimq.queues");
    assert_eq!(listener.raw(), [r#"{"event":"job_enqueued"}"#]);
    run(
        &mut client,
        "SELECT pgmq.send(queue, '{}') FROM (SELECT queue FROM aimq.queues LIMIT 100) q",
    );
    assert_eq!(listener.counts()[0].len(), 100);
}

#[test]
fn a_delayed_message_says_when_it_can_be_read() {
    let (_database, mut client, mut listener) = three_queues();
    run(&mut client, "SELECT pgmq.send('a', '{}', 60)");
    run(&mut client, "SELECT pgmq.send('a', '{}', 30)");
    let payloads = listener.payloads();
    assert_eq!(payloads.len(), 2);
    for (payload, id) in payloads.iter().zip([1, 2]) {
        let news = &payload.queues.as_ref().expect("queues")["a"];
        let said = news.visible_at.as_deref().expect("a time");
        // Never before the message can be read, and less than a millisecond after.
        let late: f64 = client
            .query_one(
                &format!("SELECT extract(epoch FROM '{said}'::timestamptz - vt)::float8 FROM pgmq.q_a WHERE msg_id = {id}"),
                &[],
            )
            .expect("query")
            .get(0);
        assert!((0.0..0.001).contains(&late), "{said} is {late} s after vt");
    }

    run(
        &mut client,
        "BEGIN; SELECT pgmq.send('a', '{}', 30); SELECT pgmq.send('a', '{}'); SELECT pgmq.send('b', '{}', 30); COMMIT",
    );
    let queues = listener.payloads().remove(0).queues.expect("queues");
    assert_eq!(queues["a"].visible_at, None, "one of them can be read at once");
    assert!(queues["b"].visible_at.is_some());

    run(&mut client, "INSERT INTO pgmq.q_a (vt) VALUES ('infinity')");
    assert_eq!(
        listener.raw(),
        [r#"{"event":"job_enqueued","queues":{"a":{"count":1,"visible_at":"infinity"}}}"#]
    );
}

#[test]
fn databases_do_not_hear_each_other() {
    let (_one, mut client, mut listener) = three_queues();
    let (_other, _client, mut elsewhere) = three_queues();
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.counts(), one([("a", 1)]));
    assert_eq!(elsewhere.raw(), [""; 0]);
}

#[test]
fn replication_roles_are_respected_as_for_any_trigger() {
    let (_database, mut client, mut listener) = three_queues();
    run(&mut client, "SET session_replication_role = replica; SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.raw(), [""; 0]);
    run(&mut client, "ALTER TABLE pgmq.q_a ENABLE ALWAYS TRIGGER aimq_realtime");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.counts(), one([("a", 1)]));
    // Changing the setting keeps it.
    assert!(value::<bool>(&mut client, "SELECT aimq.enable_realtime('a', event => 'x')"));
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.counts(), one([("a", 1)]));
}

#[test]
fn producers_at_every_isolation_level_work_side_by_side() {
    let (database, mut client, mut listener) = three_queues();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut other = database.connect();
        // Both transactions are open at the same time and enqueue to the same queue: neither waits
        // for the other, neither fails.
        run(&mut other, "SET lock_timeout = '5s'");
        run(&mut client, &format!("BEGIN ISOLATION LEVEL {level}; SELECT pgmq.send('a', '{{}}')"));
        run(&mut other, &format!("BEGIN ISOLATION LEVEL {level}; SELECT pgmq.send('a', '{{}}')"));
        run(&mut other, "SELECT pgmq.send('b', '{}'); COMMIT");
        run(&mut client, "COMMIT");
        let expected = [one([("a", 1), ("b", 1)]), one([("a", 1)])].concat();
        assert_eq!(listener.counts(), expected, "{level}");
    }
}

#[test]
fn the_message_is_there_when_the_worker_wakes() {
    let (database, mut client, mut listener) = three_queues();
    let mut worker = database.connect();
    for number in 1..=200_i64 {
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        listener.wait_for_one();
        let read: i64 = value(&mut worker, "SELECT msg_id FROM pgmq.read('a', 30, 1)");
        assert_eq!(read, number);
    }
}

/// What a BEFORE trigger must beware of: others that change the row after it.
#[test]
fn a_visibility_time_that_another_trigger_sets_is_not_missed() {
    let (_database, mut client, mut listener) = three_queues();
    run(
        &mut client,
        "CREATE FUNCTION at_once() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.vt := now(); RETURN NEW; END';
         CREATE TRIGGER zz BEFORE INSERT ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION at_once()",
    );
    run(&mut client, "SELECT pgmq.send('a', '{}', 3600)");
    assert_eq!(listener.raw(), [r#"{"event":"job_enqueued","queues":{"a":{"count":1}}}"#]);
    // Even one that is null until then.
    run(&mut client, "INSERT INTO pgmq.q_a (vt) VALUES (NULL)");
    assert_eq!(listener.counts(), one([("a", 1)]));
    run(&mut client, "DROP TRIGGER zz ON pgmq.q_a");
    assert_eq!(
        failure(&mut client, "INSERT INTO pgmq.q_a (vt) VALUES (NULL)").code().code(),
        "23502"
    );
    assert_eq!(listener.raw(), [""; 0]);
}
