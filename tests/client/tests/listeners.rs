//! Those who listen to pgmq's own notifications notice nothing when aimq takes over: `aimq.adopt_pgmq_notify`.

use aimq_client_tests::*;

#[test]
fn pgmqs_trigger_is_swapped_for_ours_on_the_same_channel() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('Emails')");
    assert!(!boolean(&mut client, "SELECT aimq.adopt_pgmq_notify('emails')"));
}
