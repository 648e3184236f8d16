//! Marks and turns in any order, on several queues and channels.

use proptest::prelude::*;

use super::*;
use crate::payload::Payload;

/// Two queues on one channel, and one on each of two others.
const QUEUES: [(&str, &str); 4] = [("a", "one"), ("a", "two"), ("b", "three"), ("c", "four")];

#[derive(Clone, Debug)]
enum Step {
    Enqueue(usize, u64),
    /// Time passes: the notifier comes when it was rung, and at its timers.
    Wait(Moment),
    /// The notifier is woken by something else.
    Wake,
    /// The next time it cannot send.
    Fail(Moment),
}

fn step(may_fail: bool) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..QUEUES.len(), 1..5u64).prop_map(|(queue, count)| Step::Enqueue(queue, count)),
        4 => (1..2 * INTERVAL).prop_map(Step::Wait),
        1 => Just(Step::Wake),
        u32::from(may_fail) => (1..2 * INTERVAL).prop_map(Step::Fail),
    ]
}

struct Run {
    it: Simulation,
    rung: bool,
    timer: Option<Moment>,
    fails: Option<Moment>,
    /// By queue: what was marked and is still to be announced, and since when.
    pending: [(u64, Moment); QUEUES.len()],
    /// By queue: when it was said of.
    last: [Option<Moment>; QUEUES.len()],
    /// How late a mark may be announced; none where sending fails.
    latest: Option<Moment>,
}

impl Run {
    fn new(interval: Moment, cost: Moment, latest: Option<Moment>) -> Self {
        Self {
            it: Simulation { interval, cost, ..Simulation::new() },
            rung: false,
            timer: None,
            fails: None,
            pending: [(0, 0); QUEUES.len()],
            last: [None; QUEUES.len()],
            latest,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Enqueue(at, count) => {
                let claim = self.it.claim(QUEUES[at].0, QUEUES[at].1);
                self.rung |= self.it.enqueue(claim, count);
                let (pending, since) = &mut self.pending[at];
                if *pending == 0 {
                    *since = self.it.moment;
                }
                *pending += count;
            }
            Step::Wait(duration) => {
                let end = self.it.moment + duration;
                if self.rung {
                    self.round();
                }
                while let Some(timer) = self.timer.filter(|timer| *timer <= end) {
                    assert!(timer > self.it.moment, "a timer that was over when it was set");
                    self.it.moment = timer;
                    self.round();
                }
                self.it.moment = end;
            }
            Step::Wake => self.round(),
            Step::Fail(delay) => self.fails = Some(delay),
        }
    }

    fn round(&mut self) {
        self.rung = false;
        let timer = self.it.sweep().interval;
        let pending;
        if let Some(delay) = self.fails
            && !self.it.ready().is_empty()
        {
            self.fails = None;
            pending = self.it.fail(delay);
        } else {
            let said;
            (said, pending) = self.it.say();
            said.iter().for_each(|(channel, payload)| self.check(channel, payload));
        }
        self.timer = [timer, pending].into_iter().flatten().min();
    }

    /// A notification has all that was marked for its channel, and comes neither too early nor too late.
    fn check(&mut self, channel: &str, payload: &str) {
        let now = self.it.moment;
        let payload: Payload = serde_json::from_str(payload).unwrap();
        let mut queues = payload.queues.unwrap();
        let mut has_reason = false;
        for (at, (_, queue)) in QUEUES.iter().enumerate().filter(|(_, (on, _))| *on == channel) {
            let (pending, since) = &mut self.pending[at];
            let said = queues.remove(*queue).map_or(0, |news| news.count);
            assert_eq!(said, *pending, "messages of {queue}");
            if *pending == 0 {
                continue;
            }
            if let Some(latest) = self.latest {
                assert!(now - *since <= latest, "{queue} is announced {} late", now - *since);
            }
            *pending = 0;
            has_reason |= self.last[at].is_none_or(|last| now - last >= self.it.interval);
            self.last[at] = Some(now);
        }
        assert!(has_reason, "all queues of {channel} are within their interval");
        assert!(queues.is_empty(), "{queues:?} on {channel}");
    }

    /// Afterwards there is nothing left to say, and nothing to wake the notifier.
    fn finish(&mut self) {
        self.fails = None;
        self.step(&Step::Wait(20 * (INTERVAL + self.it.cost * NOTIFY)));
        assert_eq!(self.pending.map(|(pending, _)| pending), [0; QUEUES.len()]);
        assert_eq!(self.timer, None);
        assert!(self.it.agenda.is_idle());
        for (channel, queue) in QUEUES {
            let claim = self.it.claim(channel, queue);
            assert!(self.it.enqueue(claim, 1), "the door stayed closed");
        }
    }
}

proptest! {
    #[test]
    fn neither_too_early_nor_too_late_nor_lost(
        interval in prop_oneof![1 => Just(0), 4 => Just(INTERVAL)],
        steps in prop::collection::vec(step(false), 0..80),
    ) {
        let mut run = Run::new(interval, 0, Some(interval));
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }

    #[test]
    fn rests_lose_nothing(
        interval in prop_oneof![1 => Just(0), 4 => Just(INTERVAL)],
        cost in 1..3u64,
        steps in prop::collection::vec(step(false), 0..80),
    ) {
        // What waits for the end of an interval may meet the rest after another channel's notification.
        let mut run = Run::new(interval, cost, Some(interval + cost * NOTIFY));
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }

    #[test]
    fn failures_lose_nothing(cost in 0..2u64, steps in prop::collection::vec(step(true), 0..80)) {
        let mut run = Run::new(INTERVAL, cost, None);
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }
}
