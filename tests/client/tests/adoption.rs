//! AIMQ on Supabase comes over: `sql/migrations/aimq_on_supabase.sql`. There is no Supabase here: what
//! it and AIMQ bring along are stand-ins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aimq_client_tests::supabase::{attach, supabase};
use aimq_client_tests::*;
use postgres::Client;
use serde_json::{Value, json};

fn migration() -> String {
    let file = root().join("sql/migrations/aimq_on_supabase.sql");
    std::fs::read_to_string(file).expect("the migration")
}

/// The triggers of AIMQ's that there still are.
fn old_triggers(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT tgname::text FROM pg_trigger
          WHERE tgfoid = 'aimq.pgmq_notify_job_enqueued()'::regprocedure AND tgparentid = 0 ORDER BY 1",
    )
}

fn ask(client: &mut Client, call: &str) -> Value {
    let text: String = value(client, &format!("SELECT pgmq_public.{call}::text"));
    serde_json::from_str(&text).expect("JSON")
}

fn realtime(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT concat_ws(' ', queue, channel, event, sink, events[2:], ids) FROM aimq.queues WHERE realtime ORDER BY queue",
    )
}

/// What was broadcast of a queue, once it is as much.
fn wait_for_broadcasts(client: &mut Client, queue: &str, count: i64) {
    let sql = format!(
        "SELECT coalesce(sum(coalesce((payload ->> 'count')::bigint, 1)), 0)::bigint FROM realtime.said WHERE payload ->> 'queue' = '{queue}'"
    );
    wait_until("the broadcasts", || value::<i64>(client, &sql) >= count);
}

#[test]
fn it_applies_twice_and_the_functions_answer() {
    let (_database, mut client) = supabase();
    for _ in 0..2 {
        run(&mut client, &migration());
    }
    assert_eq!(
        ask(&mut client, "create_queue('a')"),
        json!({"success": true, "queue_name": "a", "realtime_enabled": true, "channel": "aimq:jobs", "event": "job_enqueued"})
    );
    assert_eq!(
        ask(&mut client, "create_queue(queue_name => 'Plain', with_realtime => false)"),
        json!({"success": true, "queue_name": "Plain", "realtime_enabled": false, "channel": "aimq:jobs", "event": "job_enqueued"})
    );
    assert_eq!(
        ask(&mut client, "create_queue('b', channel_name => 'x', event_name => 'y')"),
        json!({"success": true, "queue_name": "b", "realtime_enabled": true, "channel": "x", "event": "y"})
    );
    assert_eq!(
        realtime(&mut client),
        ["a aimq:jobs job_enqueued supabase {} f", "b x y supabase {} f"]
    );
}

#[test]
fn each_function_answers_failures_as_json() {
    let (_database, mut client) = supabase();
    run(&mut client, &migration());
    for call in ["enable_queue_realtime('gone')", "disable_queue_realtime('gone')"] {
        let expected = json!({"success": false, "error": "queue \"gone\" does not exist"});
        assert_eq!(ask(&mut client, call), expected);
    }
    let long = "x".repeat(48);
    let answer = ask(&mut client, &format!("create_queue('{long}')"));
    assert_eq!(answer["success"], json!(false), "{answer}");
    // What fails halfway leaves no queue.
    let answer = ask(&mut client, &format!("create_queue('half', channel_name => '{long}{long}')"));
    assert_eq!(answer, json!({"success": false, "error": "channel is too long"}));
    assert_eq!(ask(&mut client, "list_queues()"), json!({"success": true, "queues": []}));
}

