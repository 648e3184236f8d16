//! A thread that does one thing after the other, as its deck has it.

use std::sync::{Arc, PoisonError};

use anyhow::Result;

use crate::clock::now;
use crate::deck::{Deck, Draw, source};
use crate::excuses::Scope;
use crate::queues::{QUEUES, Queue};
use crate::session::Session;
use crate::world::{World, told};
use aimq_lab::locking::lock;

/// One kind of action: its name, which queues it is for, and what it does with one. It answers with what is worth
/// telling.
pub(crate) struct Kind<S> {
    pub(crate) name: &'static str,
    pub(crate) is_for: fn(&Queue) -> bool,
    /// How many milliseconds after it a message may become readable.
    pub(crate) later: u64,
    /// The first major version of PostgreSQL that has what it needs.
    pub(crate) since: u32,
    pub(crate) act: fn(&mut S, &Scene) -> Result<String>,
}

impl<S> Clone for Kind<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Kind<S> {}

/// Where and how an action takes place.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) database: usize,
    pub(crate) queue: Queue,
    /// The queue's name and its table, as SQL has them.
    pub(crate) q: String,
    pub(crate) t: String,
    pub(crate) draw: Draw,
}

/// Every queue.
pub(crate) fn any(_: &Queue) -> bool {
    true
}

/// What the actions of a thread are done with.
pub(crate) trait Stage {
    /// Before an action.
    fn prepare(&mut self, scene: &Scene);
}

impl Pair {
    /// Sessions that a fault has ended are noticed.
    pub(crate) fn check(&mut self) {
        self.one.check();
        self.other.check();
    }
}

impl Stage for Pair {
    fn prepare(&mut self, _: &Scene) {
        self.check();
    }
}

/// A thread that acts.
pub(crate) struct Cast<'a, S> {
    pub(crate) world: &'a Arc<World>,
    pub(crate) group: &'static str,
    pub(crate) who: String,
    /// Which of its group it is.
    pub(crate) number: usize,
    /// The database; without it each action draws one.
    pub(crate) database: Option<usize>,
    /// Whether an action has to do with its queue alone.
    pub(crate) is_local: bool,
    /// How many of its actions are watched, from 0 to 1: nobody else acts on the queue meanwhile and for as long as a
    /// wake-up may take, so that no other wake-up hides that it is missing.
    pub(crate) watched: f64,
    /// The average pause after an action, in milliseconds.
    pub(crate) pace: u64,
    pub(crate) stage: S,
}

/// Makes the kinds known that are wanted, and returns them.
pub(crate) fn wanted<S>(world: &World, group: &'static str, kinds: &[Kind<S>]) -> Vec<Kind<S>> {
    let is_wanted = |kind: &&Kind<S>| world.plan.wants(kind.name) && world.major.0 >= kind.since;
    let wanted: Vec<_> = kinds.iter().filter(is_wanted).copied().collect();
    wanted.iter().for_each(|kind| world.history.expect(group, kind.name));
    wanted
}

impl<S: Stage> Cast<'_, S> {
    /// Acts until the end.
    pub(crate) fn play(mut self, kinds: &[Kind<S>]) {
        let world = Arc::clone(self.world);
        let mut deck = Deck::new(kinds, source(world.plan.seed(), &self.who));
        // No two of a group have an action of the same number.
        for number in 10_000 * self.number as u64.. {
            let Some(kind) = deck.draw().filter(|_| !world.is_over()) else { return };
            let draw = Draw::new(number, &mut deck.chance);
            let database = self.database.unwrap_or(draw.pick / 64 % world.databases.len());
            let queues: Vec<_> = QUEUES.iter().filter(|queue| (kind.is_for)(queue)).collect();
            let queue = *queues[draw.pick % queues.len()];
            let is_watched = self.is_local && draw.watch < self.watched;
            let floor = world.floor(database, &queue);
            let (alone, among) = if is_watched {
                (Some(floor.write().unwrap_or_else(PoisonError::into_inner)), None)
            } else {
                let among = self.is_local.then(|| floor.read());
                (None, among.map(|floor| floor.unwrap_or_else(PoisonError::into_inner)))
            };
            let (q, t) = (format!("'{}'", queue.name), format!("pgmq.{}", queue.table()));
            let scene = Scene { database, queue, q, t, draw };
            let begun = now();
            self.stage.prepare(&scene);
            let done = (kind.act)(&mut self.stage, &scene);
            let place = self.is_local.then(|| (database, queue.table()));
            let (what, error) = match done {
                Ok(said) => (format!("{} {said}", kind.name), None),
                Err(error) => {
                    let error = told(&error);
                    (format!("{} failed: {error}", kind.name), Some(error))
                }
            };
            if world.plan.verbose {
                println!("{:9.3} {}: {place:?} {what}", world.since_begun(begun), self.who);
            }
            world.history.note(begun, (&self.who, kind.name), place, what);
            world.history.count(self.group, kind.name, error);
            if alone.is_some() {
                world.nap(world.plan.slack().unsigned_abs() + 150 + kind.later);
            }
            drop((alone, among));
            world.nap((2.0 * self.pace as f64 * draw.pause) as u64);
        }
    }
}

/// Two sessions of a database, for what one begins and the other ends.
pub(crate) struct Pair {
    pub(crate) one: Session,
    pub(crate) other: Session,
}

/// Excuses what goes on until it is dropped.
pub(crate) struct Excuse<'a> {
    world: &'a World,
    number: usize,
}

impl<'a> Excuse<'a> {
    /// From now on.
    pub(crate) fn new(world: &'a World, scope: Scope, why: &'static str) -> Self {
        Self { world, number: lock(&world.excuses).open(scope, now(), why) }
    }

    /// The same, and who is to be woken for what comes meanwhile need never be.
    pub(crate) fn forgiving(world: &'a World, scope: Scope, why: &'static str) -> Self {
        let made = Self::new(world, scope, why);
        lock(&world.excuses).forgive(made.number);
        made
    }
}

impl Drop for Excuse<'_> {
    fn drop(&mut self) {
        lock(&self.world.excuses).close(self.number, now());
    }
}
