//! When a wake-up may be late: the time that a fault is in force, that a table is locked, that this machine stands
//! still. Such time is not counted. A wake-up that never comes still counts as lost.

use crate::clock::Micros;

/// A queue's table: the number of its database, and its OID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) database: usize,
    pub(crate) table: u32,
}

/// What an excuse is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The whole server.
    Server,
    /// One database, by its number.
    Database(usize),
    /// One queue.
    Table(Place),
}

impl Scope {
    fn covers(self, place: Place) -> bool {
        match self {
            Self::Server => true,
            Self::Database(database) => database == place.database,
            Self::Table(table) => table == place,
        }
    }
}

/// Time that is not counted.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) scope: Scope,
    pub(crate) from: Micros,
    /// `None` while it lasts.
    pub(crate) until: Option<Micros>,
    pub(crate) why: &'static str,
    /// Whether what becomes readable meanwhile need never be announced.
    forgives: bool,
}

/// All that there were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Excuses(Vec<Window>);

impl Excuses {
    /// Begins one. The number is for [`Self::close`].
    pub(crate) fn open(&mut self, scope: Scope, from: Micros, why: &'static str) -> usize {
        self.0.push(Window { scope, from, until: None, why, forgives: false });
        self.0.len() - 1
    }

    /// Ends one.
    pub(crate) fn close(&mut self, number: usize, until: Micros) {
        if let Some(window) = self.0.get_mut(number) {
            window.until = Some(until);
        }
    }

    /// Makes one forgive what becomes readable meanwhile.
    pub(crate) fn forgive(&mut self, number: usize) {
        if let Some(window) = self.0.get_mut(number) {
            window.forgives = true;
        }
    }

    /// Whether what became readable between two times is forgiven.
    pub(crate) fn is_forgiven(&self, place: Place, from: Micros, to: Micros) -> bool {
        self.within(place, from, to + 1).any(|window| window.forgives)
    }

    /// Adds one that is over.
    pub(crate) fn add(&mut self, scope: Scope, from: Micros, until: Micros, why: &'static str) {
        self.0.push(Window { scope, from, until: Some(until), why, forgives: false });
    }

    /// Those that have to do with a queue and the time from `from` to `to`.
    pub(crate) fn within(
        &self,
        place: Place,
        from: Micros,
        to: Micros,
    ) -> impl Iterator<Item = &Window> {
        self.0.iter().filter(move |window| {
            window.scope.covers(place)
                && window.from < to
                && window.until.is_none_or(|until| until > from)
        })
    }

    /// How much of the time from `from` to `to` counts for a queue.
    pub(crate) fn outside(&self, place: Place, from: Micros, to: Micros) -> Micros {
        let overlap =
            |window: &Window| (window.from.max(from), window.until.unwrap_or(Micros::MAX).min(to));
        let mut inside: Vec<_> = self.within(place, from, to).map(overlap).collect();
        inside.sort_unstable();
        let (mut counted, mut at) = (0, from);
        for (begin, end) in inside {
            counted += (begin - at).max(0);
            at = at.max(end);
        }
        counted + (to - at).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place { database: 0, table: 7 };

    #[test]
    fn what_overlaps_is_taken_off_once() {
        let mut excuses = Excuses::default();
        excuses.add(Scope::Server, 10, 20, "");
        excuses.add(Scope::Database(0), 15, 30, "");
        excuses.add(Scope::Database(1), 0, 100, "");
        excuses.add(Scope::Table(HERE), 12, 13, "");
        let open = excuses.open(Scope::Table(HERE), 90, "");
        assert_eq!(excuses.outside(HERE, 0, 100), 70);
        assert_eq!(excuses.outside(HERE, 16, 25), 0);
        assert_eq!(excuses.outside(HERE, 25, 25), 0);
        excuses.close(open, 95);
        assert_eq!(excuses.outside(HERE, 0, 100), 75);
        assert_eq!(excuses.outside(Place { database: 2, table: 7 }, 0, 100), 90);
        assert!(!excuses.is_forgiven(HERE, 90, 95));
        excuses.forgive(open);
        assert!(excuses.is_forgiven(HERE, 80, 90) && excuses.is_forgiven(HERE, 94, 99));
        assert!(!excuses.is_forgiven(HERE, 80, 89) && !excuses.is_forgiven(HERE, 95, 99));
    }
}
