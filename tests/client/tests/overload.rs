//! The NOTIFY queue is the whole server's, so this is in a binary of its own: nothing else runs then.

use aimq_client_tests::*;

/// From PostgreSQL 17 on the size of the NOTIFY queue can be set, and `make test` sets the smallest:
/// before, it takes 8 GB to fill.
#[test]
fn from_17_enqueues_go_on_when_the_notify_queue_is_nearly_full() {
    let database = Database::new();
    let (mut producer, heard) = database.connect_hearing();
    producer
        .batch_execute("SELECT aimq.create_queue('a')")
        .expect("queue");

    // A listener that is idle in a transaction keeps the queue from being emptied.
    let mut stuck = database.connect();
    run(&mut stuck, "LISTEN x");
    run(&mut stuck, "BEGIN; SELECT 1");
    let mut filler = database.connect();
    wait_until("the NOTIFY queue to be nearly full", || {
        run(&mut filler, "SELECT pg_notify('x', repeat('x', 7000))");
        value::<f64>(&mut filler, "SELECT pg_notification_queue_usage()") > 0.9
    });

    let mut other = database.connect();
    for _ in 0..300 {
        producer
            .batch_execute("SELECT pgmq.send('a', '{}')")
            .expect("the enqueue goes on");
        other
            .batch_execute("SELECT pgmq.send('a', '{}')")
            .expect("the enqueue goes on");
    }
    let warnings = heard.warnings();
    assert_eq!(warnings.len(), 1, "rate-limited: {warnings:?}");
    assert_eq!(warnings[0].code().code(), "53400");
    assert!(
        warnings[0]
            .hint()
            .is_some_and(|hint| hint.contains("pg_stat_activity"))
    );
    assert_eq!(
        value::<i64>(&mut producer, "SELECT count(*) FROM pgmq.q_a"),
        600
    );

    // Once the listener goes on, so do the notifications.
    run(&mut stuck, "COMMIT");
    drop(stuck);
    let mut listener = database.listen(CHANNEL);
    wait_until("the NOTIFY queue to be emptied", || {
        value::<f64>(&mut filler, "SELECT pg_notification_queue_usage()") < 0.1
    });
    producer
        .batch_execute("SELECT pgmq.send('a', '{}')")
        .expect("send");
    assert_eq!(listener.counts(), one([("a", 1)]));
}
