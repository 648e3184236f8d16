//! What SQL that is written by hand asks of Rust, so that it need not say it once more: what triggers make a queue
//! realtime, and what their options mean.

#![allow(clippy::type_complexity, reason = "columns are tuples in pgrx")]

use aimq_core::options::Options;
use aimq_core::payload::event;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::catalog::triggers::TRIGGERS;
use crate::pg::catalogs::function;
use crate::pg::text::{self, Text};

/// `aimq._kinds()`: the triggers of a realtime queue's tables. The first one makes the queue realtime. `place` is that
/// of its event among those that the views show, null where another trigger stands for the event.
#[pg_extern(stable, parallel_safe)]
#[search_path(pg_catalog, pg_temp)]
fn _kinds() -> TableIterator<
    'static,
    (
        name!(number, i32),
        name!(name, Text),
        name!(function, pg_sys::Oid),
        name!(tgtype, i16),
        name!(event, Option<Text>),
        name!(place, Option<i32>),
        name!(of_archive, bool),
    ),
> {
    let text = |text: &[u8]| Text(text::from_server(text));
    TableIterator::new((1..).zip(TRIGGERS).map(move |(number, kind)| {
        let place = (1..).zip(event::ALL).find(|(_, event)| kind.event == Some(event));
        (
            number,
            text(kind.name.as_bytes()),
            function(c"aimq", kind.function),
            kind.tgtype,
            kind.event.map(|event| text(event.to_bytes())),
            place.filter(|_| kind.level == "ROW").map(|(place, _)| place),
            kind.is_of_archive,
        )
    }))
}

/// `aimq._sink(options)`: where the news of a queue goes, by its triggers' options.
#[pg_extern(immutable, parallel_safe)]
#[search_path(pg_catalog, pg_temp)]
fn _sink(options: Text) -> &'static str {
    Options::from_bytes(options.as_bytes()).sink()
}

/// `aimq._with_ids(options)`: whether notifications tell which messages, by the triggers' options.
#[pg_extern(immutable, parallel_safe)]
#[search_path(pg_catalog, pg_temp)]
fn _with_ids(options: Text) -> bool {
    Options::from_bytes(options.as_bytes()).ids
}
