//! Who may do what, and what a caller's own settings can do to us: nothing.

use aimq_client_tests::*;

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
