//! What is known of one queue's table from one look to the next: which messages have become readable since.

use std::collections::HashMap;

use crate::clock::Micros;
use crate::verdict::Demand;

/// A message whose visibility time has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) vt: Micros,
    pub(crate) reads: i32,
    /// When the transaction that wrote it this way was committed, where the server knows.
    pub(crate) committed: Option<Micros>,
    /// Somebody's transaction that still runs has it.
    pub(crate) is_locked: bool,
}

/// Where a queue is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) channel: String,
    pub(crate) queue: String,
}

/// One look at a table.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// When the catalogs were asked for the route, before the rows.
    pub(crate) asked: Micros,
    pub(crate) begun: Micros,
    pub(crate) ended: Micros,
    /// `None`: it was not realtime then.
    pub(crate) route: Option<Route>,
    pub(crate) rows: Vec<Row>,
}

/// How far a message is with its wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Locked by a transaction that runs.
    Locked,
    /// Readable since the queue was not realtime: to be announced when it is.
    Owed,
    /// Demanded.
    Demanded,
    /// Nothing more to be asked for.
    Settled,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    vt: Micros,
    reads: i32,
    stage: Stage,
}

/// A queue's table.
#[derive(Debug)]
pub(crate) struct Table {
    /// The time before which the last look that succeeded had begun.
    last: Micros,
    /// The same, of the last at which the queue was not realtime.
    last_off: Micros,
    last_news: Micros,
    messages: HashMap<i64, Known>,
    /// What is not decided yet. The code that decides takes it out, and says so by [`Self::settle`].
    pub(crate) open: Vec<Demand>,
}

impl Table {
    /// A table that was not there at a time.
    pub(crate) fn new(absent: Micros) -> Self {
        Self {
            last: absent,
            last_off: absent,
            last_news: absent,
            messages: HashMap::new(),
            open: Vec::new(),
        }
    }

    /// When it was last looked at.
    pub(crate) fn last(&self) -> Micros {
        self.last
    }

    /// When a message was last seen that had become readable.
    pub(crate) fn last_news(&self) -> Micros {
        self.last_news
    }

    /// It is not where pgmq would look for it: nobody can read it now, and nobody is told.
    pub(crate) fn is_away(&mut self, at: Micros) {
        self.turn_off();
        (self.last, self.last_off) = (at, at);
    }

    fn turn_off(&mut self) {
        let last = self.last;
        for known in self.messages.values_mut().filter(|known| known.stage == Stage::Demanded) {
            known.stage = Stage::Owed;
        }
        for demand in &mut self.open {
            demand.gone.get_or_insert(last);
        }
    }

    /// Takes note of a look.
    pub(crate) fn see(&mut self, look: &Look) {
        if look.route.is_none() {
            self.turn_off();
        }
        let mut before = std::mem::take(&mut self.messages);
        if let Some(route) = &look.route {
            let waiting = self.open.iter_mut().filter(|demand| demand.gone.is_none());
            for demand in waiting.filter(|demand| !demand.channels.contains(&route.channel)) {
                demand.channels.push(route.channel.clone());
            }
        }
        for row in &look.rows {
            let former = before.remove(&row.id);
            let is_same = |known: &Known| known.vt == row.vt && known.reads == row.reads;
            let same = former.filter(is_same).filter(|known| known.stage != Stage::Locked);
            if former.is_some_and(|known| known.stage == Stage::Demanded)
                && (same.is_none() || row.is_locked)
            {
                self.gone(row.id);
            }
            let stage = match (same.map(|known| known.stage), &look.route) {
                _ if row.is_locked => Stage::Locked,
                (Some(Stage::Owed) | None, None) => Stage::Owed,
                (Some(Stage::Owed) | None, Some(route)) => {
                    self.demand(row, route, look, same.is_some());
                    Stage::Demanded
                }
                (Some(stage), _) => stage,
            };
            self.messages.insert(row.id, Known { vt: row.vt, reads: row.reads, stage });
        }
        for (id, known) in before {
            if known.stage == Stage::Demanded {
                self.gone(id);
            }
        }
        self.last = look.begun;
        if look.route.is_none() {
            self.last_off = look.asked;
        }
    }

    fn demand(&mut self, row: &Row, route: &Route, look: &Look, was_owed: bool) {
        // What was owed is to be announced from when the queue was realtime again; anything else, from when it could
        // be read.
        let known = if was_owed { self.last_off } else { self.last };
        // What was owed could be read before.
        let exact = if was_owed { 0 } else { row.vt.max(row.committed.unwrap_or(0)) };
        let earliest = known.max(exact).min(look.ended);
        self.last_news = look.ended;
        self.open.push(Demand {
            id: row.id,
            vt: row.vt,
            reads: row.reads,
            earliest,
            latest: look.ended,
            is_exact: exact > known.max(self.last_off),
            queue: route.queue.clone(),
            channels: vec![route.channel.clone()],
            gone: None,
        });
    }

