//! The control plane: what users call in migrations.
//!
//! `pg_trigger` is the one source of truth: these functions read it, and change it by the DDL that
//! a user would write. All of them run with the caller's privileges.

#![allow(clippy::result_large_err, reason = "pgrx reports an ErrorReport whole; no hot path here")]

mod adopt;
mod archive;
mod astray;
mod attach;
pub(crate) mod shown;
pub(crate) mod stats;
mod wanted;

use aimq_core::shared::{News, State};
use aimq_core::timestamp::Timestamp;
use pgrx::datum::Array;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use self::attach::{changed, changes_of_all, choose, disable, disable_own};
use self::wanted::{Wanted, present};
use crate::catalog::pgmq;
use crate::error::{Error, Warning};
use crate::pg::spi::{Spi, or_raise};
use crate::pg::text::Text;
use crate::pg::transaction;
use crate::shared::{self, bell, told};

/// `aimq.enable_realtime(queue, channel, event, sink, events, ids)`: makes a queue realtime, or changes its
/// setting. True if something changed.
///
/// Locks: SHARE ROW EXCLUSIVE on the queue's table until the transaction ends if something changes (CREATE TRIGGER
/// takes it: producers wait, readers too, since pgmq.read writes), ACCESS EXCLUSIVE if it tells of fewer events than
/// before (DROP TRIGGER), the same on the table of archived messages where `events` has `job_archived`; else ACCESS
/// SHARE.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enable_realtime(
    queue: Option<Text>,
    channel: default!(Option<Text>, "'aimq:jobs'"),
    event: default!(Option<Text>, "'job_enqueued'"),
    sink: default!(Option<Text>, "'notify'"),
    events: default!(Option<Array<'_, Text>>, "'{job_enqueued}'"),
    ids: default!(Option<bool>, false),
) -> Result<bool, ErrorReport> {
    let queue = present("queue", queue.as_deref())?;
    let (channel, event, sink) = (channel.as_deref(), event.as_deref(), sink.as_deref());
    let wanted = Wanted::checked(channel, event, sink, events, ids)?;
    pgmq::check_version()?;
    let queue = pgmq::find(queue)?;
    let changed = choose(&queue, &wanted)?;
    wanted.warn(&[queue]);
    Ok(changed)
}

/// `aimq.disable_realtime(queue)`: makes a queue not realtime. True if it was.
///
/// Locks: ACCESS EXCLUSIVE on the queue's table until the transaction ends if it was realtime (DROP
/// TRIGGER takes it), and on that of archived messages if it told of those; otherwise ACCESS SHARE.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn disable_realtime(queue: Option<Text>) -> Result<bool, ErrorReport> {
    let queue = present("queue", queue.as_deref())?;
    pgmq::check_version()?;
    Ok(disable(&pgmq::find(queue)?)?)
}

/// `aimq.create_queue(queue, realtime, channel, event, sink, events, ids)`: `pgmq.create` and, if asked,
/// `aimq.enable_realtime`. A queue that exists already is kept, as `pgmq.create` does.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_queue(
    queue: Option<Text>,
    realtime: default!(Option<bool>, "true"),
    channel: default!(Option<Text>, "'aimq:jobs'"),
    event: default!(Option<Text>, "'job_enqueued'"),
    sink: default!(Option<Text>, "'notify'"),
    events: default!(Option<Array<'_, Text>>, "'{job_enqueued}'"),
    ids: default!(Option<bool>, false),
) -> Result<(), ErrorReport> {
    let queue = present("queue", queue.as_deref())?;
    let realtime = realtime.ok_or(Error::NullArgument { argument: "realtime" })?;
    let (channel, event, sink) = (channel.as_deref(), event.as_deref(), sink.as_deref());
    let wanted = Wanted::checked(channel, event, sink, events, ids)?;
    pgmq::check_version()?;
    or_raise(Spi::run_with_args("SELECT pgmq.create($1)", &[Text::of(queue).into()]));
    if realtime {
        let queue = pgmq::find(queue)?;
        choose(&queue, &wanted)?;
        wanted.warn(&[queue]);
    }
    Ok(())
}

