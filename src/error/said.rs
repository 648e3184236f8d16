//! What is said although the statement goes on: warnings and notices.

use std::cell::Cell;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::passed_on;
use crate::pg::text::quote_literal;

/// What a user should hear about although the transaction goes on.
#[derive(Debug)]
pub(crate) enum Warning {
    /// 53400
    NotifyQueueFull,
    /// 0A000
    PreparedTransaction { queues: String, lacks_slot: bool },
    /// 53400
    TableFull { queue: String },
    /// 55000
    NoNotifier,
    /// 55000
    SinkWithoutNotifier,
    /// 55000
    NoRealtimeSend,
    /// 42501
    BroadcastAsSuperuser { tables: Vec<String> },
    /// 55000
    NobodyToLook { lacks_slot: bool },
    /// 42501
    OthersTriggers { tables: Vec<String> },
    /// 55000
    #[cfg_attr(not(any(feature = "pg17", feature = "pg18")), allow(dead_code))]
    NoSharedMemory { reason: String },
}

impl Warning {
    #[cold]
    pub(crate) fn report(self) {
        use PgSqlErrorCode as Code;
        let (code, message, detail, hint) = match self {
            Self::NotifyQueueFull => (
                Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "aimq skips notifications: the NOTIFY queue is nearly full".to_owned(),
                "The messages are enqueued; workers find them when they next poll.".to_owned(),
                "Look for a session that listens and stays idle in a transaction: SELECT pid, xact_start, query FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' ORDER BY xact_start.",
            ),
            Self::PreparedTransaction { queues, lacks_slot } => (
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                "aimq will not wake workers for this prepared transaction".to_owned(),
                format!(
                    "{}Postgres refuses NOTIFY in a transaction that is prepared. Queues: {queues}.",
                    if lacks_slot {
                        "There is no background worker slot for aimq's notifier, and "
                    } else {
                        ""
                    }
                ),
                if lacks_slot {
                    "Raise max_worker_processes and restart the server. Until then, have the workers also read now and then without a notification."
                } else {
                    "After COMMIT PREPARED, run NOTIFY on the queues' channel, or have the workers also read now and then without a notification."
                },
            ),
            Self::TableFull { queue } => (
                Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("aimq's notifier has no room for queue \"{queue}\""),
                "Its workers are woken by notifications in the transactions that enqueue. Only a session's first such queue is reported.".to_owned(),
                "Raise aimq.max_queues and restart the server, or choose a shorter event.",
            ),
            Self::NoNotifier => (
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "aimq.delivery is \"notifier\", but there is no notifier".to_owned(),
                "Workers are woken by notifications in the transactions that enqueue.".to_owned(),
                "Add aimq to shared_preload_libraries and restart the server, or set aimq.delivery to \"auto\".",
            ),
            Self::SinkWithoutNotifier => (
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "nothing is broadcast without a notifier".to_owned(),
                "The notifier sends the broadcasts, and this server has none: aimq is not preloaded.".to_owned(),
                "Add aimq to shared_preload_libraries and restart the server.",
            ),
            Self::NoRealtimeSend => (
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "there is no function realtime.send(jsonb, text, text, boolean)".to_owned(),
                "Supabase brings this function. The notifier tries again until it exists.".to_owned(),
                "Enable Supabase Realtime in this database, or choose the sink \"notify\".",
            ),
            Self::BroadcastAsSuperuser { tables } => (
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "nothing is broadcast as a superuser".to_owned(),
                format!(
                    "The notifier calls realtime.send as the owner of the queue's table. These belong to a superuser: {}.",
                    tables.join(", ")
                ),
                "Give each to a role that is no superuser, has USAGE on the schemas pgmq and realtime, and may call the function: ALTER TABLE ... OWNER TO that role.",
            ),
            Self::NobodyToLook { lacks_slot } => {
                let (detail, hint) = if lacks_slot {
                    (
                        "There is no background worker slot for one. Messages that came in while no trigger fired are announced once it has begun.",
                        "Raise max_worker_processes and restart the server. Until then, NOTIFY the queue's channel by hand.",
                    )
                } else {
                    (
                        "This server has none: aimq is not preloaded. Messages that came in while no trigger fired are not announced.",
                        "Add aimq to shared_preload_libraries and restart the server. Until then, NOTIFY the queue's channel by hand.",
                    )
                };
                let code = Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
                (code, "nobody looks at the queues without a notifier".to_owned(), detail.to_owned(), hint)
            }
            Self::OthersTriggers { tables } => (
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "triggers of aimq stay on tables of other owners".to_owned(),
                format!("Only a table's owner may drop a trigger. The tables: {}.", tables.join(", ")),
                "Have their owners run this, or drop the triggers.",
            ),
            Self::NoSharedMemory { reason } => (
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "aimq cannot use its shared memory".to_owned(),
                format!("Workers are woken by notifications in the transactions that enqueue. The reason: {reason}"),
                "If aimq was updated, restart the server. Otherwise see the detail.",
            ),
        };
        passed_on::in_servers_encoding(code, [&message, &detail, hint], || {
            ErrorReport::new(code, message.clone(), "aimq")
                .set_detail(detail.clone())
                .set_hint(hint)
                .report(PgLogLevel::WARNING);
        });
    }
}

