//! What the client tests share: a database for each test in the server that `make test` started, a
//! listener in a connection of its own, and waiting for conditions with a deadline.

pub mod blocking;
pub mod browser;
pub mod doctor;
pub mod programs;
pub mod relay;
pub mod servers;
pub mod supabase;
pub mod unseen;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aimq_core::payload::Payload;
use postgres::error::DbError;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, NoTls};

/// The channel where none is named.
pub const CHANNEL: &str = "aimq:jobs";

/// How long a condition may take to come true. Never waited for where all is well.
pub const DEADLINE: Duration = Duration::from_secs(30);

fn environment(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: these tests need a server, run `make test`"))
}

/// The major version of the server under test.
pub fn major() -> u32 {
    environment("AIMQ_TEST_MAJOR").parse().expect("a number")
}

/// Whether the server under test has aimq preloaded.
pub fn is_preloaded() -> bool {
    environment("AIMQ_TEST_SHARED") == "preloaded"
}

/// The checkout.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// One of the server's own programs, set up to connect to it as the superuser.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(PathBuf::from(environment("AIMQ_TEST_BIN")).join(name));
    command.env("PGHOST", environment("AIMQ_TEST_SOCKET")).env("PGUSER", "postgres");
    command
}

/// A database of one test, dropped with it.
#[derive(Debug)]
pub struct Database {
    /// Its name; a prefix for roles and other things that databases share.
    pub name: String,
}

impl Database {
    /// A database with pgmq and aimq in it.
    pub fn new() -> Self {
        Self::from_template("aimq_template")
    }

    /// A database with nothing in it.
    pub fn empty() -> Self {
        Self::from_template("template0")
    }

    /// A copy of another test's database, to which nobody may be connected.
    pub fn copy_of(database: &Self) -> Self {
        Self::from_template(&database.name)
    }

    fn from_template(template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}_{number}", std::process::id());
        server("postgres")
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .expect("CREATE DATABASE");
        Self { name }
    }

    /// A new session of the superuser.
    pub fn connect(&self) -> Client {
        server(&self.name)
    }

    /// A new session of `role`.
    pub fn connect_as(&self, role: &str) -> Client {
        config(&self.name).user(role).connect(NoTls).expect("connect")
    }

    /// A new session whose warnings and notices are kept.
    pub fn connect_hearing(&self) -> (Client, Heard) {
        let heard = Heard::default();
        let kept = heard.clone();
        let mut config = config(&self.name);
        config.notice_callback(move |notice| kept.0.lock().expect("not poisoned").push(notice));
        (config.connect(NoTls).expect("connect"), heard)
    }

    /// A listener on `channel`, in a session of its own.
    pub fn listen(&self, channel: &str) -> Listener {
        let mut client = self.connect();
        client.batch_execute(&format!("LISTEN {}", quoted(channel))).expect("LISTEN");
        let fence = Some(self.connect());
        Listener { client, fence, channel: channel.to_owned(), fences: 0 }
    }

    /// Makes a role that may log in, with nothing granted; dropped with the database.
    pub fn role(&self, suffix: &str) -> String {
        let role = format!("{}_{suffix}", self.name);
        self.connect().batch_execute(&format!("CREATE ROLE {role} LOGIN")).expect("CREATE ROLE");
        role
    }
}

impl Default for Database {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let mut client = server("postgres");
        let name = &self.name;
        let _ = client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"));
        let roles = client.query(
            "SELECT rolname::text FROM pg_roles WHERE rolname ^@ $1",
            &[&format!("{name}_")],
        );
        for role in roles.into_iter().flatten() {
            let _ = client.batch_execute(&format!("DROP ROLE {}", role.get::<_, &str>(0)));
        }
    }
}

fn config(database: &str) -> postgres::Config {
    let mut config = Client::configure();
    config.host_path(environment("AIMQ_TEST_SOCKET")).user("postgres").dbname(database);
    config.application_name("aimq-client-tests");
    config
}

fn server(database: &str) -> Client {
    config(database).connect(NoTls).expect("connect")
}

fn parsed(payload: &str) -> Payload {
    serde_json::from_str(payload).expect("JSON")
}

fn counts_of(payload: Payload) -> BTreeMap<String, u64> {
    let queues = payload.queues.expect("queues are named").into_iter();
    queues.map(|(name, news)| (name, news.count)).collect()
}

/// An identifier in SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Warnings and notices that a session was told.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<Mutex<Vec<DbError>>>);

impl Heard {
    /// For the callback of a session that a test makes itself.
    pub fn push(&self, notice: DbError) {
        self.0.lock().expect("not poisoned").push(notice);
    }

    /// Those of WARNING, forgotten with the call.
    pub fn warnings(&self) -> Vec<DbError> {
        self.take("WARNING")
    }

