//! Events tell what happened, and nothing else: ids that never existed are not told, what a transaction takes out of a
//! table and puts back is no event, and what is archived is told as archived whatever table that goes to.

use std::collections::BTreeMap;

use aimq_client_tests::*;
use aimq_core::payload::Payload;
use postgres::Client;

const ALL: &str = "events => '{job_enqueued,job_started,job_archived,job_deleted}', ids => true";

/// A queue `a` that tells everything, and a listener.
fn telling(create: &str) -> (Database, Client, Listener) {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, create);
    run(&mut client, &format!("SELECT aimq.enable_realtime('a', {ALL})"));
    wait_until_settled(&mut client, 4);
    let mut listener = database.listen(CHANNEL);
    listener.raw();
    (database, client, listener)
}

const PLAIN: &str = "SELECT pgmq.create('a')";

/// Partitions of ten messages; what has none yet goes to the default one.
const PARTITIONED: &str = "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman;
    SELECT pgmq.create_partitioned('a', '10', '1000')";

/// What was told of one event.
#[derive(Debug, Default, PartialEq)]
struct Told {
    count: u64,
    ids: Vec<i64>,
    more: bool,
}

fn told(count: u64, ids: &[i64]) -> Told {
    Told { count, ids: ids.to_vec(), more: false }
}

/// What is told of the queue `a`, by event, up to and with `event` of the message `id`.
fn until(listener: &mut Listener, event: &str, id: i64) -> BTreeMap<String, Told> {
    let mut all: BTreeMap<String, Told> = BTreeMap::new();
    loop {
        let payload: Payload = serde_json::from_str(&listener.wait_for_one()).expect("JSON");
        let mut news = payload.queues.expect("queues are named");
        let Some(news) = news.remove("a") else { continue };
        let is_last = payload.event == event && news.ids.contains(&id);
        let told = all.entry(payload.event).or_default();
        told.count += news.count;
        told.ids.extend(news.ids);
        told.more |= news.more;
        if is_last {
            all.values_mut().for_each(|told| told.ids.sort_unstable());
            return all;
        }
    }
}

/// Deletes a message, and returns what was told up to that: the notifier takes all marks at once, so what it has not
/// said by then it never says.
fn up_to_deleted(client: &mut Client, listener: &mut Listener, id: i64) -> BTreeMap<String, Told> {
    run(client, &format!("SELECT pgmq.delete('a', {id})"));
    until(listener, "job_deleted", id)
}

/// The messages of the queue, and one to delete in the end.
fn send(client: &mut Client, listener: &mut Listener, count: i64) {
    run(client, &format!("SELECT pgmq.send('a', '{{}}') FROM generate_series(1, {count})"));
    listener.wait_for_count("a", count as u64);
}

/// Every id that is told of an enqueue is that of a message. Where they can't be known, it says that there are more.
fn assert_ids_are_true(rule: &str, insert: &str) {
    let (_database, mut client, mut listener) = telling(PLAIN);
    run(&mut client, rule);
    run(&mut client, insert);
    let kept: i64 = value(&mut client, "SELECT count(*) FROM pgmq.q_a");
    let ids: Vec<i64> = value(&mut client, "SELECT array_agg(msg_id) FROM pgmq.q_a");
    let mut told = Told::default();
    while told.count < kept as u64 {
        let payload: Payload = serde_json::from_str(&listener.wait_for_one()).expect("JSON");
        let news = payload.queues.expect("queues are named").remove("a").expect("queue a");
        told.count += news.count;
        told.ids.extend(news.ids);
        told.more |= news.more;
    }
    assert!(told.ids.iter().all(|id| ids.contains(id)), "{insert}: {told:?} of {ids:?}");
    assert!(told.more || told.ids.len() == ids.len(), "{insert}: {told:?} of {ids:?}");
}

const THREE: &str = "INSERT INTO pgmq.q_a (vt, message)
    SELECT now(), jsonb_build_object('k', k) FROM unnest(ARRAY['x', 'y', 'x', 'x']) k";

#[test]
fn a_duplicate_that_is_left_out_has_no_id() {
    assert_ids_are_true(
        "CREATE UNIQUE INDEX ON pgmq.q_a ((message->>'k'))",
        &format!("{THREE} ON CONFLICT DO NOTHING"),
    );
}

#[test]
fn what_an_exclusion_leaves_out_has_no_id() {
    assert_ids_are_true(
        "ALTER TABLE pgmq.q_a ADD EXCLUDE USING btree ((message->>'k') WITH =)",
        &format!("{THREE} ON CONFLICT DO NOTHING"),
    );
}

