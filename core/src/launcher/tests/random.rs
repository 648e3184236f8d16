//! Wishes, processes that come and go, databases and slots, in any order.

use proptest::prelude::*;

use super::*;

const DATABASES: [u32; 3] = [5, 6, 7];

/// A database that somebody wants a notifier for gets an attempt within this time: the longest back-off.
const AT_LATEST: Moment = 10 * SECOND;

#[derive(Clone, Debug)]
enum Step {
    Want(usize),
    /// A process that was started makes itself known.
    Run(Process),
    /// It has nothing to do.
    Leave(Process),
    /// It ends against its will.
    Crash(Process),
    /// What can be said of a database; `None` if it is gone.
    Database(usize, Option<Found>),
    /// Others take slots, or give them back.
    Slots(usize),
    /// Whether entries cannot be given back.
    Lock(bool),
    /// Time passes: the launcher comes when it was rung, and at its timers.
    Wait(Moment),
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..DATABASES.len();
    let process = (at.clone(), any::<bool>()).prop_map(|(at, is_notifier)| {
        let role = if is_notifier { Role::Notifier } else { Role::Watcher };
        Process { role, oid: DATABASES[at] }
    });
    let found = prop_oneof![
        3 => Just(Some(Found::Here)),
        1 => Just(Some(Found::Busy)),
        1 => Just(None),
    ];
    prop_oneof![
        6 => at.clone().prop_map(Step::Want),
        8 => process.clone().prop_map(Step::Run),
        3 => process.clone().prop_map(Step::Leave),
        5 => process.prop_map(Step::Crash),
        2 => (at, found).prop_map(|(at, found)| Step::Database(at, found)),
        2 => (0..4usize).prop_map(Step::Slots),
        1 => any::<bool>().prop_map(Step::Lock),
        8 => prop_oneof![1..SECOND, 1..70 * SECOND].prop_map(Step::Wait),
    ]
}

struct Run {
    it: World,
    is_rung: bool,
    timer: Option<Moment>,
    /// By database: since when somebody wants a notifier that could be started.
    wanted: BTreeMap<u32, Moment>,
    /// How often the launcher has come since time has passed.
    rounds: usize,
}

