//! Who may do what, and what a caller's own settings can do to us: nothing.

use aimq_client_tests::*;
use postgres::Client;

#[test]
fn privileges_are_asked_for_by_name() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a'); SELECT pgmq.create('b')");
    let role = database.role("user");
    let mut user = database.connect_as(&role);

    // Nothing granted: Postgres' own word on pgmq's table.
    assert_eq!(failure(&mut user, "SELECT * FROM aimq.queues").code().code(), "42501");
    assert_eq!(failure(&mut user, "SELECT aimq.enable_realtime('b')").code().code(), "42501");

    run(
        &mut client,
        &format!("GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT SELECT ON pgmq.meta TO {role}"),
    );
    assert_eq!(names(&mut user, "SELECT queue FROM aimq.queues ORDER BY queue"), ["a", "b"]);
    assert!(
        !boolean(&mut user, "SELECT aimq.enable_realtime('a')"),
        "nothing to change, nothing to ask"
    );
    let error = failure(&mut user, "SELECT aimq.enable_realtime('b')");
    assert_eq!(error.code().code(), "42501");
    assert_eq!(error.message(), "permission denied to make queue table pgmq.q_b realtime");
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains(&format!("GRANT TRIGGER ON pgmq.q_b TO \"{role}\"")))
    );

    run(&mut client, &format!("GRANT TRIGGER ON pgmq.q_b TO {role}"));
    assert!(boolean(&mut user, "SELECT aimq.enable_realtime('b')"));
    // Another owner's table: attaching is a privilege, dropping is the owner's.
    let error = failure(&mut user, "SELECT aimq.disable_realtime('b')");
    assert_eq!(error.code().code(), "42501");
    assert_eq!(error.message(), "must be owner of queue table pgmq.q_b");
    assert!(error.detail().is_some_and(|detail| detail.contains("belongs to \"postgres\"")));
    assert!(
        boolean(&mut client, "SELECT realtime FROM aimq.queues WHERE queue = 'b'"),
        "nothing changed"
    );
    run(&mut client, &format!("ALTER TABLE pgmq.q_b OWNER TO {role}"));
    assert!(boolean(&mut user, "SELECT aimq.disable_realtime('b')"));
}

#[test]
fn producers_need_no_privilege_of_ours() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a')");
    let role = database.role("producer");
    run(
        &mut client,
        &format!(
            "REVOKE ALL ON SCHEMA aimq FROM PUBLIC; REVOKE ALL ON ALL FUNCTIONS IN SCHEMA aimq FROM PUBLIC;
             GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT INSERT, SELECT ON pgmq.q_a TO {role}"
        ),
    );
    let mut listener = database.listen(CHANNEL);
    run(&mut database.connect_as(&role), "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.counts(), one([("a", 1)]));
}

#[test]
fn the_functions_do_not_fall_for_a_search_path() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT pgmq.create('a');
         CREATE SCHEMA evil;
         CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
         CREATE FUNCTION evil.format(text, VARIADIC name[]) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
         CREATE TABLE evil.pg_class (x int); CREATE TABLE evil.pg_trigger (x int);
         SET search_path = evil, pg_catalog",
    );
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(boolean(&mut client, "SELECT realtime FROM aimq.queues"));
}

