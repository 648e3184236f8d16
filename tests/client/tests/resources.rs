//! What runs for long takes no more memory than after a while: a session that enqueues, one that reads, and aimq's own
//! processes beside queues that come and go. What waits takes no processor.

use std::ops::Range;
use std::time::Duration;

use aimq_client_tests::programs::memory_of;
use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use postgres::Client;

/// A number that a variable may name, for figures that are taken by hand.
fn wanted(variable: &str, otherwise: i32) -> i32 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// The memory in kB that a process has for itself: what it shares with others is not counted.
fn memory(pid: i32) -> i64 {
    memory_of(pid, "RssAnon").cast_signed()
}

/// By how many kB a process may grow while the work is done that is counted. So much is the allocator's luck; a leak of
/// 16 bytes for each of 20,000 transactions is more.
const LUCK: i64 = 128;

/// In so many of the parts it may grow by more: for what is loaded when it is needed first, for instance a plan.
const LEAPS: usize = 3;

/// Does work in twenty parts, and looks at what each process has after each of them, from the fifth on.
fn stays_flat(what: &str, total: i32, processes: &[(&str, i32)], mut work: impl FnMut(Range<i32>)) {
    let part = total / 20;
    let mut after = Vec::new();
    for number in 0..20 {
        work(number * part..(number + 1) * part);
        let all: Vec<i64> = processes.iter().map(|(_, pid)| memory(*pid)).collect();
        after.push(all);
    }
    for (at, (name, _)) in processes.iter().enumerate() {
        let all: Vec<i64> = after.iter().map(|all| all[at]).collect();
        println!("{what}, {total} times: {name} has (kB) {all:?}");
        let mut steps: Vec<_> = all[4..].windows(2).map(|two| two[1] - two[0]).collect();
        steps.sort_unstable();
        let grown: i64 = steps[..steps.len() - LEAPS].iter().sum();
        assert!(grown <= LUCK, "{name} grows: {all:?} kB");
    }
}

/// Every transaction sends, changes, takes and deletes, with a savepoint that is undone and one that is not; each
/// seventh is undone as a whole.
const MAKE: &str = "
    SELECT pgmq.create('a'), pgmq.create('b');
    SELECT aimq.enable_realtime('a', events => '{job_enqueued,job_started,job_deleted}', ids => true);
    SELECT aimq.enable_realtime('b', channel => 'others');
    CREATE PROCEDURE enqueue(n integer) LANGUAGE plpgsql AS $$
    BEGIN
        FOR i IN 1 .. n LOOP
            PERFORM pgmq.send('a', '{}');
            INSERT INTO pgmq.q_b (vt, message) VALUES (now() + interval '1 day' * (i % 2), '{}');
            BEGIN
                PERFORM pgmq.send('b', '{}');
                IF i % 2 = 0 THEN RAISE 'undone'; END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
            UPDATE pgmq.q_a SET vt = now() WHERE i % 5 = 0;
            DELETE FROM pgmq.q_a; DELETE FROM pgmq.q_b;
            IF i % 7 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
        END LOOP;
    END $$";

fn enqueues_for_long(delivery: &str) {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, MAKE);
    run(&mut client, &format!("SET aimq.delivery = {delivery}; SET synchronous_commit = off"));
    let pid = pid(&mut client);
    let total = wanted("AIMQ_MEMORY_TRANSACTIONS", 20_000);
    stays_flat(&format!("transactions, {delivery}"), total, &[("the session", pid)], |part| {
        run(&mut client, &format!("CALL enqueue({})", part.len()));
        run(&mut client, "VACUUM pgmq.q_a, pgmq.q_b");
    });
}

#[test]
fn a_session_that_enqueues_for_long_takes_no_more_memory() {
    enqueues_for_long("auto");
}

#[test]
fn a_session_that_notifies_by_itself_for_long_takes_no_more_memory() {
    enqueues_for_long("transaction");
}

