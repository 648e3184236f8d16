//! Everything raw: what is called in Postgres, each call beside its safe wrapper. It knows nothing of queues.

pub(crate) mod catalogs;
pub(crate) mod ffi;
pub(crate) mod function;
pub(crate) mod log;
pub(crate) mod notify;
pub(crate) mod passed_on;
pub(crate) mod process;
pub(crate) mod signals;
pub(crate) mod spi;
pub(crate) mod statement;
pub(crate) mod text;
pub(crate) mod timeouts;
pub(crate) mod transaction;
pub(crate) mod trigger;