#[test]
fn queues_are_listed_enabled_and_disabled_in_any_spelling() {
    let (_database, mut client) = supabase();
    run(&mut client, &migration());
    ask(&mut client, "create_queue('Emails', with_realtime => false)");
    run(&mut client, "SELECT pgmq.send('emails', '{}'), pgmq.send('emails', '{}')");
    let mut listed = ask(&mut client, "list_queues()");
    let queue = listed["queues"][0].as_object_mut().expect("a queue");
    assert!(queue.remove("scrape_time").is_some_and(|time| time.is_string()));
    for age in ["newest_msg_age_sec", "oldest_msg_age_sec"] {
        assert!(queue.remove(age).is_some_and(|age| age.is_number()));
    }
    let expected = json!({"queue_name": "Emails", "realtime_enabled": false, "queue_length": 2, "total_messages": 2});
    assert_eq!(listed, json!({"success": true, "queues": [expected]}));

    let answer = ask(&mut client, "enable_queue_realtime('EMAILS', event_name => 'mail')");
    let expected = json!({"success": true, "queue_name": "EMAILS", "realtime_enabled": true, "channel": "aimq:jobs", "event": "mail"});
    assert_eq!(answer, expected);
    assert_eq!(ask(&mut client, "list_queues()")["queues"][0]["realtime_enabled"], json!(true));
    // Created again, it stays what it is.
    let answer = ask(&mut client, "create_queue('Emails', with_realtime => false)");
    assert_eq!(answer["realtime_enabled"], json!(true));
    for said in ["is not realtime any more", "was not realtime"] {
        let answer = ask(&mut client, "disable_queue_realtime('emails')");
        let expected = json!({"success": true, "queue_name": "emails", "message": format!("queue emails {said}")});
        assert_eq!(answer, expected);
    }
    // A table that has gone hides no other queue.
    run(&mut client, "SELECT pgmq.create('b'); DROP TABLE pgmq.q_emails");
    let listed = ask(&mut client, "list_queues()");
    assert_eq!(listed["queues"].as_array().map(Vec::len), Some(1), "{listed}");
    let answer = ask(&mut client, "enable_queue_realtime('emails')");
    assert_eq!(answer, json!({"success": false, "error": "queue \"Emails\" has no table"}));
}

#[test]
fn queues_of_aimqs_triggers_are_carried_over_with_their_channel_and_event() {
    let (_database, mut client) = supabase();
    run(&mut client, "SELECT pgmq.create(name) FROM unnest('{a,b,c,plain,off}'::text[]) name");
    attach(&mut client, "a", "aimq_notify_a", "worker-wakeup", "job_enqueued");
    attach(&mut client, "b", "aimq_notify_b", "it''s", "é");
    attach(&mut client, "off", "aimq_notify_off", "aimq:jobs", "job_enqueued");
    run(&mut client, "ALTER TABLE pgmq.q_off DISABLE TRIGGER aimq_notify_off");
    // Somebody's own table, which is no queue.
    run(&mut client, "CREATE TABLE pgmq.q_other (msg_id bigint)");
    attach(&mut client, "other", "aimq_notify_other", "x", "y");
    for _ in 0..2 {
        run(&mut client, &migration());
        assert_eq!(
            realtime(&mut client),
            ["a worker-wakeup job_enqueued supabase {} f", "b it's é supabase {} f"]
        );
        assert_eq!(old_triggers(&mut client), ["aimq_notify_off", "aimq_notify_other"]);
    }
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    wait_for_broadcasts(&mut client, "b", 1);
    // A notifier that starts may say more than once what it finds.
    let said = "SELECT DISTINCT concat_ws(' ', payload ->> 'queue', event, topic, private) FROM realtime.said";
    assert_eq!(names(&mut client, said), ["b é it's f"]);
}

#[test]
fn nobody_who_listens_becomes_deaf() {
    let (database, mut client) = supabase();
    run(&mut client, "SELECT pgmq.create(name) FROM unnest('{a,b}'::text[]) name");
    // Two workers' channels on one queue: it can have only one channel of aimq.
    attach(&mut client, "a", "aaa", "other", "e");
    attach(&mut client, "a", "aimq_notify_a", "aimq:jobs", "e");
    attach(&mut client, "a", "twice", "aimq:jobs", "e");
    // One that is realtime already, for workers that LISTEN and want more.
    attach(&mut client, "b", "aimq_notify_b", "aimq:jobs", "job_enqueued");
    run(
        &mut client,
        "CREATE EXTENSION aimq; SELECT aimq.enable_realtime('b', ids => true, events => '{job_enqueued,job_deleted}')",
    );
    let (mut session, heard) = database.connect_hearing();
    for _ in 0..2 {
        run(&mut session, &migration());
        let warnings = heard.warnings();
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert_eq!(
            warning.message(),
            "trigger aaa of pgmq.q_a stays: queue a is realtime on channel aimq:jobs, event e"
        );
        let hint =
            "When nobody listens on channel other, event e any more: DROP TRIGGER aaa ON pgmq.q_a";
        assert_eq!(warning.hint(), Some(hint));
        assert_eq!(old_triggers(&mut client), ["aaa"]);
        assert_eq!(
            realtime(&mut client),
            ["a aimq:jobs e supabase {} f", "b aimq:jobs job_enqueued both {job_deleted} t"]
        );
    }
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    let topics = "SELECT DISTINCT topic FROM realtime.said ORDER BY 1";
    wait_until("both", || names(&mut client, topics) == ["aimq:jobs", "other"]);
}

