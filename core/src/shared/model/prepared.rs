//! Prepared transactions: what one of them has is noted when it is prepared, and looked for when one has ended.

use std::sync::Arc;

use loom::thread::spawn;

use super::world::check;
use crate::shared::{Database, News, Wake};
use crate::sync::{AtomicU32, Ordering::SeqCst};

const TABLE: u32 = 7;

struct House {
    database: Database,
    /// How many are prepared, as the server shows it.
    prepared: AtomicU32,
    /// The message of the one that is prepared here can be read: it has ended.
    visible: AtomicU32,
}

impl House {
    fn new() -> Arc<Self> {
        let (prepared, visible) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Self { database: Database::new(), prepared, visible })
    }

    /// It is to be seen before it notes anything (access/transam/xact.c, PrepareTransaction), and what it has can be
    /// read before it is not to be seen any more (access/transam/twophase.c, FinishPreparedTransaction).
    fn prepare_and_end(&self) {
        self.prepared.store(1, SeqCst);
        self.database.prepare(TABLE);
        self.visible.store(1, SeqCst);
        self.prepared.store(0, SeqCst);
        let _: Wake = self.database.tell(News::FINISHED);
    }

    /// The watcher attends, if it was told of one that has ended. Whether it sees the message.
    fn attend(&self, asks_first: bool) -> bool {
        if !self.database.news().has(News::FINISHED) {
            return false;
        }
        let are_any = || self.prepared.load(SeqCst) != 0;
        let before = asks_first && are_any();
        let mut noted = Vec::new();
        self.database.take_prepared(|at| noted.push(at));
        if if asks_first { before } else { are_any() } {
            noted.iter().for_each(|at| self.database.prepare_bucket(*at));
        }
        !noted.is_empty() && self.visible.load(SeqCst) != 0
    }
}

/// Another one has just ended when it is prepared.
fn prepared_beside_one_that_ends(asks_first: bool) {
    check(move || {
        let house = House::new();
        let _: Wake = house.database.tell(News::FINISHED);
        let session = Arc::clone(&house);
        let session = spawn(move || session.prepare_and_end());
        let mut is_seen = house.attend(asks_first);
        session.join().unwrap();
        is_seen |= house.attend(asks_first);
        assert!(is_seen, "lost: nobody looked when it had ended");
    });
}

#[test]
fn one_that_is_prepared_while_another_ends_is_looked_for() {
    prepared_beside_one_that_ends(false);
}

/// Its note is taken with those of the others, by what was seen before it was there.
#[test]
#[should_panic(expected = "lost: nobody looked when it had ended")]
fn one_that_is_prepared_after_the_question_is_lost() {
    prepared_beside_one_that_ends(true);
}
