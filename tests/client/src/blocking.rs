//! Sessions that block, in threads of their own.

use std::thread::JoinHandle;

use postgres::Client;

use crate::*;

/// A session that blocks, in a thread of its own.
pub struct Blocked {
    /// The server's process.
    pub pid: i32,
    /// What the call came to.
    pub thread: JoinHandle<Result<Vec<i64>, String>>,
}

impl Blocked {
    /// What it read. `Err` is the SQLSTATE.
    pub fn end(self) -> Result<Vec<i64>, String> {
        self.thread.join().expect("a session that blocks")
    }

    /// What it came to, as [`Self::end`] has it, if that is so before a time.
    pub fn ends_by(self, deadline: Instant) -> Option<Result<Vec<i64>, String>> {
        while !self.thread.is_finished() {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Some(self.end())
    }

    /// What it read; it must not have failed.
    pub fn read(self) -> Vec<i64> {
        self.end().expect("a read")
    }
}

/// As a worker does.
pub const READ: &str = "SELECT msg_id FROM aimq.read('a', 60, 1, '60 s')";

/// Starts a session that blocks, and waits until it does.
pub fn block(database: &Database, sql: &str) -> Blocked {
    block_over(database.connect(), &mut database.connect(), sql)
}

/// The same in a session that the caller made; another one of the same database watches it.
pub fn block_over(mut client: Client, watch: &mut Client, sql: &str) -> Blocked {
    let pid = pid(&mut client);
    let sql = sql.to_owned();
    let thread = std::thread::spawn(move || match client.query(&sql, &[]) {
        Ok(rows) => Ok(rows.iter().map(|row| row.get(0)).collect()),
        Err(error) => Err(error.code().map_or(error.to_string(), |code| code.code().to_owned())),
    });
    wait_until("a session to block", || waits(watch, pid));
    Blocked { pid, thread }
}

/// Whether a session sleeps in a call of ours.
pub fn waits(client: &mut Client, pid: i32) -> bool {
    let event = if major() >= 17 { "AimqWait" } else { "Extension" };
    boolean(
        client,
        &format!(
            "SELECT EXISTS (SELECT FROM aimq.waiters w JOIN pg_stat_activity a USING (pid)
                             WHERE pid = {pid} AND a.wait_event = '{event}')"
        ),
    )
}

/// How many sessions wait.
pub fn waiters(client: &mut Client) -> i64 {
    value(client, "SELECT count(*) FROM aimq.waiters")
}

/// Nobody waits, and nothing of it is left.
pub fn assert_clean(client: &mut Client) {
    wait_until("the waiters to be gone", || waiters(client) == 0);
}
