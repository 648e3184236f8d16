//! Whether a queue has something to read: asked before each read that may find nothing, for `pgmq.read` costs ten
//! times as much, and locks the table as a writer.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::datum::Array;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::OwnedPreparedStatement;

use crate::error::Error;
use crate::ffi;
use crate::pgmq::{self, report};

/// How many queues a session remembers before it starts anew.
const REMEMBERED: usize = 64;

struct Known {
    table: pgmq::Table,
    /// The earliest visibility time.
    earliest: OwnedPreparedStatement,
}

thread_local! {
    static KNOWN: RefCell<HashMap<String, Known>> = RefCell::default();
}

/// `aimq._ready(queues)`: those that have a message which can be read now, locked ones included. Takes ACCESS SHARE on
/// the tables and their indexes.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _ready(queues: Array<'_, &str>) -> Result<Vec<String>, ErrorReport> {
    let mut ready = Vec::new();
    for queue in queues.iter().flatten() {
        if is_ready(queue)? {
            ready.push(queue.to_owned());
        }
    }
    Ok(ready)
}

fn is_ready(queue: &str) -> Result<bool, Error> {
    // Out of the map while Postgres works: an error leaves it forgotten.
    let known = KNOWN.with_borrow_mut(|known| known.remove(queue));
    let known = match known.filter(|known| known.table.is_there()) {
        Some(known) => known,
        None => prepare(queue)?,
    };
    // A plan without parameters is made once, and walks the index on vt whatever the statistics say.
    let earliest = report(Spi::connect(|client| {
        let rows = client.select(&known.earliest, Some(1), &[])?;
        if rows.is_empty() { Ok(None) } else { rows.first().get_one::<TimestampWithTimeZone>() }
    }));
    KNOWN.with_borrow_mut(|all| {
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(queue.to_owned(), known);
    });
    Ok(earliest.is_some_and(|earliest| i64::from(earliest) <= ffi::now().0))
}

/// The table of a queue, as [`_ready`] knows it.
pub(super) fn table_of(queue: &str) -> pgmq::Table {
    let known = KNOWN.with_borrow(|all| all.get(queue).map(|known| known.table.clone()));
    known.unwrap_or_else(|| pgmq::table_of(queue))
}

fn prepare(queue: &str) -> Result<Known, Error> {
    let table = pgmq::table_of(queue);
    if !table.is_there() {
        let (queue, table) = (queue.to_owned(), table.quoted());
        return Err(Error::QueueTableNotFound { queue, table });
    }
    let sql = format!("SELECT vt FROM {} ORDER BY vt LIMIT 1", table.quoted());
    let earliest = report(Spi::connect(|client| Ok(client.prepare(sql.as_str(), &[])?.keep())));
    Ok(Known { table, earliest })
}
