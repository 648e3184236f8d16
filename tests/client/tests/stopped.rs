//! Processes of aimq that are stopped (SIGSTOP), which look like ones that hang: producers notify themselves, a session
//! that blocks looks for itself, and the view and the doctor say so. When it goes on, all is as before, and nothing is
//! lost. Each test has a server of its own.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::doctor::problems;
use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

/// From when on nobody relies any more on a process that is stopped.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);

/// How late a message may be read that is sent after that: a session that blocks looks at least each second.
const LATE: f64 = 2.0;

/// Processes that are stopped, until this is dropped.
struct Stopped(Vec<i32>);

impl Stopped {
    /// Those that these columns of aimq.notifiers name.
    fn new(client: &mut Client, columns: &[&str]) -> Self {
        let pids: Vec<_> = columns.iter().map(|column| process_in(client, column)).collect();
        pids.iter().for_each(|pid| kill("STOP", *pid));
        Self(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| _ = try_kill("CONT", *pid));
    }
}

/// When a message was enqueued, by the server's clock, and how late it was read; seconds.
type Read = Arc<Mutex<Vec<(f64, f64)>>>;

/// How often a notifier was started in this database.
const STARTS: &str = "SELECT starts::int8 FROM aimq.notifiers WHERE database = current_database()";

const READ_AND_LATE: &str = "extract(epoch FROM enqueued_at)::float8,
     extract(epoch FROM clock_timestamp() - enqueued_at)::float8";

/// Producers, one worker that listens and never polls, and workers that block.
struct Load {
    folder: std::path::PathBuf,
    sent: Arc<AtomicI64>,
    /// Nobody must send any more, and all messages were read, so listeners may end.
    is_over: Arc<AtomicBool>,
    is_read: Arc<AtomicBool>,
    /// What the listeners on `a` read, and the sessions that block for `b`.
    listened: Read,
    blocked: Read,
    producers: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
}

