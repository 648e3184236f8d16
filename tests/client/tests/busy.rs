//! The programs in examples/ while a job takes long and their channel is busy. A connection that listens and is not
//! read keeps everything in the server's NOTIFY queue that came since, of all databases; so it must be read meanwhile,
//! and what is read must not pile up in the worker instead.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aimq_client_tests::programs::*;
use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use postgres::Client;

/// So few pages (of 8 kB) that a queue which isn't emptied shows.
const SETTINGS: [&str; 2] =
    ["shared_preload_libraries=aimq,pg_stat_statements", "max_notify_queue_pages=64"];

/// How many notifications come to each program in a second, and of how many queues.
const RATE: u32 = 100;
const QUEUES: u32 = 61;

/// How long a session may have something to send that its worker does not take.
const UNTAKEN: Duration = Duration::from_secs(3);

/// Those that nobody has taken are a quarter of the pages after two or three seconds.
const USAGE: f64 = 0.25;

/// How long a job takes. With a minute all that is said here holds as well.
fn job() -> Duration {
    let seconds = std::env::var("AIMQ_JOB_SECONDS").ok().and_then(|it| it.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// What aimq says of one message. `emails` is one of the queues.
fn payload(number: u32) -> String {
    let queue = match number % QUEUES {
        0 => "emails".to_owned(),
        other => format!("queue_{other}"),
    };
    format!(r#"{{"event":"job_enqueued","queues":{{"{queue}":{{"count":1}}}}}}"#)
}

/// Notifies until it is over. Returns how often.
fn notify(mut client: Client, is_over: &AtomicBool) -> u32 {
    run(&mut client, "SET synchronous_commit = off");
    let begun = Instant::now();
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        client
            .execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &payload(sent)])
            .expect("a notification");
        sent += 1;
        std::thread::sleep((Duration::from_secs(1) / RATE * sent).saturating_sub(begun.elapsed()));
    }
    sent
}

/// What was seen of the sessions that listen.
#[derive(Debug, Default)]
struct Seen {
    /// Since when one has stood there with something to send.
    since: BTreeMap<String, Instant>,
    /// And for how long at most.
    longest: BTreeMap<String, Duration>,
    usage: f64,
}

impl Seen {
    fn look(&mut self, client: &mut Client) {
        let stands = "SELECT datname::text FROM pg_stat_activity
                       WHERE backend_type = 'client backend' AND application_name <> 'lab'
                         AND wait_event = 'ClientWrite'";
        let standing = names(client, stands);
        self.since.retain(|name, _| standing.contains(name));
        for name in standing {
            let since = *self.since.entry(name.clone()).or_insert_with(Instant::now);
            let longest = self.longest.entry(name).or_default();
            *longest = since.elapsed().max(*longest);
        }
        let usage: f64 = value(client, "SELECT pg_notification_queue_usage()");
        self.usage = usage.max(self.usage);
    }

    fn assert_taken(&self, what: &str) {
        println!(
            "{what}: stood in ClientWrite: {:?}; NOTIFY queue {:.3}",
            self.longest, self.usage
        );
        for (name, longest) in &self.longest {
            assert!(*longest <= UNTAKEN, "{what}: {name} was not read for {longest:?}");
        }
        assert!(self.usage <= USAGE, "{what}: the NOTIFY queue grew to {:.3}", self.usage);
    }
}

/// Watches while `what` happens on busy channels, until it `is_done`.
fn watched(stage: &mut Stage, what: &str, mut is_done: impl FnMut(&mut Stage) -> bool) {
    let is_over = AtomicBool::new(false);
    let clients = stage.clients();
    let mut watcher = connect(&stage.cluster);
    let mut seen = Seen::default();
    let (begun, deadline) = (Instant::now(), job() + DEADLINE);
    std::thread::scope(|scope| {
        let notifying: Vec<_> =
            clients.into_iter().map(|client| scope.spawn(|| notify(client, &is_over))).collect();
        let mut in_time = true;
        while in_time && !is_done(stage) {
            seen.look(&mut watcher);
            in_time = begun.elapsed() < deadline;
            std::thread::sleep(Duration::from_millis(50));
        }
        is_over.store(true, Ordering::Relaxed);
        for one in notifying {
            let sent = one.join().expect("a notifier");
            let rate = f64::from(sent) / begun.elapsed().as_secs_f64();
            println!("{what}: {sent} notifications, {rate:.0} a second");
        }
        assert!(in_time, "{what}: took too long");
    });
    seen.assert_taken(what);
}

/// What sends each program a message.
fn send(stage: &Stage, messages: &[String]) {
    let messages: Vec<_> = messages.iter().map(|it| format!("'{it}'")).collect();
    let sql = format!("SELECT pgmq.send_batch('emails', ARRAY[{}]::jsonb[])", messages.join(", "));
    stage.clients().iter_mut().for_each(|client| run(client, &sql));
}

