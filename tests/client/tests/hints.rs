//! Faults of every kind that `aimq.doctor()` knows in a database: it names each, to a superuser and to a member of `pg_monitor`
//! alike, and what the hint says, done word for word, makes it go. Those of servers are in doctor_server.rs.

use aimq_client_tests::doctor::*;
use aimq_client_tests::supabase::ordinary_owner;
use aimq_client_tests::*;
use postgres::Client;

/// What breaks it, what is said of that, and what undoes the rest.
type Fault<'a> = (&'a str, &'a str, &'a str);

/// The rows but for those of failures, which stay for a minute.
fn rows(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT concat_ws(' ', severity, subject || ':', problem, '|', hint) FROM aimq.doctor()
          WHERE problem !~ '^[0-9]+ failures' ORDER BY 1",
    )
}

/// Injects each, has both see it, and follows the hints until nothing is said.
fn mend_each(client: &mut Client, monitor: &mut Client, faults: &[Fault<'_>]) {
    for (how, what, rest) in faults {
        run(client, how);
        wait_until(what, || rows(client).iter().any(|it| it.contains(what)));
        wait_until("both to see the same", || rows(client) == rows(monitor));
        let hint = hint_of(client, what);
        follow(client, &hint);
        wait_until(&format!("{what} to go by {hint}"), || {
            !rows(client).iter().any(|it| it.contains(what))
        });
        // What one mends may show another.
        for _ in 0..5 {
            let Some(row) = rows(client).first().cloned() else { break };
            let (_, hint) = row.split_once(" | ").expect("a hint");
            assert!(way(hint).is_some(), "after {how}: {row}");
            follow(client, hint);
        }
        wait_until(&format!("all to be well after {how}"), || rows(client).is_empty());
        assert!(rows(monitor).is_empty());
        run(client, rest);
        wait_until("all to be well", || rows(client).is_empty());
    }
}

/// A database with two queues, of which one says all that can be said, and somebody of `pg_monitor`.
fn observed() -> (Database, Client, Client) {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue('It is A', channel => 'the \"Channel', event => 'ma\\de', ids => true,
                                  events => '{job_enqueued,job_started,job_archived}');
         SELECT aimq.create_queue('b')",
    );
    wait_until_settled(&mut client, 4);
    let role = database.role("monitor");
    run(&mut client, &format!("GRANT pg_monitor TO {role}"));
    let mut monitor = database.connect_as(&role);
    assert!(rows(&mut client).is_empty(), "{:?}", rows(&mut client));
    assert!(rows(&mut monitor).is_empty(), "{:?}", rows(&mut monitor));
    (database, client, monitor)
}

const SAID: &str = "SELECT concat_ws(' ', queue, realtime, channel, event, sink, events, ids, \"table\", listed) FROM aimq.queues ORDER BY 1";

