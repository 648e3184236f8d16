use super::*;
use crate::sync::AtomicU32;
use crate::timestamp::Timestamp;

struct Memory {
    slots: Vec<Slot>,
    hashes: Vec<AtomicU32>,
    used: AtomicU32,
}

impl Memory {
    fn new(slots: usize) -> Self {
        let hashes = (0..slots).map(|_| AtomicU32::new(0)).collect();
        Self { slots: (0..slots).map(|_| Slot::new()).collect(), hashes, used: AtomicU32::new(0) }
    }

    fn slots(&self) -> Slots<'_> {
        Slots { all: &self.slots, hashes: &self.hashes, used: &self.used }
    }
}

#[test]
fn zeroed_memory_is_an_empty_table() {
    // The size of what is shared is part of its version: src/shared/ checks it.
    assert_eq!(size_of::<Slot>() % 64, 0);
    assert_eq!(size_of::<Database>() % 64, 0);
    let memory = Memory::new(1);
    assert_eq!(memory.slots().find(0, b""), None, "an unused slot is nobody's");
    assert_eq!(memory.slots().of(0).count(), 0);
}

#[test]
fn a_route_keeps_its_slot() {
    let memory = Memory::new(3);
    let slots = memory.slots();
    let first = slots.claim(1, b"a").unwrap();
    assert_eq!(slots.claim(1, b"a"), Ok(first));
    assert_ne!(slots.claim(2, b"a").unwrap().at, first.at, "another database's");
    assert_ne!(slots.claim(1, b"b").unwrap().at, first.at);
    assert_eq!(slots.claim(1, b"c"), Err(Full));
    assert_eq!(*slots.key(first), *b"a");
}

#[test]
fn a_route_that_is_too_long_has_no_slot() {
    let memory = Memory::new(1);
    assert_eq!(memory.slots().claim(1, &[b'x'; KEY_MAX_BYTES + 1]), Err(Full));
    let longest = memory.slots().claim(1, &[b'x'; KEY_MAX_BYTES]).unwrap();
    assert_eq!(*memory.slots().key(longest), [b'x'; KEY_MAX_BYTES]);
}

#[test]
fn only_the_first_mark_is_first() {
    let memory = Memory::new(1);
    let slots = memory.slots();
    let claim = slots.claim(1, b"a").unwrap();
    assert_eq!(slots.mark(claim, 2), Marked::First);
    assert_eq!(slots.mark(claim, 3), Marked::More);
    assert_eq!(slots.drain(claim).unwrap().messages, 5);
    assert_eq!(slots.drain(claim), None);
    assert_eq!(slots.mark(claim, u64::MAX), Marked::First, "counts as much as there is room for");
    assert_eq!(slots.mark(claim, 1), Marked::More);
    assert!(slots.is_current(claim), "the count never reaches the generation");
}

#[test]
fn a_slot_that_changed_hands_takes_no_mark() {
    let memory = Memory::new(1);
    let slots = memory.slots();
    let old = slots.claim(1, b"a").unwrap();
    assert_eq!(slots.mark(old, 1), Marked::First);
    assert!(slots.release(old), "something was marked");
    assert_eq!(slots.mark(old, 1), Marked::Stale);
    let new = slots.claim(1, b"b").unwrap();
    assert_eq!(new.at, old.at);
    assert_eq!(slots.mark(old, 1), Marked::Stale);
    assert_eq!(slots.expect(old, Timestamp(1)), Marked::Stale);
    assert_eq!(slots.drain(new), None, "the stranger's mark is not ours");
    assert_eq!(slots.mark(new, 1), Marked::First);
}

#[test]
fn the_earliest_time_wins() {
    let memory = Memory::new(1);
    let slots = memory.slots();
    let claim = slots.claim(1, b"a").unwrap();
    assert_eq!(slots.earliest(claim), None);
    assert_eq!(slots.expect(claim, Timestamp(500)), Marked::First);
    assert_eq!(slots.expect(claim, Timestamp(700)), Marked::More);
    assert_eq!(slots.expect(claim, Timestamp(300)), Marked::First);
    assert_eq!(slots.earliest(claim), Some(Timestamp(300)));
    slots.forget_earliest(claim);
    assert_eq!(slots.expect(claim, Timestamp(i64::MAX)), Marked::More, "infinity never comes");
    assert_eq!(slots.earliest(claim), None);
}

#[test]
fn a_slot_that_changed_hands_takes_no_time() {
    let memory = Memory::new(1);
    let slots = memory.slots();
    let mut old = slots.claim(1, b"a").unwrap();
    let first = old;
    // The time has room for less of the generation than the mark: it comes round.
    for _ in 0..1 << 12 {
        assert_eq!(slots.expect(old, Timestamp(100)), Marked::First);
        assert!(slots.release(old), "a time was noted");
        assert_eq!(slots.expect(old, Timestamp(100)), Marked::Stale);
        old = slots.claim(1, b"b").unwrap();
        assert_eq!(slots.earliest(old), None, "the stranger's time is not ours");
    }
    assert_eq!(slots.expect(first, Timestamp(100)), Marked::Stale);
    assert_eq!(slots.expect(old, Timestamp(50)), Marked::First);
    assert_eq!(slots.earliest(old), Some(Timestamp(50)));
}

#[test]
fn a_time_that_has_passed_long_ago_has_passed() {
    let memory = Memory::new(1);
    let slots = memory.slots();
    let claim = slots.claim(1, b"a").unwrap();
    assert_eq!(slots.expect(claim, Timestamp::NEG_INFINITY), Marked::First);
    assert!(slots.earliest(claim) < Some(Timestamp(1000)), "2000 is long ago");
}

#[test]
fn entries_of_databases_are_taken_once_and_given_back() {
    let all = [Database::new(), Database::new()];
    let lock = AtomicU32::new(0);
    let databases = Databases { all: &all, lock: &lock };
    let one = databases.claim(7).unwrap();
    assert!(std::ptr::eq(one, databases.claim(7).unwrap()));
    databases.claim(8).unwrap();
    assert_eq!(databases.claim(9).err(), Some(NoEntry::Full));
    assert!(one.tell(News::QUEUES).is_any(), "the first to tell wakes the notifier");
    assert!(!one.tell(News::QUEUES).is_any());
    assert!(databases.release(one));
    assert_eq!(databases.claim(9).unwrap().news(), News(0));
    lock.store(1, crate::sync::Ordering::SeqCst);
    assert_eq!(databases.claim(10).err(), Some(NoEntry::Busy), "nobody waits");
}

#[test]
fn who_was_rung_and_does_not_show_itself_is_not_relied_on() {
    const NOW: Timestamp = Timestamp(1000);
    let after = |micros| Timestamp(NOW.0 + micros);
    let database = Database::new();
    database.begin(1);
    database.watcher.begin(2);
    let attends = |now| (database.takes_marks(|| now), database.is_watched(now));
    assert_eq!(attends(after(i64::MAX - NOW.0)), (true, true), "nothing is expected of them");
    for seat in [&database.notifier, &database.watcher] {
        seat.count_on(NOW);
        // One that rings later does not give it more time.
        seat.count_on(after(ATTENDS_WITHIN));
    }
    assert_eq!(attends(after(ATTENDS_WITHIN)), (true, true));
    assert_eq!(attends(after(ATTENDS_WITHIN + 1)), (false, false));
    database.notifier.works(after(ATTENDS_WITHIN + 1));
    database.watcher.sleeps(None);
    assert_eq!(attends(after(ATTENDS_WITHIN + 1)), (true, true), "they have shown themselves");
}