    fn gone(&mut self, id: i64) {
        let last = self.last;
        for demand in self.open.iter_mut().filter(|demand| demand.id == id) {
            demand.gone.get_or_insert(last);
        }
    }

    /// A demand is decided: it is not made again for this message as it is now.
    pub(crate) fn settle(&mut self, demand: &Demand) {
        let is_it = |known: &&mut Known| known.vt == demand.vt && known.reads == demand.reads;
        let known = self.messages.get_mut(&demand.id).filter(is_it);
        if let Some(known) = known.filter(|known| known.stage != Stage::Locked) {
            known.stage = Stage::Settled;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, vt: Micros) -> Row {
        Row { id, vt, reads: 0, committed: None, is_locked: false }
    }

    fn look(at: Micros, is_on: bool, rows: &[Row]) -> Look {
        let route = is_on.then(|| Route { channel: "jobs".into(), queue: "a".into() });
        Look { asked: at - 1, begun: at, ended: at + 2, route, rows: rows.to_vec() }
    }

    fn demands(table: &Table) -> Vec<(i64, Micros, Micros, Option<Micros>)> {
        table.open.iter().map(|it| (it.id, it.earliest, it.latest, it.gone)).collect()
    }

    #[test]
    fn a_message_is_demanded_once_from_when_it_could_be_read() {
        let mut table = Table::new(0);
        table.see(&look(100, true, &[]));
        let committed = Row { committed: Some(150), ..row(3, 90) };
        for at in [200, 300] {
            table.see(&look(at, true, &[row(1, 90), row(2, 170), committed]));
            assert_eq!(
                demands(&table),
                [(1, 100, 202, None), (2, 170, 202, None), (3, 150, 202, None)]
            );
        }
        assert_eq!(
            table.open.iter().map(|it| it.is_exact).collect::<Vec<_>>(),
            [false, true, true]
        );
        // Deleted; read again later.
        table.see(&look(400, true, &[row(2, 170), committed]));
        assert_eq!(demands(&table)[0], (1, 100, 202, Some(300)));
        let again = Row { reads: 1, ..row(2, 450) };
        table.see(&look(500, true, &[again, committed]));
        assert_eq!(demands(&table)[1], (2, 170, 202, Some(400)));
        assert_eq!(demands(&table)[3], (2, 450, 502, None));
    }

    #[test]
    fn what_is_settled_is_not_demanded_again() {
        let mut table = Table::new(0);
        table.see(&look(100, true, &[row(1, 90)]));
        let demand = table.open.remove(0);
        table.settle(&demand);
        table.see(&look(200, true, &[row(1, 90)]));
        assert_eq!(demands(&table), []);
    }

    #[test]
    fn what_a_transaction_gives_back_is_demanded_again() {
        let mut table = Table::new(0);
        table.see(&look(100, true, &[row(1, 90)]));
        let demand = table.open.remove(0);
        table.settle(&demand);
        table.see(&look(200, true, &[Row { is_locked: true, ..row(1, 90) }]));
        table.see(&look(300, true, &[row(1, 90)]));
        assert_eq!(demands(&table), [(1, 200, 302, None)]);
    }

    #[test]
    fn what_came_while_the_queue_was_not_realtime_is_demanded_afterwards() {
        let mut table = Table::new(0);
        table.see(&look(100, true, &[row(1, 90)]));
        let demand = table.open.remove(0);
        table.settle(&demand);
        table.see(&look(200, false, &[row(1, 90), row(2, 150)]));
        table.see(&look(300, false, &[row(1, 90), row(2, 150)]));
        assert_eq!(demands(&table), []);
        table.see(&look(400, true, &[row(1, 90), row(2, 150)]));
        assert_eq!(demands(&table), [(2, 299, 402, None)]);
        // It goes off before that is decided, and is away for a while.
        table.see(&look(500, false, &[row(1, 90), row(2, 150)]));
        table.is_away(600);
        assert_eq!(demands(&table), [(2, 299, 402, Some(400))]);
        table.see(&look(700, true, &[row(1, 90), row(2, 150)]));
        assert_eq!(demands(&table), [(2, 299, 402, Some(400)), (2, 600, 702, None)]);
    }
}