#[test]
fn what_works_is_not_given_up_for_what_cannot() {
    let (_database, mut client) = supabase();
    run(&mut client, "SELECT pgmq.create('a')");
    attach(&mut client, "a", "aimq_notify_a", "aimq:jobs", "job_enqueued");
    let fails = |client: &mut Client, code: &str, message: &str, hint: &str| {
        let error = failure(client, &migration());
        assert_eq!((error.code().code(), error.message()), (code, message));
        assert!(error.hint().is_some_and(|text| text.contains(hint)), "{error:?}");
        assert_eq!(old_triggers(client), ["aimq_notify_a"]);
        let extensions = "SELECT count(*) FROM pg_extension WHERE extname = 'aimq'";
        assert_eq!(value::<i64>(client, extensions), 0, "nothing changed");
    };
    // The notifier broadcasts, and it calls nothing as a superuser: neither for existing queues nor for new ones.
    run(&mut client, "ALTER TABLE pgmq.q_a OWNER TO postgres");
    let message =
        "nobody would be woken: pgmq.q_a belongs to a superuser, and nothing is broadcast as one";
    fails(&mut client, "42501", message, "ALTER TABLE pgmq.q_a OWNER TO ");
    run(&mut client, "ALTER TABLE pgmq.meta OWNER TO postgres");
    let message = "nobody would be woken: queues of pgmq_public.create_queue would belong to postgres, a superuser, and nothing is broadcast as one";
    fails(&mut client, "42501", message, "ALTER TABLE pgmq.meta OWNER TO ");
    // And it asks for the owner's privileges.
    run(
        &mut client,
        "GRANT ALL ON SCHEMA pgmq TO service_role; ALTER TABLE pgmq.meta OWNER TO service_role;
         ALTER TABLE pgmq.q_a OWNER TO service_role",
    );
    let message = "nobody would be woken: the owner of pgmq.q_a may not call realtime.send";
    fails(&mut client, "42501", message, "TO service_role; and apply this again.");
    run(&mut client, "GRANT USAGE ON SCHEMA realtime TO service_role");
    const SEND: &str = "ALTER FUNCTION realtime.send(jsonb, text, text, boolean)";
    run(&mut client, &format!("{SEND} OWNER TO service_role"));
    let message = "nobody would be woken: realtime.send belongs neither to a superuser nor to the owner of the database";
    fails(&mut client, "42501", message, "Find out who owns it");
    run(&mut client, &format!("{SEND} OWNER TO CURRENT_USER"));
    run(&mut client, &migration());
    assert_eq!(old_triggers(&mut client), [""; 0]);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_for_broadcasts(&mut client, "a", 1);
}

fn sent(client: &mut Client, queue: &str) -> i64 {
    value(client, &format!("SELECT count(*) FROM pgmq.q_{queue}"))
}

