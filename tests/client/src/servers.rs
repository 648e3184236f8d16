//! Servers of a test's own, for what may happen to one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aimq_lab::cluster::Cluster;
use aimq_lab::majors::Major;
use postgres::Client;

use crate::*;

/// One at a time: each is a whole server, and some load it.
/// Held by each test.
pub fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server with aimq preloaded, a queue `a`, and a notifier that runs.
pub fn server(settings: &[&str]) -> (MutexGuard<'static, ()>, Cluster) {
    let alone = alone();
    let cluster = bare(&[&["shared_preload_libraries=aimq"], settings].concat());
    let mut client = connect(&cluster);
    run(&mut client, "CREATE EXTENSION aimq CASCADE");
    run(&mut client, "SELECT aimq.create_queue('a')");
    wait_until_running(&mut client);
    (alone, cluster)
}

/// A server with nothing in it.
pub fn bare(settings: &[&str]) -> Cluster {
    // Two processes for each database.
    let base = ["fsync=off", "autovacuum=off", "max_connections=100", "max_worker_processes=32"];
    Cluster::start(Major(major()), &[&base, settings].concat()).expect("a server")
}

/// A new session of the superuser.
pub fn connect(cluster: &Cluster) -> Client {
    cluster.connect("postgres").expect("connect")
}

/// How a session is made where its server may be gone, or its notices are wanted.
pub fn config(folder: &std::path::Path) -> postgres::Config {
    let mut config = postgres::Config::new();
    config.host_path(folder).user("postgres").dbname("postgres");
    config
}

/// A session whose warnings and notices are kept.
pub fn connect_hearing(cluster: &Cluster, database: &str) -> (Client, Heard) {
    let heard = Heard::default();
    let kept = heard.clone();
    let mut config = config(cluster.folder());
    config.dbname(database).notice_callback(move |notice| kept.push(notice));
    (config.connect(postgres::NoTls).expect("connect"), heard)
}

/// A listener without a fence.
pub fn listen(cluster: &Cluster) -> Listener {
    Listener::over(connect(cluster), CHANNEL)
}

/// As a worker does it: listens, has a first read, and waits. Which of the two it is depends on how fast the
/// server was.
pub fn learns(listener: &mut Listener) {
    if value::<i64>(listener.client(), "SELECT count(*) FROM pgmq.q_a WHERE vt <= now()") == 0 {
        listener.wait_for_count("a", 1);
    }
}

/// What the server has logged.
pub fn log_of(cluster: &Cluster) -> String {
    std::fs::read_to_string(cluster.log()).expect("the log")
}

/// Sends a signal to a process that is there.
pub fn kill(signal: &str, pid: i32) {
    assert!(try_kill(signal, pid), "no process {pid}");
}

/// The shell's own `kill`: there is no other on a bare Debian. False if there is no such process.
pub fn try_kill(signal: &str, pid: i32) -> bool {
    let kill = ["-c", "kill -\"$1\" \"$2\"", "sh", signal, &pid.to_string()];
    std::process::Command::new("sh").args(kill).status().expect("a shell").success()
}

/// Connects again after a crash.
pub fn reconnect(cluster: &Cluster) -> Client {
    let mut client = None;
    wait_until("the server to take connections", || {
        client = cluster.connect("postgres").ok();
        client.is_some()
    });
    client.expect("a client")
}
