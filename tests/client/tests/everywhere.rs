//! Every public function and view under settings that sessions and databases have: the same answer as without them, or
//! an error that says what is wrong.

use aimq_client_tests::*;
use postgres::{Client, SimpleQueryMessage};

/// `{q}` is the queue. Each of them has one answer.
const CALLS: [&str; 26] = [
    "SELECT aimq.create_queue('{q}', realtime => false)",
    "SELECT aimq.enable_realtime('{q}')",
    "SELECT aimq.enable_realtime('{q}')",
    "SELECT aimq.enable_realtime('{q}', channel => 'é \" '' c', event => 'e', events => '{job_enqueued,job_deleted}', ids => true)",
    "SELECT queue = '{q}', partitioned, unlogged, realtime, channel, event, sink, events, ids FROM aimq.queues WHERE queue = '{q}'",
    "SELECT aimq.ping('reply', channel => 'nobody')",
    "SELECT aimq.wait('{\"{q}\"}', '1 ms')",
    "SELECT count(*) FROM aimq.read('{q}', 30, 1, '1 ms')",
    "SELECT pgmq.send('{q}', '{\"a\": 1}')",
    "SELECT aimq.wait('{\"{q}\"}', '10 s') = '{\"{q}\"}'",
    "CALL aimq.wait_for('{\"{q}\",\"{q}\"}', '10 s')",
    "SELECT msg_id, read_ct, message, headers FROM aimq.read('{q}', 30, 1, '10 s')",
    "SELECT msg_id FROM pgmq.set_vt('{q}', 1, 0)",
    "DO $$ DECLARE m jsonb; BEGIN CALL aimq.read_for('{q}', 30, 1, '10 s', '{}', m); ASSERT m -> 0 ->> 'read_ct' = '2', m; END $$",
    "SELECT aimq.recheck('{q}')",
    "SELECT aimq.recheck()",
    "SELECT aimq.adopt_pgmq_notify('{q}')",
    "SELECT count(*) FROM aimq.adopt_pgmq_notify_all()",
    "SELECT count(*) FROM aimq.stats WHERE queue = '{q}'",
    "SELECT count(*) FROM aimq.notifiers WHERE database <> current_database()",
    "SELECT count(*) FROM aimq.waiters",
    "SELECT count(*) FROM aimq.doctor() WHERE subject = '{q}'",
    "SELECT aimq.disable_realtime('{q}')",
    "SELECT '{q}' IN (SELECT aimq.enable_realtime_all(channel => 'all'))",
    "SELECT '{q}' IN (SELECT aimq.disable_realtime_all())",
    "SELECT pgmq.drop_queue('{q}')",
];

/// What may be answered otherwise, and with which errors.
enum Answers {
    /// As without the setting.
    Same,
    /// The same, or one of these SQLSTATEs.
    Or(&'static [&'static str]),
}
use Answers::{Or, Same};

/// Old snapshots see no new message; the blocking calls say so.
const OLD: Answers = Or(&["25000", "25001", "2D000"]);

const SETTINGS: [(&str, Answers); 42] = [
    ("SELECT 1", Same),
    // pgmq.read falls for it.
    ("SET search_path = evil, pg_catalog", Or(&["42P01"])),
    ("SET search_path = ''", Same),
    ("SET search_path = pg_temp, aimq, pgmq", Same),
    ("SET client_min_messages = debug5", Same),
    ("SET client_min_messages = error", Same),
    ("SET row_security = off", Same),
    ("SET default_transaction_isolation = 'repeatable read'", OLD),
    ("SET default_transaction_isolation = 'serializable'", OLD),
    ("SET default_transaction_isolation = 'read uncommitted'", Same),
    ("SET default_transaction_read_only = on", Or(&["25006"])),
    ("SET default_transaction_deferrable = on", Same),
    // pgmq's own functions fail there.
    ("SET standard_conforming_strings = off", Or(&["42601"])),
    ("SET backslash_quote = off", Same),
    ("SET DateStyle = 'SQL, DMY'", Same),
    ("SET DateStyle = 'German'", Same),
    ("SET IntervalStyle = 'sql_standard'", Same),
    ("SET IntervalStyle = 'iso_8601'", Same),
    ("SET TimeZone = 'Asia/Kathmandu'", Same),
    ("SET bytea_output = 'escape'", Same),
    ("SET extra_float_digits = -15", Same),
    ("SET plan_cache_mode = force_custom_plan", Same),
    ("SET plan_cache_mode = force_generic_plan", Same),
    ("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off", Same),
    ("SET enable_seqscan = off", Same),
    ("SET jit = on; SET jit_above_cost = 0", Same),
    ("SET work_mem = '64kB'", Same),
    ("SET quote_all_identifiers = on", Same),
    ("SET array_nulls = off", Same),
    ("SET transform_null_equals = on", Same),
    ("SET session_replication_role = replica", Same),
    ("SET aimq.enabled = off", Same),
    ("SET aimq.delivery = 'transaction'", Same),
    ("SET aimq.delivery = 'notifier'", Same),
    ("SET synchronous_commit = off", Same),
    ("SET check_function_bodies = off", Same),
    ("SET from_collapse_limit = 1; SET join_collapse_limit = 1; SET geqo_threshold = 2", Same),
    (
        "SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
         SET max_parallel_workers_per_gather = 4; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0",
        Same,
    ),
    // Not the owner of all of them.
    ("SET ROLE {owner}", Or(&["42501"])),
    ("SET ROLE {nobody}", Or(&["42501"])),
    ("SET SESSION AUTHORIZATION {nobody}", Or(&["42501"])),
    ("SET plpgsql.variable_conflict = 'use_variable'; SET plpgsql.extra_errors = 'all'", Same),
];

