//! aimq's processes, as faults need to know them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::actors::{Excuse, Scene};
use crate::excuses::Scope;
use crate::hands::Hands;
use crate::queues::QUEUES;
use crate::world::World;

/// How long the server, or a process of aimq, may take to come back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A process of aimq.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) kind: String,
    pub(crate) database: Option<String>,
}

impl Process {
    /// Whether it belongs to no database.
    pub(crate) fn is_launcher(&self) -> bool {
        self.database.is_none()
    }

    /// Excuses its database from now on. Without the launcher notifiers go on as ever.
    pub(crate) fn excuse<'a>(&self, world: &'a World, why: &'static str) -> Option<Excuse<'a>> {
        let mut databases = world.databases.iter();
        let number = databases.position(|name| Some(name) == self.database.as_ref())?;
        Some(Excuse::new(world, Scope::Database(number), why))
    }
}

/// All that there are.
pub(crate) fn processes(hands: &mut Hands, scene: &Scene) -> Result<Vec<Process>> {
    let sql = "SELECT pid, backend_type, datname::text FROM pg_stat_activity
                WHERE backend_type ^@ 'aimq' ORDER BY 2, 3, 1";
    let rows = hands.one(scene).client()?.query(sql, &[]);
    let rows = hands.one(scene).after(rows)?;
    let process =
        |row: &postgres::Row| Process { pid: row.get(0), kind: row.get(1), database: row.get(2) };
    Ok(rows.iter().map(process).collect())
}

/// One of them: the launcher, or any that belongs to a database.
pub(crate) fn pick(hands: &mut Hands, scene: &Scene, is_launcher: bool) -> Result<Process> {
    let all = processes(hands, scene)?;
    let all: Vec<_> = all.into_iter().filter(|it| it.is_launcher() == is_launcher).collect();
    if all.is_empty() {
        bail!("there is none");
    }
    Ok(all[scene.draw.pick / 512 % all.len()].clone())
}

/// Sends a signal.
pub(crate) fn signal(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("a process has a number")?;
    kill_process(pid, signal).with_context(|| format!("signal to {pid:?}"))
}

/// Waits until there is as much of aimq as there was.
pub(crate) fn are_back(hands: &mut Hands, scene: &Scene, before: &[Process]) -> Result<()> {
    let world = Arc::clone(&hands.world);
    hands.until("the server", PATIENCE, |hands| hands.one(scene).run(&["SELECT 1"]).is_ok())?;
    if world.plan.preload == 0 {
        // There, the first enqueue in a database brings its notifier.
        for database in 0..world.databases.len() {
            let there = Scene { database, ..scene.clone() };
            let nudge = format!("SELECT pgmq.send('{}', '{{}}')", QUEUES[0].name);
            hands
                .until("an enqueue", PATIENCE, |hands| hands.one(&there).run(&[&nudge]).is_ok())?;
        }
    }
    hands.until("aimq's processes", PATIENCE, |hands| {
        processes(hands, scene).is_ok_and(|now| {
            before.iter().all(|process| {
                now.iter().any(|it| it.kind == process.kind && it.database == process.database)
            })
        })
    })
}
