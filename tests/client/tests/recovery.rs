//! A thousand delayed messages and a server that stops before they can be read: a worker that never polls
//! reads them all when their time has come. Each test has a server of its own.

use std::time::Duration;

use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;

const MESSAGES: i64 = 1000;

/// A thousand messages that become visible from a second to four from now.
fn send(cluster: &Cluster) {
    run(
        &mut connect(cluster),
        &format!(
            "SELECT pgmq.send('a', '{{}}', now() + interval '1 s' + random() * interval '3 s')
               FROM generate_series(1, {MESSAGES})"
        ),
    );
}

/// Reads as a worker does: listens, reads once, and from then on only when woken. How late the last of
/// them was.
fn read_all(cluster: &Cluster) -> Duration {
    let mut listener = listen(cluster);
    let pop = |client: &mut Client| -> (i64, f64) {
        let row = client.query_one(
            "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - max(vt)), 0)::float8
               FROM pgmq.pop('a', 10000)",
            &[],
        );
        let row = row.expect("pop");
        (row.get(0), row.get(1))
    };
    let (mut read, mut late) = pop(listener.client());
    while read < MESSAGES {
        listener.wait_for_count("a", 1);
        let (more, by) = pop(listener.client());
        read += more;
        if more > 0 {
            late = by;
        }
    }
    assert_eq!(read, MESSAGES);
    Duration::from_secs_f64(late.max(0.0))
}

/// On an idle machine some milliseconds; here others may be at work.
fn assert_in_time(late: Duration) {
    assert!(late < Duration::from_secs(3), "the last was read {late:?} late");
}

#[test]
fn after_a_restart() {
    let (_alone, cluster) = server(&[]);
    send(&cluster);
    cluster.shut_down("fast").expect("shutdown");
    cluster.run().expect("a start");
    assert_in_time(read_all(&cluster));
}

#[test]
fn after_a_crash() {
    let (_alone, cluster) = server(&[]);
    send(&cluster);
    let mut client = connect(&cluster);
    kill("KILL", notifier_pid(&mut client));
    wait_until("the server to crash", || client.simple_query("SELECT 1").is_err());
    drop(reconnect(&cluster));
    assert_in_time(read_all(&cluster));
}

#[test]
fn after_a_promotion() {
    let (_alone, primary) = server(&["wal_level=replica", "max_wal_senders=5"]);
    send(&primary);
    // A copy that has them.
    let standby = primary.standby().expect("a standby");
    drop(primary);
    standby.promote().expect("promotion");
    assert_in_time(read_all(&standby));
}
