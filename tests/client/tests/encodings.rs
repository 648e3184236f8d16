//! Databases that are not UTF-8: names of channels, events and queues beyond ASCII, with either delivery, and blocking
//! calls. On the same servers as waiting.rs.

use aimq_client_tests::blocking::*;
use aimq_client_tests::supabase::ordinary_owner;
use aimq_client_tests::*;
use postgres::Client;

/// A database of an encoding with aimq in it, dropped with the first.
fn database_in(encoding: &str) -> (Database, Database) {
    let base = Database::empty();
    let name = format!("{}_{}", base.name, encoding.to_lowercase());
    run(
        &mut base.connect(),
        &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"),
    );
    let database = Database { name };
    run(&mut database.connect(), "CREATE EXTENSION aimq CASCADE");
    (database, base)
}

/// In the encoding of each, what a queue, a channel and an event may be called.
const NAMES: [(&str, &str, &str, &str); 4] = [
    ("LATIN1", "café", "canal:é", "prêt"),
    ("EUC_JP", "注文", "水路", "到着"),
    ("WIN1251", "заказ", "канал", "готово"),
    ("UTF8", "café注文", "canal:é水", "prêt到"),
];

#[test]
fn names_beyond_ascii_are_told_as_they_are() {
    for (encoding, queue, channel, event) in NAMES {
        for delivery in ["transaction", "auto"] {
            let (database, _base) = database_in(encoding);
            let mut client = database.connect();
            run(&mut client, &format!("SET aimq.delivery = '{delivery}'"));
            run(
                &mut client,
                &format!(
                    "SELECT aimq.create_queue('{queue}', channel => '{channel}', event => '{event}')"
                ),
            );
            // Where the session notifies by itself, it starts no notifier.
            let is_watched = delivery == "auto";
            if is_watched {
                wait_until_settled(&mut client, 1);
            }
            let mut listener = database.listen(channel);
            run(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
            let told = listener.wait_for_one();
            assert_eq!(
                told,
                format!(r#"{{"event":"{event}","queues":{{"{queue}":{{"count":1}}}}}}"#),
                "{encoding}, {delivery}"
            );
            if is_watched {
                // What nobody announces but a look: the watcher can read the table, too.
                run(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}', 1)"));
                listener.wait_for_count(queue, 1);
                let known = "SELECT queue FROM aimq._queue_counters()";
                assert_eq!(names(&mut client, known), [queue]);
            }
            views(&mut client, queue, channel, event);
        }
    }
}

/// The views know the names, and setting the same again changes nothing.
fn views(client: &mut Client, queue: &str, channel: &str, event: &str) {
    let row =
        client.query_one("SELECT queue, channel, event FROM aimq.queues", &[]).expect("the queue");
    let found: [String; 3] = [0, 1, 2].map(|at| row.get(at));
    assert_eq!(found, [queue, channel, event]);
    assert_eq!(names(client, "SELECT queue FROM aimq.stats"), [queue]);
    let again = format!("SELECT aimq.enable_realtime('{queue}', '{channel}', '{event}')");
    assert!(!boolean(client, &again));
    assert!(boolean(client, &format!("SELECT aimq.disable_realtime('{queue}')")));
    let all = format!("SELECT aimq.enable_realtime_all('{channel}', '{event}', ids => true)");
    assert_eq!(names(client, &all), [queue]);
    assert_eq!(names(client, "SELECT aimq.disable_realtime_all()"), [queue]);
}

#[test]
fn a_session_blocks_for_a_queue_of_such_a_name() {
    for (encoding, queue, _, _) in NAMES {
        let (database, _base) = database_in(encoding);
        let mut client = database.connect();
        run(&mut client, &format!("SELECT aimq.create_queue('{queue}')"));
        wait_until_settled(&mut client, 1);
        let read = format!("SELECT msg_id FROM aimq.read('{queue}', 60, 1, '60 s')");
        let blocked = block(&database, &read);
        let waits_for = "SELECT unnest(queues) FROM aimq.waiters";
        wait_until("its place", || names(&mut client, waits_for) == [queue]);
        let id: i64 = value(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
        assert_eq!(blocked.read(), [id], "{encoding}");
    }
}

#[test]
fn a_broadcast_names_such_a_queue() {
    for (encoding, queue, channel, event) in NAMES {
        let (database, _base) = database_in(encoding);
        let mut client = database.connect();
        // A stand-in for Supabase's function.
        run(
            &mut client,
            "CREATE SCHEMA realtime;
             CREATE TABLE realtime.said (payload jsonb, event text, topic text);
             CREATE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
             RETURNS void LANGUAGE sql AS 'INSERT INTO realtime.said VALUES ($1, $2, $3)'",
        );
        ordinary_owner(&database, &mut client);
        let create =
            format!("SELECT aimq.create_queue('{queue}', true, '{channel}', '{event}', 'both')");
        run(&mut client, &create);
        wait_until_settled(&mut client, 1);
        run(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
        let said = "SELECT concat_ws(' ', payload->>'queue', event, topic) FROM realtime.said";
        wait_until("a broadcast", || !names(&mut client, said).is_empty());
        assert_eq!(names(&mut client, said), [format!("{queue} {event} {channel}")], "{encoding}");
    }
}

/// What our own errors say is in the database's encoding.
#[test]
fn errors_name_such_a_queue() {
    for (encoding, queue, channel, _) in NAMES {
        let (database, _base) = database_in(encoding);
        let mut client = database.connect();
        let error = failure(&mut client, &format!("SELECT aimq.enable_realtime('{queue}')"));
        assert_eq!(error.code().code(), "42704");
        assert_eq!(error.message(), format!("queue \"{queue}\" does not exist"), "{encoding}");
        assert!(error.hint().expect("a hint").contains(&format!("aimq.create_queue('{queue}')")));
        let error = failure(&mut client, &format!("SELECT aimq.read('{queue}', 30)"));
        assert_eq!(error.code().code(), "42P01");
        assert_eq!(error.message(), format!("queue \"{queue}\" has no table"), "{encoding}");
        // Its length is that in the server.
        let long = channel.repeat(40);
        run(&mut client, "SELECT pgmq.create('a')");
        let error = failure(&mut client, &format!("SELECT aimq.enable_realtime('a', '{long}')"));
        let bytes: i32 = value(&mut client, &format!("SELECT octet_length('{long}')"));
        assert!(error.detail().expect("a detail").contains(&format!("It has {bytes} bytes")));
        // 63 bytes are as many as fit.
        let longest = if bytes == 40 * 7 { "é".repeat(63) } else { "a".repeat(63) };
        assert!(boolean(&mut client, &format!("SELECT aimq.enable_realtime('a', '{longest}')")));
    }
}

/// In SQL_ASCII nobody knows which characters bytes are: such names are left out, which means "check all".
#[test]
fn bytes_of_an_unknown_encoding_stop_nobody() {
    let (database, _base) = database_in("SQL_ASCII");
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('a'), pgmq.create('café'), pgmq.create(E'caf\\xe9')");
    let sql = "SELECT count(*) FROM aimq.enable_realtime_all()";
    assert_eq!(value::<i64>(&mut client, sql), 3);
    wait_until_settled(&mut client, 3);
    let mut listener = database.listen(CHANNEL);
    run(&mut client, "SELECT pgmq.send('café', '{}')");
    assert_eq!(
        listener.wait_for_one(),
        r#"{"event":"job_enqueued","queues":{"café":{"count":1}}}"#
    );
    run(&mut client, "SELECT pgmq.send(E'caf\\xe9', '{}')");
    assert_eq!(listener.wait_for_one(), r#"{"event":"job_enqueued"}"#);
    for argument in ["channel", "event"] {
        let error = failure(
            &mut client,
            &format!("SELECT aimq.enable_realtime('a', {argument} => E'\\xe9')"),
        );
        assert_eq!(error.code().code(), "22021");
        assert_eq!(error.message(), format!("{argument} is not UTF-8"));
    }
    let sql = "SELECT count(*) FROM aimq.disable_realtime_all()";
    assert_eq!(value::<i64>(&mut client, sql), 3);
}
