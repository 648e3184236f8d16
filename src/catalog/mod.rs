//! What the catalogs say: what a realtime trigger is, which table a trigger belongs to, and what pgmq is.

pub(crate) mod columns;
pub(crate) mod home;
pub(crate) mod in_sql;
pub(crate) mod pgmq;
pub(crate) mod triggers;