    /// Those of NOTICE; all are forgotten with the call.
    pub fn notices(&self) -> Vec<DbError> {
        self.take("NOTICE")
    }

    fn take(&self, severity: &str) -> Vec<DbError> {
        let all = std::mem::take(&mut *self.0.lock().expect("not poisoned"));
        all.into_iter().filter(|notice| notice.severity() == severity).collect()
    }
}

/// A session that listens on one channel.
#[allow(missing_debug_implementations, reason = "a client has none")]
pub struct Listener {
    client: Client,
    fence: Option<Client>,
    channel: String,
    fences: u32,
}

impl Listener {
    /// Every payload that was sent before this call, as it came. Notifications arrive in the order
    /// of the commits, so one that we send ourselves tells when all are there: nothing is waited out.
    pub fn raw(&mut self) -> Vec<String> {
        self.heard().into_iter().map(|(_, payload)| payload).collect()
    }

    /// The same with the processes that sent it.
    fn heard(&mut self) -> Vec<(i32, String)> {
        self.fences += 1;
        let fence = format!("fence {}", self.fences);
        let client = self.fence.as_mut().expect("a listener of a test database");
        client.execute("SELECT pg_notify($1, $2)", &[&self.channel, &fence]).expect("fence");
        let mut heard = Vec::new();
        let mut notifications = self.client.notifications();
        let mut coming = notifications.timeout_iter(DEADLINE);
        loop {
            let one = coming.next().expect("listening").expect("the fence before the deadline");
            if one.payload() == fence {
                return heard;
            }
            heard.push((one.process_id(), one.payload().to_owned()));
        }
    }

    /// The same, parsed.
    pub fn payloads(&mut self) -> Vec<Payload> {
        self.raw().iter().map(|text| parsed(text)).collect()
    }

    /// Of each notification: the queues it names, with their counts.
    pub fn counts(&mut self) -> Vec<BTreeMap<String, u64>> {
        self.payloads().into_iter().map(counts_of).collect()
    }

    /// The same, apart for what this process sent and for what others did.
    pub fn counts_by(&mut self, pid: i32) -> [Vec<BTreeMap<String, u64>>; 2] {
        let (own, others): (Vec<_>, Vec<_>) =
            self.heard().into_iter().partition(|(sender, _)| *sender == pid);
        [own, others].map(|heard| heard.iter().map(|(_, text)| counts_of(parsed(text))).collect())
    }

    /// A listener in a session that the caller made, without a fence.
    pub fn over(mut client: Client, channel: &str) -> Self {
        client.batch_execute(&format!("LISTEN {}", quoted(channel))).expect("LISTEN");
        Self { client, fence: None, channel: channel.to_owned(), fences: 0 }
    }

    /// Waits for notifications until those that name `queue` have told of `count` messages or more.
    /// Returns how many that were, and in how many notifications.
    pub fn wait_for_count(&mut self, queue: &str, count: u64) -> (u64, usize) {
        let (mut sum, mut notifications) = (0, 0);
        while sum < count {
            let payload = parsed(&self.wait_for_one());
            if let Some(news) = payload.queues.expect("queues are named").get(queue) {
                sum += news.count;
                notifications += 1;
            }
        }
        (sum, notifications)
    }

    /// The session, to do something else with it.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Waits for the next notification.
    pub fn wait_for_one(&mut self) -> String {
        let mut notifications = self.client.notifications();
        let one = notifications.timeout_iter(DEADLINE).next().expect("listening");
        one.expect("a notification before the deadline").payload().to_owned()
    }
}