#[test]
fn what_a_later_trigger_leaves_out_has_no_id() {
    assert_ids_are_true(
        "CREATE FUNCTION public.skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RETURN CASE WHEN NEW.message->>'k' = 'y' THEN NEW END; END $$;
         CREATE TRIGGER z BEFORE INSERT ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION public.skip()",
        THREE,
    );
}

/// An index that no message can run into leaves the ids known.
#[test]
fn ids_are_told_beside_a_plain_index() {
    let (_database, mut client, mut listener) = telling(PLAIN);
    run(&mut client, "CREATE INDEX ON pgmq.q_a ((message->>'k'))");
    run(&mut client, "SELECT pgmq.send_batch('a', '{\"{}\",\"{}\"}')");
    let all = until(&mut listener, "job_enqueued", 2);
    assert_eq!(all["job_enqueued"].ids, [1, 2]);
}

/// A trigger that keeps messages from being deleted, or marks them instead.
#[test]
fn a_message_that_a_trigger_keeps_is_not_named() {
    let (_database, mut client, mut listener) = telling(PLAIN);
    run(
        &mut client,
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER z BEFORE DELETE ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION public.keep()",
    );
    send(&mut client, &mut listener, 1);
    run(&mut client, "SELECT pgmq.delete('a', 1)");
    // A fence, of another event.
    run(&mut client, "SELECT pgmq.read('a', 60, 1)");
    let all = until(&mut listener, "job_started", 1);
    if let Some(deleted) = all.get("job_deleted") {
        assert!(deleted.ids.is_empty() && deleted.more, "{all:?}");
    }
}

fn messages_of_stats(client: &mut Client) -> i64 {
    value(client, "SELECT messages::bigint FROM aimq.stats WHERE queue = 'a'")
}

/// pg_partman moves messages in work out of the default partition: nothing happened to them.
#[test]
fn partman_what_is_moved_to_its_partition_is_not_deleted() {
    let (_database, mut client, mut listener) = telling(PARTITIONED);
    send(&mut client, &mut listener, 80);
    let strays: i64 = value(&mut client, "SELECT count(*) FROM ONLY pgmq.q_a_default");
    assert!(strays > 10, "{strays} in the default partition");
    run(&mut client, "SELECT pgmq.read('a', 600, 80)");
    let before = messages_of_stats(&mut client);
    run(&mut client, "CALL partman.partition_data_proc('pgmq.q_a', p_quiet := true)");
    assert_eq!(messages_of_stats(&mut client), before);
    let left: i64 = value(&mut client, "SELECT count(*) FROM ONLY pgmq.q_a_default");
    assert!(left < strays, "{left} of {strays} are left");
    let all = up_to_deleted(&mut client, &mut listener, 1);
    assert_eq!(all["job_deleted"], told(1, &[1]), "{all:?}");
    assert!(!all.contains_key("job_archived"), "{all:?}");
}

/// By hand, in any order, more than are named, beside others that are deleted and enqueued for good.
#[test]
fn what_is_put_back_is_not_deleted() {
    let (_database, mut client, mut listener) = telling(PLAIN);
    send(&mut client, &mut listener, 100);
    run(&mut client, "SELECT pgmq.read('a', 600, 100)");
    listener.wait_for_one();
    run(&mut client, "CREATE TABLE public.aside AS SELECT * FROM pgmq.q_a WHERE false");
    let put_back = "INSERT INTO pgmq.q_a OVERRIDING SYSTEM VALUE SELECT * FROM public.aside ORDER BY msg_id DESC";
    let take = "WITH d AS (DELETE FROM pgmq.q_a WHERE msg_id BETWEEN {} RETURNING *) INSERT INTO public.aside SELECT * FROM d";
    let take = |ids: &str| take.replace("{}", ids);
    run(&mut client, &format!("BEGIN; {}; {put_back}; COMMIT", take("10 AND 90")));
    let all = up_to_deleted(&mut client, &mut listener, 1);
    assert_eq!(all["job_deleted"], told(1, &[1]), "{all:?}");
    // Some of them for good, and one that is new.
    run(
        &mut client,
        &format!(
            "BEGIN; TRUNCATE public.aside; {};
             DELETE FROM public.aside WHERE msg_id = 12;
             SELECT pgmq.send('a', '{{}}', 600); {put_back}; COMMIT",
            take("10 AND 20")
        ),
    );
    let all = up_to_deleted(&mut client, &mut listener, 2);
    assert_eq!(all["job_deleted"], told(2, &[2, 12]), "{all:?}");
    // Put back, but not for good.
    run(
        &mut client,
        &format!(
            "BEGIN; TRUNCATE public.aside; {}; SAVEPOINT s; {put_back}; ROLLBACK TO s; COMMIT",
            take("13 AND 14")
        ),
    );
    let all = up_to_deleted(&mut client, &mut listener, 3);
    assert_eq!(all["job_deleted"].count, 3, "{all:?}");
    // More than are named, and one of them for good: which, nobody says.
    run(
        &mut client,
        &format!(
            "BEGIN; TRUNCATE public.aside; {}; DELETE FROM public.aside WHERE msg_id = 50; {put_back}; COMMIT",
            take("40 AND 90")
        ),
    );
    let all = up_to_deleted(&mut client, &mut listener, 4);
    let deleted = &all["job_deleted"];
    assert_eq!((deleted.count, &deleted.ids[..], deleted.more), (2, &[4][..], true), "{all:?}");
}

