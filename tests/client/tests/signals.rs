//! Processes of aimq's that are told to end, or to give up what they do. On the servers of notifier.rs.

use aimq_client_tests::*;

#[test]
fn a_terminated_notifier_is_started_again_and_announces_what_is_there() {
    let (_database, mut client, mut listener) = started(&["a"]);
    for round in 1..=3 {
        let pid = notifier_pid(&mut client);
        run(&mut client, "SET aimq.enabled = off");
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        run(&mut client, "SET aimq.enabled = on");
        run(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
        // Nobody marked that message: the new notifier has looked.
        listener.wait_for_count("a", 1);
        wait_until("another process", || notifier_pid(&mut client) != pid);
        assert_eq!(
            value::<i64>(
                &mut client,
                "SELECT starts FROM aimq.notifiers WHERE database = current_database()"
            ),
            round + 1
        );
    }
}

#[test]
fn a_cancelled_notifier_goes_on() {
    let (_database, mut client, mut listener) = started(&["a"]);
    let pid = notifier_pid(&mut client);
    for _ in 0..20 {
        run(&mut client, &format!("SELECT pg_cancel_backend({pid})"));
        run(&mut client, "SELECT pgmq.send('a', '{}')");
    }
    listener.wait_for_count("a", 20);
    assert_eq!(notifier_pid(&mut client), pid);
}
