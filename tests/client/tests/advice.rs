//! What aimq says where a name is not what was meant, and where listening will not work as expected.

use aimq_client_tests::*;

#[test]
fn a_name_that_is_nearly_a_queues_is_told() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue('emails'), aimq.create_queue('Jobs'), aimq.create_queue('q_odd')",
    );
    for (name, meant) in [
        ("q_emails", "emails"),
        ("pgmq.q_emails", "emails"),
        ("pgmq.emails", "emails"),
        ("other.q_jobs", "Jobs"),
        ("a_emails", "emails"),
        ("\"pgmq\".\"q_emails\"", "emails"),
        (" emails ", "emails"),
        ("pgmq.Q_Jobs", "Jobs"),
        ("q_q_odd", "q_odd"),
    ] {
        for sql in
            ["aimq.enable_realtime($1)", "aimq.disable_realtime($1)", "aimq.adopt_pgmq_notify($1)"]
        {
            let sql = format!("SELECT {}", sql.replace("$1", &format!("'{name}'")));
            let error = failure(&mut client, &sql);
            assert_eq!(error.code().code(), "42704", "{sql}");
            assert_eq!(error.hint(), Some(&*format!("Did you mean the queue '{meant}'?")), "{sql}");
        }
        // These ask for no more than the table, so they know no other spelling.
        for sql in ["aimq.read($1, 30)", "aimq.wait(ARRAY[$1])", "aimq.recheck($1)"] {
            let sql = format!("SELECT {}", sql.replace("$1", &format!("'{name}'")));
            let error = failure(&mut client, &sql);
            assert_eq!(error.code().code(), "42P01", "{sql}");
            let hint = error.hint().unwrap_or_default().to_lowercase();
            assert_eq!(
                hint,
                format!("did you mean the queue '{}'?", meant.to_lowercase()),
                "{sql}"
            );
        }
    }
    // Nothing of that kind: as before.
    for name in ["q_none", "none", "q_", "."] {
        let error = failure(&mut client, &format!("SELECT aimq.enable_realtime('{name}')"));
        assert_eq!(error.code().code(), "42704");
        let hint = format!("aimq.create_queue('{name}')");
        assert!(error.hint().is_some_and(|it| it.contains(&hint)), "{error:?}");
    }
    let error = failure(&mut client, "SELECT aimq.enable_realtime('other.q_none')");
    assert!(error.detail().is_some_and(|it| it.contains("in the schema pgmq")), "{error:?}");
}

/// What a session hears of listening when it runs this.
fn hints(database: &Database, sql: &str) -> Vec<String> {
    let (mut client, heard) = database.connect_hearing();
    run(&mut client, sql);
    let all = heard.notices();
    all.iter()
        .filter_map(|it| it.hint())
        .filter(|it| it.contains("LISTEN"))
        .map(Into::into)
        .collect()
}

#[test]
fn a_channel_that_needs_quotes_is_told_with_the_very_line() {
    let database = Database::new();
    run(&mut database.connect(), "SELECT pgmq.create('a'), pgmq.create('b')");
    for channel in
        ["Jobs", "jobs:mine", "jobs-mine", "select", "1st", "the jobs", r#"a"b"#, "aimq:jobs"]
    {
        let enable = format!("SELECT aimq.enable_realtime('a', '{channel}')");
        let said = hints(&database, &enable);
        let line = format!("LISTEN {};", quoted(channel));
        assert_eq!(said, [format!("Workers listen by {line}")]);
        // It is so already: a migration that runs again.
        assert!(hints(&database, &enable).is_empty());
        // The line does what it says.
        let mut client = database.connect();
        run(&mut client, &line);
        assert_eq!(names(&mut client, "SELECT pg_listening_channels()"), [channel]);
    }
    for channel in ["jobs", "jobs_2", "_x$"] {
        let enable = format!("SELECT aimq.enable_realtime('a', '{channel}')");
        assert!(hints(&database, &enable).is_empty(), "{channel}");
        assert!(
            hints(
                &database,
                &format!(
                    "SET quote_all_identifiers = on; SELECT aimq.enable_realtime('b', '{channel}')"
                )
            )
            .is_empty()
        );
    }
    // Once in a session, and only for the channel: not where something else is changed.
    assert_eq!(
        hints(&database, "SELECT aimq.enable_realtime('a', 'X'), aimq.enable_realtime('b', 'Y')")
            .len(),
        1
    );
    assert!(hints(&database, "SELECT aimq.enable_realtime('a', 'X', ids => true)").is_empty());
    assert_eq!(hints(&database, "SELECT aimq.enable_realtime_all('All')").len(), 1);
    assert_eq!(hints(&database, "SELECT aimq.create_queue('c', channel => 'C')").len(), 1);
    assert!(hints(&database, "SELECT aimq.create_queue('d', false, channel => 'D')").is_empty());
}

#[test]
fn a_queue_that_is_broadcast_alone_says_that_nobody_hears_by_listen() {
    let database = Database::new();
    run(&mut database.connect(), "SELECT pgmq.create('a'), pgmq.create('b')");
    let silent = "SELECT aimq.enable_realtime('a', 'A', sink => 'supabase')";
    let said = ["Choose the sink \"both\" if workers are to LISTEN."];
    assert_eq!(hints(&database, silent), said);
    assert!(hints(&database, silent).is_empty(), "it is so already");
    assert!(
        hints(&database, "SELECT aimq.enable_realtime('a', 'B', sink => 'supabase')").is_empty()
    );
    // Now the channel is one to listen on.
    assert_eq!(hints(&database, "SELECT aimq.enable_realtime('a', 'B', sink => 'both')").len(), 1);
    assert_eq!(hints(&database, "SELECT aimq.enable_realtime_all('B', sink => 'supabase')"), said);
    assert_eq!(hints(&database, "SELECT aimq.create_queue('c', sink => 'supabase')"), said);
    assert_eq!(
        hints(&database, "SELECT aimq.create_queue('d', sink => 'both')"),
        ["Workers listen by LISTEN \"aimq:jobs\";"]
    );
}

/// What the server itself never says: a LISTEN whose transaction does not commit hears nothing.
#[test]
fn whoever_reads_of_listening_reads_of_autocommit() {
    for file in [
        "README.md",
        "examples/README.md",
        "examples/psycopg_worker.py",
        "examples/asyncpg_worker.py",
        "examples/tokio_postgres_worker.rs",
        "examples/node/worker.ts",
        "examples/live/queues.mjs",
    ] {
        let text = std::fs::read_to_string(root().join(file)).expect(file);
        let says = text.lines().any(|line| {
            line.contains("takes effect") && (line.contains("commit") && line.contains("auto"))
        }) || text.contains("listen with autocommit");
        assert!(says, "{file}");
    }
}