/// Why a session that blocks polls. Each session hears of one.
#[derive(Debug)]
pub(crate) enum Notice {
    NoMemory,
    NotRealtime { queue: String },
    NoRoom { setting: &'static str },
    NoSlot,
}

impl Notice {
    #[cold]
    pub(crate) fn report(self) {
        thread_local! {
            static IS_SAID: Cell<bool> = const { Cell::new(false) };
        }
        if IS_SAID.replace(true) {
            return;
        }
        let (detail, hint) = match self {
            Self::NoMemory => (
                "aimq has no shared memory on this server.".to_owned(),
                "Add aimq to shared_preload_libraries and restart the server.".to_owned(),
            ),
            Self::NotRealtime { queue } => (
                format!("Queue \"{queue}\" is not realtime."),
                format!("Run SELECT aimq.enable_realtime({}).", quote_literal(&queue)),
            ),
            Self::NoRoom { setting } => (
                format!("There is no room: {setting} is used up."),
                format!("Raise {setting} and restart the server."),
            ),
            Self::NoSlot => (
                "There is no background worker slot for the notifier of this database.".to_owned(),
                "Raise max_worker_processes and restart the server.".to_owned(),
            ),
        };
        let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
        let message = "aimq polls for messages, at first every 20 ms and then up to every second";
        passed_on::in_servers_encoding(code, [message, &detail, &hint], || {
            ErrorReport::new(code, message, "aimq")
                .set_detail(detail.clone())
                .set_hint(hint.clone())
                .report(PgLogLevel::NOTICE);
        });
    }
}

/// What a user who has just chosen a queue's channel or sink should know about listening there.
#[derive(Debug)]
pub(crate) enum Advice {
    /// Each session hears of one such channel.
    NeedsQuotes {
        channel: String,
    },
    NoListeners,
    /// Each session hears of it once.
    SlowMode,
}

impl Advice {
    #[cold]
    pub(crate) fn report(self) {
        thread_local! {
            static IS_SAID: Cell<bool> = const { Cell::new(false) };
            static IS_SLOW_SAID: Cell<bool> = const { Cell::new(false) };
        }
        let (message, detail, hint) = match self {
            Self::NeedsQuotes { .. } if IS_SAID.replace(true) => return,
            Self::SlowMode if IS_SLOW_SAID.replace(true) => return,
            Self::NeedsQuotes { channel } => (
                format!("channel \"{channel}\" needs quotes in LISTEN"),
                "Without quotes Postgres turns capitals into small letters, and refuses other signs and reserved words.",
                format!("Workers listen by LISTEN {};", spi::quote_identifier(&channel)),
            ),
            Self::NoListeners => (
                "sessions that LISTEN hear nothing of it".to_owned(),
                "The sink is \"supabase\": what happens is broadcast by Supabase Realtime alone.",
                "Choose the sink \"both\" if workers are to LISTEN.".to_owned(),
            ),
            Self::SlowMode => (
                "no notifier runs on this server: aimq is not preloaded".to_owned(),
                "Transactions that enqueue notify themselves, and wait for each other while they do. Nobody is woken for messages that become readable later, blocking calls poll, and nothing is broadcast.",
                "Add aimq to shared_preload_libraries and restart the server.".to_owned(),
            ),
        };
        let code = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
        passed_on::in_servers_encoding(code, [&message, detail, &hint], || {
            ErrorReport::new(code, message.clone(), "aimq")
                .set_detail(detail)
                .set_hint(hint.clone())
                .report(PgLogLevel::NOTICE);
        });
    }
}