#[test]
fn settings_of_the_caller_do_not_matter() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a')");
    run(&mut client, "SET standard_conforming_strings = off");
    // Each backslash is written twice there.
    assert!(boolean(&mut client, r"SELECT aimq.enable_realtime('a', 'it''s a \\')"));
    assert!(!boolean(&mut client, r"SELECT aimq.enable_realtime('a', 'it''s a \\')"));
    assert_eq!(names(&mut client, "SELECT channel FROM aimq.queues"), [r"it's a \"]);
}

const ROLES: [&str; 4] = ["migrator", "producer", "worker", "monitor"];

/// The blocks of SQL in docs/privileges.md: one for each of [`ROLES`], then what gives the inner functions back.
fn blocks() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/privileges.md")).expect("the document");
    let parts = text.split("```sql\n").skip(1);
    parts.map(|part| part.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// Grants what the document says, and has each role do its work with it.
fn each_role_does_its_work(database: &Database, client: &mut Client) {
    let blocks = blocks();
    assert_eq!(blocks.len(), ROLES.len() + 1);
    let roles = ROLES.map(|name| database.role(name));
    let grants = |number: usize| {
        blocks[number].replace(&format!("TO {};", ROLES[number]), &format!("TO {};", roles[number]))
    };

    let mut migrator = database.connect_as(&roles[0]);
    assert_eq!(failure(&mut migrator, "SELECT aimq.create_queue('emails')").code().code(), "42501");
    run(client, &grants(0));
    run(&mut migrator, "SELECT aimq.create_queue('emails'), aimq.create_queue('other', false)");
    let events = "'{job_enqueued,job_started,job_archived,job_deleted}'";
    for sql in [
        format!("SELECT aimq.enable_realtime('other', 'others', events => {events})"),
        "SELECT aimq.enable_realtime('other')".to_owned(),
        "SELECT aimq.disable_realtime('other')".to_owned(),
    ] {
        assert!(boolean(&mut migrator, &sql), "{sql}");
    }
    assert_eq!(names(&mut migrator, "SELECT aimq.enable_realtime_all()"), ["other"]);
    run(&mut migrator, "SELECT aimq.disable_realtime_all()");
    run(&mut migrator, "SELECT aimq.enable_realtime_all()");
    run(&mut migrator, "SELECT pgmq.drop_queue('other')");
    run(&mut migrator, "SELECT pgmq.create('theirs'), pgmq.enable_notify_insert('theirs')");
    assert!(boolean(&mut migrator, "SELECT aimq.adopt_pgmq_notify('theirs')"));
    run(&mut migrator, "SELECT pgmq.drop_queue('theirs')");
    assert_eq!(names(&mut migrator, "SELECT queue FROM aimq.queues"), ["emails"]);

    for number in 1..ROLES.len() {
        run(client, &grants(number));
    }
    let mut listener = database.listen(CHANNEL);
    let mut producer = database.connect_as(&roles[1]);
    run(&mut producer, "SELECT pgmq.send('emails', '{}'), pgmq.send('emails', '{}')");
    listener.wait_for_one();

    let mut worker = database.connect_as(&roles[2]);
    run(&mut worker, r#"LISTEN "aimq:jobs""#);
    assert_eq!(names(&mut worker, "SELECT unnest(aimq.wait('{emails}', '10 s'))"), ["emails"]);
    run(&mut worker, "CALL aimq.wait_for('{emails}', '10 s')");
    let read = "SELECT msg_id FROM aimq.read('emails', 30, 1, '10 s')";
    assert_eq!(value::<i64>(&mut worker, read), 1);
    run(&mut worker, "CALL aimq.read_for('emails', 30, 1, '10 s')");
    run(&mut worker, "SELECT pgmq.archive('emails', 1), pgmq.delete('emails', 2)");
    assert_eq!(value::<i64>(client, "SELECT count(*) FROM pgmq.a_emails"), 1);
    assert_eq!(value::<i64>(client, "SELECT count(*) FROM pgmq.q_emails"), 0);
    // It has nothing to find: it arms and sleeps.
    run(&mut worker, "SELECT aimq.read('emails', 30, 1, '20 ms')");

    let other = database.role("member");
    run(client, &format!("GRANT pg_monitor TO {other}"));
    for role in [&roles[3], &other] {
        let mut monitor = database.connect_as(role);
        assert_eq!(names(&mut monitor, "SELECT queue FROM aimq.queues"), ["emails"]);
        assert_eq!(names(&mut monitor, "SELECT queue FROM aimq.stats"), ["emails"]);
        run(&mut monitor, "SELECT * FROM aimq.notifiers; SELECT * FROM aimq.waiters");
        run(&mut monitor, "SELECT * FROM aimq.doctor()");
    }
    let mut monitor = database.connect_as(&roles[3]);
    run(&mut monitor, "SELECT aimq.ping('pongs')");
    assert_eq!(failure(&mut monitor, "SELECT * FROM pgmq.q_emails").code().code(), "42501");
}

#[test]
fn the_documents_grants_suffice() {
    let database = Database::new();
    let mut client = database.connect();
    each_role_does_its_work(&database, &mut client);
}

#[test]
fn the_documents_grants_suffice_where_public_may_call_nothing() {
    let database = Database::empty();
    let mut client = database.connect();
    run(
        &mut client,
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
         CREATE EXTENSION aimq CASCADE",
    );
    let role = database.role("nobody");
    let mut nobody = database.connect_as(&role);
    let error = failure(&mut nobody, "SELECT aimq.wait('{a}', '1 ms')");
    assert_eq!(error.message(), "permission denied for function wait");
    each_role_does_its_work(&database, &mut client);
}

#[test]
fn the_documents_grants_suffice_after_a_revoke_of_all_functions() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "REVOKE ALL ON ALL ROUTINES IN SCHEMA aimq FROM PUBLIC; REVOKE ALL ON SCHEMA aimq FROM PUBLIC;
         REVOKE ALL ON ALL TABLES IN SCHEMA aimq FROM PUBLIC",
    );
    run(&mut client, blocks().last().expect("a block"));
    let public = "SELECT count(*) FROM pg_proc
                   WHERE pronamespace = 'aimq'::regnamespace AND proname !~ '^_|_trigger$'
                     AND has_function_privilege('public', oid, 'EXECUTE')";
    assert_eq!(value::<i64>(&mut client, public), 0, "given back too much");
    each_role_does_its_work(&database, &mut client);
}

/// Each of the inner functions is in the document, which says why all may call it.
#[test]
fn the_document_knows_each_inner_function() {
    let database = Database::new();
    let text = std::fs::read_to_string(root().join("docs/privileges.md")).expect("the document");
    let inner = "SELECT DISTINCT proname::text FROM pg_proc
                  WHERE pronamespace = 'aimq'::regnamespace AND proname ~ '^_' ORDER BY 1";
    for name in names(&mut database.connect(), inner) {
        assert!(text.contains(&format!("`{name}`")), "docs/privileges.md does not tell of {name}");
    }
}

#[test]
fn errors_of_the_views_name_what_is_missing() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a')");
    let role = database.role("user");
    let mut user = database.connect_as(&role);
    let all = ["aimq.queues", "aimq.stats", "aimq.doctor()"];
    let grants = ["GRANT USAGE ON SCHEMA pgmq TO", "GRANT SELECT ON pgmq.meta TO"]
        .map(|grant| format!("{grant} \"{role}\""));
    for number in 0..grants.len() {
        for view in all {
            let error = failure(&mut user, &format!("SELECT * FROM {view}"));
            assert_eq!(error.code().code(), "42501", "{error:?}");
            assert_eq!(error.message(), "permission denied to see the queues");
            let hint = format!("Have the owner of pgmq run {}.", grants[number..].join("; "));
            assert_eq!(error.hint(), Some(&*hint));
            let context = error.where_().unwrap_or_default();
            assert!(context.lines().count() < 5, "{context}");
            assert!(!format!("{error:?}").contains("tgargs"), "{error:?}");
        }
        run(&mut client, &grants[number]);
    }
    for view in all {
        run(&mut user, &format!("SELECT * FROM {view}"));
    }
    // A role that may read these columns by name.
    run(
        &mut client,
        &format!(
            "REVOKE SELECT ON pgmq.meta FROM {role}; GRANT SELECT (queue_name, is_partitioned, is_unlogged, created_at) ON pgmq.meta TO {role}"
        ),
    );
    assert_eq!(names(&mut user, "SELECT queue FROM aimq.queues"), ["a"]);
}
