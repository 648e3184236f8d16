//! One thing that hangs stalls nothing else: a stranger that has notified, hangs in its commit, and keeps all others
//! waiting that notify; and queues whose looks take all the time that they may. Each test has a server of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aimq_client_tests::blocking::*;
use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

/// How many messages are sent; `AIMQ_HANG_MESSAGES` says otherwise, for figures that are taken by hand.
fn messages() -> usize {
    let wanted = std::env::var("AIMQ_HANG_MESSAGES").ok();
    wanted.map_or(200, |wanted| wanted.parse().expect("a number"))
}

/// On an idle machine a few milliseconds; here others may be at work.
const MEDIAN: Duration = Duration::from_millis(20);
const P99: Duration = Duration::from_millis(250);

/// How soon listeners hear again when the hang is over. The same holds.
const RESUMES_WITHIN: Duration = Duration::from_secs(1);

/// Queues a look at which takes as long as it may.
const SLOW: [&str; 5] = ["s1", "s2", "s3", "s4", "s5"];

/// A commit that waits for a standby which there is not hangs, if it asks for that.
const HANGS: [&str; 2] = ["synchronous_standby_names=nobody", "synchronous_commit=local"];

/// An index of each queue's table has code in it that takes long, for aimq's processes. The sequences tell how often a
/// look has begun with it, and how often it came to its end.
fn make_slow_queues(client: &mut Client) {
    run(
        client,
        "CREATE FUNCTION public.slow(queue text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
         DECLARE
             until timestamptz := clock_timestamp() + interval '5 s';
         BEGIN
             IF current_setting('application_name') LIKE 'aimq %' THEN
                 PERFORM nextval('public.began_' || queue);
                 WHILE clock_timestamp() < until LOOP END LOOP;
                 PERFORM nextval('public.ended_' || queue);
             END IF;
             RETURN true;
         END $$",
    );
    for queue in SLOW {
        run(
            client,
            &format!(
                "CREATE SEQUENCE public.began_{queue}; CREATE SEQUENCE public.ended_{queue};
                 SELECT aimq.create_queue('{queue}')"
            ),
        );
        run(
            client,
            &format!(
                "CREATE INDEX ON pgmq.q_{queue} (msg_id) WHERE (msg_id > 0) = public.slow('{queue}')"
            ),
        );
    }
    wait_until("looks to begin", || {
        give_occasion(client);
        looks(client, "began").iter().all(|count| *count > 0)
    });
}

/// For each slow queue, how many looks at it have begun, or ended.
fn looks(client: &mut Client, which: &str) -> Vec<i64> {
    let count = |queue: &&str| {
        let sql = format!(
            "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.{which}_{queue}"
        );
        value(client, &sql)
    };
    SLOW.iter().map(count).collect()
}

/// A thread that goes on until it is told to end.
struct Going<T> {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Going<T> {
    fn start(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        Self { is_over, thread: std::thread::spawn(move || work(&told)) }
    }

    fn end(self) -> T {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().expect("a thread")
    }
}

/// Gives occasion for looks at the slow queues: messages are delayed there, read, and moved.
fn give_occasion(client: &mut Client) {
    for queue in SLOW {
        run(client, &format!("SELECT pgmq.send('{queue}', '{{}}', 1)"));
        run(client, &format!("SELECT pgmq.read('{queue}', 1, 1)"));
        run(client, &format!("SELECT pgmq.set_vt('{queue}', 1, 0)"));
    }
}

/// Does so again and again.
fn use_slow_queues(cluster: &Cluster) -> Going<()> {
    let mut client = connect(cluster);
    Going::start(move |is_over| {
        while !is_over.load(Ordering::SeqCst) {
            give_occasion(&mut client);
            std::thread::sleep(Duration::from_millis(20)); // the load is no more than that
        }
    })
}

/// The stranger, whose commit hangs until it is cancelled.
struct Hang {
    pid: i32,
    thread: JoinHandle<()>,
}

impl Hang {
    /// In a database that has nothing to do with aimq. It hangs when this returns.
    fn begin(cluster: &Cluster, watch: &mut Client) -> Self {
        run(watch, "CREATE DATABASE strangers");
        let mut stranger = cluster.connect("strangers").expect("connect");
        let pid = pid(&mut stranger);
        let thread = std::thread::spawn(move || {
            run(&mut stranger, "SET synchronous_commit = on; CREATE TABLE t (); NOTIFY others");
        });
        let sql = format!("SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = {pid}");
        wait_until("the stranger to hang", || {
            value::<Option<bool>>(watch, &sql).unwrap_or_default()
        });
        Self { pid, thread }
    }

