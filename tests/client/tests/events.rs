//! What happens to a message after it was enqueued, as a page that shows jobs hears of it.

use std::time::Instant;

use aimq_client_tests::*;
use aimq_core::payload::Payload;
use postgres::Client;

const ALL: &str = "events => '{job_enqueued,job_started,job_archived,job_deleted}'";

/// A queue `a` that tells everything, and a listener.
fn started_telling(more: &str) -> (Database, Client, Listener) {
    let (database, mut client, mut listener) = started(&["a"]);
    run(&mut client, &format!("SELECT aimq.enable_realtime('a', {ALL}{more})"));
    // The notifier knows of the change when it has the slots of all.
    wait_until_settled(&mut client, 4);
    listener.raw();
    (database, client, listener)
}

/// The next notification: the event, and what it says of the queue `a`. A look at the queue may have found something
/// too: then `job_enqueued` says `more`, in a notification of its own or in the one of the messages that came
/// meanwhile. Of those it says `more` only where it names fewer than it counts.
fn next(listener: &mut Listener) -> (String, u64, Vec<i64>, bool) {
    loop {
        let payload: Payload = serde_json::from_str(&listener.wait_for_one()).expect("JSON");
        let mut news = payload.queues.expect("queues are named");
        let mut news = news.remove("a").expect("queue a");
        if payload.event == "job_enqueued" {
            if news.ids.is_empty() && news.more {
                continue;
            }
            news.more = news.count > news.ids.len() as u64;
        }
        return (payload.event, news.count, news.ids, news.more);
    }
}

fn said(event: &str, ids: &[i64]) -> (String, u64, Vec<i64>, bool) {
    (event.into(), ids.len() as u64, ids.to_vec(), false)
}

#[test]
fn the_life_of_a_job() {
    let (_database, mut client, mut listener) = started_telling(", ids => true");
    run(&mut client, "SELECT pgmq.send_batch('a', '{\"{}\",\"{}\",\"{}\"}')");
    assert_eq!(next(&mut listener), said("job_enqueued", &[1, 2, 3]));
    run(&mut client, "SELECT pgmq.read('a', 60, 2)");
    assert_eq!(next(&mut listener), said("job_started", &[1, 2]));
    run(&mut client, "SELECT pgmq.archive('a', 1)");
    assert_eq!(next(&mut listener), said("job_archived", &[1]));
    run(&mut client, "SELECT pgmq.delete('a', 2)");
    assert_eq!(next(&mut listener), said("job_deleted", &[2]));
    run(&mut client, "SELECT pgmq.pop('a')");
    assert_eq!(next(&mut listener), said("job_deleted", &[3]));
    // What is moved is not read.
    run(&mut client, "SELECT pgmq.send('a', '{}'), pgmq.set_vt('a', 4, 60)");
    assert_eq!(next(&mut listener), said("job_enqueued", &[4]));
    run(&mut client, "SELECT pgmq.set_vt('a', 4, 60); SELECT pgmq.delete('a', 4)");
    assert_eq!(next(&mut listener), said("job_deleted", &[4]));
    // Which ones are purged, nobody says.
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(next(&mut listener), said("job_enqueued", &[5]));
    run(&mut client, "SELECT pgmq.purge_queue('a')");
    assert_eq!(next(&mut listener), ("job_deleted".into(), 1, vec![], true));
}

/// One transaction: a notification for each event, what is archived is not deleted, and what is rolled back never was.
#[test]
fn a_transaction_is_one_of_each() {
    let (_database, mut client, mut listener) = started_telling(", ids => true");
    run(&mut client, "SET aimq.delivery = transaction");
    run(
        &mut client,
        "BEGIN;
         SELECT pgmq.send('a', '{}') FROM generate_series(1, 40);
         SELECT pgmq.read('a', 60, 3);
         SELECT pgmq.archive('a', ARRAY[1, 2]);
         SAVEPOINT s; SELECT pgmq.archive('a', 3); ROLLBACK TO s;
         SELECT pgmq.delete('a', 3);
         COMMIT",
    );
    let some: Vec<i64> = (1..=32).collect();
    assert_eq!(next(&mut listener), ("job_enqueued".into(), 40, some, true));
    assert_eq!(next(&mut listener), said("job_started", &[1, 2, 3]));
    assert_eq!(next(&mut listener), said("job_archived", &[1, 2]));
    assert_eq!(next(&mut listener), said("job_deleted", &[3]));
    run(&mut client, "BEGIN; SELECT pgmq.read('a', 60, 3); SELECT pgmq.pop('a'); ROLLBACK");
    // What comes back is announced as it always is; nothing was started or deleted.
    run(&mut client, "SELECT pgmq.archive('a', 4)");
    let mut told = next(&mut listener);
    while told.0 == "job_enqueued" {
        told = next(&mut listener);
    }
    assert_eq!(told, said("job_archived", &[4]));
}

