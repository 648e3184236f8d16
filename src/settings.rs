//! Every setting of aimq: private statics with typed getters.
//!
//! CONTRIBUTING.md lists what else has to know a new setting, under "Add a setting".

use pgrx::PostgresGucEnum;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg::process;

/// `aimq.enabled`: off, and the triggers do nothing. Default on. A session, role or database may set
/// it; takes effect with the next row.
static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Whether the triggers are to do anything in this session.
#[inline]
pub(crate) fn enabled() -> bool {
    ENABLED.get()
}

/// How wake-ups are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum Delivery {
    /// By the notifier where it runs, otherwise in the transaction.
    #[name = c"auto"]
    Auto,
    /// In the transaction that enqueues.
    #[name = c"transaction"]
    Transaction,
    /// By the notifier, even while it is being started.
    #[name = c"notifier"]
    Notifier,
}

/// `aimq.delivery`: how wake-ups are delivered. Default auto. A session, role or database may set it;
/// takes effect with the next commit.
static DELIVERY: GucSetting<Delivery> = GucSetting::<Delivery>::new(Delivery::Auto);

/// How this session's wake-ups are delivered.
pub(crate) fn delivery() -> Delivery {
    DELIVERY.get()
}

/// `aimq.notify_interval`: the least time in milliseconds between two notifications of the notifier
/// for the sake of one queue. Default 10; 0 for none. Takes effect when the configuration is reloaded.
static NOTIFY_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10);

/// The least time between two notifications for the sake of one queue, in microseconds.
pub(crate) fn notify_interval() -> u64 {
    u64::try_from(NOTIFY_INTERVAL.get()).unwrap_or(0) * 1000
}

/// `aimq.max_queues`: how many realtime queues of all databases the notifier's shared table has room
/// for. Default 1024, of some 2 kB each. Takes effect when the server starts; where aimq
/// is not preloaded, when the first session uses it after that.
static MAX_QUEUES: GucSetting<i32> = GucSetting::<i32>::new(1024);

/// How many queues the shared table has room for.
pub(crate) fn max_queues() -> u32 {
    u32::try_from(MAX_QUEUES.get()).unwrap_or(1)
}

/// `aimq.max_waiters`: how many sessions of all databases can block in `aimq.read` and `aimq.wait` at the
/// same time and be called; those beyond poll. Default 1024, of 64 bytes each, and a bit
/// for each of `aimq.max_queues`. Takes effect as
/// `aimq.max_queues`.
static MAX_WAITERS: GucSetting<i32> = GucSetting::<i32>::new(1024);

/// How many sessions that block have a place.
pub(crate) fn max_waiters() -> u32 {
    u32::try_from(MAX_WAITERS.get()).unwrap_or(1)
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
    GucRegistry::define_enum_guc(
        c"aimq.delivery",
        c"How workers are woken: by the notifier, or in the transaction that enqueues.",
        c"auto: by the notifier where it runs, else in the transaction. transaction: each transaction that enqueues notifies itself; such transactions commit one at a time. notifier: by the notifier, even while it is being started. Takes effect with the next commit.",
        &DELIVERY,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aimq.notify_interval",
        c"The least time between two notifications of the notifier for the sake of one queue.",
        c"The first notification after a quiet time goes at once, and what is enqueued before the time has passed is announced when it has, or with another queue of the channel. 0 means no such time.",
        &NOTIFY_INTERVAL,
        0,
        60_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    let is_preloading = process::is_preloading();
    GucRegistry::define_int_guc(
        c"aimq.max_queues",
        c"How many realtime queues the notifier has room for, in all databases together.",
        c"Queues beyond that notify in the transaction that enqueues. Each takes some 2 kB of shared memory. Takes effect when the server starts.",
        &MAX_QUEUES,
        1,
        1_000_000,
        // Only the postmaster can define a setting of its own. Without it, the memory is made with what
        // the first session finds.
        if is_preloading { GucContext::Postmaster } else { GucContext::Sighup },
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aimq.max_waiters",
        c"How many sessions can block in aimq.read and aimq.wait without polling, in all databases together.",
        c"Sessions beyond that poll. Each takes 64 bytes of shared memory, and a bit for each of aimq.max_queues. Takes effect when the server starts.",
        &MAX_WAITERS,
        1,
        100_000,
        if is_preloading { GucContext::Postmaster } else { GucContext::Sighup },
        GucFlags::default(),
    );
    // A mistyped `aimq.*` setting is reported from here on instead of being kept as a placeholder.
    process::reserve_prefix(c"aimq");
}