    fn end(self, client: &mut Client) -> Instant {
        let ended = Instant::now();
        run(client, &format!("SELECT pg_cancel_backend({})", self.pid));
        self.thread.join().expect("the stranger");
        ended
    }
}

/// A worker that blocks in `aimq.read` and says of each message how long it was readable before it was returned.
fn reader(cluster: &Cluster) -> (JoinHandle<()>, Receiver<Duration>) {
    let (tell, told) = mpsc::channel();
    let mut client = connect(cluster);
    let read = "SELECT (message->>'due')::float8 FROM aimq.read('a', 600, 1, '60 s')";
    let thread = std::thread::spawn(move || {
        // A message without a time ends it.
        while let Some(due) = value::<Option<f64>>(&mut client, read) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            let late = now.as_secs_f64() - due;
            assert!(late > -0.001, "returned {late} s before it was readable");
            tell.send(Duration::from_secs_f64(late.max(0.0))).expect("somebody to tell");
        }
    });
    (thread, told)
}

/// Sends a message that is readable after so many milliseconds, and says so.
fn send(client: &mut Client, queue: &str, millis: u64) {
    let due = "jsonb_build_object('due', extract(epoch FROM due))";
    let delay = if millis > 0 { ", due" } else { "" };
    run(
        client,
        &format!(
            "SELECT pgmq.send('{queue}', {due}{delay})
               FROM (SELECT clock_timestamp() + interval '{millis} ms') AS d (due)"
        ),
    );
}

/// A delay for half of the messages: from 100 to 300 ms.
fn delay_of(message: usize) -> u64 {
    let delays = [0, 100, 0, 300, 0, 170, 0, 230];
    delays[message % delays.len()]
}

/// Sends messages one after the other to a session that blocks, and says how late each was returned.
fn read_one_after_the_other(cluster: &Cluster, client: &mut Client) -> Vec<Duration> {
    let (thread, told) = reader(cluster);
    let mut late = Vec::new();
    let begun = Instant::now();
    for message in 0..messages() {
        // Else it would go on for ever, where each takes a second.
        let is_slow = begun.elapsed() > DEADLINE + P99 * u32::try_from(message).expect("few");
        assert!(!is_slow, "{message} messages took {:?}: {late:?}", begun.elapsed());
        wait_until("the worker to block", || waiters(client) == 1);
        send(client, "a", delay_of(message));
        late.push(told.recv_timeout(DEADLINE).expect("a message before the deadline"));
    }
    run(client, "SELECT pgmq.send('a', '{}')");
    thread.join().expect("a worker");
    late
}

/// Sorts, prints, and returns the median, the 99th percentile and the greatest.
fn summed_up(what: &str, mut all: Vec<Duration>) -> [Duration; 3] {
    all.sort_unstable();
    let at = |share: usize| all[(all.len() - 1) * share / 100];
    let (p50, p95, p99, most) = (at(50), at(95), at(99), at(100));
    println!("{what}: {} times, p50 {p50:?}, p95 {p95:?}, p99 {p99:?}, max {most:?}", all.len());
    [p50, p99, most]
}

