//! Every setting of aimq: private statics with typed getters.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;

/// `aimq.enabled`: off, and the triggers do nothing. Default on. A session, role or database may set
/// it; takes effect with the next row.
static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Whether the triggers are to do anything in this session.
#[inline]
pub(crate) fn enabled() -> bool {
    ENABLED.get()
}

pub(crate) fn init() {
    GucRegistry::define_bool_guc(
        c"aimq.enabled",
        c"Wakes workers when messages are enqueued.",
        c"When off, the triggers of realtime queues do nothing: messages are enqueued as ever, and workers find them when they next poll. Takes effect with the next message.",
        &ENABLED,
        GucContext::Userset,
        GucFlags::default(),
    );
    // SAFETY: called from _PG_init, with a string that lives for ever. A mistyped `aimq.*` setting
    // is reported from here on instead of being kept as a placeholder.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(c"aimq".as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(c"aimq".as_ptr());
    }
}