#[test]
fn what_befalls_queues_is_mended_by_the_hints() {
    let (database, mut client, mut monitor) = observed();
    let before = names(&mut client, SAID);
    let owner = database.role("owner");
    let owns =
        format!("GRANT ALL ON SCHEMA pgmq TO {owner}; ALTER TABLE pgmq.q_b OWNER TO {owner}");
    let [no_usage, no_select, bound] = [
        format!("{owns}; REVOKE USAGE ON SCHEMA pgmq FROM {owner}"),
        format!("{owns}; REVOKE SELECT ON pgmq.q_b FROM {owner}"),
        format!("{owns}; ALTER TABLE pgmq.q_b ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
    ];
    let disowned =
        "ALTER TABLE pgmq.q_b OWNER TO postgres; ALTER TABLE pgmq.q_b DISABLE ROW LEVEL SECURITY";
    mend_each(&mut client, &mut monitor, &[
        (r#"ALTER TABLE pgmq."q_it is a" DISABLE TRIGGER aimq_realtime"#, "error It is A: the trigger aimq_realtime is disabled", ""),
        (r#"ALTER TABLE pgmq."q_it is a" DISABLE TRIGGER aimq_realtime_vt"#, "error It is A: the trigger aimq_realtime_vt is disabled", ""),
        (r#"ALTER TABLE pgmq."q_it is a" DISABLE TRIGGER aimq_realtime_started"#, "error It is A: the trigger aimq_realtime_started is disabled", ""),
        (r#"ALTER TABLE pgmq."a_it is a" DISABLE TRIGGER aimq_realtime_archived"#, "error It is A: the trigger aimq_realtime_archived is disabled", ""),
        (r#"ALTER TABLE pgmq."q_it is a" DISABLE TRIGGER USER"#, "error It is A: the trigger aimq_realtime is disabled", ""),
        (r#"DROP TRIGGER aimq_realtime ON pgmq."q_it is a""#, "error It is A: the trigger aimq_realtime is missing", ""),
        (r#"DROP TRIGGER aimq_realtime_vt ON pgmq."q_it is a""#, "warning It is A: nobody is woken for messages that become readable later", ""),
        (r#"ALTER TABLE pgmq."q_it is a" RENAME TO "q Gone""#, "error It is A: the queue has no table", ""),
        (r#"CREATE SCHEMA "Other"; ALTER TABLE pgmq."q_it is a" SET SCHEMA "Other""#, "error It is A: the queue has no table", r#"DROP SCHEMA "Other""#),
        (
            r#"ALTER TABLE pgmq."q_it is a" RENAME TO q_old; SELECT pgmq.create('It is A')"#,
            r#"error It is A: nobody is woken for what is enqueued to pgmq."q_it is a": its triggers are on pgmq.q_old"#,
            "DROP TABLE pgmq.q_old",
        ),
        ("DROP INDEX pgmq.q_b_vt_idx", "warning b: the table has no index on vt", ""),
        ("DROP TABLE pgmq.q_b", "error b: the queue has no table", ""),
        (
            "SELECT aimq.create_queue('c', channel => 'D'); ALTER TABLE pgmq.q_c RENAME TO q_d; ALTER TABLE pgmq.a_c RENAME TO a_d;
             UPDATE pgmq.meta SET queue_name = 'd' WHERE queue_name = 'c'",
            "error d: its triggers name another queue, \"c\"",
            "SELECT pgmq.drop_queue('d')",
        ),
        (
            "SELECT aimq.create_queue('c', events => '{job_enqueued,job_archived}');
             ALTER TABLE pgmq.a_c RENAME TO a_old; ALTER EVENT TRIGGER aimq_archive DISABLE; SELECT pgmq.create('c');
             ALTER EVENT TRIGGER aimq_archive ENABLE",
            "warning c: its workers are woken for pgmq.a_old as well",
            "SELECT pgmq.drop_queue('c'); DROP TABLE pgmq.a_old",
        ),
        (
            "SELECT aimq.create_queue('c', channel => 'C'); DELETE FROM pgmq.meta WHERE queue_name = 'c'",
            "warning c: pgmq does not list it, and pgmq.q_c has triggers of aimq's",
            "SELECT pgmq.drop_queue('c')",
        ),
        (
            "SELECT aimq.create_queue('c'); DELETE FROM pgmq.meta WHERE queue_name = 'c'; ALTER TABLE pgmq.q_c RENAME TO old",
            "warning c: pgmq does not list it, and pgmq.old has triggers of aimq's",
            "DROP TABLE pgmq.old, pgmq.a_c",
        ),
        (
            "CREATE TABLE public.jobs (msg_id bigint, vt timestamptz);
             CREATE TRIGGER \"Mine\" BEFORE INSERT ON public.jobs FOR EACH ROW
             EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'b')",
            "warning b: nobody is woken for public.jobs: its trigger \"Mine\" is aimq's",
            "DROP TABLE public.jobs",
        ),
        ("SELECT pgmq.create('c')", "info c: it is not realtime, while others are", "SELECT pgmq.drop_queue('c')"),
        ("SELECT pgmq.enable_notify_insert('b')", "warning b: pgmq's own trigger notifies", ""),
        (
            "SELECT pgmq.create('c'); SELECT pgmq.enable_notify_insert('c')",
            "warning c: pgmq's own trigger notifies",
            "SELECT pgmq.drop_queue('c')",
        ),
        (
            "CREATE FUNCTION aimq.pgmq_notify_job_enqueued() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER aimq_notify_b AFTER INSERT ON pgmq.q_b FOR EACH ROW EXECUTE FUNCTION aimq.pgmq_notify_job_enqueued()",
            "warning b: AIMQ's former trigger aimq_notify_b broadcasts",
            "DROP FUNCTION aimq.pgmq_notify_job_enqueued()",
        ),
        (&no_usage, "has no USAGE on the schema pgmq", disowned),
        (&no_select, "has no SELECT on the table", disowned),
        (&bound, "is bound by the row security of pgmq.q_b", disowned),
        (
            "ALTER EVENT TRIGGER aimq_archive DISABLE",
            "warning aimq_archive: this event trigger is disabled",
            "ALTER EVENT TRIGGER aimq_archive ENABLE",
        ),
    ]);
    // All is told as before.
    assert_eq!(names(&mut client, SAID), before);
}

#[test]
fn settings_are_mended_by_the_hints() {
    let (database, mut client, mut monitor) = observed();
    let role = database.role("other");
    let name = &database.name;
    let of = |whom: &str, setting: &str| format!("ALTER {whom} SET {setting}");
    // A role's own would be seen in the databases of other tests.
    let there = format!("ROLE {role} IN DATABASE {name}");
    let on = format!("DATABASE {name}");
    mend_each(
        &mut client,
        &mut monitor,
        &[
            (
                &of(&on, "aimq.enabled = off"),
                "it has aimq.enabled=off: what is enqueued there wakes nobody",
                "",
            ),
            (&of(&there, "aimq.enabled = 'No'"), "it has aimq.enabled=No", ""),
            (
                &of(&there, "aimq.delivery = transaction"),
                "it has aimq.delivery=transaction: not the default",
                "",
            ),
            (
                &of(&there, "session_replication_role = replica"),
                "it has session_replication_role=replica: no trigger fires there",
                "",
            ),
            (
                &of(&on, "session_replication_role = replica"),
                "it has session_replication_role=replica: no trigger fires there",
                "",
            ),
        ],
    );
    // What is the session's own, nobody else sees.
    for setting in
        ["aimq.enabled = off", "aimq.delivery = transaction", "session_replication_role = replica"]
    {
        run(&mut client, &format!("SET {setting}"));
        let hint = hint_of(&mut client, "warning this session: it has ");
        assert!(!follow(&mut client, &hint));
        assert!(rows(&mut client).is_empty(), "{:?}", rows(&mut client));
    }
}

#[test]
fn what_keeps_broadcasts_back_is_mended_by_the_hints() {
    let (database, mut client, mut monitor) = observed();
    let [owner, stranger] = ["poor", "stranger"].map(|name| database.role(name));
    mend_each(
        &mut client,
        &mut monitor,
        &[(
            "SELECT aimq.enable_realtime('b', 'C', sink => 'both', ids => true)",
            "error b: it is to be broadcast, and there is no function realtime.send",
            "",
        )],
    );
    assert_eq!(
        names(
            &mut client,
            "SELECT concat_ws(' ', channel, sink, ids) FROM aimq.queues WHERE queue = 'b'"
        ),
        ["C notify t"]
    );
    run(
        &mut client,
        "CREATE SCHEMA realtime;
         CREATE FUNCTION realtime.send(jsonb, text, text, boolean) RETURNS void LANGUAGE sql AS '';
         REVOKE ALL ON FUNCTION realtime.send(jsonb, text, text, boolean) FROM PUBLIC",
    );
    ordinary_owner(&database, &mut client);
    let poor = format!(
        "GRANT USAGE ON SCHEMA pgmq TO {owner}; ALTER TABLE pgmq.q_b OWNER TO {owner};
         SELECT aimq.enable_realtime('b', sink => 'supabase')"
    );
    let strange =
        format!("ALTER FUNCTION realtime.send(jsonb, text, text, boolean) OWNER TO {stranger}");
    mend_each(
        &mut client,
        &mut monitor,
        &[
            (
                "SELECT aimq.enable_realtime('b', sink => 'both')",
                "error b: it is to be broadcast, and pgmq.q_b belongs to a superuser",
                "",
            ),
            (&poor, "may not call realtime.send", ""),
            (
                &strange,
                "error b: it is to be broadcast, and realtime.send belongs neither to a superuser nor",
                "",
            ),
        ],
    );
}

/// With nobody who enqueues.
#[test]
fn a_missing_notifier_is_mended_by_the_hint() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SET aimq.delivery = transaction; SELECT aimq.create_queue('a')");
    run(&mut client, "RESET aimq.delivery");
    let role = database.role("monitor");
    run(&mut client, &format!("GRANT pg_monitor TO {role}"));
    let mut monitor = database.connect_as(&role);
    let what = "warning notifier: none runs for this database: ";
    mend_each(&mut client, &mut monitor, &[("", what, "")]);
}