/// Somebody who produces in another database, while it goes on: how long each transaction took.
fn producer(mut client: Client) -> Going<Vec<Duration>> {
    Going::start(move |is_over| {
        let mut took = Vec::new();
        while !is_over.load(Ordering::SeqCst) {
            let begun = Instant::now();
            send(&mut client, "l", delay_of(took.len()));
            took.push(begun.elapsed());
            std::thread::sleep(Duration::from_millis(5)); // the load is no more than that
        }
        took
    })
}

/// Reads whatever is there when it is notified, and never else, until it is told to end: when it was woken, and how
/// many it read.
fn listener(mut client: Client) -> Going<Vec<(Instant, usize)>> {
    run(&mut client, "LISTEN \"aimq:jobs\"");
    Going::start(move |is_over| {
        let mut read = Vec::new();
        while !is_over.load(Ordering::SeqCst) {
            let mut notifications = client.notifications();
            let woken = notifications.timeout_iter(Duration::from_millis(20)).next();
            drop(notifications);
            if woken.expect("listening").is_some() {
                let at = Instant::now();
                let rows = client.query("SELECT msg_id FROM pgmq.pop('l', 10000)", &[]);
                read.push((at, rows.expect("pop").len()));
            }
        }
        read
    })
}

/// A second database with the queue `l`.
fn other_database(cluster: &Cluster, client: &mut Client) {
    run(client, "CREATE DATABASE other");
    let mut other = cluster.connect("other").expect("connect");
    run(&mut other, "CREATE EXTENSION aimq CASCADE");
    run(&mut other, "SELECT aimq.create_queue('l')");
    wait_until_settled(&mut other, 1);
}

#[test]
fn hang_in_notify_and_slow_looks_keep_no_reader_waiting() {
    let (_alone, cluster) = server(&HANGS);
    let mut client = connect(&cluster);
    make_slow_queues(&mut client);
    other_database(&cluster, &mut client);
    let others = || cluster.connect("other").expect("connect");
    let listener = listener(others());
    let hang = Hang::begin(&cluster, &mut client);
    let begun = Instant::now();
    let producer = producer(others());
    let slow = use_slow_queues(&cluster);
    // The notifier of this database waits behind the stranger too.
    run(&mut client, "SELECT pgmq.send('s1', '{}')");
    wait_until("the notifiers to wait", || {
        let sql = "SELECT count(*) = 2 FROM pg_stat_activity
                    WHERE backend_type = 'aimq notifier' AND wait_event_type = 'Lock'";
        boolean(&mut client, sql)
    });
    let before = looks(&mut client, "began");
    let late = read_one_after_the_other(&cluster, &mut client);
    let after = looks(&mut client, "began");
    assert!(before.iter().zip(&after).all(|(before, after)| after > before), "no looks: {after:?}");
    assert_eq!(looks(&mut client, "ended"), [0; SLOW.len()], "looks that were not cut");
    // So that all that was sent can be read when the hang ends.
    let took = producer.end();
    let sql = "SELECT count(*) = 0 FROM pgmq.q_l WHERE vt > clock_timestamp()";
    wait_until("all to be readable", || boolean(&mut others(), sql));
    slow.end();
    let ended = hang.end(&mut client);
    let left = "SELECT count(*) FROM pgmq.q_l";
    wait_until("all to be heard of", || value::<i64>(&mut others(), left) == 0);
    let heard = listener.end();

    let (sent, read) = (took.len(), heard.iter().map(|(_, count)| count).sum::<usize>());
    println!("looks during the hang: {before:?} to {after:?}");
    let [median, p99, _] = summed_up("aimq.read", late);
    let [_, _, slowest] = summed_up("a producer", took);
    let early = heard.iter().filter(|(at, _)| *at > begun && *at < ended).count();
    let first = heard.iter().find(|(at, _)| *at > ended).map(|(at, _)| *at - ended);
    let last = heard.iter().rfind(|(_, count)| *count > 0).map(|(at, _)| at.duration_since(ended));
    println!("LISTEN: after the hang, first {first:?}, last {last:?}");
    assert_eq!(early, 0, "somebody was notified, so nothing hung");
    assert_eq!(read, sent, "lost");
    assert!(last.is_some_and(|last| last < RESUMES_WITHIN), "heard all after {last:?}");
    assert!(median <= MEDIAN && p99 <= P99, "p50 {median:?}, p99 {p99:?}");
    assert!(slowest < RESUMES_WITHIN, "a producer waited for {slowest:?}");
}

