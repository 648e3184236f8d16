//! Whether a queue has something to read: asked before each read that may find nothing, because `pgmq.read` costs ten
//! times as much, and locks the table as a writer.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::datum::Array;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::OwnedPreparedStatement;

use crate::catalog::pgmq;
use crate::error::Error;
use crate::pg::ffi;
use crate::pg::spi::{Spi, or_raise};
use crate::pg::text::{self, Text};
use crate::pg::transaction;

/// How many queues a session remembers before it starts again.
const REMEMBERED: usize = 256;

/// How many messages in a row may be locked before the next one counts as free.
const LOCKED_MOST: i64 = 1000;

struct Known {
    table: pgmq::Table,
    /// The last transaction that locked or changed each visible message.
    visible: OwnedPreparedStatement,
}

thread_local! {
    static KNOWN: RefCell<HashMap<String, Known>> = RefCell::default();
}

/// `aimq._ready(queues, free)`: those that have a message which can be read now. Where `free` is false, it may be one
/// that somebody is just reading: `pgmq.read` skips it, and the session has to sleep then. Takes ACCESS SHARE on the
/// tables and their indexes.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _ready(queues: Array<'_, Text>, free: bool) -> Result<Vec<Text>, ErrorReport> {
    let mut ready = Vec::new();
    for queue in queues.iter().flatten() {
        if is_ready(&queue, free)? {
            ready.push(queue);
        }
    }
    Ok(ready)
}

fn is_ready(queue: &str, free: bool) -> Result<bool, Error> {
    // Out of the map while Postgres works: an error leaves it forgotten.
    let known = KNOWN.with_borrow_mut(|known| known.remove(queue));
    let known = match known.filter(|known| known.table.is_there()) {
        Some(known) => known,
        None => prepare(queue)?,
    };
    // Partitions have no index on vt: pgmq.read knows a shorter way to the first messages.
    let is_ready = !free && known.table.is_partitioned() || or_raise(any_visible(&known, free));
    KNOWN.with_borrow_mut(|all| {
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(queue.to_owned(), known);
    });
    Ok(is_ready)
}

fn any_visible(known: &Known, free: bool) -> spi::Result<bool> {
    let most = if free { LOCKED_MOST } else { 1 };
    let Ok(now) = TimestampWithTimeZone::try_from(ffi::now().0) else {
        return Ok(true);
    };
    Spi::connect(|client| {
        let rows = client.select(&known.visible, Some(most), &[now.into()])?;
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        if !free || count >= most {
            return Ok(count > 0);
        }
        for row in rows {
            let by: Option<pg_sys::TransactionId> = row.get(1)?;
            // A row that several have locked has no such number here, and may be taken for free or, with bad luck, for
            // locked; pgmq's functions make none.
            if by.is_none_or(|by| !transaction::is_in_progress(by)) {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// The table of a queue, as [`_ready`] knows it.
pub(super) fn table_of(queue: &str) -> pgmq::Table {
    let known = KNOWN.with_borrow(|all| all.get(queue).map(|known| known.table.clone()));
    known.unwrap_or_else(|| pgmq::table_of(queue))
}

/// The plan is made for the settings that aimq._ready has (sql/waiting.sql): with them it walks the index on vt,
/// whatever the statistics say.
fn prepare(queue: &str) -> Result<Known, Error> {
    let table = pgmq::table_of(queue);
    if !table.is_there() {
        return Err(pgmq::no_table(queue, &table));
    }
    let order = if table.is_partitioned() { "" } else { "ORDER BY vt" };
    let sql = format!(
        "SELECT xmax FROM {} WHERE vt OPERATOR(pg_catalog.<=) $1 {order} LIMIT {LOCKED_MOST}",
        table.quoted()
    );
    let sql = text::to_c(&sql);
    let time = pgrx::PgBuiltInOids::TIMESTAMPTZOID.oid();
    let visible =
        or_raise(Spi::connect(|client| Ok(client.prepare(sql.as_c_str(), &[time])?.keep())));
    Ok(Known { table, visible })
}
