//! Tables that the notifier can't look at, as long as nobody repairs that: what is said of them, how often they are
//! tried again, and what that means for others.

use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::unseen::*;
use aimq_client_tests::*;
use postgres::Client;

/// The queue's table belongs to a role that has no right to the schema it is in. The owner may read it, but not find
/// it.
fn give_away(database: &Database, client: &mut Client) -> String {
    let owner = database.role("owner");
    run(client, &format!("ALTER TABLE pgmq.q_a OWNER TO {owner}"));
    owner
}

/// Something for the notifier to stumble over: an index's predicate that fails for everybody except these tests'
/// sessions, while there is a row in `stumble`. The sequence `stumbled` tells that it has.
fn lay_stumbling_block(client: &mut Client, queue: &str) {
    run(
        client,
        &format!(
            "CREATE TABLE IF NOT EXISTS public.stumble (n int);
             CREATE SEQUENCE IF NOT EXISTS public.stumbled;
             CREATE OR REPLACE FUNCTION public.stumbles() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
                 IF current_setting('application_name') <> 'aimq-client-tests' AND EXISTS (SELECT FROM public.stumble) THEN
                     PERFORM nextval('public.stumbled');
                     RAISE 'stumbled';
                 END IF;
                 RETURN true;
             END $$;
             CREATE INDEX ON pgmq.q_{queue} (msg_id) WHERE (msg_id > 0) = public.stumbles()"
        ),
    );
}

