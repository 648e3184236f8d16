//! The launcher over a simulated server: each rule by name, and whatever happens in `random`.

mod probes;
mod random;
mod rules;
mod slots;

use super::*;

const MILLISECOND: Moment = 1000;
const SECOND: Moment = 1_000_000;

/// A database's entry in the shared memory.
#[derive(Clone, Debug)]
struct Entry {
    seats: Seats,
    is_wanted: bool,
    /// By when its watcher is to show itself.
    shows_by: Option<Moment>,
}

impl Entry {
    fn new() -> Self {
        let seats = Seats { notifier: State::None, watcher: State::None };
        Self { seats, is_wanted: false, shows_by: None }
    }

    fn seat(&mut self, role: Role) -> &mut State {
        match role {
            Role::Notifier => &mut self.seats.notifier,
            Role::Watcher => &mut self.seats.watcher,
        }
    }
}

/// A server, its shared memory and its launcher.
struct World {
    launcher: Launcher,
    moment: Moment,
    databases: BTreeMap<u32, Found>,
    entries: BTreeMap<u32, Entry>,
    /// What was started and has not been seen to have ended. Those that have ended are gone.
    lives: BTreeMap<Process, Life>,
    free_slots: usize,
    /// Somebody takes an entry whenever one is to be given back.
    is_locked: bool,
    /// Watchers of these databases have not yet made themselves known.
    unknown: BTreeSet<u32>,
    /// Of the last round.
    acts: Vec<Act>,
}

impl World {
    /// With databases that are there, without entries, and none to be asked.
    fn new(databases: impl IntoIterator<Item = u32>) -> Self {
        Self::with_probes(databases, [])
    }

    fn with_probes(
        databases: impl IntoIterator<Item = u32>,
        probes: impl IntoIterator<Item = u32>,
    ) -> Self {
        Self {
            launcher: Launcher::new(probes),
            moment: SECOND,
            databases: databases.into_iter().map(|oid| (oid, Found::Here)).collect(),
            entries: BTreeMap::new(),
            lives: BTreeMap::new(),
            free_slots: 100,
            is_locked: false,
            unknown: BTreeSet::new(),
            acts: Vec::new(),
        }
    }

    fn entry(&mut self, oid: u32) -> &mut Entry {
        self.entries.entry(oid).or_insert_with(Entry::new)
    }

    fn want(&mut self, oid: u32) {
        self.entry(oid).is_wanted = true;
    }

    fn seat(&self, process: Process) -> Option<State> {
        self.entries.get(&process.oid).map(|entry| entry.seats.of(process.role))
    }

    fn state(&self, process: Process) -> State {
        self.seat(process).expect("an entry")
    }

    /// A process that was started makes itself known.
    fn run(&mut self, process: Process) {
        let life = self.lives.get_mut(&process).expect("it was started");
        assert_eq!(*life, Life::Starts, "{process:?}");
        *life = Life::Runs;
        *self.entry(process.oid).seat(process.role) = State::Running;
    }

    /// A process ends, and leaves its seat like that; with `None`, it does not touch it.
    fn end(&mut self, process: Process, state: Option<State>) {
        let life = self.lives.get_mut(&process).expect("it was started");
        assert!(!matches!(life, Life::Gone { .. }), "{process:?} has ended before");
        *life = Life::Gone { has_looked: false };
        self.free_slots += 1;
        if let Some(state) = state {
            *self.entry(process.oid).seat(process.role) = state;
        }
    }

    fn pass(&mut self, time: Moment) {
        self.moment += time;
    }

    /// A round; for how long the launcher sleeps then. What it did, and did not only look at, is in `acts`.
    fn round(&mut self) -> Option<Moment> {
        self.acts.clear();
        let entries = self.entries.iter().map(|(oid, entry)| (*oid, entry.seats)).collect();
        let mut event = Event::Round(entries);
        loop {
            let act = self.launcher.step(event, self.moment);
            if let Act::Sleep(limit) = act {
                return limit;
            }
            let looks = matches!(act, Act::TakeWishes(_) | Act::See(_) | Act::LookAtGuarded);
            if !looks {
                self.acts.push(act.clone());
            }
            event = self.perform(act);
        }
    }

