//! A queue that is replicated from another database, and the cut-over to it: what is applied fires no trigger of aimq,
//! and the notifier over there runs all the while. On a server that has aimq preloaded, and, from PostgreSQL 17 on, on
//! one that has not. One at a time: a server has few workers for subscriptions.

use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::servers::alone;
use aimq_client_tests::unseen::*;
use aimq_client_tests::*;

/// Two databases of one server, each with the realtime queue `a`; one subscribes to the other's.
struct Replicated {
    publisher: Database,
    subscriber: Database,
    _alone: MutexGuard<'static, ()>,
}

impl Replicated {
    fn new() -> Self {
        let _alone = alone();
        let made = Self { publisher: with_a(), subscriber: with_a(), _alone };
        let name = &made.publisher.name;
        let mut client = made.publisher.connect();
        run(&mut client, "CREATE PUBLICATION p FOR TABLE pgmq.q_a");
        // Made beforehand: CREATE SUBSCRIPTION would wait for its own transaction.
        let slot = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        run(&mut client, &slot);
        made
    }

    fn subscribe(&self, copies: bool) {
        let socket = std::env::var("AIMQ_TEST_SOCKET").expect("a server");
        let name = &self.publisher.name;
        run(
            &mut self.subscriber.connect(),
            &format!(
                "CREATE SUBSCRIPTION {name} CONNECTION 'host={socket} dbname={name} user=postgres' PUBLICATION p
                 WITH (create_slot = false, copy_data = {copies})"
            ),
        );
    }

    fn unsubscribe(&self) -> Result<(), postgres::Error> {
        let drop = format!("DROP SUBSCRIPTION {}", self.publisher.name);
        self.subscriber.connect().batch_execute(&drop)
    }

    /// A message that can't be read yet: somebody has it in work on the publisher's side.
    fn one_in_work(&self) {
        run(&mut self.publisher.connect(), "SELECT pgmq.send('a', '{}')");
        self.wait_until_there(1, "true");
        run(&mut self.publisher.connect(), "SELECT pgmq.read('a', 6, 1)");
        self.wait_until_there(1, "vt > clock_timestamp()");
    }

    /// The same, and one that is delayed.
    fn two_to_come(&self) {
        self.one_in_work();
        run(&mut self.publisher.connect(), "SELECT pgmq.send('a', '{}', 7)");
        self.wait_until_there(2, "vt > clock_timestamp()");
    }

    /// So many messages that meet a condition are on the subscriber's side.
    fn wait_until_there(&self, count: i64, condition: &str) {
        let mut client = self.subscriber.connect();
        let sql = format!("SELECT count(*) FROM pgmq.q_a WHERE {condition}");
        wait_until("what is replicated", || value::<i64>(&mut client, &sql) == count);
    }

    fn cut_over(&self) {
        self.unsubscribe().expect("DROP SUBSCRIPTION");
        let readable = "SELECT count(*) FROM pgmq.q_a WHERE vt <= clock_timestamp()";
        let readable: i64 = value(&mut self.subscriber.connect(), readable);
        assert_eq!(readable, 0, "the cut-over took too long");
    }
}

impl Drop for Replicated {
    /// A database that subscribes can't be dropped, nor one with a slot.
    fn drop(&mut self) {
        let _ = self.unsubscribe();
    }
}

/// When the later of the two can be read, and somebody should have learned of it.
fn at_last() -> Duration {
    Duration::from_secs(7) + SOON
}

fn insert_at(database: &Database, rows: Rows) {
    run(&mut database.connect(), &rows.insert_into("pgmq.q_a"));
}

#[test]
fn subscription_dropped_wakes_a_listener() {
    let both = Replicated::new();
    both.subscribe(false);
    both.two_to_come();
    let mut listener = both.subscriber.listen(CHANNEL);
    both.cut_over();
    assert_eq!(worked(listener.client(), &["a"], 2, at_last())["a"], 2);
}

/// With triggers that fire also for what is applied, what comes is known, and still not what is read: that trigger is
/// for statements, and none is run.
#[test]
fn subscription_dropped_wakes_a_listener_where_triggers_fire_always() {
    let both = Replicated::new();
    run(
        &mut both.subscriber.connect(),
        "ALTER TABLE pgmq.q_a ENABLE ALWAYS TRIGGER aimq_realtime, ENABLE ALWAYS TRIGGER aimq_realtime_vt",
    );
    both.subscribe(false);
    both.one_in_work();
    let mut listener = both.subscriber.listen(CHANNEL);
    both.cut_over();
    assert_eq!(worked(listener.client(), &["a"], 1, at_last())["a"], 1);
}

#[test]
fn subscription_dropped_wakes_who_blocks() {
    let both = Replicated::new();
    both.subscribe(false);
    both.two_to_come();
    let calls = [block(&both.subscriber, READ), block(&both.subscriber, READ)];
    both.cut_over();
    let deadline = Instant::now() + at_last();
    let mut came: Vec<_> =
        calls.into_iter().filter_map(|call| call.ends_by(deadline)?.ok()).flatten().collect();
    came.sort_unstable();
    assert_eq!(came, [1, 2]);
}

#[test]
fn subscription_that_goes_on_wakes_a_listener() {
    let both = Replicated::new();
    both.subscribe(false);
    let mut listener = both.subscriber.listen(CHANNEL);
    for rows in [Rows::Readable, Rows::Delayed] {
        insert_at(&both.publisher, rows);
        assert_eq!(worked(listener.client(), &["a"], 1, DELAY + SOON)["a"], 1, "{rows:?}");
    }
}

#[test]
fn subscription_that_goes_on_wakes_who_blocks() {
    let both = Replicated::new();
    both.subscribe(false);
    for rows in [Rows::Readable, Rows::Delayed] {
        let call = block(&both.subscriber, READ);
        insert_at(&both.publisher, rows);
        let came = call.ends_by(Instant::now() + DELAY + SOON);
        assert!(came.is_some_and(|came| came.is_ok_and(|ids| ids.len() == 1)), "{rows:?}");
    }
}

/// What was there before is copied, by a process of its own.
#[test]
fn subscription_that_begins_wakes_for_what_it_copies() {
    let both = Replicated::new();
    let mut listener = both.subscriber.listen(CHANNEL);
    for rows in [Rows::Readable, Rows::Delayed] {
        insert_at(&both.publisher, rows);
    }
    both.subscribe(true);
    assert_eq!(worked(listener.client(), &["a"], 2, DELAY + SOON)["a"], 2);
}