/// The same without the stranger, for listeners in the same database.
#[test]
fn slow_looks_keep_no_listener_waiting() {
    let (_alone, cluster) = server(&[]);
    let mut client = connect(&cluster);
    make_slow_queues(&mut client);
    run(&mut client, "SELECT aimq.create_queue('l', channel => 'l')");
    let mut listener = Listener::over(connect(&cluster), "l");
    let slow = use_slow_queues(&cluster);
    let before = looks(&mut client, "began");
    let mut late = Vec::new();
    for _ in 0..messages() / 2 {
        let begun = Instant::now();
        run(&mut client, "SELECT pgmq.send('l', '{}')");
        listener.wait_for_count("l", 1);
        late.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(20)); // longer than the notifier's interval
    }
    let after = looks(&mut client, "began");
    slow.end();
    println!("looks meanwhile: {before:?} to {after:?}");
    let [median, _, most] = summed_up("LISTEN", late);
    assert!(before.iter().zip(&after).any(|(before, after)| after > before), "no looks: {after:?}");
    assert_eq!(looks(&mut client, "ended"), [0; SLOW.len()], "looks that were not cut");
    assert!(median <= MEDIAN * 3 && most < Duration::from_secs(3), "p50 {median:?}, max {most:?}");
}

/// Whether the notifier of the tests' database waits behind somebody who notifies.
fn notifier_waits(client: &mut Client) -> bool {
    let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity
                               WHERE backend_type = 'aimq notifier' AND wait_event_type = 'Lock'
                                 AND datname = current_database())";
    boolean(client, sql)
}

/// The watcher hands the tables that it has no time to look at to the notifier. While the notifier hangs, the sessions
/// that block are still called.
#[test]
fn hang_in_notify_keeps_no_reader_of_a_slow_table_waiting() {
    let (_alone, cluster) = server(&HANGS);
    let mut client = connect(&cluster);
    // Longer than the watcher may look, and shorter than the notifier.
    run(
        &mut client,
        "CREATE FUNCTION public.dear() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
         DECLARE
             until timestamptz := clock_timestamp() + interval '100 ms';
         BEGIN
             WHILE current_setting('application_name') LIKE 'aimq %' AND clock_timestamp() < until LOOP END LOOP;
             RETURN true;
         END $$",
    );
    run(&mut client, "CREATE INDEX ON pgmq.q_a (msg_id) WHERE (msg_id > 0) = public.dear()");
    run(&mut client, "SELECT aimq.create_queue('other')");
    wait_until_settled(&mut client, 2);
    let hang = Hang::begin(&cluster, &mut client);
    run(&mut client, "SELECT pgmq.send('other', '{}')");
    wait_until("the notifier to wait", || notifier_waits(&mut client));
    for delays in [&[300][..], &[300, 700]] {
        let readers: Vec<_> = delays.iter().map(|_| reader(&cluster)).collect();
        wait_until("the workers to block", || waiters(&mut client) == delays.len() as i64);
        delays.iter().for_each(|delay| send(&mut client, "a", *delay));
        let mut late = Vec::new();
        // Each is returned to one of them.
        wait_until("the messages to be returned", || {
            late.extend(readers.iter().filter_map(|(_, told)| told.try_recv().ok()));
            late.len() == delays.len()
        });
        println!("returned late: {late:?}");
        assert!(notifier_waits(&mut client), "nothing hung");
        readers.iter().for_each(|_| run(&mut client, "SELECT pgmq.send('a', '{}')"));
        readers.into_iter().for_each(|(thread, _)| thread.join().expect("a worker"));
    }
    hang.end(&mut client);
}