/// Producers enqueue all the time. Each message meets the old trigger or the new one: never none, and never both.
#[test]
fn no_message_is_missed_and_no_enqueue_fails_while_it_runs() {
    let (database, mut client) = supabase();
    for queue in ["a", "b"] {
        run(&mut client, &format!("SELECT pgmq.create('{queue}')"));
        attach(&mut client, queue, &format!("aimq_notify_{queue}"), "aimq:jobs", "job_enqueued");
        probe_triggers(&mut client, queue, &format!("aimq_notify_{queue}"));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = ["a", "b", "a"]
        .into_iter()
        .map(|queue| {
            let (mut producer, is_over) = (database.connect(), Arc::clone(&is_over));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    run(&mut producer, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
                }
            })
        })
        .collect();
    let sent_to = |client: &mut Client| ["a", "b"].map(|queue| sent(client, queue));
    wait_until("producers to be at it", || sent_to(&mut client).iter().all(|sent| *sent > 20));
    run(&mut client, &migration());
    let before = sent_to(&mut client);
    wait_until("as many afterwards", || {
        sent_to(&mut client).iter().zip(before).all(|(sent, before)| *sent > before + 20)
    });
    is_over.store(true, Ordering::Relaxed);
    producers.into_iter().for_each(|producer| producer.join().expect("no enqueue fails"));

    wait_until_settled(&mut client, 2);
    for queue in ["a", "b"] {
        let old = format!("{{aimq_notify_{queue}}}");
        assert_eq!(probed_triggers(&mut client, queue), [&old, "{aimq_realtime}"]);
        // Each of the old ones is a broadcast, and of the new ones the last is heard of. The old ones have no count.
        let by_old = format!(
            "SELECT (SELECT count(*) FROM met_{queue} WHERE had = '{old}') = (SELECT count(*) FROM realtime.said
              WHERE payload ->> 'queue' = '{queue}' AND NOT payload ? 'count')"
        );
        assert!(boolean(&mut client, &by_old));
        let last = format!(
            "SELECT EXISTS (SELECT FROM realtime.said WHERE payload ->> 'queue' = '{queue}'
                AND (payload ->> 'job_id')::bigint = (SELECT max(msg_id) FROM met_{queue}))"
        );
        run(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
        wait_until("the last to be broadcast", || boolean(&mut client, &last));
    }
}

/// It waits for its lock without holding another on the table, which would be a deadlock here.
#[test]
fn whoever_has_looked_at_a_queue_may_still_enqueue_while_it_waits() {
    let (database, mut client) = supabase();
    run(&mut client, "SELECT pgmq.create('a')");
    attach(&mut client, "a", "aimq_notify_a", "aimq:jobs", "job_enqueued");
    let mut worker = database.connect();
    run(&mut worker, "BEGIN; SELECT count(*) FROM pgmq.q_a");
    let waiting = pid(&mut client);
    let thread = std::thread::spawn(move || {
        run(&mut client, &migration());
        old_triggers(&mut client)
    });
    wait_until_blocked(&database, waiting);
    run(&mut worker, "SELECT pgmq.send('a', '{}'); COMMIT");
    assert_eq!(thread.join().expect("it applies"), [""; 0]);
    let said = "SELECT count(*) FROM realtime.said WHERE NOT payload ? 'count'";
    assert_eq!(value::<i64>(&mut worker, said), 1, "by the old trigger");
}

/// What a role may call.
fn allowed(client: &mut Client, role: &str) -> Vec<String> {
    names(
        client,
        &format!(
            "SELECT proname::text FROM pg_proc WHERE pronamespace = 'pgmq_public'::regnamespace
                AND has_function_privilege('{role}', oid, 'EXECUTE') ORDER BY 1"
        ),
    )
}

#[test]
fn queues_are_managed_by_servers_unless_somebody_wants_otherwise() {
    const ALL: [&str; 4] =
        ["create_queue", "disable_queue_realtime", "enable_queue_realtime", "list_queues"];
    let (database, mut client) = supabase();
    run(&mut client, &migration());
    for role in ["anon", "authenticated"] {
        assert_eq!(allowed(&mut client, role), [""; 0]);
        run(&mut client, &format!("SET ROLE {role}"));
        let error = failure(&mut client, "SELECT pgmq_public.create_queue('x')");
        assert_eq!(error.code().code(), "42501");
        run(&mut client, "RESET ROLE");
    }
    // It owns nothing, and may still: the functions run as the owner of pgmq's tables.
    run(&mut client, "SET ROLE service_role");
    for call in [
        "create_queue('x')",
        "enable_queue_realtime('x', 'y')",
        "disable_queue_realtime('x')",
        "list_queues()",
    ] {
        assert_eq!(ask(&mut client, call)["success"], json!(true), "{call}");
    }
    let others = ["authenticated", "anon", &database.role("dashboard")];
    run(&mut client, &format!("RESET ROLE; SET aimq_migration.grant_to = '{}'", others.join(", ")));
    run(&mut client, &migration());
    for role in others {
        assert_eq!(allowed(&mut client, role), ALL);
    }
    run(&mut client, "RESET aimq_migration.grant_to");
    run(&mut client, &migration());
    for role in others {
        assert_eq!(allowed(&mut client, role), [""; 0]);
    }
    assert_eq!(allowed(&mut client, "service_role"), ALL);
}