/// One notification with these counts.
pub fn one<const N: usize>(counts: [(&str, u64); N]) -> Vec<BTreeMap<String, u64>> {
    vec![counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()]
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The state of the notifier of the session's database, as `aimq.notifiers` has it.
pub fn notifier_state(client: &mut Client) -> String {
    value(
        client,
        "SELECT coalesce((SELECT state FROM aimq.notifiers WHERE database = current_database()), 'absent')",
    )
}

/// The process of the notifier of the session's database, once it runs.
pub fn notifier_pid(client: &mut Client) -> i32 {
    process_in(client, "pid")
}

/// The process that a column of `aimq.notifiers` names (`pid` or `watcher_pid`), once it runs: between the end
/// of one process and the start of the next the column is NULL.
pub fn process_in(client: &mut Client, column: &str) -> i32 {
    let state = column.replace("pid", "state");
    let sql = format!(
        "SELECT coalesce(max({column}) FILTER (WHERE {state} = 'running'), 0)
           FROM aimq.notifiers WHERE database = current_database()"
    );
    let mut pid = 0;
    wait_until("the process to run", || {
        pid = value(client, &sql);
        pid != 0
    });
    pid
}

/// Waits until the session's database has a notifier that runs.
pub fn wait_until_running(client: &mut Client) {
    wait_until("the notifier to run", || notifier_state(client) == "running");
}

/// A database with realtime queues and a notifier that runs, and a listener that has heard what
/// the notifier said at its start.
pub fn started(queues: &[&str]) -> (Database, Client, Listener) {
    let database = Database::new();
    let mut client = database.connect();
    for queue in queues {
        run(&mut client, &format!("SELECT aimq.create_queue('{queue}')"));
    }
    wait_until_settled(&mut client, queues.len());
    let listener = database.listen(CHANNEL);
    (database, client, listener)
}

/// A queue that the watcher hears of is looked at; before that it has no counters, and after that the
/// watcher sleeps, and the notifier, which has announced what was found.
pub fn wait_until_settled(client: &mut Client, queues: usize) {
    let sql = format!(
        "SELECT (SELECT count(*) FROM aimq._queue_counters()) >= {queues}
            AND EXISTS (SELECT FROM aimq.notifiers
                         WHERE database = current_database() AND state = 'running'
                           AND watcher_state IN ('running', 'no slot'))
            AND NOT EXISTS (SELECT FROM pg_stat_activity
                             WHERE datname = current_database() AND state <> 'idle'
                               AND backend_type IN ('aimq notifier', 'aimq watcher'))"
    );
    let deadline = Instant::now() + DEADLINE;
    while !boolean(client, &sql) {
        if Instant::now() > deadline {
            let seen = names(
                client,
                "SELECT n::text FROM aimq.notifiers n UNION ALL SELECT c::text FROM aimq._queue_counters() c
                 UNION ALL SELECT a::text FROM pg_stat_activity a WHERE backend_type ^@ 'aimq'",
            );
            panic!("the notifier does not know the queues and sleep: {seen:#?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A real partitioned queue, made by pgmq with pg_partman.
pub fn create_partitioned(client: &mut Client, queue: &str) {
    run(client, "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman");
    run(client, &format!("SELECT pgmq.create_partitioned('{queue}', '100', '1000')"));
}

/// Waits until a session of this database waits for a lock.
pub fn wait_until_blocked(database: &Database, pid: i32) {
    let mut client = database.connect();
    wait_until("a session to wait for a lock", || {
        client
            .query_one("SELECT cardinality(pg_blocking_pids($1)) > 0", &[&pid])
            .expect("query")
            .get(0)
    });
}

/// Has each enqueue to a queue write down which of `old` and aimq's trigger the queue's table had then: the lock that
/// an INSERT holds keeps them from being changed meanwhile.
pub fn probe_triggers(client: &mut Client, queue: &str, old: &str) {
    run(
        client,
        &format!(
            "CREATE TABLE public.met_{queue} (msg_id bigint, had name[]);
             CREATE FUNCTION public.probe_{queue}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO public.met_{queue}
                 SELECT NEW.msg_id, array_agg(tgname ORDER BY tgname) FROM pg_trigger
                  WHERE tgrelid = TG_RELID AND tgname IN ('aimq_realtime', '{old}');
                 RETURN NULL;
             END $$;
             CREATE TRIGGER probe AFTER INSERT ON pgmq.q_{queue} FOR EACH ROW EXECUTE FUNCTION public.probe_{queue}()"
        ),
    );
}

/// What [`probe_triggers`] saw.
pub fn probed_triggers(client: &mut Client, queue: &str) -> Vec<String> {
    names(
        client,
        &format!("SELECT DISTINCT coalesce(had::text, 'none') FROM met_{queue} ORDER BY 1"),
    )
}

/// The session's process.
pub fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).expect("query").get(0)
}

/// The error of a statement that must fail.
pub fn failure(client: &mut Client, sql: &str) -> DbError {
    match client.simple_query(sql) {
        Ok(_) => panic!("should have failed: {sql}"),
        Err(error) => error.as_db_error().expect("an error of the server").clone(),
    }
}

/// Runs statements, each of which must succeed. More than one in a call make one transaction, as the
/// protocol has it, unless they say otherwise themselves.
#[track_caller]
pub fn run(client: &mut Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql) {
        panic!("{sql}: {}", told(&error));
    }
}

/// The server's words, where it was the server.
fn told(error: &postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| format!("{error:?}"))
}

/// One value of one row.
#[track_caller]
pub fn value<T: for<'a> postgres::types::FromSql<'a>>(client: &mut Client, sql: &str) -> T {
    let row = client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {}", told(&error)));
    row.try_get(0).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// A boolean.
#[track_caller]
pub fn boolean(client: &mut Client, sql: &str) -> bool {
    value(client, sql)
}

/// The first column of every row, as text.
#[track_caller]
pub fn names(client: &mut Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).expect(sql).iter().map(|row| row.get(0)).collect()
}