/// `aimq.enable_realtime_all(channel, event, sink, events, ids)`: every queue; returns those that changed.
///
/// Locks as `enable_realtime`, for each queue that changes, in the order of the tables' names.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enable_realtime_all(
    channel: default!(Option<Text>, "'aimq:jobs'"),
    event: default!(Option<Text>, "'job_enqueued'"),
    sink: default!(Option<Text>, "'notify'"),
    events: default!(Option<Array<'_, Text>>, "'{job_enqueued}'"),
    ids: default!(Option<bool>, false),
) -> Result<SetOfIterator<'static, Text>, ErrorReport> {
    let (channel, event, sink) = (channel.as_deref(), event.as_deref(), sink.as_deref());
    let wanted = Wanted::checked(channel, event, sink, events, ids)?;
    pgmq::check_version()?;
    let changed = changed(|queue| choose(queue, &wanted))?;
    wanted.warn(&pgmq::find_all());
    Ok(changed)
}

/// `aimq.disable_realtime_all()`: every queue, and every other table that has triggers of aimq; returns the queues that
/// changed, by the names that the triggers say.
///
/// Locks as `disable_realtime`, for each queue that changes, in the order of the tables' names.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn disable_realtime_all() -> Result<SetOfIterator<'static, Text>, ErrorReport> {
    pgmq::check_version()?;
    shared::prepare();
    let queues = pgmq::find_all();
    let is_a_queues =
        |table| queues.iter().any(|queue| queue.oid == table || queue.archive_oid == table);
    // The others first: nothing waits for a stranger's table with a queue locked.
    let mut named = astray::take_off_all(|table| !is_a_queues(table));
    let mut changed = changes_of_all(disable_own)?;
    named.extend(astray::take_off_all(is_a_queues));
    for queue in named {
        if changed.iter().all(|it| it.0 != queue) {
            changed.push(Text(queue));
        }
    }
    Ok(SetOfIterator::new(changed))
}

/// `aimq.recheck(queue)`: has the watcher look at a queue's table, or at all of them: what can be read is announced,
/// and what becomes readable later is known from then on. For messages that came in while no trigger fired, and nobody
/// could notice: by replication, by a session with `session_replication_role = replica` or `aimq.enabled = off`.
///
/// Looks at once, and if the transaction has written anything, once more when it is committed. Needs SELECT on the
/// queue's table, or on `pgmq.meta` where none is named (42501). Takes no lock. Costs a look at each table. A WARNING
/// where there can be no notifier: then nobody looks.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn recheck(queue: default!(Option<Text>, "NULL")) -> Result<(), ErrorReport> {
    let found = match queue.as_deref() {
        Some(queue) => {
            let found = pgmq::table_of(present("queue", Some(queue))?);
            if !found.is_there() {
                return Err(pgmq::no_table(queue, &found).into());
            }
            found
        }
        None => pgmq::list_of_queues().ok_or(Error::PgmqMissing)?,
    };
    if !found.allows(pg_sys::ACL_SELECT) {
        let (table, role) = (found.quoted(), pgmq::current_role());
        return Err(Error::NoSelectPrivilege { table, role }.into());
    }
    shared::prepare();
    let here = shared::here();
    let lacks_slot = here.is_some_and(|(shared, database)| bell::lacks_slot(shared, database));
    if here.is_none() || lacks_slot {
        Warning::NobodyToLook { lacks_slot }.report();
    }
    if transaction::has_written() {
        told::note(told::Did::Unseen);
    }
    if let Some((shared, database)) = here {
        let wake = match queue {
            Some(_) => database.look_at(found.oid.to_u32(), Timestamp::NEG_INFINITY),
            None => database.tell(News::EVERYTHING),
        };
        if wake.is_any() || database.state() != State::Running {
            bell::ring(shared, database, wake);
        }
    }
    Ok(())
}

/// `aimq._check_sight()`: fails unless the caller may know which queues there are. So errors of the views name what
/// is missing.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _check_sight() -> Result<(), ErrorReport> {
    Ok(pgmq::check_may_see_queues()?)
}

/// `aimq._check_pgmq()`: fails unless pgmq is recent enough. Run by CREATE EXTENSION.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _check_pgmq() -> Result<(), ErrorReport> {
    Ok(pgmq::check_version()?)
}