/// Where archiving is not asked for, a message that is archived is still gone from the queue.
#[test]
fn without_job_archived_it_is_deleted() {
    let (database, mut client, _listener) = started(&["a"]);
    run(&mut client, "SELECT aimq.enable_realtime('a', events => '{job_enqueued,job_deleted}')");
    wait_until_settled(&mut client, 2);
    let mut listener = database.listen(CHANNEL);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(next(&mut listener).0, "job_enqueued");
    run(&mut client, "SELECT pgmq.archive('a', 1)");
    assert_eq!(next(&mut listener).0, "job_deleted");
}

/// Anybody may attach the event trigger to a table of his, with any route: that changes nothing for whose it is.
#[test]
fn a_strangers_trigger_takes_nothing_from_a_queue() {
    let (_database, mut client, mut listener) = started(&["a"]);
    run(
        &mut client,
        "CREATE TABLE pgmq.other (msg_id bigint);
         CREATE TRIGGER x BEFORE DELETE ON pgmq.other FOR EACH ROW
         EXECUTE FUNCTION aimq.event_trigger('aimq:jobs', 'job_enqueued', 'a')",
    );
    run(&mut client, "SELECT aimq.create_queue('b')");
    wait_until_settled(&mut client, 2);
    listener.raw();
    // Found by a look.
    run(&mut client, "SELECT pgmq.send('a', '{}', clock_timestamp() + interval '100 ms')");
    listener.wait_for_count("a", 1);
}

