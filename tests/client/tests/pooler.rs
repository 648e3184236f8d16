//! Blocking calls through pgbouncer in transaction mode, where no session can listen: each statement may be run by
//! another connection to the server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use aimq_client_tests::servers::alone;
use aimq_client_tests::*;
use aimq_lab::majors::{DEFAULT_MAJOR, Major};
use aimq_lab::pgbouncer::Pgbouncer;
use postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

fn pgbouncer(pool: u32) -> Pgbouncer {
    let server = PathBuf::from(std::env::var("AIMQ_TEST_SOCKET").expect("a server"));
    Pgbouncer::start(&server, pool).expect("pgbouncer")
}

/// The rows of a statement that is not prepared.
fn rows(client: &mut Client, sql: &str) -> Result<Vec<SimpleQueryRow>, postgres::Error> {
    let all = client.simple_query(sql)?.into_iter();
    Ok(all
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect())
}

fn number(row: &SimpleQueryRow, column: usize) -> i64 {
    row.get(column).expect("a value").parse().expect("a number")
}

const CONSUMERS: usize = 50;
const PRODUCERS: i64 = 8;
/// After each, the producers wait until all is archived and all consumers sleep.
const STAGES: i64 = 10;

/// What a producer enqueues in a stage. 100,000 messages in all; a fifth of that on the other majors, because it takes
/// half a minute.
fn each() -> i64 {
    if Major(major()) == DEFAULT_MAJOR { 1250 } else { 250 }
}

/// Long enough that neither a call nor a visibility timeout may end by itself.
const READ: &str = "SELECT msg_id, read_ct, message->>'n' FROM aimq.read('a', 30, 10, '60 s')";

/// What a consumer was given: of each message its id, how often it had been read, and its number.
#[derive(Debug, Default)]
struct Given {
    messages: Vec<(i64, i64, i64)>,
    calls: usize,
    /// Calls that returned nothing.
    empty: usize,
}

/// Reads and archives until it is cancelled.
fn consume(mut client: Client, archived: &AtomicI64) -> Given {
    let mut given = Given::default();
    loop {
        let found = match rows(&mut client, READ) {
            Ok(found) => found,
            Err(error) => {
                // Cancelled, at the end.
                assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error}");
                return given;
            }
        };
        given.calls += 1;
        given.empty += usize::from(found.is_empty());
        let messages = found.iter().map(|row| (number(row, 0), number(row, 1), number(row, 2)));
        given.messages.extend(messages);
        let ids: Vec<_> = found.iter().filter_map(|row| row.get(0)).collect();
        let sql = format!("SELECT pgmq.archive('a', '{{{}}}'::bigint[])", ids.join(","));
        let done = rows(&mut client, &sql).expect("archive");
        assert_eq!(done.len(), found.len(), "somebody else has archived it");
        archived.fetch_add(i64::try_from(done.len()).expect("a few"), Ordering::Relaxed);
    }
}

/// Enqueues as many numbers as make a stage: by turns one, and a batch of up to 20.
fn produce(client: &mut Client, first: i64, each: i64) {
    let (mut next, end) = (first, first + each);
    for turn in 0.. {
        if next == end {
            return;
        }
        let count = if turn % 2 == 0 { 1 } else { (1 + turn / 2 % 20).min(end - next) };
        let sql = if turn % 2 == 0 {
            format!("SELECT pgmq.send('a', '{{\"n\": {next}}}')")
        } else {
            let last = next + count - 1;
            format!(
                "SELECT pgmq.send_batch('a', array_agg(jsonb_build_object('n', n)))
                   FROM generate_series({next}, {last}) n"
            )
        };
        assert_eq!(rows(client, &sql).expect("send").len(), usize::try_from(count).expect("a few"));
        next += count;
    }
}

/// Waits until so many are archived, as long as there are more and more.
fn wait_until_archived(archived: &AtomicI64, all: i64) {
    let mut before = -1;
    while before < all {
        wait_until("more messages to be archived", || archived.load(Ordering::Relaxed) > before);
        before = archived.load(Ordering::Relaxed);
    }
}

fn waiters(client: &mut Client) -> usize {
    let count: i64 = value(client, "SELECT count(*) FROM aimq.waiters");
    usize::try_from(count).expect("a count")
}

