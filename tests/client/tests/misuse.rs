//! The trigger function attached or called by hand in ways it is not meant for.

use aimq_client_tests::*;

#[test]
fn the_trigger_function_refuses_what_it_is_not_meant_for() {
    let database = Database::new();
    let mut client = database.connect();
    client
        .batch_execute(
            "SELECT pgmq.create('a');
             CREATE TABLE no_queue (id int, vt text);
             CREATE VIEW seen AS SELECT vt FROM pgmq.q_a",
        )
        .expect("tables");
    let arguments = "('aimq:jobs', 'job_enqueued', 'a')";
    let insert = "INSERT INTO pgmq.q_a (vt) VALUES (now())";
    let update = "INSERT INTO pgmq.q_a (vt) VALUES (now()); UPDATE pgmq.q_a SET vt = now()";
    for (attach, statement, code, message) in [
        (format!("AFTER INSERT ON pgmq.q_a EXECUTE FUNCTION aimq.realtime_trigger{arguments}"), insert, "39P01", "FOR EACH ROW"),
        (format!("AFTER TRUNCATE ON pgmq.q_a EXECUTE FUNCTION aimq.realtime_trigger{arguments}"), "TRUNCATE pgmq.q_a", "39P01", "FOR EACH ROW"),
        (format!("AFTER INSERT ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger{arguments}"), insert, "39P01", "BEFORE INSERT"),
        (format!("INSTEAD OF INSERT ON seen FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger{arguments}"), "INSERT INTO seen VALUES (now())", "39P01", "BEFORE INSERT"),
        (format!("BEFORE UPDATE ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger{arguments}"), update, "39P01", "INSERT alone"),
        (format!("BEFORE DELETE ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger{arguments}"), "INSERT INTO pgmq.q_a (vt) VALUES (now()); DELETE FROM pgmq.q_a", "39P01", "INSERT alone"),
        ("BEFORE INSERT ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger()".into(), insert, "39P01", "three arguments"),
        ("BEFORE INSERT ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger('a', 'b', 'c', 'ids', 'e')".into(), insert, "39P01", "three arguments"),
        ("BEFORE INSERT ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger('a', 'b', 'c', '')".into(), insert, "39P01", "three arguments"),
        (format!("AFTER INSERT ON pgmq.a_a FOR EACH ROW EXECUTE FUNCTION aimq.event_trigger{arguments}"), "INSERT INTO pgmq.a_a (msg_id, vt) VALUES (1, now())", "39P01", "BEFORE"),
        (format!("BEFORE DELETE ON pgmq.q_a EXECUTE FUNCTION aimq.event_trigger{arguments}"), "DELETE FROM pgmq.q_a", "39P01", "FOR EACH ROW"),
        (format!("BEFORE INSERT ON no_queue FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger{arguments}"), "INSERT INTO no_queue VALUES (1)", "42809", "not a pgmq queue"),
    ] {
        let mut transaction = client.transaction().expect("BEGIN");
        transaction.batch_execute(&format!("CREATE TRIGGER wrong {attach}")).expect(&attach);
        let error = transaction.batch_execute(statement).expect_err(&attach);
        let error = error.as_db_error().expect("an error of the server");
        assert_eq!(error.code().code(), code, "{attach}");
        assert!(error.message().contains(message), "{attach}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("aimq.enable_realtime")), "{attach}");
        transaction.rollback().expect("ROLLBACK");
    }
    let error = failure(&mut client, "SELECT aimq.realtime_trigger()");
    assert_eq!(error.code().code(), "39P01");
    assert!(error.hint().is_some_and(|hint| hint.contains("aimq.enable_realtime")));
}

#[test]
fn a_channel_that_notify_would_refuse_is_told_by_name() {
    let database = Database::new();
    let mut client = database.connect();
    let long = "x".repeat(64);
    for channel in [long.as_str(), ""] {
        let mut transaction = client.transaction().expect("BEGIN");
        transaction
            .batch_execute(&format!(
                "SELECT pgmq.create('a');
                 CREATE TRIGGER wrong BEFORE INSERT ON pgmq.q_a FOR EACH ROW
                 EXECUTE FUNCTION aimq.realtime_trigger('{channel}', 'e', 'a')"
            ))
            .expect("attach");
        let error =
            transaction.batch_execute("SELECT pgmq.send('a', '{}')").expect_err("refused at once");
        let error = error.as_db_error().expect("an error of the server").clone();
        assert_eq!(error.code().code(), "39P01", "{error}");
    }
}

#[test]
fn a_visibility_time_that_may_be_null_stops_nobody() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a'); ALTER TABLE pgmq.q_a ALTER vt DROP NOT NULL");
    let mut listener = database.listen(CHANNEL);
    run(&mut client, "INSERT INTO pgmq.q_a (vt) VALUES (NULL), (now())");
    assert_eq!(listener.counts(), one([("a", 2)]));
}

#[test]
fn an_event_that_is_too_long_fails_no_enqueue() {
    let database = Database::new();
    let mut client = database.connect();
    let event = "e".repeat(8000);
    run(
        &mut client,
        &format!(
            "SELECT pgmq.create('a');
             CREATE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_a FOR EACH ROW
             EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', '{event}', 'a')"
        ),
    );
    let mut listener = database.listen(CHANNEL);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.raw(), [""], "what can't be parsed means: check all your queues");
}
