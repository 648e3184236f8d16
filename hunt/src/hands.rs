//! What the threads have at hand that act on all databases: two sessions in each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::actors::{Excuse, Pair, Scene, Stage};
use crate::excuses::{Place, Scope};
use crate::session::Session;
use crate::world::World;

/// For how long a thread tries to undo a change that was made for a while.
const PATIENCE: Duration = Duration::from_secs(40);

/// Two sessions of each database.
pub(crate) struct Hands {
    pub(crate) world: Arc<World>,
    pairs: Vec<Pair>,
}

impl Stage for Hands {
    fn prepare(&mut self, scene: &Scene) {
        self.pairs[scene.database].check();
    }
}

impl Hands {
    /// Somebody's.
    pub(crate) fn new(world: &Arc<World>, who: &str, settings: &'static str) -> Self {
        let session = |database| Session::new(world, database, who, settings);
        let pair = |database| Pair { one: session(database), other: session(database) };
        let pairs = (0..world.databases.len()).map(pair).collect();
        Self { world: Arc::clone(world), pairs }
    }

    /// The first session of a scene's database.
    pub(crate) fn one(&mut self, scene: &Scene) -> &mut Session {
        &mut self.pairs[scene.database].one
    }

    /// The second.
    pub(crate) fn other(&mut self, scene: &Scene) -> &mut Session {
        &mut self.pairs[scene.database].other
    }

    /// Statements in one transaction.
    pub(crate) fn at_once(&mut self, scene: &Scene, statements: &[&str]) -> Result<()> {
        self.one(scene).run(&[&["BEGIN"], statements, &["COMMIT"]].concat())
    }

    /// Brings back what was changed for a while, however often that takes.
    pub(crate) fn restore(&mut self, scene: &Scene, statements: &[&str]) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        for sql in statements {
            while let Err(error) = self.one(scene).run(&[sql]) {
                if Instant::now() > end {
                    return Err(error.context(format!("not restored: {sql}")));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Excuses a scene's queue.
    pub(crate) fn excuse<'a>(
        &mut self,
        world: &'a World,
        scene: &Scene,
        why: &'static str,
    ) -> Result<Excuse<'a>> {
        let sql = format!("SELECT '{}'::regclass::oid", scene.t);
        let table = self.one(scene).value::<u32>(&sql)?.context("the queue's table")?;
        let place = Place { database: scene.database, table };
        Ok(Excuse::new(world, Scope::Table(place), why))
    }

    /// Waits until a condition holds.
    pub(crate) fn until(
        &mut self,
        what: &str,
        patience: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + patience;
        while !holds(self) {
            if Instant::now() > end {
                bail!("waited too long for {what}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}