const BLOCKED: usize = 3;

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let mut load = Self {
            folder: cluster.folder().to_owned(),
            sent: Arc::default(),
            is_over: Arc::default(),
            is_read: Arc::default(),
            listened: Arc::default(),
            blocked: Arc::default(),
            producers: Vec::new(),
            workers: Vec::new(),
        };
        let is_read = Arc::clone(&load.is_read);
        load.workers.push(
            load.spawn(move |client, read| listen_to_a(client, read, &is_read), &load.listened),
        );
        for _ in 0..BLOCKED {
            load.workers.push(load.spawn(block_for_b, &load.blocked));
        }
        for _ in 0..2 {
            let (sent, is_over) = (Arc::clone(&load.sent), Arc::clone(&load.is_over));
            load.producers.push(load.spawn(
                move |client, _| {
                    while !is_over.load(Ordering::SeqCst) {
                        run(client, "SELECT pgmq.send('a', '{}')");
                        run(client, "SELECT pgmq.send('b', '{}')");
                        sent.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(3)); // the load is no more than that
                    }
                },
                &load.listened,
            ));
        }
        load.wait_for_messages(50);
        load
    }

    fn spawn(
        &self,
        work: impl FnOnce(&mut Client, &Read) + Send + 'static,
        read: &Read,
    ) -> JoinHandle<()> {
        let (config, read) = (config(&self.folder), Arc::clone(read));
        std::thread::spawn(move || {
            let mut client = config.connect(postgres::NoTls).expect("connect");
            work(&mut client, &read);
        })
    }

    /// Waits until so many more messages of each queue are read.
    fn wait_for_messages(&self, more: usize) {
        for read in [&self.listened, &self.blocked] {
            let goal = read.lock().expect("not poisoned").len() + more;
            wait_until("messages to be read", || read.lock().expect("not poisoned").len() >= goal);
        }
    }

    /// The greatest lateness of what was enqueued after a time.
    fn latest_since(&self, since: f64) -> [f64; 2] {
        [&self.listened, &self.blocked].map(|read| {
            let all = read.lock().expect("not poisoned");
            let late = all.iter().filter(|(at, _)| *at >= since).map(|(_, late)| *late);
            late.fold(0.0, f64::max)
        })
    }

    /// Ends it: all that was sent is read, by who never polls.
    fn end(self, client: &mut Client) {
        self.is_over.store(true, Ordering::SeqCst);
        self.producers.into_iter().for_each(|it| it.join().expect("a producer"));
        let sent = usize::try_from(self.sent.load(Ordering::SeqCst)).expect("few");
        for (read, queue) in [(&self.listened, "a"), (&self.blocked, "b")] {
            let count = || read.lock().expect("not poisoned").len();
            let deadline = Instant::now() + Duration::from_secs(10);
            while count() < sent {
                let count = count();
                assert!(Instant::now() < deadline, "{queue}: {sent} were sent, {count} read");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.is_read.store(true, Ordering::SeqCst);
        // A session that blocks ends with a message that says so, and a listener too.
        run(
            client,
            &format!("SELECT pgmq.send('b', '{{\"end\": 1}}') FROM generate_series(1, {BLOCKED})"),
        );
        run(client, "SELECT pgmq.send('a', '{}')");
        self.workers.into_iter().for_each(|it| it.join().expect("a worker"));
    }
}

fn listen_to_a(client: &mut Client, read: &Read, is_read: &AtomicBool) {
    run(client, "LISTEN \"aimq:jobs\"");
    loop {
        let mut notifications = client.notifications();
        // The time only looks whether it is over: nothing is read after it.
        let woken =
            notifications.timeout_iter(Duration::from_millis(50)).next().expect("listening");
        drop(notifications);
        if woken.is_some() {
            let sql = format!("SELECT {READ_AND_LATE} FROM pgmq.pop('a', 10000)");
            let rows = client.query(&sql, &[]).expect("pop");
            let rows = rows.iter().map(|row| (row.get(0), row.get(1)));
            read.lock().expect("not poisoned").extend(rows);
        } else if is_read.load(Ordering::SeqCst) {
            return;
        }
    }
}

fn block_for_b(client: &mut Client, read: &Read) {
    let sql =
        format!("SELECT {READ_AND_LATE}, message ? 'end' FROM aimq.read('b', 600, 1, '120 s')");
    loop {
        let row = client.query_one(&sql, &[]).expect("a message in time");
        if row.get(2) {
            return;
        }
        read.lock().expect("not poisoned").push((row.get(0), row.get(1)));
    }
}

fn state(client: &mut Client, column: &str) -> String {
    value(
        client,
        &format!("SELECT {column} FROM aimq.notifiers WHERE database = current_database()"),
    )
}

/// Stops these processes under load. The two columns are those that say so.
fn stop_under_load(pids: &[&str], states: &[&str], said: &[&str]) {
    let (_alone, cluster) = server(&[]);
    let mut client = connect(&cluster);
    run(&mut client, "SELECT aimq.create_queue('b')");
    wait_until_settled(&mut client, 2);
    let load = Load::start(&cluster);
    let before: i64 = value(&mut client, STARTS);
    let stopped = Stopped::new(&mut client, pids);
    let begun = Instant::now();
    wait_until("it to be noticed", || {
        states.iter().all(|column| state(&mut client, column) == "not responding")
    });
    assert!(begun.elapsed() < NOTICED_WITHIN, "noticed after {:?}", begun.elapsed());
    // Doctor and view agree.
    let told = problems(&mut client);
    for said in said {
        let row = |it: &&String| it.starts_with("error notifier:") && it.contains(said);
        assert_eq!(told.iter().filter(row).count(), 1, "{said}: {told:?}");
    }
    assert_eq!(told.len(), said.len(), "{told:?}");
    // Until then it may have been relied on.
    wait_until("nobody to rely on it", || begun.elapsed() > NOTICED_WITHIN);
    let since: f64 = value(&mut client, "SELECT extract(epoch FROM clock_timestamp())::float8");
    wait_until("a while", || begun.elapsed() > NOTICED_WITHIN * 3);
    load.wait_for_messages(100);
    for column in states {
        assert_eq!(state(&mut client, column), "not responding", "{column}");
    }
    let late = load.latest_since(since);
    println!("{pids:?} stopped: read {late:.3?} s late at most (LISTEN, aimq.read)");
    assert!(late.iter().all(|late| *late < LATE), "{late:?} s late (LISTEN, aimq.read)");
    drop(stopped);
    assert_as_before(&mut client, before);
    load.wait_for_messages(50);
    load.end(&mut client);
    assert_eq!(problems(&mut client), [""; 0]);
}

/// Both processes run, and do what they are there for. They are the same ones, or one was started again: a process that
/// was stopped within a look has passed the look's last resort when it goes on, and ends.
fn assert_as_before(client: &mut Client, before: i64) {
    wait_until("both to run again", || {
        state(client, "concat(state, ' ', watcher_state)") == "running running"
    });
    let starts: i64 = value(client, STARTS);
    assert!(starts <= before + 1, "started {starts} times, {before} before");
    for (queue, counter) in [("a", "notifications"), ("b", "calls")] {
        let sql = format!("SELECT {counter} FROM aimq.stats WHERE queue = '{queue}'");
        let counted: i64 = value(client, &sql);
        wait_until(counter, || value::<i64>(client, &sql) > counted + 5);
    }
}

#[test]
fn stopped_notifier_under_load() {
    stop_under_load(&["pid"], &["state"], &["transactions notify themselves"]);
}

#[test]
fn stopped_watcher_under_load() {
    stop_under_load(
        &["watcher_pid"],
        &["watcher_state"],
        &["sessions that block look for themselves"],
    );
}

#[test]
fn stopped_notifier_and_watcher_under_load() {
    stop_under_load(
        &["pid", "watcher_pid"],
        &["state", "watcher_state"],
        &["transactions notify themselves", "sessions that block look for themselves"],
    );
}

/// One message alone, 100 ms after the stop. Whatever the watcher was at when it was stopped: nothing at all, or it
/// slept until some time.
#[test]
fn stopped_watcher_is_noticed_by_one_message() {
    let (_alone, cluster) = server(&[]);
    let mut client = connect(&cluster);
    run(&mut client, "SELECT aimq.create_queue('b')");
    wait_until_settled(&mut client, 2);
    let read = "SELECT msg_id FROM aimq.read('a', 600, 1, '60 s')";
    for (timer, is_first) in [(false, true), (false, false), (true, true), (true, false)] {
        if timer {
            run(&mut client, "SELECT pgmq.send('b', '{}', 3600)");
            wait_until_settled(&mut client, 2);
        }
        let block = || block_over(connect(&cluster), &mut connect(&cluster), read);
        // Before the stop, or after.
        let early = is_first.then(block);
        wait_until_settled(&mut client, 2);
        let stopped = Stopped::new(&mut client, &["watcher_pid"]);
        std::thread::sleep(Duration::from_millis(100)); // it is what this is about
        let blocked = early.unwrap_or_else(block);
        let begun = Instant::now();
        let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
        let ended = blocked.ends_by(begun + NOTICED_WITHIN);
        println!("timer {timer}, blocked before {is_first}: {:?}", begun.elapsed());
        assert_eq!(ended, Some(Ok(vec![id])), "timer {timer}, blocked before {is_first}");
        drop(stopped);
        wait_until_settled(&mut client, 2);
    }
}

/// Messages that nobody announced before the stop was noticed are announced when the process goes on; and delayed
/// messages come then at the latest.
#[test]
fn stopped_processes_catch_up() {
    for pids in [&["pid"][..], &["watcher_pid"], &["pid", "watcher_pid"]] {
        let (_alone, cluster) = server(&[]);
        let mut client = connect(&cluster);
        run(&mut client, "SELECT aimq.create_queue('b')");
        wait_until_settled(&mut client, 2);
        let mut listener = listen(&cluster);
        let sql = "SELECT msg_id FROM aimq.read('b', 600, 1, '60 s')";
        let blocked = block_over(connect(&cluster), &mut client, sql);
        let stopped = Stopped::new(&mut client, pids);
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        run(&mut client, "SELECT pgmq.send('a', '{}', clock_timestamp() + interval '200 ms')");
        let id: i64 = value(
            &mut client,
            "SELECT pgmq.send('b', '{}', clock_timestamp() + interval '200 ms')",
        );
        wait_until("both to be readable", || {
            boolean(&mut client, "SELECT count(*) = 2 FROM pgmq.q_a WHERE vt <= clock_timestamp()")
        });
        drop(stopped);
        // The first one was announced by itself, or is with the second.
        wait_until("both to be heard of", || {
            listener.wait_for_count("a", 1);
            value::<i64>(&mut client, "SELECT count(*) FROM pgmq.read('a', 600, 9)") > 0
                && value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_a WHERE read_ct = 0") == 0
        });
        assert_eq!(blocked.read(), [id], "{pids:?}");
    }
}