/// Waits until each program has begun so many jobs.
fn wait_until_begun(stage: &Stage, jobs: usize) {
    for running in &stage.running {
        let what = format!("job {jobs} of {}", running.program.name);
        wait_until(&what, || running.jobs() == jobs);
    }
}

fn left(client: &mut Client) -> i64 {
    value(client, "SELECT count(*) FROM pgmq.q_emails")
}

#[test]
fn a_connection_that_listens_is_read_while_jobs_run() {
    let _alone = alone();
    let mut stage = Stage::at_work(server_for_all(&SETTINGS));
    let mut clients = stage.clients();
    one_job_that_takes_long(&mut stage, &mut clients);
    jobs_of_one_read_that_fail(&mut stage, &mut clients);
    a_job_that_is_finished_before_the_end(&mut stage, &mut clients);
}

fn one_job_that_takes_long(stage: &mut Stage, clients: &mut [Client]) {
    send(stage, &[format!(r#"{{"seconds": {}}}"#, job().as_secs())]);
    wait_until_begun(stage, 2);
    // For this one it is woken meanwhile.
    let from: String = value(&mut clients[0], "SELECT clock_timestamp()::text");
    send(stage, &["{}".to_owned()]);
    let begun = Instant::now();
    watched(stage, "a long job", |_| clients.iter_mut().all(|client| left(client) == 0));
    assert!(begun.elapsed() + Duration::from_secs(2) > job());
    for (client, program) in clients.iter_mut().zip(PROGRAMS) {
        let longest = longest_unread(client, &from);
        println!("after a long job: {}: longest unread {longest:?}", program.name);
        assert!(longest <= Duration::from_secs(2), "{}", program.name);
    }
}

/// Nothing is archived after them, so no statement of theirs reads the connection.
fn jobs_of_one_read_that_fail(stage: &mut Stage, clients: &mut [Client]) {
    const JOBS: u32 = 8;
    // All before they can be read again.
    let seconds = (job() / JOBS).min(Duration::from_secs(3)).as_secs_f64();
    let fails = format!(r#"{{"seconds": {seconds}, "error": "as told"}}"#);
    send(stage, &vec![fails; JOBS as usize]);
    let are_done = |stage: &mut Stage| {
        stage.running.iter().all(|running| running.count("failed:") >= JOBS as usize)
    };
    watched(stage, "jobs that fail", are_done);
    clients.iter_mut().for_each(|client| run(client, "SELECT pgmq.purge_queue('emails')"));
}

fn a_job_that_is_finished_before_the_end(stage: &mut Stage, clients: &mut [Client]) {
    let jobs: Vec<_> = stage.running.iter().map(Running::jobs).collect();
    send(stage, &[format!(r#"{{"seconds": {}}}"#, job().as_secs())]);
    wait_until("the last job", || {
        stage.running.iter().zip(&jobs).all(|(running, jobs)| running.jobs() == jobs + 1)
    });
    for running in &stage.running {
        kill("TERM", running.pid());
    }
    watched(stage, "an end", |stage| {
        stage.running.retain_mut(|running| !running.has_ended());
        stage.running.is_empty()
    });
    clients.iter_mut().for_each(|client| assert_eq!(left(client), 0));
}

/// Longer notifications than a worker can take at once, and more than it should keep.
#[test]
fn what_is_notified_while_a_job_runs_takes_no_memory() {
    const NOTIFICATIONS: u32 = 10_000;
    const BYTES: u32 = 7_900;
    /// In kB: half of them.
    const ALLOWED: u64 = (NOTIFICATIONS / 1000 * BYTES / 2) as u64;
    let _alone = alone();
    let stage = Stage::at_work(server_for_all(&SETTINGS[..1]));
    let mut clients = stage.clients();
    let before: Vec<_> = stage.running.iter().map(|running| running.memory("VmRSS")).collect();
    send(&stage, &[r#"{"seconds": 10}"#.to_owned()]);
    wait_until_begun(&stage, 2);
    for client in &mut clients {
        // Of one transaction, so each is another text.
        run(
            client,
            &format!(
                r#"SELECT pg_notify('{CHANNEL}', rpad('{{"queues":{{"others":{{"count":' || n || '}}}}}}', {BYTES}))
                     FROM generate_series(1, {NOTIFICATIONS}) n"#
            ),
        );
    }
    let mut grown = BTreeMap::new();
    for ((running, client), before) in stage.running.iter().zip(&mut clients).zip(before) {
        wait_until_idle(client, running.program);
        grown.insert(running.program.name, running.memory("VmHWM") - before);
        println!(
            "{}: {before} kB, and at most {} kB more",
            running.program.name, grown[running.program.name]
        );
    }
    assert!(grown.values().all(|it| *it < ALLOWED), "more than {ALLOWED} kB: {grown:?}");
}
