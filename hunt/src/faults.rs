//! What happens to processes and the server.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use aimq_lab::shell;
use anyhow::{Result, bail, ensure};
use rustix::process::Signal;

use crate::actors::{Excuse, Kind, Scene, any};
use crate::consumers::READER;
use crate::crowding;
use crate::excuses::Scope;
use crate::hands::Hands;
use crate::processes::{PATIENCE, are_back, pick, processes, signal};

const fn kind(name: &'static str, act: fn(&mut Hands, &Scene) -> Result<String>) -> Kind<Hands> {
    Kind { name, is_for: any, later: 0, since: 14, act }
}

/// Those that come one after the other, because each takes away something that the next needs.
pub(crate) const KINDS: [Kind<Hands>; 12] = [
    kind("terminate a notifier", |hands, scene| terminate(hands, scene, false)),
    kind("terminate the launcher", |hands, scene| terminate(hands, scene, true)),
    kind("SIGSTOP a notifier", |hands, scene| stop(hands, scene, false)),
    kind("SIGSTOP the launcher", |hands, scene| stop(hands, scene, true)),
    kind("a stranger holds NOTIFY's lock", hold_notify),
    // Before PostgreSQL 17 that queue has 8 GB.
    Kind { since: 17, ..kind("the NOTIFY queue is full", crowding::fill_notify) },
    kind("no background worker is left", crowding::fill_workers),
    kind("aimq.delivery changed", |hands, scene| {
        for delivery in ["transaction", "notifier"] {
            let set = format!("ALTER SYSTEM SET aimq.delivery = {delivery}");
            hands.one(scene).run(&["LOAD 'aimq'", &set, "SELECT pg_reload_conf()"])?;
            hands.world.nap(scene.draw.millis(500, 1500));
        }
        hands.restore(scene, &["ALTER SYSTEM RESET aimq.delivery", "SELECT pg_reload_conf()"])?;
        Ok(String::new())
    }),
    kind("SIGKILL a notifier", |hands, scene| {
        let process = pick(hands, scene, false)?;
        crash(hands, scene, || signal(process.pid, Signal::KILL))?;
        Ok(process.kind)
    }),
    kind("SIGKILL a producer", |hands, scene| {
        let mut producer =
            hands.world.connect(&hands.world.databases[scene.database], "hunt-producer")?;
        let pid: i32 = producer.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        producer.batch_execute(&format!("BEGIN; SELECT pgmq.send({}, '{{}}')", scene.q))?;
        crash(hands, scene, || signal(pid, Signal::KILL))?;
        Ok(scene.queue.name.to_owned())
    }),
    kind("no room on the disk for WAL", fill_disk),
    kind("immediate shutdown", |hands, scene| {
        let world = Arc::clone(&hands.world);
        let before = processes(hands, scene)?;
        let _excuse = Excuse::new(&world, Scope::Server, "the server was restarted");
        world.cluster.shut_down("immediate")?;
        world.cluster.run()?;
        are_back(hands, scene, &before)?;
        Ok(String::new())
    }),
];

/// Those that excuse nothing, and come beside the others.
pub(crate) const LIGHT: [Kind<Hands>; 8] = [
    kind("cancel a notifier", |hands, scene| cancel(hands, scene, false)),
    kind("cancel the launcher", |hands, scene| cancel(hands, scene, true)),
    kind("SIGKILL a client", kill_client),
    kind("terminate one that blocks", |hands, scene| to_reader(hands, scene, "terminate")),
    kind("cancel one that blocks", |hands, scene| to_reader(hands, scene, "cancel")),
    kind("a listener hangs", |hands, scene| {
        let other = hands.other(scene);
        other.run(&["LISTEN \"aimq:jobs\"", "BEGIN", "SELECT 1"])?;
        hands.world.nap(scene.draw.millis(1000, 2500));
        hands.other(scene).leave();
        Ok(String::new())
    }),
    kind("reload", |hands, scene| {
        let interval = [0, 5, 50][scene.draw.pick % 3];
        let set = format!("ALTER SYSTEM SET aimq.notify_interval = {interval}");
        hands.one(scene).run(&["LOAD 'aimq'", &set, "SELECT pg_reload_conf()"])?;
        Ok(format!("aimq.notify_interval = {interval}"))
    }),
    kind("load on the processors", |hands, scene| {
        let sql = "SELECT count(*) FROM generate_series(1, 3000000)";
        hands.one(scene).run(&[sql])?;
        Ok(String::new())
    }),
];

/// Does what makes the server restart itself.
fn crash(hands: &mut Hands, scene: &Scene, bring: impl FnOnce() -> Result<()>) -> Result<()> {
    let world = Arc::clone(&hands.world);
    let before = processes(hands, scene)?;
    let _excuse = Excuse::new(&world, Scope::Server, "the server crashed");
    bring()?;
    hands.until("the crash", PATIENCE, |hands| hands.one(scene).run(&["SELECT 1"]).is_err())?;
    are_back(hands, scene, &before)
}