/// An UPDATE of what the partitions go by is a DELETE and an INSERT.
#[test]
fn an_update_across_partitions_is_not_a_deletion() {
    let (_database, mut client, mut listener) = telling(
        "SELECT pgmq.create('a'); DROP TABLE pgmq.q_a;
         CREATE TABLE pgmq.q_a (msg_id bigint GENERATED ALWAYS AS IDENTITY, read_ct int DEFAULT 0 NOT NULL,
             enqueued_at timestamptz DEFAULT now() NOT NULL, last_read_at timestamptz, vt timestamptz NOT NULL,
             message jsonb, headers jsonb) PARTITION BY LIST ((read_ct > 0));
         CREATE TABLE pgmq.q_a_new PARTITION OF pgmq.q_a FOR VALUES IN (false);
         CREATE TABLE pgmq.q_a_read PARTITION OF pgmq.q_a FOR VALUES IN (true)",
    );
    run(
        &mut client,
        "INSERT INTO pgmq.q_a (vt, message) SELECT now(), '{}' FROM generate_series(1, 5)",
    );
    listener.wait_for_count("a", 5);
    run(&mut client, "UPDATE pgmq.q_a SET vt = now() + interval '600 s', read_ct = read_ct + 1");
    let all = up_to_deleted(&mut client, &mut listener, 1);
    assert_eq!(all["job_deleted"], told(1, &[1]), "{all:?}");
    assert_eq!(all["job_started"].count, 5, "{all:?}");
}

/// Messages that a transaction holds while it moves them are passed by; a session that waits learns of them afterwards.
#[test]
fn what_is_put_back_can_be_read_and_is_announced() {
    let (_database, mut client, mut listener) = telling(PLAIN);
    send(&mut client, &mut listener, 3);
    run(&mut client, &moved("q_a", "q_a"));
    listener.wait_for_count("a", 1);
    run(&mut client, "SET aimq.delivery = transaction");
    run(&mut client, &moved("q_a", "q_a"));
    listener.wait_for_count("a", 3);
}

/// Moves all rows of a table of pgmq's into another, or back into the same, in one statement.
fn moved(from: &str, to: &str) -> String {
    format!(
        "WITH d AS (DELETE FROM pgmq.{from} RETURNING *)
         INSERT INTO pgmq.{to} OVERRIDING SYSTEM VALUE SELECT * FROM d"
    )
}

/// The table of archived messages is replaced; archiving stays archiving.
fn assert_archive_is_followed(create: &str, replace: &[&str]) {
    let (_database, mut client, mut listener) = telling(create);
    send(&mut client, &mut listener, 8);
    run(&mut client, "SELECT pgmq.archive('a', 1)");
    until(&mut listener, "job_archived", 1);
    for statement in replace {
        run(&mut client, statement);
    }
    run(&mut client, "SELECT pgmq.archive('a', 2)");
    let all = up_to_deleted(&mut client, &mut listener, 3);
    // That there may be more of them is a word too many, which a slot that changes hands may leave.
    let archived = &all["job_archived"];
    assert_eq!((archived.count, &archived.ids[..]), (1, &[2][..]), "{replace:?}: {all:?}");
    assert_eq!(all["job_deleted"], told(1, &[3]), "{replace:?}: {all:?}");
    // What was archived before is moved to where it belongs now.
    run(&mut client, &moved("a_a_old", "a_a"));
    let all = up_to_deleted(&mut client, &mut listener, 4);
    assert!(!all.contains_key("job_archived"), "{replace:?}: {all:?}");
    let again = format!("SELECT aimq.enable_realtime('a', {ALL})");
    assert!(!boolean(&mut client, &again), "{replace:?}: nothing is left to do");
}

#[test]
fn partman_an_archive_that_is_converted_is_followed() {
    assert_archive_is_followed(
        "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman; SELECT pgmq.create('a')",
        &["SELECT pgmq.convert_archive_partitioned('a')"],
    );
}

