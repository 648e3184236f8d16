//! aimq's files go: in the order of the README nothing fails, and `make uninstall` refuses any other. In a copy of
//! PostgreSQL, because others use the library meanwhile.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::majors::Major;
use aimq_lab::shell;
use postgres::{Client, NoTls};

/// A copy of PostgreSQL, and a server of it. Both are gone with this.
struct Copy {
    home: PathBuf,
    folder: PathBuf,
    server: Option<Child>,
}

impl Copy {
    fn new() -> Self {
        let psql = Major(major()).program("psql");
        let home = psql.ancestors().nth(2).expect("bin is in a folder");
        let copy = shell::target().join(format!("copy-{}", std::process::id()));
        // Hard links: what is removed from the copy stays where it was.
        done(Command::new("cp").arg("-al").arg(home).arg(&copy));
        // A short path, because of the socket.
        let folder = PathBuf::from(format!("/tmp/aimq-copy-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder");
        if shell::is_root() {
            std::os::unix::fs::chown(&folder, Some(shell::NOBODY), Some(shell::NOBODY))
                .expect("chown");
        }
        let made = Self { home: copy, folder, server: None };
        let mut initdb = shell::unprivileged(&made.home.join("bin/initdb"));
        done(
            initdb
                .args(["--auth=trust", "--username=postgres", "--no-sync", "-D"])
                .arg(made.data()),
        );
        made
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn start(&mut self) {
        let mut server = shell::unprivileged(&self.home.join("bin/postgres"));
        server.arg("-D").arg(self.data()).arg("-k").arg(&self.folder);
        server.args(["-c", "listen_addresses=", "-c", "fsync=off"]);
        let log = std::fs::File::create(self.folder.join("log")).expect("a log");
        self.server = Some(server.stderr(log).spawn().expect("a server"));
        wait_until("the server to start", || self.try_connect().is_ok());
    }

    fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        done(Command::new("kill").args(["-INT", &server.id().to_string()]));
        server.wait().expect("the server ends");
    }

    fn try_connect(&self) -> Result<Client, postgres::Error> {
        config(&self.folder).connect(NoTls)
    }

    fn connect(&self) -> Client {
        self.try_connect().expect("connect")
    }

    /// `make uninstall`, as the Makefile calls it.
    fn uninstall(&self, options: &[&str]) -> Output {
        let mut lab = Command::new(shell::target().join("debug/aimq-lab"));
        lab.arg("uninstall").arg(self.home.join("bin/pg_config")).args(options);
        lab.env("PGUSER", "postgres").env_remove("AIMQ_TEST_PG_CONFIG").output().expect("aimq-lab")
    }

    fn library(&self) -> PathBuf {
        let said = Command::new(self.home.join("bin/pg_config")).arg("--pkglibdir").output();
        let said = String::from_utf8(said.expect("pg_config").stdout).expect("UTF-8");
        Path::new(said.trim()).join("aimq.so")
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.home);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[track_caller]
fn done(command: &mut Command) {
    let said = command.output().expect("a program");
    assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
}

#[track_caller]
fn assert_refused(said: &Output, reason: &str) {
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success(), "{text}");
    assert!(text.contains("nothing was removed") && text.contains(reason), "{text}");
}

#[test]
fn the_files_go_last() {
    let _alone = alone();
    let mut copy = Copy::new();
    let library = copy.library();
    assert!(library.starts_with(&copy.home) && library.exists(), "{}", library.display());
    copy.start();
    let mut client = copy.connect();
    run(&mut client, "CREATE DATABASE other");
    run(&mut client, "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a')");
    assert_refused(&copy.uninstall(&[]), "database postgres uses it");

    // What it keeps from happening. A session that has called a trigger of ours finds it without the file.
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    let aside = library.with_extension("aside");
    std::fs::rename(&library, &aside).expect("rename");
    let mut late = copy.connect();
    for sql in ["SELECT pgmq.send('a', '{}')", "CREATE TABLE t ()"] {
        assert_eq!(failure(&mut late, sql).code().code(), "58P01", "{sql}");
    }
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    // And the way out without the library.
    run(
        &mut late,
        "BEGIN; SET LOCAL session_replication_role = replica; SELECT pgmq.send('a', '{}'); COMMIT",
    );
    std::fs::rename(&aside, &library).expect("rename");

    // The order of the README.
    run(&mut client, "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements, aimq'");
    run(&mut client, "SELECT aimq.disable_realtime_all()");
    assert_refused(&copy.uninstall(&[]), "database postgres uses it");
    run(&mut client, "DROP EXTENSION aimq");
    assert_refused(&copy.uninstall(&[]), "shared_preload_libraries names it");
    run(&mut client, "ALTER SYSTEM RESET shared_preload_libraries");
    let said = copy.uninstall(&[]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(!library.exists(), "it is removed");
    let mut after = copy.connect();
    run(&mut after, "SELECT pgmq.send('a', '{}'); CREATE TABLE t ()");
    copy.stop();
    copy.start();
    run(&mut copy.connect(), "SELECT pgmq.send('a', '{}')");
}

#[test]
fn a_server_that_can_not_be_asked_counts_as_one_that_needs_them() {
    let _alone = alone();
    let mut copy = Copy::new();
    copy.start();
    std::fs::rename(copy.data().join("pg_hba.conf"), copy.data().join("gone")).expect("rename");
    std::fs::write(copy.data().join("pg_hba.conf"), "local all all reject\n").expect("write");
    if shell::is_root() {
        let file = copy.data().join("pg_hba.conf");
        std::os::unix::fs::chown(file, Some(shell::NOBODY), Some(shell::NOBODY)).expect("chown");
    }
    let pid = copy.server.as_ref().expect("a server").id().to_string();
    done(Command::new("kill").args(["-HUP", &pid]));
    wait_until("the server to refuse", || copy.try_connect().is_err());
    assert_refused(&copy.uninstall(&[]), "can't be asked");
    assert!(copy.library().exists());
    assert!(copy.uninstall(&["--force"]).status.success());
    assert!(!copy.library().exists());
}