impl Run {
    fn new(probes: &[usize]) -> Self {
        let it = World::with_probes(DATABASES, probes.iter().map(|at| DATABASES[*at]));
        Self { it, is_rung: true, timer: None, wanted: BTreeMap::new(), rounds: 0 }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Want(at) => self.want(DATABASES[at]),
            Step::Run(process) if self.life(process) == Some(Life::Starts) => {
                self.it.run(process);
                self.is_rung = true;
                if process.role == Role::Notifier {
                    self.wanted.remove(&process.oid);
                }
            }
            Step::Leave(process) if self.lives(process) => self.leave(process),
            Step::Crash(process) if self.lives(process) => self.crash(process),
            Step::Database(at, found) => self.set(DATABASES[at], found),
            Step::Slots(free) => self.it.free_slots = free,
            Step::Lock(is_locked) => self.it.is_locked = is_locked,
            Step::Wait(duration) => self.wait(duration),
            Step::Run(_) | Step::Leave(_) | Step::Crash(_) => {}
        }
    }

    fn life(&self, process: Process) -> Option<Life> {
        self.it.lives.get(&process).copied()
    }

    fn lives(&self, process: Process) -> bool {
        matches!(self.life(process), Some(Life::Starts | Life::Runs))
    }

    fn want(&mut self, oid: u32) {
        // Only who is connected to a database can want something there.
        if !self.it.databases.contains_key(&oid) {
            return;
        }
        let entry = self.it.entry(oid);
        self.is_rung |= !std::mem::replace(&mut entry.is_wanted, true);
        if entry.seats.notifier != State::Running {
            self.wanted.entry(oid).or_insert(self.it.moment);
        }
    }

    fn leave(&mut self, process: Process) {
        let has_entry = self.it.entries.contains_key(&process.oid);
        self.it.end(process, has_entry.then_some(State::None));
        if process.role == Role::Notifier {
            self.it.lives.insert(process, Life::Gone { has_looked: true });
            if has_entry {
                self.it.set_waiting(Process::watcher(process.oid), State::None);
            }
        }
        self.is_rung = true;
    }

    fn crash(&mut self, process: Process) {
        let has_run = self.life(process) == Some(Life::Runs);
        self.it.end(process, has_run.then_some(State::Down));
        self.is_rung = true;
        if has_run && process.role == Role::Notifier {
            self.want(process.oid);
        }
    }

    /// A database that is gone has no processes. What it had is still in the shared memory.
    fn set(&mut self, oid: u32, found: Option<Found>) {
        match found {
            Some(found) => _ = self.it.databases.insert(oid, found),
            None => {
                for process in [Process::notifier(oid), Process::watcher(oid)] {
                    if self.lives(process) {
                        self.crash(process);
                    }
                }
                self.it.databases.remove(&oid);
                self.wanted.remove(&oid);
            }
        }
    }

    fn wait(&mut self, duration: Moment) {
        let end = self.it.moment + duration;
        loop {
            while std::mem::take(&mut self.is_rung) || self.timer == Some(self.it.moment) {
                self.round();
            }
            self.check();
            let Some(timer) = self.timer.filter(|timer| *timer <= end) else {
                break;
            };
            assert!(timer > self.it.moment, "a timer that was over when it was set");
            (self.it.moment, self.rounds) = (timer, 0);
        }
        (self.it.moment, self.rounds) = (end, 0);
        self.check();
    }

    fn round(&mut self) {
        self.rounds += 1;
        assert!(self.rounds < 20, "the launcher does not come to rest: {:?}", self.it.acts);
        self.timer = self.it.round().map(|limit| self.it.moment + limit);
        // Where the launcher had a transaction, it takes another round before it sleeps.
        self.is_rung |= self.it.acts.iter().any(|act| matches!(act, Act::List | Act::Find(_)));
        for process in self.it.started() {
            if process.role == Role::Notifier {
                self.wanted.remove(&process.oid);
            }
        }
        let jobs = &self.it.launcher.jobs;
        assert!(
            jobs.values().filter(|job| job.wish == Wish::Probe && job.attempts < ATTEMPTS).count()
                <= 1
        );
        let given_up = jobs.iter().filter(|(_, job)| matches!(job.stage, Stage::GivenUp { .. }));
        let given_up: Vec<_> = given_up.map(|(process, _)| *process).collect();
        assert!(given_up.len() <= 1, "{given_up:?}");
        for act in &self.it.acts.clone() {
            // It does as it is told, unless it has ended by itself.
            if let Act::GiveUp(oid) = act
                && self.lives(Process::watcher(*oid))
            {
                self.crash(Process::watcher(*oid));
            }
        }
    }

    /// Nobody has waited for too long. Time does not count while a process is there that may still come to run, or
    /// while the database cannot be connected to.
    fn check(&mut self) {
        let now = self.it.moment;
        for oid in DATABASES {
            let is_here = self.it.databases.get(&oid) == Some(&Found::Here);
            if (!is_here || self.lives(Process::notifier(oid)))
                && let Some(since) = self.wanted.get_mut(&oid)
            {
                *since = now;
            }
        }
        for (oid, since) in &self.wanted {
            assert!(now - since <= AT_LATEST, "{oid} was wanted {} µs ago", now - since);
        }
    }

    /// All goes well from here on: each wish gets its notifier, each database is asked, and then nothing is left.
    fn finish(&mut self) {
        let wanted: Vec<_> = self.wanted.keys().copied().collect();
        (self.it.free_slots, self.it.is_locked) = (100, false);
        DATABASES.iter().for_each(|oid| self.set(*oid, Some(Found::Here)));
        for _ in 0..30 {
            let all: Vec<_> = self.it.lives.keys().copied().collect();
            all.iter().for_each(|process| self.step(&Step::Run(*process)));
            self.wait(10 * SECOND);
        }
        for oid in wanted {
            assert_eq!(self.it.state(Process::notifier(oid)), State::Running);
        }
        assert!(self.it.launcher.probes.is_empty());
        for role in [Role::Notifier, Role::Watcher] {
            for oid in DATABASES {
                self.step(&Step::Leave(Process { role, oid }));
            }
        }
        self.wait(20 * SECOND);
        assert!(self.it.launcher.jobs.is_empty(), "{:?}", self.it.launcher.jobs);
        assert_eq!(self.timer, None);
    }
}

proptest! {
    #[test]
    fn whatever_happens_a_wish_gets_an_attempt(
        probes in prop::sample::subsequence(vec![0, 1, 2], 0..=3),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut run = Run::new(&probes);
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }
}