#[test]
fn a_session_that_reads_for_long_takes_no_more_memory() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a')");
    let pid = pid(&mut client);
    let total = wanted("AIMQ_MEMORY_TRANSACTIONS", 20_000) / 10;
    stays_flat("reads", total, &[("the session", pid)], |part| {
        for number in part {
            // Every other read waits until its time is over.
            if number % 2 == 0 {
                run(&mut client, "SELECT pgmq.send('a', '{}')");
            }
            run(
                &mut client,
                "SELECT pgmq.delete('a', msg_id) FROM aimq.read('a', 9, 1, max_wait => '1 ms')",
            );
            run(&mut client, "SELECT aimq.wait('{a}', '1 ms')");
        }
    });
}

/// aimq's own processes of a server, by kind.
fn processes(client: &mut Client) -> [(&'static str, i32); 3] {
    ["aimq launcher", "aimq notifier", "aimq watcher"].map(|kind| {
        let sql = format!("SELECT pid::text FROM pg_stat_activity WHERE backend_type = '{kind}'");
        wait_until(kind, || names(client, &sql).len() == 1);
        (kind, names(client, &sql)[0].parse().expect("a process id"))
    })
}

#[test]
fn processes_take_no_more_memory_beside_queues_that_come_and_go() {
    let (_alone, cluster) = server(&["synchronous_commit=off"]);
    let mut client = connect(&cluster);
    let processes = processes(&mut client);
    let total = wanted("AIMQ_MEMORY_QUEUES", 400);
    stays_flat("queues", total, &processes, |part| {
        for number in part {
            let queue = format!("queue_{number}");
            let more =
                if number % 2 == 0 { ", events => '{job_enqueued,job_deleted}'" } else { "" };
            run(&mut client, &format!("SELECT aimq.create_queue('{queue}'{more})"));
            run(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}', {})", number % 3));
            run(&mut client, &format!("SELECT pgmq.read('{queue}', 1, 1)"));
            run(&mut client, &format!("SELECT pgmq.drop_queue('{queue}')"));
        }
    });
}

/// The processor time that a process has had.
fn processor_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    // Behind the name, which may have anything in it: utime and stime are the 12th and the 13th, in hundredths.
    let (_, after) = stat.rsplit_once(") ").expect("a name");
    let ticks = after.split(' ').skip(11).take(2).map(|it| it.parse::<u64>().expect("ticks"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// How long they are watched. This is the time in which next to nothing may happen.
const WATCHED: Duration = Duration::from_secs(3);

#[test]
fn what_waits_takes_no_processor() {
    let (_alone, cluster) = server(&["autovacuum=off"]);
    let mut client = connect(&cluster);
    let mut all = processes(&mut client).to_vec();
    // It becomes readable later, both in a queue that everybody knows of and in one that a session waits for.
    run(&mut client, "SELECT aimq.create_queue('b')");
    run(&mut client, "SELECT pgmq.send(queue, '{}', 600) FROM unnest('{a,b}'::text[]) queue");
    run(&mut client, "SELECT pgmq.send('b', '{}', 1)");
    let mut blocked = connect(&cluster);
    all.push(("the session that blocks", pid(&mut blocked)));
    let cancel = blocked.cancel_token();
    let waits = std::thread::spawn(move || {
        // Cancelled in the end.
        blocked
            .batch_execute("SELECT aimq.read('a', 9, 1, max_wait => '60 s')")
            .expect_err("cancelled")
    });
    wait_until("a session to block", || {
        value::<i64>(&mut client, "SELECT count(*) FROM aimq.waiters") == 1
    });
    wait_until("the message of b to be readable", || {
        boolean(&mut client, "SELECT EXISTS (SELECT FROM pgmq.q_b WHERE vt <= clock_timestamp())")
    });
    let woken = "SELECT (wake_ups + watcher_wake_ups)::bigint FROM aimq.notifiers";
    let woken_before: i64 = value(&mut client, woken);
    let before: Vec<_> = all.iter().map(|(_, pid)| processor_time(*pid)).collect();
    std::thread::sleep(WATCHED);
    let woken = value::<i64>(&mut client, woken) - woken_before;
    assert!(woken < 10, "they woke up {woken} times");
    for ((name, pid), before) in all.iter().zip(before) {
        let took = processor_time(*pid) - before;
        println!("{name}: {took:?} of {WATCHED:?}");
        assert!(took < WATCHED / 60, "{name} took {took:?} of {WATCHED:?}");
    }
    cancel.cancel_query(postgres::NoTls).expect("a cancel");
    waits.join().expect("a session");
}
