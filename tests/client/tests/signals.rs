//! Processes of aimq's that are told to end, or to give up what they do. On the servers of notifier.rs.

use aimq_client_tests::*;
use postgres::Client;

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

/// A cancel may come at any moment, also where there is nothing to cancel, and nobody to catch it.
#[test]
fn processes_that_are_cancelled_without_end_go_on() {
    let (database, mut client, mut listener) = started(&["a"]);
    // Where aimq is not preloaded, the launcher comes and goes.
    let kinds = if is_preloaded() {
        "datname = current_database() OR backend_type = 'aimq launcher'"
    } else {
        "datname = current_database()"
    };
    let ours = format!(
        "SELECT pid FROM pg_stat_activity WHERE backend_type ^@ 'aimq' AND ({kinds}) ORDER BY 1"
    );
    let pids = |client: &mut Client| -> Vec<i32> {
        client.query(&ours, &[]).expect("pids").iter().map(|row| row.get(0)).collect()
    };
    let before = pids(&mut client);
    assert!(before.len() >= 2, "{before:?}");
    let cancels = before.iter().map(|pid| {
        let mut canceller = database.connect();
        let storm = format!(
            "DO $$ BEGIN FOR i IN 1..100000 LOOP PERFORM pg_cancel_backend({pid}); END LOOP; END $$"
        );
        std::thread::spawn(move || run(&mut canceller, &storm))
    });
    let cancels: Vec<_> = cancels.collect();
    let mut sent = 0;
    while sent == 0 || cancels.iter().any(|it| !it.is_finished()) {
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        sent += 1;
    }
    listener.wait_for_count("a", sent);
    assert_eq!(pids(&mut client), before);
}