#[test]
fn each_message_is_read_once_by_workers_behind_a_pooler() {
    let _alone = alone();
    let (database, mut client, listener) = started(&["a"]);
    drop(listener);
    // Each call that blocks holds a connection to the server, and the producers need some as well.
    let pool = u32::try_from(CONSUMERS).expect("a few") + 10;
    let pooler = pgbouncer(pool);
    let each = each();
    let all = PRODUCERS * STAGES * each;
    let archived = AtomicI64::new(0);
    let begun = Instant::now();
    let given: Vec<Given> = std::thread::scope(|scope| {
        // Dropped in here, should a check fail: then all clients end.
        let pooler = pooler;
        let connect = || pooler.connect(&database.name).expect("a client of pgbouncer");
        let clients: Vec<_> = (0..CONSUMERS).map(|_| connect()).collect();
        let consumers: Vec<_> =
            clients.into_iter().map(|it| scope.spawn(|| consume(it, &archived))).collect();
        let mut producers: Vec<_> = (0..PRODUCERS).map(|_| connect()).collect();
        for stage in 0..STAGES {
            wait_until("all consumers to sleep", || waiters(&mut client) == CONSUMERS);
            std::thread::scope(|scope| {
                for (number, producer) in (0..).zip(&mut producers) {
                    let first = (stage * PRODUCERS + number) * each;
                    scope.spawn(move || produce(producer, first, each));
                }
            });
            wait_until_archived(&archived, (stage + 1) * PRODUCERS * each);
        }
        println!("{all} messages in {:?}", begun.elapsed());
        wait_until("all consumers to sleep", || waiters(&mut client) == CONSUMERS);
        // By the server: pgbouncer 1.18 dies of a client that asks it for a cancel and does not wait until that is
        // done, as this one (its issue 801).
        run(&mut client, "SELECT pg_cancel_backend(pid) FROM aimq.waiters");
        consumers.into_iter().map(|it| it.join().expect("a consumer")).collect()
    });
    let calls: usize = given.iter().map(|it| it.calls).sum();
    println!("{calls} calls");
    assert_eq!(given.iter().map(|it| it.empty).sum::<usize>(), 0, "a call was not woken");
    assert!(given.iter().all(|it| !it.messages.is_empty()), "a consumer was never called");
    let messages: Vec<_> = given.iter().flat_map(|it| &it.messages).collect();
    assert!(messages.iter().all(|(_, read_ct, _)| *read_ct == 1), "a visibility timeout ended");
    assert_eq!(messages.len(), usize::try_from(all).expect("a number"));
    let ids: BTreeSet<_> = messages.iter().map(|(id, _, _)| *id).collect();
    let numbers: BTreeSet<_> = messages.iter().map(|(_, _, number)| *number).collect();
    assert_eq!(ids.len(), messages.len(), "a message was read twice");
    assert!(numbers.into_iter().eq(0..all), "not the messages that were sent");
    let archive = "SELECT count(*) FROM pgmq.a_a WHERE read_ct = 1";
    assert_eq!(value::<i64>(&mut client, archive), all);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_a"), 0);
    assert_eq!(waiters(&mut client), 0);
}

/// A client in a process of its own, which can vanish. Killed when dropped.
struct Psql(Child);

impl Psql {
    /// Blocks in a call through pgbouncer.
    fn block(pooler: &Pgbouncer, database: &Database, client: &mut Client) -> Self {
        let mut psql = program("psql");
        psql.env("PGHOST", pooler.folder()).env("PGAPPNAME", "behind a pooler");
        psql.args(["-XAtqc", "SELECT msg_id FROM aimq.read('a', 1, 1, '60 s')", &database.name]);
        let psql = Self(psql.stdout(Stdio::null()).spawn().expect("psql"));
        let before = "SELECT count(*) FROM aimq.waiters WHERE application_name = 'behind a pooler'";
        wait_until("psql to block", || value::<i64>(client, before) == 1);
        psql
    }

    /// It goes without a word, and pgbouncer closes the connection on which its call goes on.
    fn vanish(self, pooler: &Pgbouncer) {
        drop(self);
        wait_until("pgbouncer to close the connection", || {
            pooler.log().contains("client disconnect while server was not ready")
        });
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// pgbouncer cancels nothing: the server must look whether the connection is still there.
#[test]
fn the_place_of_a_client_that_vanishes_is_free_at_once_where_the_server_looks() {
    let _alone = alone();
    let (database, mut client, _listener) = started(&["a"]);
    run(
        &mut client,
        &format!(
            "ALTER DATABASE {} SET client_connection_check_interval = '100 ms'",
            database.name
        ),
    );
    let pooler = pgbouncer(5);
    Psql::block(&pooler, &database, &mut client).vanish(&pooler);
    wait_until("its place to be free", || waiters(&mut client) == 0);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    let mut other = pooler.connect(&database.name).expect("a client of pgbouncer");
    let found = rows(&mut other, READ).expect("a read");
    assert_eq!(number(&found[0], 1), 1, "the one that vanished has read it");
}

/// Where it does not look, the call goes on, and may read a message in vain: as one that a dead worker had read, it
/// is read again when its visibility timeout is over.
#[test]
fn what_is_read_for_a_client_that_has_vanished_is_read_again() {
    let _alone = alone();
    let (database, mut client, _listener) = started(&["a"]);
    let pooler = pgbouncer(5);
    Psql::block(&pooler, &database, &mut client).vanish(&pooler);
    assert_eq!(waiters(&mut client), 1);
    let mut other = pooler.connect(&database.name).expect("a client of pgbouncer");
    std::thread::scope(|scope| {
        let read = scope.spawn(move || rows(&mut other, READ).expect("a read"));
        wait_until("another to block behind it", || waiters(&mut client) == 2);
        let begun = Instant::now();
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        let found = read.join().expect("a client");
        assert_eq!(number(&found[0], 1), 2, "read by the one that waited longest, and again");
        assert!(begun.elapsed() >= Duration::from_secs(1), "its visibility timeout");
    });
    wait_until("both to be gone", || waiters(&mut client) == 0);
}