    fn perform(&mut self, act: Act) -> Event {
        match act {
            Act::TakeWishes(oids) => {
                let entries = self.entries.iter_mut().filter(|(oid, _)| oids.contains(oid));
                let wishes = entries.filter_map(|(oid, entry)| {
                    let was_wanted = std::mem::take(&mut entry.is_wanted);
                    was_wanted.then_some((*oid, entry.seats.notifier))
                });
                Event::Wishes(wishes.collect())
            }
            Act::List => Event::There(self.databases.keys().copied().collect()),
            Act::Forget(oid) => {
                let is_done = !self.entries.contains_key(&oid) || !self.is_locked;
                if is_done {
                    self.entries.remove(&oid);
                }
                Event::Forgotten { oid, is_done }
            }
            Act::See(process) => {
                let life = self.lives.get(&process).copied();
                let life = life.unwrap_or(Life::Gone { has_looked: false });
                if matches!(life, Life::Gone { .. }) {
                    self.lives.remove(&process);
                }
                let seats = self.entries.get(&process.oid).map(|entry| entry.seats);
                Event::Seen(process, Seen { life, seats })
            }
            Act::Find(process) => {
                let found = self.databases.get(&process.oid).copied().unwrap_or(Found::Gone);
                Event::Found(process, found)
            }
            Act::Start { process, .. } => Event::Tried(process, self.start(process)),
            Act::NoteNoSlot(process) => {
                let is_noted = self.set_waiting(process, State::NoSlot) == Some(true);
                Event::NoSlotNoted { process, is_noted }
            }
            Act::GiveUp(oid) => Event::GivenUp { oid, is_told: !self.unknown.contains(&oid) },
            Act::LookAtGuarded => {
                let entries = self.entries.iter();
                let left = entries.filter_map(|(oid, entry)| {
                    let by = entry.shows_by?.cast_signed();
                    Some((*oid, by - self.moment.cast_signed()))
                });
                Event::Guarded(left.collect())
            }
            Act::Wake(_) | Act::LogNoSlot(_) | Act::Call(_) | Act::Sleep(_) => Event::Done,
        }
    }

    fn set_waiting(&mut self, process: Process, state: State) -> Option<bool> {
        let seat = self.entries.get_mut(&process.oid)?.seat(process.role);
        let runs = *seat == State::Running;
        if !runs {
            *seat = state;
        }
        Some(!runs)
    }

    fn start(&mut self, process: Process) -> Tried {
        if self.set_waiting(process, State::Starting) == Some(false) {
            return Tried::Taken;
        }
        if self.free_slots == 0 {
            return Tried::NoSlot;
        }
        self.free_slots -= 1;
        let former = self.lives.insert(process, Life::Starts);
        assert_eq!(former, None, "{process:?} was started twice");
        Tried::Started
    }

    /// What was started in the last round, in this order.
    fn started(&self) -> Vec<Process> {
        let started = self.acts.iter().filter_map(|act| match act {
            Act::Start { process, .. } => Some(*process),
            _ => None,
        });
        started.collect()
    }

    /// Whether a probe was started in the last round, and of which database.
    fn probed(&self) -> Option<u32> {
        let mut probes = self.acts.iter().filter_map(|act| match act {
            Act::Start { process, is_probe: true } => Some(process.oid),
            _ => None,
        });
        let probed = probes.next();
        assert_eq!(probes.next(), None, "two at once");
        probed
    }

    fn has_done(&self, act: &Act) -> bool {
        self.acts.contains(act)
    }
}

/// With a database whose notifier and watcher run.
fn settled(oid: u32) -> World {
    let mut world = World::new([oid]);
    settle(&mut world, oid);
    world
}

/// The notifier and the watcher of a database come to run.
fn settle(world: &mut World, oid: u32) {
    world.databases.insert(oid, Found::Here);
    world.want(oid);
    world.round();
    world.run(Process::notifier(oid));
    world.round();
    world.run(Process::watcher(oid));
    world.round();
}