/// Names of pg_catalog's that somebody has put before them.
const EVIL: &str = "
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
    CREATE FUNCTION evil.format(text, VARIADIC name[]) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
    CREATE FUNCTION evil.same(oid, oid) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
    CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = oid, RIGHTARG = oid);
    CREATE TABLE evil.pg_class (x int); CREATE TABLE evil.pg_trigger (x int); CREATE TABLE evil.pg_proc (x int);
    CREATE TABLE evil.meta (x int);
    GRANT USAGE ON SCHEMA evil TO PUBLIC";

/// The rows as text, or the SQLSTATE.
fn answer(client: &mut Client, sql: &str) -> Result<Vec<String>, String> {
    match client.simple_query(sql) {
        Ok(messages) => Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .map(|row| {
                (0..row.len()).map(|at| row.get(at).unwrap_or("null")).collect::<Vec<_>>().join("|")
            })
            .collect()),
        Err(error) => {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
            assert!(
                !error.message().is_empty() && !error.code().code().starts_with("XX"),
                "{sql}: {error:?}"
            );
            Err(error.code().code().to_owned())
        }
    }
}

#[test]
fn every_function_and_view_answers_under_every_setting() {
    let (database, mut client, _listener) = started(&["b"]);
    run(&mut client, EVIL);
    let (owner, nobody) = (database.role("owner"), database.role("nobody"));
    run(
        &mut client,
        &format!(
            "GRANT USAGE, CREATE ON SCHEMA pgmq TO {owner}; GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {owner};
             GRANT ALL ON ALL SEQUENCES IN SCHEMA pgmq TO {owner}"
        ),
    );
    let mut expected = Vec::new();
    let mut wrong = Vec::new();
    for (number, (setting, answers)) in SETTINGS.iter().enumerate() {
        let queue = format!("q {number}");
        let setting = setting.replace("{owner}", &owner).replace("{nobody}", &nobody);
        let mut session = database.connect();
        run(&mut session, &setting);
        let mut said = Vec::new();
        for call in CALLS {
            // What pgmq makes of a setting is its own.
            let who = if call.contains(" pgmq.") { &mut client } else { &mut session };
            let found = answer(who, &call.replace("{q}", &queue));
            let name_it = |row: String| row.replace(&queue, "{q}");
            let found = found.map(|rows| rows.into_iter().map(name_it).collect::<Vec<_>>());
            if let Err(state) = &found
                && matches!(answers, Or(states) if states.contains(&state.as_str()))
            {
                // So that the next calls have something to work with.
                let _ = client.simple_query(&call.replace("{q}", &queue));
                said.push(None);
                continue;
            }
            said.push(Some(found));
        }
        if number == 0 {
            for (call, said) in CALLS.iter().zip(&said) {
                println!("{call}: {said:?}");
                assert!(matches!(said, Some(Ok(_))), "{call}: {said:?}");
            }
            expected = said;
            continue;
        }
        for ((call, said), expected) in CALLS.iter().zip(said).zip(&expected) {
            if said.is_some() && said != *expected {
                wrong.push(format!("{setting}: {call}: {said:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A function that comes later has to be called above.
#[test]
fn every_function_and_view_is_among_the_calls() {
    let database = Database::new();
    let mut client = database.connect();
    let all = names(
        &mut client,
        "SELECT proname::text FROM pg_proc
          WHERE pronamespace = 'aimq'::regnamespace AND NOT proname ^@ '_'
            AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
         UNION
         SELECT relname::text FROM pg_class WHERE relnamespace = 'aimq'::regnamespace AND relkind = 'v'",
    );
    assert!(all.len() > 15, "{all:?}");
    for name in all {
        let is_called = |call: &&str| {
            call.contains(&format!("aimq.{name}("))
                || call.contains(&format!("aimq.{name} "))
                || call.ends_with(&format!("aimq.{name}"))
        };
        assert!(CALLS.iter().any(is_called), "{name}");
    }
}
