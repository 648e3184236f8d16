//! Broadcasts by Supabase Realtime. No Supabase runs here: `realtime.send` and the table that it writes into are
//! stand-ins of the same signature, and behave as theirs do: what fails in there is caught, and a WARNING says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aimq_client_tests::supabase::ordinary_owner;
use aimq_client_tests::*;
use postgres::Client;

/// The stand-in for Supabase's schema `realtime`.
const STAND_IN: &str = "
    CREATE SCHEMA realtime;
    CREATE TABLE realtime.stand_in (
        number bigserial, at timestamptz DEFAULT clock_timestamp(), who name DEFAULT current_user,
        payload jsonb, event text, topic text, private boolean
    );
    CREATE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
    RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO realtime.stand_in (payload, event, topic, private)
        VALUES (payload, event, topic, private);
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'ErrorSendingBroadcastMessage: %', SQLERRM;
    END $$";

/// A database with the stand-in and these queues, which are broadcast. Their tables belong to an ordinary role.
fn started_sending(queues: &[&str], sink: &str) -> (Database, Client, Listener) {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, STAND_IN);
    ordinary_owner(&database, &mut client);
    for queue in queues {
        run(&mut client, &format!("SELECT aimq.create_queue('{queue}', sink => '{sink}')"));
    }
    if !queues.is_empty() {
        wait_until_settled(&mut client, queues.len());
    }
    let listener = database.listen(CHANNEL);
    (database, client, listener)
}

fn sent(client: &mut Client) -> i64 {
    value(client, "SELECT count(*) FROM realtime.stand_in")
}

/// The last broadcast of a queue, once the newest message is that one.
fn wait_for(client: &mut Client, queue: &str, id: i64) -> String {
    let last = format!(
        "SELECT coalesce((SELECT payload::text FROM realtime.stand_in
                           WHERE payload->>'queue' = '{queue}' ORDER BY number DESC LIMIT 1), '{{}}')"
    );
    let is_there = format!(
        "SELECT EXISTS (SELECT FROM realtime.stand_in WHERE payload @> '{{\"queue\": \"{queue}\", \"job_id\": {id}}}')"
    );
    wait_until("the broadcast", || boolean(client, &is_there));
    value(client, &last)
}

fn failures(client: &mut Client) -> i64 {
    value(client, "SELECT coalesce(sum(failed_broadcasts), 0)::bigint FROM aimq.stats")
}