#[test]
fn many_reads_are_counted_together() {
    let (database, mut client, mut listener) = started_telling("");
    run(&mut client, "SELECT pgmq.send('a', '{}') FROM generate_series(1, 400)");
    assert_eq!(listener.wait_for_count("a", 400).0, 400);
    let begun = Instant::now();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let mut session = database.connect();
            std::thread::spawn(move || {
                for _ in 0..100 {
                    run(&mut session, "SELECT pgmq.read('a', 60, 1)");
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
    let took = begun.elapsed();
    let (mut count, mut notifications) = (0, 0);
    while count < 400 {
        let (event, some, ids, more) = next(&mut listener);
        assert_eq!(
            (event.as_str(), ids.len(), more),
            ("job_started", 0, false),
            "no ids are asked for"
        );
        count += some;
        notifications += 1;
    }
    assert_eq!(count, 400);
    // One an interval, which is 10 ms.
    let most = took.as_millis() / 10 + 2;
    assert!(notifications <= most, "{notifications} in {took:?}");
}

/// In place: what is not asked for any more goes, and a queue that tells only of enqueues has no trigger more than
/// ever.
#[test]
fn events_are_changed_in_place() {
    let (_database, mut client, mut listener) = started_telling(", ids => true");
    let triggers = "SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger
                     WHERE tgname ^@ 'aimq' AND NOT tgisinternal";
    assert_eq!(
        value::<String>(&mut client, triggers),
        "aimq_realtime aimq_realtime_archived aimq_realtime_deleted aimq_realtime_purged aimq_realtime_started aimq_realtime_vt"
    );
    let shown =
        "SELECT concat_ws(' ', event, sink, events, ids) FROM aimq.queues WHERE queue = 'a'";
    assert_eq!(
        value::<String>(&mut client, shown),
        "job_enqueued notify {job_enqueued,job_started,job_archived,job_deleted} t"
    );
    let again = format!("SELECT aimq.enable_realtime('a', {ALL}, ids => true)");
    assert!(!boolean(&mut client, &again), "nothing changes");
    assert!(boolean(
        &mut client,
        "SELECT aimq.enable_realtime('a', event => 'e', events => '{e,job_archived}')"
    ));
    assert_eq!(value::<String>(&mut client, shown), "e notify {e,job_archived} f");
    // Known by the notifier: what is told next is told by it alone.
    run(
        &mut client,
        "SELECT pgmq.send('a', '{}'); SELECT pgmq.read('a', 60, 1); SELECT pgmq.archive('a', 1)",
    );
    let mut heard = Vec::new();
    while heard.last().is_none_or(|event| event != "job_archived") {
        heard.push(next(&mut listener).0);
    }
    assert!(heard.iter().all(|event| event == "e" || event == "job_archived"), "{heard:?}");
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert_eq!(value::<String>(&mut client, triggers), "aimq_realtime aimq_realtime_vt");
    assert!(boolean(&mut client, &format!("SELECT aimq.enable_realtime('a', {ALL})")));
    assert!(boolean(&mut client, "SELECT aimq.disable_realtime('a')"));
    assert!(value::<Option<String>>(&mut client, triggers).is_none());
}

#[test]
fn partman_a_partitioned_queue_tells_too() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman");
    run(&mut client, "SELECT pgmq.create_partitioned('a')");
    run(&mut client, &format!("SELECT aimq.enable_realtime('a', {ALL}, ids => true)"));
    wait_until_settled(&mut client, 4);
    let mut listener = database.listen(CHANNEL);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(next(&mut listener), said("job_enqueued", &[1]));
    run(&mut client, "SELECT pgmq.read('a', 60, 2)");
    assert_eq!(next(&mut listener), said("job_started", &[1]));
    run(&mut client, "SELECT pgmq.archive('a', 1)");
    assert_eq!(next(&mut listener), said("job_archived", &[1]));
}

#[test]
fn what_can_not_be_told_is_refused() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('a')");
    for (arguments, code, message) in [
        ("events => '{job_started}'", "22023", "must contain job_enqueued"),
        ("events => '{job_enqueued,job_eaten}'", "22023", "no value \"job_eaten\""),
        ("events => '{job_enqueued,NULL}'", "22004", "events"),
        ("events => NULL", "22004", "events"),
        ("ids => NULL", "22004", "ids"),
        ("event => 'job_deleted'", "42602", "must not be \"job_deleted\""),
        ("sink => 'nobody'", "22023", "no value \"nobody\""),
        ("sink => NULL", "22004", "sink"),
    ] {
        let error = failure(&mut client, &format!("SELECT aimq.enable_realtime('a', {arguments})"));
        assert_eq!(error.code().code(), code, "{arguments}");
        assert!(error.message().contains(message), "{arguments}: {error}");
        assert!(error.hint().is_some(), "{arguments}");
    }
    // A role that may make triggers on the queue's table may not do so on that of archived messages.
    let role = database.role("half");
    run(
        &mut client,
        &format!(
            "GRANT USAGE ON SCHEMA pgmq TO {role};
             GRANT SELECT ON pgmq.meta TO {role}; GRANT SELECT, TRIGGER ON pgmq.q_a TO {role}"
        ),
    );
    let mut half = database.connect_as(&role);
    let error = failure(
        &mut half,
        "SELECT aimq.enable_realtime('a', events => '{job_enqueued,job_archived}')",
    );
    assert_eq!(
        (error.code().code(), error.message().contains("pgmq.a_a")),
        ("42501", true),
        "{error}"
    );
    run(&mut half, "SELECT aimq.enable_realtime('a', events => '{job_enqueued,job_started}')");
    let error = failure(&mut half, "SELECT aimq.enable_realtime('a')");
    assert_eq!(error.code().code(), "42501", "only the owner drops triggers: {error}");
    run(&mut client, "SELECT aimq.disable_realtime('a'); DROP TABLE pgmq.a_a");
    let error = failure(
        &mut client,
        "SELECT aimq.enable_realtime('a', events => '{job_enqueued,job_archived}')",
    );
    assert_eq!(error.code().code(), "42P01", "{error}");
    run(&mut client, "SELECT aimq.enable_realtime('a')");
}
