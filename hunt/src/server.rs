//! The throw-away server of a run, with its databases and queues.

use aimq_lab::cluster::Cluster;
use aimq_lab::{debs, setup};
use anyhow::{Context, Result};
use postgres::Client;

use crate::contestant::Contestant;
use crate::crowding::{NOTIFY_PAGES, WIDE, WORKERS};
use crate::drivers;
use crate::plan::Plan;
use crate::queues::{Kind, QUEUES, Queue, literal};

/// A role that owns queues and may use pgmq's schema.
pub(crate) const ABLE: &str = "hunt_able";
/// One that may not.
pub(crate) const UNABLE: &str = "hunt_unable";

/// One that sees all rows of the queue that has row level security.
pub(crate) const SEES_ALL: &str = "hunt_sees_all";

/// Builds what is needed, starts the server, and makes the databases.
pub(crate) fn start(plan: &Plan) -> Result<(Cluster, Vec<String>)> {
    let major = plan.pg;
    setup::ready(major, setup::Profile::Debug)?;
    debs::partman(&[major])?;
    drivers::install()?;
    let max_queues = format!("aimq.max_queues={}", plan.max_queues());
    let max_waiters = format!("aimq.max_waiters={}", plan.max_waiters());
    let mut settings = vec![
        "fsync=off",
        "max_connections=150",
        "max_prepared_transactions=20",
        WORKERS,
        &max_waiters,
        // For the stranger that hangs in its commit; all others don't wait for it.
        "synchronous_standby_names=nobody",
        "synchronous_commit=local",
        // When a transaction became visible, for the observer.
        "track_commit_timestamp=on",
        "client_connection_check_interval=100ms",
        "deadlock_timeout=200ms",
        "autovacuum_naptime=5s",
        "timezone=UTC",
        &max_queues,
    ];
    if major.0 >= 17 {
        settings.push(NOTIFY_PAGES);
    }
    if plan.preload == 1 {
        settings.push("shared_preload_libraries=aimq");
    }
    let cluster = Cluster::start(major, &settings)?;
    let mut client = cluster.connect("postgres")?;
    client.batch_execute(&format!(
        "CREATE ROLE {ABLE}; CREATE ROLE {UNABLE}; CREATE ROLE {SEES_ALL}"
    ))?;
    let names: Vec<String> = (0..plan.databases).map(|number| format!("hunt{number}")).collect();
    for name in &names {
        client.batch_execute(&format!("CREATE DATABASE {name}"))?;
        let mut client = cluster.connect(name)?;
        fill(&mut client, plan.contestant).with_context(|| format!("database {name}"))?;
    }
    Ok((cluster, names))
}

/// A function that sends some of its messages in blocks that fail.
pub(crate) const EXCEPTIONS: &str = "public.hunt_exceptions";
/// A procedure that commits after each message.
pub(crate) const COMMITS: &str = "public.hunt_commits";

/// What a database has beside its queues.
fn surroundings() -> String {
    format!(
        "CREATE EXTENSION aimq CASCADE;
         CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman;
         CREATE SCHEMA elsewhere;
         GRANT USAGE, CREATE ON SCHEMA pgmq TO {ABLE}; GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {ABLE};
         GRANT USAGE ON SCHEMA pgmq TO {SEES_ALL};
         CREATE FUNCTION {EXCEPTIONS}(queue text, n integer) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             FOR i IN 1 .. n LOOP
                 BEGIN
                     PERFORM pgmq.send(queue, '{{}}');
                     IF i % 2 = 0 THEN RAISE 'undone'; END IF;
                 EXCEPTION WHEN raise_exception THEN NULL;
                 END;
             END LOOP;
         END $$;
         CREATE PROCEDURE {COMMITS}(queue text, n integer) LANGUAGE plpgsql AS $$
         BEGIN
             FOR i IN 1 .. n LOOP
                 PERFORM pgmq.send(queue, '{{}}');
                 IF i % 3 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
             END LOOP;
         END $$"
    )
}

/// The topic of a queue.
pub(crate) fn topic(queue: &Queue) -> String {
    format!("hunt.{}", queue.name)
}

/// Makes the queues of a database.
fn fill(client: &mut Client, contestant: Contestant) -> Result<()> {
    client.batch_execute(&surroundings())?;
    client.batch_execute(WIDE)?;
    client.batch_execute(contestant.prelude())?;
    let made = QUEUES.iter().flat_map(|queue| made(queue, contestant));
    made.into_iter().try_for_each(|sql| Ok(client.batch_execute(&sql)?))
}

/// The statements that make a queue with all that belongs to it.
pub(crate) fn made(queue: &Queue, contestant: Contestant) -> Vec<String> {
    let (name, table) = (literal(queue.name), format!("pgmq.{}", queue.table()));
    let make = match queue.kind {
        Kind::Standard => format!("pgmq.create({name})"),
        Kind::Unlogged => format!("pgmq.create_unlogged({name})"),
        Kind::Partitioned => format!("pgmq.create_partitioned({name}, '1000', '100000')"),
    };
    let index = if queue.kind == Kind::Partitioned {
        // As the README asks for.
        format!("CREATE INDEX ON {table} (vt)")
    } else {
        // For rows that conflict.
        format!("CREATE UNIQUE INDEX ON {table} ((message ->> 'once'))")
    };
    let mut statements = vec![
        format!("SELECT {make}"),
        index,
        format!("SELECT pgmq.bind_topic('{}', {name})", topic(queue)),
        contestant.attach(queue),
    ];
    if queue.is_guarded() {
        statements.push(format!(
            "GRANT SELECT, UPDATE, DELETE ON {table} TO {SEES_ALL};
             CREATE POLICY hunt_sees_all ON {table} TO {SEES_ALL} USING (true);
             ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
        ));
    }
    statements
}