#[test]
fn a_message_is_broadcast_as_upstream_does() {
    let (_database, mut client, mut listener) = started_sending(&["a"], "supabase");
    let owner = queue_owner(&mut client);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(wait_for(&mut client, "a", 1), r#"{"count": 1, "queue": "a", "job_id": 1}"#);
    let how = "SELECT concat_ws(' ', who, event, topic, private) FROM realtime.stand_in";
    assert_eq!(value::<String>(&mut client, how), format!("{owner} job_enqueued aimq:jobs f"));
    wait_until("it to be counted", || {
        value::<String>(
            &mut client,
            "SELECT concat_ws(' ', broadcasts, failed_broadcasts, notifications) FROM aimq.stats",
        ) == "1 0 0"
    });
    assert!(listener.raw().is_empty(), "nothing is notified");
    // A delayed one when it can be read, and what a transaction that notifies itself enqueues.
    run(&mut client, "SELECT pgmq.send('a', '{}', clock_timestamp() + interval '300 ms')");
    wait_for(&mut client, "a", 2);
    let early =
        "SELECT count(*) FROM realtime.stand_in, pgmq.q_a WHERE at < vt AND job_id = msg_id";
    let early = early.replace("job_id", "(payload->>'job_id')::bigint");
    assert_eq!(value::<i64>(&mut client, &early), 0);
    run(&mut client, "SET aimq.delivery = transaction; SELECT pgmq.send('a', '{}')");
    wait_for(&mut client, "a", 3);
    assert!(listener.raw().is_empty(), "still nothing is notified");
}

/// The role that the table of queue `a` belongs to.
fn queue_owner(client: &mut Client) -> String {
    value(client, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'q_a'")
}

/// A function in SQL returns null for void, one in PL/pgSQL does not.
#[test]
fn what_it_returns_does_not_matter() {
    let (_database, mut client, _listener) = started_sending(&["a"], "supabase");
    run(
        &mut client,
        "CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
         RETURNS void LANGUAGE sql AS 'INSERT INTO realtime.stand_in (payload) VALUES ($1)'",
    );
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_for(&mut client, "a", 1);
    assert_eq!(failures(&mut client), 0);
}

#[test]
fn both_are_notified_and_broadcast_with_ids_if_asked_for() {
    let (_database, mut client, mut listener) = started_sending(&[], "both");
    run(
        &mut client,
        "SELECT aimq.create_queue('a', sink => 'both', ids => true, channel => 'aimq:jobs', events => '{job_enqueued,job_archived}')",
    );
    wait_until_settled(&mut client, 2);
    run(&mut client, "SELECT pgmq.send_batch('a', '{\"{}\",\"{}\"}')");
    assert_eq!(
        wait_for(&mut client, "a", 2),
        r#"{"ids": [1, 2], "count": 2, "queue": "a", "job_id": 2}"#
    );
    let payload = listener.payloads().remove(0).queues.expect("queues");
    assert_eq!((payload["a"].count, payload["a"].ids.as_slice()), (2, &[1, 2][..]));
    run(&mut client, "SELECT pgmq.archive('a', 1)");
    wait_until("the event to be broadcast", || {
        boolean(
            &mut client,
            "SELECT EXISTS (SELECT FROM realtime.stand_in WHERE event = 'job_archived' AND payload @> '{\"ids\": [1]}')",
        )
    });
}

/// A call for each queue and interval, not for each message; and the newest message is named.
#[test]
fn a_burst_is_few_broadcasts() {
    const MESSAGES: i64 = 10_000;
    let queues = ["a", "b", "c"];
    let (database, mut client, _listener) = started_sending(&queues, "supabase");
    let begun = Instant::now();
    let left = Arc::new(AtomicU32::new(MESSAGES as u32));
    let producers: Vec<_> = (0..4)
        .map(|_| {
            let (mut session, left) = (database.connect(), left.clone());
            std::thread::spawn(move || {
                let take = |left: u32| left.checked_sub(1);
                while let Ok(at) = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
                    let queue = queues[at as usize % 3];
                    run(&mut session, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
                }
            })
        })
        .collect();
    producers.into_iter().for_each(|producer| producer.join().expect("a producer"));
    for queue in queues {
        let newest: i64 = value(&mut client, &format!("SELECT max(msg_id) FROM pgmq.q_{queue}"));
        wait_for(&mut client, queue, newest);
    }
    let took = begun.elapsed();
    // The newest may be told of with an earlier mark than its own.
    let told = "SELECT sum((payload->>'count')::bigint)::bigint FROM realtime.stand_in";
    wait_until("all to be counted", || value::<i64>(&mut client, told) >= MESSAGES);
    let calls = sent(&mut client);
    let most = 3.0 * (took.as_secs_f64() / 0.01 + 2.0);
    println!("{calls} calls for {MESSAGES} messages in {took:?}; at most {most:.0}");
    assert!((calls as f64) <= most && calls < MESSAGES / 4, "{calls} calls in {took:?}");
}

/// However it is broken: producers go on, LISTEN is served at once, failures are counted, and when it is mended the
/// news arrive.
fn broken(how: &str, mend: &str, code: &str) {
    let (database, mut client, mut listener) = started_sending(&["a", "b"], "both");
    run(&mut client, how);
    let stop = Arc::new(AtomicBool::new(false));
    let producer = {
        let (mut session, stop) = (database.connect(), stop.clone());
        std::thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !stop.load(Ordering::SeqCst) {
                let begun = Instant::now();
                run(&mut session, "SELECT pgmq.send('a', '{}'), pgmq.send('b', '{}')");
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        })
    };
    wait_until("failures", || failures(&mut client) >= 3);
    // Notifications go on meanwhile: a queue that is not broadcast is announced as ever.
    run(&mut client, "SELECT aimq.create_queue('plain', channel => 'plain')");
    let mut plain = database.listen("plain");
    let mut latencies: Vec<_> = (0..21)
        .map(|_| {
            let begun = Instant::now();
            run(&mut client, "SELECT pgmq.send('plain', '{}')");
            plain.wait_for_count("plain", 1);
            begun.elapsed()
        })
        .collect();
    latencies.sort_unstable();
    println!("{how}: woken after {:?}, at most {:?}", latencies[10], latencies[20]);
    assert!(latencies[10] < Duration::from_millis(100), "{how}: {latencies:?}");
    listener.wait_for_count("a", 20);
    assert_eq!(sent(&mut database.connect()), 0, "{how}");
    assert_eq!(
        value::<String>(
            &mut client,
            "SELECT last_error FROM aimq.notifiers WHERE database = current_database()"
        ),
        code,
        "{how}"
    );
    run(&mut client, mend);
    stop.store(true, Ordering::SeqCst);
    let slowest = producer.join().expect("a producer");
    println!("{how}: the slowest enqueue took {slowest:?}");
    for queue in ["a", "b"] {
        let newest: i64 = value(&mut client, &format!("SELECT max(msg_id) FROM pgmq.q_{queue}"));
        wait_for(&mut client, queue, newest);
    }
}

#[test]
fn one_that_is_missing_harms_nobody() {
    broken(
        "ALTER FUNCTION realtime.send(jsonb, text, text, boolean) RENAME TO hidden",
        "ALTER FUNCTION realtime.hidden(jsonb, text, text, boolean) RENAME TO send",
        "42883",
    );
}

#[test]
fn one_that_swallows_its_errors_harms_nobody() {
    broken(
        "ALTER TABLE realtime.stand_in ADD CONSTRAINT broken CHECK (false)",
        "ALTER TABLE realtime.stand_in DROP CONSTRAINT broken",
        "38000",
    );
}

#[test]
fn one_that_raises_harms_nobody() {
    broken(
        "CREATE SCHEMA kept; ALTER FUNCTION realtime.send(jsonb, text, text, boolean) SET SCHEMA kept;
         CREATE FUNCTION realtime.send(jsonb, text, text, boolean) RETURNS void LANGUAGE sql AS 'SELECT 1/0'",
        "DROP FUNCTION realtime.send(jsonb, text, text, boolean);
         ALTER FUNCTION kept.send(jsonb, text, text, boolean) SET SCHEMA realtime",
        "22012",
    );
}

#[test]
fn one_that_is_slow_harms_nobody() {
    broken(
        "CREATE SCHEMA kept; ALTER FUNCTION realtime.send(jsonb, text, text, boolean) SET SCHEMA kept;
         CREATE FUNCTION realtime.send(jsonb, text, text, boolean) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(60)'",
        "DROP FUNCTION realtime.send(jsonb, text, text, boolean);
         ALTER FUNCTION kept.send(jsonb, text, text, boolean) SET SCHEMA realtime",
        "57014",
    );
}

#[test]
fn one_that_the_owner_may_not_call_is_not_called() {
    let (_database, mut client, _listener) = started_sending(&["a"], "supabase");
    let owner = queue_owner(&mut client);
    run(&mut client, "REVOKE EXECUTE ON FUNCTION realtime.send FROM PUBLIC");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_until("a failure", || failures(&mut client) > 0);
    assert_eq!(sent(&mut client), 0);
    assert_eq!(last_error(&mut client), "42501");
    run(&mut client, &format!("GRANT EXECUTE ON FUNCTION realtime.send TO {owner}"));
    wait_for(&mut client, "a", 1);
}

/// A role that may create a schema may create such a function. It could then choose what runs as another role.
#[test]
fn a_strangers_function_is_not_called() {
    let (_database, mut client, _listener) = started_sending(&["a"], "supabase");
    let stranger: String = value(&mut client, "SELECT current_database() || '_stranger'");
    run(
        &mut client,
        &format!("CREATE ROLE {stranger}; GRANT CREATE ON SCHEMA realtime TO {stranger}"),
    );
    run(&mut client, &format!("ALTER FUNCTION realtime.send OWNER TO {stranger}"));
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_until("a failure", || failures(&mut client) > 0);
    assert_eq!((sent(&mut client), last_error(&mut client).as_str()), (0, "42501"));
    assert!(boolean(&mut client, "SELECT bool_or(problem ~ 'belongs neither') FROM aimq.doctor()"));
    run(&mut client, "ALTER FUNCTION realtime.send OWNER TO postgres");
    wait_for(&mut client, "a", 1);
}

/// It takes no notice of a cancel: the notifier ends with it, and the next one leaves it alone for a while.
#[test]
fn one_that_never_ends_harms_nobody_for_long() {
    let (_database, mut client, mut listener) = started_sending(&["a"], "both");
    run(
        &mut client,
        "CREATE OR REPLACE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
         RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             LOOP
                 BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
             END LOOP;
         END $$",
    );
    let starts = "SELECT starts FROM aimq.notifiers WHERE database = current_database()";
    let before: i64 = value(&mut client, starts);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    wait_until("another notifier", || value::<i64>(&mut client, starts) > before);
    wait_until_running(&mut client);
    // It announces what there is, and then goes on as ever.
    for _ in 0..3 {
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        listener.wait_for_count("a", 1);
    }
    assert_eq!(value::<i64>(&mut client, starts), before + 1);
}

#[test]
fn what_it_takes_and_sets_does_not_stay() {
    let (_database, mut client, _listener) = started_sending(&["a"], "supabase");
    run(
        &mut client,
        "CREATE FUNCTION realtime.hold() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN PERFORM pg_advisory_lock(7), set_config(''lock_timeout'', ''1'', false); RETURN NEW; END';
         CREATE TRIGGER hold BEFORE INSERT ON realtime.stand_in FOR EACH ROW EXECUTE FUNCTION realtime.hold()",
    );
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_for(&mut client, "a", 1);
    run(&mut client, "SET lock_timeout = '10 s'; SELECT pg_advisory_lock(7)");
}

fn last_error(client: &mut Client) -> String {
    value(client, "SELECT last_error FROM aimq.notifiers WHERE database = current_database()")
}

/// A lock on the table that Supabase's function writes into: a partition is made, for instance.
#[test]
fn one_that_waits_for_a_lock_harms_nobody() {
    let (database, mut client, mut listener) = started_sending(&["a"], "both");
    let mut locker = database.connect();
    run(&mut locker, "BEGIN; LOCK TABLE realtime.stand_in");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    wait_until("a failure", || failures(&mut client) > 0);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    run(&mut locker, "COMMIT");
    wait_for(&mut client, "a", 2);
}

#[test]
fn a_notifier_that_ends_loses_no_broadcast() {
    let (_database, mut client, _listener) = started_sending(&["a"], "supabase");
    run(&mut client, "ALTER TABLE realtime.stand_in ADD CONSTRAINT broken CHECK (false)");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_until("a failure", || failures(&mut client) > 0);
    let old = notifier_pid(&mut client);
    run(&mut client, &format!("SELECT pg_terminate_backend({old})"));
    wait_until("another notifier", || {
        value::<Option<i32>>(
            &mut client,
            "SELECT pid FROM aimq.notifiers WHERE database = current_database()",
        )
        .is_some_and(|pid| pid != old)
    });
    run(&mut client, "ALTER TABLE realtime.stand_in DROP CONSTRAINT broken");
    wait_for(&mut client, "a", 1);
}

/// A superuser's table: the function, and the triggers of the tables behind it, would run as that superuser.
/// It failed until then. Nor does the notifier stay about for it.
#[test]
fn what_waits_to_be_broadcast_goes_with_the_wish() {
    for no_more in ["SELECT aimq.enable_realtime('a')", "SELECT aimq.disable_realtime('a')"] {
        let (_database, mut client, _listener) = started_sending(&["a"], "both");
        run(&mut client, "ALTER FUNCTION realtime.send(jsonb, text, text, boolean) RENAME TO away");
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        wait_until("it to fail", || failures(&mut client) > 0);
        run(&mut client, no_more);
        run(&mut client, "SELECT aimq.disable_realtime('a')");
        wait_until("the notifier to end", || notifier_state(&mut client) == "none");
        run(&mut client, "ALTER FUNCTION realtime.away(jsonb, text, text, boolean) RENAME TO send");
        run(&mut client, "SELECT aimq.enable_realtime('a')");
        wait_until_settled(&mut client, 1);
        assert_eq!(sent(&mut client), 0, "{no_more}");
    }
}

#[test]
fn nothing_is_broadcast_as_a_superuser() {
    let (_database, mut client, _listener) = started_sending(&["a"], "supabase");
    let owner = queue_owner(&mut client);
    // Here the owner of the table behind the function has put a trigger on it.
    run(
        &mut client,
        &format!(
            "CREATE TABLE public.ran_as (who name, is_superuser text);
             GRANT ALL ON public.ran_as TO PUBLIC; ALTER TABLE realtime.stand_in OWNER TO {owner};
             CREATE FUNCTION realtime.spy() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.ran_as VALUES (current_user, current_setting(''is_superuser'')); RETURN NEW; END';
             CREATE TRIGGER spy BEFORE INSERT ON realtime.stand_in FOR EACH ROW EXECUTE FUNCTION realtime.spy();
             ALTER TABLE pgmq.q_a OWNER TO postgres"
        ),
    );
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_until("a failure", || failures(&mut client) > 0);
    assert_eq!((sent(&mut client), last_error(&mut client).as_str()), (0, "42501"));
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM public.ran_as"), 0);
    let row = "SELECT concat_ws(' ', severity, subject || ':', problem, hint) FROM aimq.doctor() WHERE problem ~ 'superuser'";
    let row: String = value(&mut client, row);
    assert!(
        row.starts_with("error a: ") && row.contains("ALTER TABLE pgmq.q_a OWNER TO "),
        "{row}"
    );
    run(&mut client, &format!("ALTER TABLE pgmq.q_a OWNER TO {owner}"));
    wait_for(&mut client, "a", 1);
    let who = "SELECT DISTINCT who::text FROM public.ran_as";
    assert_eq!(names(&mut client, who), [owner.as_str()]);
}

/// An event is told as the owner of the table that its trigger is on.
#[test]
fn nothing_is_broadcast_as_the_superuser_who_owns_the_archive() {
    let (_database, mut client, _listener) = started_sending(&[], "both");
    run(
        &mut client,
        "SELECT aimq.create_queue('it s', sink => 'both', events => '{job_enqueued,job_archived}')",
    );
    wait_until_settled(&mut client, 2);
    run(&mut client, "ALTER TABLE pgmq.\"a_it s\" OWNER TO postgres");
    run(&mut client, "SELECT pgmq.archive('it s', pgmq.send('it s', '{}'))");
    wait_until("the refusal", || {
        boolean(
            &mut client,
            "SELECT last_error IS NOT DISTINCT FROM '42501' FROM aimq.notifiers WHERE database = current_database()",
        )
    });
    let archived = "SELECT count(*) FROM realtime.stand_in WHERE event = 'job_archived'";
    assert_eq!(value::<i64>(&mut client, archived), 0);
    let row = "SELECT concat_ws(' ', severity, subject || ':', problem, hint) FROM aimq.doctor() WHERE problem ~ 'superuser'";
    let row: String = value(&mut client, row);
    assert!(row.contains("ALTER TABLE pgmq.\"a_it s\" OWNER TO "), "{row}");
    // The enqueue is told as the owner of the queue's own table. And the log says what to do.
    wait_until("the enqueue", || sent(&mut client) > 0);
    let log = std::path::PathBuf::from(std::env::var("AIMQ_TEST_SOCKET").expect("a server"));
    let log = std::fs::read(log.join("log")).expect("the server's log");
    // Databases of other encodings write into it, too.
    assert!(String::from_utf8_lossy(&log).contains("(ALTER TABLE pgmq.\"a_it s\" OWNER TO "));
}

#[test]
fn who_asks_for_broadcasts_hears_what_is_missing() {
    let database = Database::new();
    let (mut client, heard) = database.connect_hearing();
    // A superuser's table, at first.
    let asked = [
        "SELECT aimq.create_queue('a', sink => 'supabase', events => '{job_enqueued,job_archived}')",
        "SELECT aimq.enable_realtime('a', sink => 'both')",
        "SELECT aimq.enable_realtime_all(sink => 'supabase')",
    ];
    for (at, ask) in asked.into_iter().enumerate() {
        run(&mut client, ask);
        let warnings = heard.warnings();
        let [function, owner] = &warnings[..] else { panic!("{ask}: {warnings:?}") };
        assert!(function.message().contains("realtime.send"));
        assert_eq!(owner.message(), "nothing is broadcast as a superuser");
        let tables = if at == 0 { "pgmq.q_a, pgmq.a_a." } else { ": pgmq.q_a." };
        assert!(owner.detail().is_some_and(|detail| detail.ends_with(tables)), "{owner:?}");
        assert!(owner.hint().is_some_and(|hint| hint.contains("OWNER TO")), "{owner:?}");
    }
    let owner = database.role("owner");
    run(&mut client, &format!("ALTER TABLE pgmq.q_a OWNER TO {owner}"));
    run(&mut client, "SELECT aimq.enable_realtime('a', sink => 'supabase')");
    let warnings = heard.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message().contains("realtime.send"));
    // A role that may not look into the schema gets no error.
    let role = database.role("maker");
    run(
        &mut client,
        &format!(
            "CREATE SCHEMA realtime; GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT SELECT ON pgmq.meta TO {role};
             GRANT SELECT, TRIGGER ON pgmq.q_a TO {role}"
        ),
    );
    let mut maker = database.connect_as(&role);
    assert!(boolean(&mut maker, "SELECT aimq.enable_realtime('a', sink => 'both')"));
    assert!(value::<i64>(&mut maker, "SELECT count(*) FROM aimq.doctor()") > 0);
    assert_eq!(value::<String>(&mut client, "SELECT sink FROM aimq.queues"), "both");
    let event = "e".repeat(250);
    let too_long = format!("SELECT aimq.enable_realtime('a', event => '{event}', sink => 'both')");
    let error = failure(&mut client, &too_long);
    assert_eq!(error.code().code(), "54000", "{error}");
}
