//! Faults of every kind that `aimq.doctor()` knows in a database: it names each, to a superuser and to a member of
//! `pg_monitor` alike, and what the hint says, done word for word, makes it go. Those of servers are in
//! doctor_server.rs.

use aimq_client_tests::doctor::*;
use aimq_client_tests::supabase::ordinary_owner;
use aimq_client_tests::*;
use postgres::Client;

/// What breaks it, what is said of that, and what undoes the rest.
type Fault<'a> = (&'a str, &'a str, &'a str);

/// The rows except those of failures, which stay for a minute.
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
            r#"ALTER TABLE pgmq."q_it is a" ENABLE REPLICA TRIGGER aimq_realtime"#,
            "warning It is A: the trigger aimq_realtime fires only for what is replicated",
            "",
        ),
        (
            r#"ALTER TRIGGER aimq_realtime ON pgmq."q_it is a" RENAME TO "My own""#,
            "error It is A: the trigger My own is not as aimq attaches it",
            "",
        ),
        (
            "CREATE TRIGGER mine BEFORE INSERT ON pgmq.q_b EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'b')",
            "error b: the trigger mine is not as aimq attaches it",
            "",
        ),
        (
            "CREATE OR REPLACE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_b FOR EACH ROW WHEN (false)
             EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'b')",
            "error b: the trigger aimq_realtime is not as aimq attaches it",
            "",
        ),
        (
            "DROP TRIGGER aimq_realtime ON pgmq.q_b;
             CREATE TRIGGER aimq_realtime AFTER INSERT ON pgmq.q_b FOR EACH ROW
             EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'b', 'ids', 'five')",
            "error b: the trigger aimq_realtime is not as aimq attaches it",
            "",
        ),
        (
            // Without the trigger that says so, the table is still known by the other one.
            r#"DROP TRIGGER aimq_realtime ON pgmq."q_it is a"; ALTER TABLE pgmq."q_it is a" RENAME TO q_gone"#,
            "error It is A: the queue has no table",
            "",
        ),
        (
            "SELECT aimq.create_queue('c', channel => 'C', events => '{job_enqueued,job_archived}'); DROP TABLE pgmq.q_c",
            "error c: the queue has no table",
            "DO $$ BEGIN
                 ASSERT (SELECT (realtime, channel, events) = (true, 'C', '{job_enqueued,job_archived}'::text[])
                           FROM aimq.queues WHERE queue = 'c');
             END $$;
             SELECT pgmq.drop_queue('c')",
        ),
        (
            "SELECT aimq.create_queue('c', channel => 'C', ids => true, events => '{job_enqueued,job_archived,job_deleted}');
             ALTER TABLE pgmq.q_c RENAME TO q_d; ALTER TABLE pgmq.a_c RENAME TO a_d;
             UPDATE pgmq.meta SET queue_name = 'd' WHERE queue_name = 'c'",
            "error d: its triggers name another queue, \"c\"",
            "DO $$ BEGIN
                 ASSERT (SELECT (channel, ids, events) = ('C', true, '{job_enqueued,job_archived,job_deleted}'::text[])
                           FROM aimq.queues WHERE queue = 'd');
             END $$;
             SELECT pgmq.drop_queue('d')",
        ),
        (
            "SELECT aimq.create_queue('c', events => '{job_enqueued,job_archived}'); DELETE FROM pgmq.meta WHERE queue_name = 'c';
             ALTER TABLE pgmq.q_c RENAME TO c_old; ALTER TABLE pgmq.a_c RENAME TO c_done",
            "warning c: pgmq does not list it, and pgmq.c_done, pgmq.c_old has triggers of aimq's",
            "DROP TABLE pgmq.c_old, pgmq.c_done",
        ),
        (
            r#"ALTER EVENT TRIGGER aimq_archive RENAME TO "A b"; ALTER EVENT TRIGGER "A b" ENABLE REPLICA"#,
            "warning A b: this event trigger does not fire",
            r#"ALTER EVENT TRIGGER "A b" ENABLE; ALTER EVENT TRIGGER "A b" RENAME TO aimq_archive"#,
        ),
        (
            "ALTER EVENT TRIGGER aimq_archive DISABLE",
            "warning aimq_archive: this event trigger does not fire",
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
    // Nobody else sees what is the session's own.
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

/// Without a session that enqueues.
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

/// Names are compared as Postgres does.
#[test]
fn what_is_the_default_is_no_fault() {
    let (database, mut client, _monitor) = observed();
    let role = database.role("other");
    for setting in
        ["aimq.delivery = 'AUTO'", "aimq.enabled = 'Yes'", "session_replication_role = 'Origin'"]
    {
        run(&mut client, &format!("ALTER ROLE {role} IN DATABASE {} SET {setting}", database.name));
        assert!(rows(&mut client).is_empty(), "{setting}: {:?}", rows(&mut client));
    }
}

/// A user who pastes what a hint says must not run a stranger's code, nor send wake-ups where a stranger wants them. A
/// stranger may make triggers with our functions on tables of his own.
#[test]
fn what_strangers_write_is_in_no_hint_that_does_something_for_them() {
    let (database, mut client, _monitor) = observed();
    let name = database.role("stranger");
    run(&mut client, &format!("GRANT CREATE ON DATABASE {} TO {name}", database.name));
    let mut stranger = database.connect_as(&name);
    run(
        &mut stranger,
        "CREATE SCHEMA mal;
         CREATE TABLE mal.q_b (msg_id bigint, read_ct integer, vt timestamptz);
         CREATE TRIGGER aimq_realtime BEFORE INSERT ON mal.q_b FOR EACH ROW
         EXECUTE FUNCTION aimq.realtime_trigger('evil', 'evil', 'b', 'sink=both ids');
         CREATE TRIGGER aimq_realtime_archived BEFORE INSERT OR DELETE ON mal.q_b FOR EACH ROW
         EXECUTE FUNCTION aimq.event_trigger('evil', 'job_archived', 'b', 'sink=both ids');
         CREATE TEMP TABLE q_b (msg_id bigint, vt timestamptz);
         CREATE TRIGGER aimq_realtime BEFORE INSERT ON q_b FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger('', '', 'b')",
    );
    // It is said of his table that it wakes nobody, and no more: what he has for himself is not seen.
    let told = problems(&mut client);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("warning b: nobody is woken for mal.q_b"), "{told:?}");
    let shown = "SELECT concat_ws(' ', queue, channel) FROM aimq.queues WHERE queue = 'b'";
    assert_eq!(names(&mut client, shown), ["b aimq:jobs"]);

    run(&mut client, "DROP TRIGGER aimq_realtime_vt ON pgmq.q_b");
    assert_eq!(
        hint_of(&mut client, "aimq_realtime_vt is missing"),
        "Run SELECT aimq.enable_realtime('b');"
    );
    run(&mut client, "DROP TABLE pgmq.q_b");
    let hint = hint_of(&mut client, "error b: the queue has no table");
    assert!(hint.starts_with("Run SELECT aimq.create_queue('b'); Or"), "{hint}");
    follow(&mut client, &hint);
    assert_eq!(names(&mut client, shown), ["b aimq:jobs"]);

    // His function, whatever it does, is not to be made a superuser's.
    run(
        &mut stranger,
        "CREATE SCHEMA realtime;
         CREATE FUNCTION realtime.send(jsonb, text, text, boolean) RETURNS void LANGUAGE sql SECURITY DEFINER AS ''",
    );
    run(&mut client, "SELECT aimq.enable_realtime('b', sink => 'both')");
    let hint = hint_of(&mut client, "realtime.send belongs neither");
    let way = way(&hint).expect("a statement");
    assert_eq!(way.statements, ["SELECT aimq.enable_realtime('b')"]);
}

/// Nobody may keep the doctor and the views from all others.
#[test]
fn a_stranger_with_much_to_say_stops_no_view() {
    let (database, mut client, _monitor) = observed();
    let mut stranger = database.connect_as(&database.role("stranger"));
    run(
        &mut stranger,
        "CREATE TEMP TABLE q_b (vt timestamptz);
         DO $$ BEGIN
             EXECUTE format('CREATE TRIGGER big BEFORE INSERT ON q_b FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger(%L, %L, %L)',
                            repeat('a', 16000000), 'b', 'c');
         END $$",
    );
    run(&mut client, "SET statement_timeout = '10 s'");
    for view in ["aimq.doctor()", "aimq.queues", "aimq.stats"] {
        run(&mut client, &format!("SELECT * FROM {view}"));
    }
    assert!(rows(&mut client).is_empty(), "{:?}", rows(&mut client));
}