/// A message is sent, read, and finished. Because of the reading the notifier would look, if it could.
fn use_a(client: &mut Client) {
    let id: i64 = value(client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(value::<i64>(client, "SELECT msg_id FROM pgmq.read('a', 1, 1)"), id);
    run(client, &format!("SELECT pgmq.delete('a', {id}::bigint)"));
}

/// How often the queue `a` is named until one of `b` is, that can be read in `seconds`. A notification that names none
/// is for all.
fn named_within(client: &mut Client, listener: &mut Listener, seconds: u32) -> u32 {
    run(client, &format!("SELECT pgmq.send('b', '{{}}', {seconds})"));
    let deadline = Instant::now() + DEADLINE;
    let mut times = 0;
    loop {
        let heard = heard_by(listener.client(), deadline).expect("the queue b to be named");
        let names = |queue| heard.queues.as_ref().is_none_or(|named| named.contains_key(queue));
        times += u32::from(names("a"));
        if names("b") {
            return times;
        }
    }
}

/// The state of the queue `a` is unknown, for `why`. It is empty.
#[track_caller]
fn assert_seldom_woken(why: impl FnOnce(&Database, &mut Client)) {
    let (database, mut client, mut listener) = started(&["a", "b"]);
    why(&database, &mut client);
    use_a(&mut client);
    listener.wait_for_count("a", 1);
    // Each statement of the above may be a reason of its own.
    named_within(&mut client, &mut listener, 2);
    let times = named_within(&mut client, &mut listener, 14);
    assert!(times <= 2, "woken {times} times for an empty queue");
}

#[test]
fn looks_without_usage_of_the_schema_wake_seldom() {
    assert_seldom_woken(|database, client| _ = give_away(database, client));
}

/// An owner can take his own right to read.
#[test]
fn looks_without_select_wake_seldom() {
    assert_seldom_woken(|database, client| {
        let owner = give_away(database, client);
        run(client, &format!("GRANT USAGE ON SCHEMA pgmq TO {owner}"));
        run(client, &format!("REVOKE SELECT ON pgmq.q_a FROM {owner}"));
    });
}

/// What fails may be other people's code.
#[test]
fn looks_that_stumble_wake_seldom() {
    assert_seldom_woken(|_, client| {
        lay_stumbling_block(client, "a");
        run(client, "INSERT INTO public.stumble VALUES (1)");
    });
}

/// Somebody reads a message of `queue` and dies over it, just when the notifier can't look, for a moment. When its time
/// comes it is still announced. Without rests that others have earned, the notifier tries again soon.
#[track_caller]
fn assert_tried_again_soon(client: &mut Client, listener: &mut Listener, queue: &str) {
    run(client, "SET aimq.enabled = off");
    run(client, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
    run(client, "SET aimq.enabled = on");
    run(client, "INSERT INTO public.stumble VALUES (1)");
    // A process that has looked at the table before remembers what came of the predicate, until the index is made
    // again.
    run(client, &format!("REINDEX TABLE pgmq.q_{queue}"));
    let met = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.stumbled";
    let before: i64 = value(client, met);
    let read = format!("SELECT count(*) FROM pgmq.read('{queue}', 2, 1)");
    assert_eq!(value::<i64>(client, &read), 1);
    let was_read = Instant::now();
    wait_until("the notifier to stumble", || value::<i64>(client, met) > before);
    run(client, "TRUNCATE public.stumble");
    let had = worked(listener.client(), &[queue], 1, DEADLINE)[queue];
    let took = was_read.elapsed();
    assert!(had == 1 && took < Duration::from_secs(4), "{queue}: {had} messages after {took:?}");
}

/// What the notifier can't look at for long has rests that grow, and they are its own.
#[test]
fn looks_that_fail_for_ever_are_no_others_business() {
    let (database, mut client, mut listener) = started(&["a", "b", "c"]);
    lay_stumbling_block(&mut client, "c");
    give_away(&database, &mut client);
    use_a(&mut client);
    named_within(&mut client, &mut listener, 8);
    assert_tried_again_soon(&mut client, &mut listener, "c");
}

/// What was read while nobody could look is announced, and the rests are over.
#[test]
fn looks_come_back_once_the_right_is_granted() {
    let (database, mut client, mut listener) = started(&["a", "b"]);
    lay_stumbling_block(&mut client, "a");
    let owner = give_away(&database, &mut client);
    let rights =
        "ON TABLE public.stumble TO PUBLIC; GRANT UPDATE ON SEQUENCE public.stumbled TO PUBLIC";
    run(&mut client, &format!("GRANT SELECT {rights}"));
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pgmq.read('a', 10, 1)"), 1);
    named_within(&mut client, &mut listener, 8);
    run(&mut client, &format!("GRANT USAGE ON SCHEMA pgmq TO {owner}"));
    let had = worked(listener.client(), &["a"], 1, DELAY + SOON)["a"];
    assert_eq!(had, 1, "nobody heard of what was read before");
    run(&mut client, "SELECT pgmq.purge_queue('a')");
    assert_tried_again_soon(&mut client, &mut listener, "a");
}

/// A message whose time is known keeps nobody waiting for a look that rests for long.
#[test]
fn looks_that_fail_for_long_keep_no_message_waiting() {
    let (database, mut client, mut listener) = started(&["a", "b"]);
    give_away(&database, &mut client);
    use_a(&mut client);
    // The rests have grown by then.
    named_within(&mut client, &mut listener, 14);
    let blocked = block_over(
        database.connect(),
        &mut client,
        "SELECT msg_id FROM aimq.read('a', 600, 1, '60 s')",
    );
    run(&mut client, "SELECT pgmq.send('a', '{}', 2)");
    let due = Instant::now() + Duration::from_secs(2);
    listener.wait_for_count("a", 1);
    let heard = Instant::now().saturating_duration_since(due);
    let read =
        blocked.ends_by(due + Duration::from_secs(3)).map(|read| read.expect("a read").len());
    assert_eq!(read, Some(1), "not read in time");
    assert!(heard < Duration::from_secs(3), "heard {heard:?} after its time");
}

/// Which queue, which role, and what would mend it.
#[test]
fn looks_that_fail_for_ever_are_told_of_by_the_doctor() {
    let (database, mut client, _listener) = started(&["a", "b"]);
    let owner = give_away(&database, &mut client);
    use_a(&mut client);
    let told = format!(
        "SELECT EXISTS (SELECT FROM aimq.doctor()
                         WHERE subject = 'a' AND problem || hint LIKE '%{owner}%' AND hint LIKE '%GRANT USAGE%')"
    );
    let deadline = Instant::now() + SOON;
    while !boolean(&mut client, &told) {
        let all = names(&mut client, "SELECT d::text FROM aimq.doctor() d");
        assert!(Instant::now() < deadline, "it says {all:#?}");
    }
    run(&mut client, &format!("GRANT USAGE ON SCHEMA pgmq TO {owner}"));
    wait_until("all to be well", || !boolean(&mut client, &told));
}