/// A producer's backend may make no file longer, which is the same to it as a full disk: PostgreSQL ignores the signal
/// that comes with it, so that the write fails. It ends all when its commit cannot be written.
fn fill_disk(hands: &mut Hands, scene: &Scene) -> Result<String> {
    let mut producer =
        hands.world.connect(&hands.world.databases[scene.database], "hunt-producer")?;
    let pid: i32 = producer.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let begin = format!("BEGIN; SELECT pgmq.send({}, '{{}}')", scene.q);
    producer.batch_execute(&begin)?;
    crash(hands, scene, || {
        // As the server's user, who may limit its processes.
        let mut limit = shell::unprivileged(Path::new("prlimit"));
        shell::output(limit.args(["--fsize=0", "--pid", &pid.to_string()]))?;
        // Another backend that commits at this moment may write ours as well.
        let more = ["SELECT pg_logical_emit_message(true, 'hunt', '')"; 20];
        let mut commits = std::iter::once("COMMIT").chain(more);
        let is_over = commits.any(|commit| producer.batch_execute(commit).is_err());
        ensure!(is_over, "all was written");
        Ok(())
    })?;
    Ok(scene.queue.name.to_owned())
}

fn terminate(hands: &mut Hands, scene: &Scene, is_launcher: bool) -> Result<String> {
    let process = pick(hands, scene, is_launcher)?;
    let world = Arc::clone(&hands.world);
    let _excuse = process.excuse(&world, "a process of aimq's was terminated");
    hands.one(scene).run(&[&format!("SELECT pg_terminate_backend({})", process.pid)])?;
    hands.until("another process", PATIENCE, |hands| {
        processes(hands, scene).is_ok_and(|now| {
            now.iter().any(|it| {
                it.kind == process.kind && it.database == process.database && it.pid != process.pid
            })
        })
    })?;
    Ok(format!("{} {:?}", process.kind, process.database))
}

fn stop(hands: &mut Hands, scene: &Scene, is_launcher: bool) -> Result<String> {
    let process = pick(hands, scene, is_launcher)?;
    let world = Arc::clone(&hands.world);
    let _excuse = process.excuse(&world, "a process of aimq's was stopped");
    let _alone = is_launcher.then(|| world.launcher.write());
    signal(process.pid, Signal::STOP)?;
    // This is not cut short at the end of the run: a process that is stopped is of no use to anybody.
    hands.world.nap(3000);
    signal(process.pid, Signal::CONT)?;
    Ok(format!("{} {:?}", process.kind, process.database))
}

fn cancel(hands: &mut Hands, scene: &Scene, is_launcher: bool) -> Result<String> {
    let process = pick(hands, scene, is_launcher)?;
    hands.one(scene).run(&[&format!("SELECT pg_cancel_backend({})", process.pid)])?;
    Ok(format!("{} {:?}", process.kind, process.database))
}

/// A client that has read a message is killed in its transaction.
fn kill_client(hands: &mut Hands, scene: &Scene) -> Result<String> {
    let world = Arc::clone(&hands.world);
    let mut client = shell::unprivileged(&world.major.program("psql"));
    client.args(["-X", "-q", "-U", "postgres", "-d", &world.databases[scene.database], "-h"]);
    client.arg(world.cluster.folder());
    client.arg("-c").arg(format!(
        "BEGIN; SELECT pgmq.send({q}, '{{}}'); SELECT pgmq.read({q}, 30, 2); SELECT pg_sleep(10)",
        q = scene.q
    ));
    let mut client =
        client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'psql' AND wait_event = 'PgSleep')";
    let reads = hands.until("the client to read", PATIENCE / 4, |hands| {
        matches!(hands.one(scene).value::<bool>(sql), Ok(Some(true)))
    });
    world.nap(scene.draw.millis(0, 500));
    client.kill()?;
    client.wait()?;
    reads?;
    Ok(scene.queue.name.to_owned())
}

fn to_reader(hands: &mut Hands, scene: &Scene, how: &str) -> Result<String> {
    let sql = format!(
        "WITH all_of_them AS MATERIALIZED (
             SELECT pid FROM pg_stat_activity
              WHERE application_name = '{READER}' AND state = 'active' AND datname = current_database())
         SELECT pg_{how}_backend(pid) FROM all_of_them ORDER BY pid OFFSET {} LIMIT 1",
        scene.draw.pick % 5
    );
    match hands.one(scene).value::<bool>(&sql)? {
        Some(true) => Ok(String::new()),
        _ => bail!("nobody blocked"),
    }
}

/// A transaction that has notified hangs in its commit, waiting for a standby that does not exist: no other that
/// notifies can commit.
fn hold_notify(hands: &mut Hands, scene: &Scene) -> Result<String> {
    let world = Arc::clone(&hands.world);
    let mut stranger = world.connect(&world.databases[scene.database], "hunt-stranger")?;
    let pid: i32 = stranger.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    stranger.batch_execute("SET synchronous_commit = on")?;
    let _excuse = Excuse::new(&world, Scope::Server, "a stranger held NOTIFY's lock");
    let hangs = std::thread::spawn(move || {
        stranger.batch_execute(
            "BEGIN; SELECT pg_logical_emit_message(true, 'hunt', ''); NOTIFY strangers; COMMIT",
        )
    });
    let sql = format!("SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = {pid}");
    let has_it = hands.until("the stranger to hang", PATIENCE / 4, |hands| {
        matches!(hands.one(scene).value::<bool>(&sql), Ok(Some(true)))
    });
    hands.world.nap(scene.draw.millis(1000, 3000));
    hands.restore(scene, &[&format!("SELECT pg_cancel_backend({pid})")])?;
    // Cancelled, it is committed.
    hangs.join().map_err(|_| anyhow::anyhow!("the stranger panicked"))??;
    has_it?;
    Ok(String::new())
}