#[test]
fn an_archive_that_is_renamed_and_made_again_is_followed() {
    assert_archive_is_followed(
        PLAIN,
        &[
            "ALTER TABLE pgmq.a_a RENAME TO a_a_old",
            "CREATE TABLE pgmq.a_a (LIKE pgmq.a_a_old INCLUDING DEFAULTS INCLUDING IDENTITY)",
        ],
    );
}

#[test]
fn an_archive_that_is_swapped_for_a_ready_one_is_followed() {
    assert_archive_is_followed(
        PLAIN,
        &[
            "CREATE TABLE public.ready (LIKE pgmq.a_a INCLUDING DEFAULTS INCLUDING IDENTITY)",
            "BEGIN; ALTER TABLE pgmq.a_a RENAME TO a_a_old; ALTER TABLE public.ready RENAME TO a_a;
             ALTER TABLE public.a_a SET SCHEMA pgmq; COMMIT",
        ],
    );
}

/// Rows that move within the archive were archived before.
#[test]
fn what_is_moved_within_the_archive_is_not_archived() {
    let (_database, mut client, mut listener) = telling(PLAIN);
    send(&mut client, &mut listener, 6);
    run(&mut client, "SELECT pgmq.archive('a', ARRAY[1, 2, 3])");
    until(&mut listener, "job_archived", 3);
    run(&mut client, &moved("a_a", "a_a"));
    let all = up_to_deleted(&mut client, &mut listener, 4);
    assert!(!all.contains_key("job_archived"), "{all:?}");
    assert_eq!(all["job_deleted"], told(1, &[4]), "{all:?}");
}

const ONE_EACH: &str = "SELECT a.attname, a.atttypmod FROM pg_attribute a WHERE a.attrelid = 'pgmq.q_a'::regclass AND a.attname = 'vt'";

/// A trigger `UPDATE OF vt` would pin the column: a migration could not change it.
#[test]
fn columns_of_a_realtime_queue_can_be_changed() {
    let (_database, mut client, mut listener) = telling(PLAIN);
    for change in [
        "ALTER COLUMN vt TYPE timestamptz(3)",
        "ALTER COLUMN vt TYPE timestamptz USING vt + interval '0 s'",
        "ALTER COLUMN read_ct TYPE bigint",
        "ALTER COLUMN read_ct TYPE integer",
        "ALTER COLUMN message TYPE json",
        "ALTER COLUMN message TYPE jsonb",
    ] {
        run(&mut client, &format!("ALTER TABLE pgmq.q_a {change}"));
    }
    assert_eq!(client.query(ONE_EACH, &[]).expect("query").len(), 1);
    // All is told as before.
    send(&mut client, &mut listener, 2);
    run(&mut client, "SELECT pgmq.read('a', 600, 1)");
    assert_eq!(until(&mut listener, "job_started", 1)["job_started"], told(1, &[1]));
    run(&mut client, "SELECT pgmq.set_vt('a', 1, 0)");
    listener.wait_for_count("a", 1);
    run(&mut client, "SELECT pgmq.set_vt('a', 1, 1)");
    let all = up_to_deleted(&mut client, &mut listener, 2);
    assert!(!all.contains_key("job_started"), "what is moved is not started: {all:?}");
}

/// A queue that was realtime before has the triggers that pin; to enable it once more replaces them.
#[test]
fn triggers_that_pin_are_replaced() {
    let (_database, mut client, _listener) = telling(PLAIN);
    run(
        &mut client,
        "CREATE OR REPLACE TRIGGER aimq_realtime_vt BEFORE UPDATE OF vt OR DELETE ON pgmq.q_a FOR EACH STATEMENT
         EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'a', 'ids')",
    );
    let change = "ALTER TABLE pgmq.q_a ALTER COLUMN vt TYPE timestamptz(3)";
    assert_eq!(failure(&mut client, change).code().code(), "0A000");
    assert!(boolean(&mut client, &format!("SELECT aimq.enable_realtime('a', {ALL})")));
    run(&mut client, change);
}

/// A type that aimq does not know makes no enqueue fail: such a message counts as one that can be read.
#[test]
fn an_enqueue_does_not_fail_for_another_type_of_vt() {
    let (_database, mut client, mut listener) = telling(PLAIN);
    run(
        &mut client,
        "ALTER TABLE pgmq.q_a ALTER COLUMN vt TYPE timestamp USING vt AT TIME ZONE 'UTC'",
    );
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    // pgmq itself reads no such table.
    run(&mut client, "UPDATE pgmq.q_a SET vt = now() + interval '1 min', read_ct = read_ct + 1");
    assert_eq!(until(&mut listener, "job_started", 1)["job_started"], told(1, &[1]));
}
