//! Ids beside the marks: a notification says which messages there are, or that there are more.

use loom::thread::{JoinHandle, spawn};

use super::world::{A, World, check};
use crate::ids::Ids;
use crate::shared::Claim;

fn enqueue(world: &World, claim: Claim, id: i64) -> JoinHandle<()> {
    let world = world.clone();
    spawn(move || {
        world.slots().note_ids(claim, &Ids::one(id));
        let _ = world.slots().mark(claim, 1);
    })
}

/// There is room for one id. The next notification names the message of a producer that has marked, or says that there
/// are more. That is so also while the other producer has put its id there and not marked yet.
#[test]
fn every_id_is_said_or_there_are_more() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let producers = [(7, enqueue(&world, claim, 7)), (8, enqueue(&world, claim, 8))];
        let mut said = Vec::new();
        let mut take = || {
            if let Some(drained) = world.slots().drain(claim) {
                let ids = world.slots().take_ids(claim);
                let more = ids.more || (ids.some.len() as u64) < drained.messages;
                said.push((ids.some, more));
            }
            said.clone()
        };
        take();
        for (id, producer) in producers {
            producer.join().unwrap();
            let said = take();
            let is_said = said.iter().any(|(ids, more)| *more || ids.contains(&id));
            assert!(is_said, "lost: {id} of {said:?}");
        }
        assert_eq!(world.slots().newest(claim), 8);
    });
}

/// An id that is put into cells for a queue that has no slot any more does not count for the next queue.
#[test]
fn an_id_of_the_queue_before_is_nobodys() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let producer = enqueue(&world, claim, 7);
        world.slots().release(claim);
        let next = world.claim(A);
        assert_eq!((next.at, next == claim), (claim.at, false), "another generation of it");
        producer.join().unwrap();
        let ids = world.slots().take_ids(next);
        assert!(ids.some.is_empty() && ids.newest == 0, "{ids:?}");
    });
}