#[test]
fn the_functions_run_as_the_owner_of_pgmqs_tables_and_fall_for_no_path() {
    let (database, mut client) = supabase();
    let owner = database.role("other");
    run(
        &mut client,
        &format!("ALTER TABLE pgmq.meta OWNER TO {owner}; GRANT ALL ON SCHEMA pgmq TO {owner}"),
    );
    // Nor does the file itself; and it leaves the path as it was.
    run(&mut client, "SELECT pgmq.create('b')");
    attach(&mut client, "b", "aimq_notify_b", "aimq:jobs", "job_enqueued");
    run(
        &mut client,
        &format!(
            "ALTER TABLE pgmq.q_b OWNER TO {owner}; GRANT USAGE ON SCHEMA realtime TO {owner};
             CREATE FUNCTION public.substr(name, integer) RETURNS text LANGUAGE plpgsql AS
             'BEGIN RAISE EXCEPTION ''somebody else''''s function''; END'"
        ),
    );
    run(&mut client, &format!("{}; CREATE TABLE here ()", migration()));
    assert!(boolean(&mut client, "SELECT to_regclass('public.here') IS NOT NULL"));
    run(
        &mut client,
        "CREATE SCHEMA evil; CREATE FUNCTION evil.jsonb_build_object(VARIADIC \"any\") RETURNS jsonb LANGUAGE internal AS 'jsonb_build_array';
         GRANT USAGE ON SCHEMA evil TO service_role; SET search_path = evil, pg_catalog; SET ROLE service_role",
    );
    let answer = ask(&mut client, "create_queue('a', with_realtime => false)");
    assert_eq!(answer["success"], json!(true), "{answer}");
    let owns =
        format!("SELECT pg_get_userbyid(relowner) = '{owner}' FROM pg_class WHERE relname = 'q_a'");
    assert!(boolean(&mut client, &owns));
    run(&mut client, "RESET ROLE");
}

/// As on Supabase: a superuser creates the extension, and the owner of the queues applies the rest.
#[test]
fn the_owner_of_the_queues_may_apply_it_once_the_extension_is_there() {
    let (database, mut client) = supabase();
    let owner = database.role("other");
    run(&mut client, "CREATE EXTENSION aimq; SELECT pgmq.create('a')");
    attach(&mut client, "a", "aimq_notify_a", "aimq:jobs", "job_enqueued");
    run(
        &mut client,
        &format!(
            "GRANT CREATE ON DATABASE {} TO {owner}; GRANT ALL ON SCHEMA pgmq, realtime TO {owner};
             ALTER SCHEMA pgmq_public OWNER TO {owner}; ALTER FUNCTION pgmq_public.create_queue OWNER TO {owner};
             ALTER TABLE pgmq.meta OWNER TO {owner}; ALTER TABLE pgmq.q_a OWNER TO {owner}",
            database.name
        ),
    );
    let mut user = database.connect_as(&owner);
    for _ in 0..2 {
        run(&mut user, &migration());
        assert_eq!(old_triggers(&mut client), [""; 0]);
    }
    run(&mut client, "SET ROLE service_role");
    assert_eq!(ask(&mut client, "create_queue('b')")["success"], json!(true));
    run(&mut client, "RESET ROLE; SELECT pgmq.send('a', '{}'), pgmq.send('b', '{}')");
    for queue in ["a", "b"] {
        wait_for_broadcasts(&mut client, queue, 1);
    }
}

/// A Postgres without any of Supabase's roles and schemas.
#[test]
fn it_applies_where_supabase_never_was() {
    use aimq_client_tests::servers::*;
    let _alone = alone();
    let cluster = bare(&["shared_preload_libraries=aimq"]);
    let mut client = connect(&cluster);
    run(&mut client, &migration());
    run(&mut client, &migration());
    assert_eq!(ask(&mut client, "create_queue('a')")["success"], json!(true));
    assert_eq!(realtime(&mut client), ["a aimq:jobs job_enqueued supabase {} f"]);
}

/// What Supabase brings for messages, and which roles it lets use pgmq.
const WRAPPERS: &str = "
    -- stand-ins for Supabase's functions
    CREATE FUNCTION pgmq_public.send(queue_name text, message jsonb, sleep_seconds integer DEFAULT 0) RETURNS SETOF bigint
        LANGUAGE sql AS 'SELECT pgmq.send($1, $2, $3)';
    CREATE FUNCTION pgmq_public.send_batch(queue_name text, messages jsonb[], sleep_seconds integer DEFAULT 0) RETURNS SETOF bigint
        LANGUAGE sql AS 'SELECT pgmq.send_batch($1, $2, $3)';
    CREATE FUNCTION pgmq_public.read(queue_name text, sleep_seconds integer, n integer) RETURNS SETOF pgmq.message_record
        LANGUAGE sql AS 'SELECT * FROM pgmq.read($1, $2, $3)';
    CREATE FUNCTION pgmq_public.pop(queue_name text) RETURNS SETOF pgmq.message_record
        LANGUAGE sql AS 'SELECT * FROM pgmq.pop($1)';
    CREATE FUNCTION pgmq_public.archive(queue_name text, message_id bigint) RETURNS boolean
        LANGUAGE sql AS 'SELECT pgmq.archive($1, $2)';
    CREATE FUNCTION pgmq_public.delete(queue_name text, message_id bigint) RETURNS boolean
        LANGUAGE sql AS 'SELECT pgmq.delete($1, $2)';
    GRANT USAGE ON SCHEMA pgmq TO service_role;
    ALTER DEFAULT PRIVILEGES FOR ROLE OWNER IN SCHEMA pgmq GRANT ALL ON TABLES TO service_role;
    ALTER DEFAULT PRIVILEGES FOR ROLE OWNER IN SCHEMA pgmq GRANT ALL ON SEQUENCES TO service_role;";

/// The provider of the package `aimq`, its HTTP call replaced by one in SQL.
#[test]
fn package_aimqs_own_provider_works() {
    let (database, mut client) = supabase();
    run(&mut client, &WRAPPERS.replace("OWNER", &format!("{}_owner", database.name)));
    run(&mut client, &migration());
    let socket = std::env::var("AIMQ_TEST_SOCKET").expect("a server");
    let output = std::process::Command::new("python3")
        .arg(root().join("tests/client/python/aimq_provider.py"))
        .env("PYTHONPATH", aimq_lab::drivers::python_packages())
        .env("DATABASE_URL", format!("host={socket} user=postgres dbname={}", database.name))
        .current_dir("/")
        .output()
        .expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Its workers heard of all that can be read.
    wait_for_broadcasts(&mut client, "jobs", 4);
}

#[test]
fn a_schema_in_the_hands_of_a_stranger_is_refused() {
    let (database, mut client) = supabase();
    let stranger = database.role("stranger");
    for (theirs, back) in [
        (
            format!("ALTER SCHEMA pgmq_public OWNER TO {stranger}"),
            "ALTER SCHEMA pgmq_public OWNER TO postgres".into(),
        ),
        (
            format!("GRANT CREATE ON SCHEMA pgmq_public TO {stranger}"),
            format!("REVOKE CREATE ON SCHEMA pgmq_public FROM {stranger}"),
        ),
        (
            "GRANT CREATE ON SCHEMA pgmq_public TO PUBLIC".into(),
            "REVOKE CREATE ON SCHEMA pgmq_public FROM PUBLIC".into(),
        ),
        (
            format!("ALTER FUNCTION pgmq_public.create_queue OWNER TO {stranger}"),
            "ALTER FUNCTION pgmq_public.create_queue OWNER TO postgres".into(),
        ),
    ] {
        run(&mut client, &theirs);
        let error = failure(&mut client, &migration());
        assert_eq!(error.code().code(), "42501", "{theirs}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("apply this again")), "{theirs}");
        run(&mut client, &back);
    }
    run(&mut client, &migration());
}
