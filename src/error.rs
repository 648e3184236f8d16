//! Every error and warning of aimq: one variant each, with its SQLSTATE, message, detail and hint.

use std::cell::Cell;

use aimq_core::payload::PAYLOAD_MAX_BYTES;
use aimq_core::route::CHANNEL_MAX_BYTES;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// The oldest pgmq that aimq works with. Before, queue tables were members of the extension, and
/// pg_dump left their triggers out.
pub(crate) const PGMQ_MIN: (u32, u32, u32) = (1, 6, 0);

/// What a user can get wrong.
#[derive(Debug)]
pub(crate) enum Error {
    /// 42704
    QueueNotFound { queue: String },
    /// 42P01: pgmq.meta may name the queue, but there is no such table.
    QueueTableNotFound { queue: String, table: String },
    /// 22004
    NullArgument { argument: &'static str },
    /// 42602
    EmptyArgument { argument: &'static str },
    /// 22023
    TooFew { argument: &'static str },
    /// 22023
    NoSuchValue { argument: &'static str, value: String, choices: &'static str },
    /// 22023
    EventsWithoutEnqueued,
    /// 42602
    ReservedEvent { event: String },
    /// 54000
    NoRoomToBroadcast { bytes: usize, most: usize },
    /// 42622
    ChannelTooLong { bytes: usize },
    /// 54000
    EventTooLong { bytes: usize },
    /// 55000
    RealtimeElsewhere { queue: String, own: String, channel: String },
    /// 42501
    NoTriggerPrivilege { table: String, role: String },
    /// 42501
    NotOwner { table: String, owner: String, role: String },
    /// 25000
    OldSnapshot { what: String },
    /// 25001
    InTransaction { what: String },
    /// 55000
    WaitsAlready,
    /// 55000
    PgmqMissing,
    /// 0A000
    PgmqTooOld { found: String },
    /// 39P01, or 42809 for the wrong table
    Misuse(Misuse),
}

/// How the trigger function can be called wrongly.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Misuse {
    NotATrigger,
    NotAnEvent,
    Level,
    Time,
    Event,
    Arguments,
    Table,
}

impl From<Misuse> for Error {
    fn from(misuse: Misuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl From<Error> for ErrorReport {
    #[track_caller]
    fn from(error: Error) -> Self {
        let (message, detail, hint) = error.texts();
        let report = Self::new(error.sqlstate(), message, "aimq");
        let report = if detail.is_empty() { report } else { report.set_detail(detail) };
        if hint.is_empty() { report } else { report.set_hint(hint) }
    }
}

impl Error {
    /// Raises the error in Postgres. Nothing is left to drop but `self`.
    #[track_caller]
    #[cold]
    pub(crate) fn raise(self) -> ! {
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode as Code;
        match self {
            Self::QueueNotFound { .. } => Code::ERRCODE_UNDEFINED_OBJECT,
            Self::QueueTableNotFound { .. } => Code::ERRCODE_UNDEFINED_TABLE,
            Self::NullArgument { .. } => Code::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::EmptyArgument { .. } => Code::ERRCODE_INVALID_NAME,
            Self::TooFew { .. } | Self::NoSuchValue { .. } | Self::EventsWithoutEnqueued => {
                Code::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::NoRoomToBroadcast { .. } => Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::ReservedEvent { .. } => Code::ERRCODE_INVALID_NAME,
            Self::ChannelTooLong { .. } => Code::ERRCODE_NAME_TOO_LONG,
            Self::EventTooLong { .. } => Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::NoTriggerPrivilege { .. } | Self::NotOwner { .. } => {
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            Self::OldSnapshot { .. } => Code::ERRCODE_INVALID_TRANSACTION_STATE,
            Self::InTransaction { .. } => Code::ERRCODE_ACTIVE_SQL_TRANSACTION,
            Self::RealtimeElsewhere { .. } | Self::WaitsAlready | Self::PgmqMissing => {
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::PgmqTooOld { .. } => Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::Misuse(Misuse::Table) => Code::ERRCODE_WRONG_OBJECT_TYPE,
            Self::Misuse(_) => Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        }
    }

    /// Message, detail and hint; empty where there is none.
    fn texts(&self) -> (String, String, String) {
        match self {
            Self::QueueNotFound { queue } => (
                format!("queue \"{queue}\" does not exist"),
                "pgmq.meta has no queue of this name in any spelling.".into(),
                format!(
                    "Create it with SELECT aimq.create_queue({}), or look for it in the view aimq.queues.",
                    pgrx::spi::quote_literal(queue)
                ),
            ),
            Self::QueueTableNotFound { queue, table } => (
                format!("queue \"{queue}\" has no table"),
                format!("There is no table {table}."),
                format!(
                    "Create it with SELECT aimq.create_queue({0}). If it was renamed, give it back its name; if it was dropped and the queue is to be gone too, run SELECT pgmq.create({0}), pgmq.drop_queue({0}).",
                    pgrx::spi::quote_literal(queue)
                ),
            ),
            Self::NullArgument { argument } => (
                format!("{argument} must not be null"),
                String::new(),
                match *argument {
                    "queue" => "Name the queue.".into(),
                    "queues" => "Name the queues; none of them may be null.".into(),
                    "vt" => "Say for how many seconds nobody else is to read the messages.".into(),
                    _ => format!("Leave {argument} out to get its default."),
                },
            ),
            Self::EmptyArgument { argument } => (
                format!("{argument} must not be empty"),
                String::new(),
                match *argument {
                    "queue" | "queues" => format!("Name the {argument}."),
                    _ => format!("Name the {argument}, or leave it out to get its default."),
                },
            ),
            Self::TooFew { argument } => (
                format!("{argument} must be at least 1"),
                String::new(),
                "Say how many messages to read at most.".into(),
            ),
            Self::NoSuchValue { argument, value, choices } => (
                format!("{argument} has no value \"{value}\""),
                String::new(),
                format!("Choose from: {choices}."),
            ),
            Self::EventsWithoutEnqueued => (
                "events must contain job_enqueued".into(),
                "A realtime queue always tells of what is enqueued: its workers wait for that.".into(),
                "Add job_enqueued to events.".into(),
            ),
            Self::NoRoomToBroadcast { bytes, most } => (
                "channel, event and queue are too long together to be broadcast".into(),
                format!("They take {bytes} bytes; the notifier has room for {most}."),
                "Choose a shorter event or channel, or the sink \"notify\".".into(),
            ),
            Self::ReservedEvent { event } => (
                format!("event must not be \"{event}\""),
                "That is what befalls a message later, see the argument events.".into(),
                "Choose another name for what is said when messages are enqueued.".into(),
            ),
            Self::ChannelTooLong { bytes } => (
                "channel is too long".into(),
                format!("It has {bytes} bytes; LISTEN and NOTIFY take at most {CHANNEL_MAX_BYTES}."),
                "Choose a shorter channel.".into(),
            ),
            Self::EventTooLong { bytes } => (
                "event is too long".into(),
                format!(
                    "It has {bytes} bytes; with it, a notification of one queue would not fit into the {PAYLOAD_MAX_BYTES} bytes of a payload."
                ),
                "Choose a shorter event.".into(),
            ),
            Self::RealtimeElsewhere { queue, own, channel } => (
                format!("queue \"{queue}\" is realtime elsewhere"),
                match own.as_str() {
                    "" => format!("It does not notify, and pgmq's listeners wait on channel \"{channel}\"."),
                    own => format!("It notifies on channel \"{own}\", and pgmq's listeners wait on \"{channel}\". A queue has one channel."),
                },
                format!(
                    "Run SELECT aimq.disable_realtime({0}) first if nobody listens there any more, else SELECT pgmq.disable_notify_insert({0}) once nobody listens to pgmq.",
                    pgrx::spi::quote_literal(queue)
                ),
            ),
            Self::NoTriggerPrivilege { table, role } => (
                format!("permission denied to make queue table {table} realtime"),
                format!("Role \"{role}\" lacks the TRIGGER privilege on the table."),
                format!("Have the table's owner run GRANT TRIGGER ON {table} TO \"{role}\"."),
            ),
            Self::NotOwner { table, owner, role } => (
                format!("must be owner of queue table {table}"),
                format!("The table belongs to \"{owner}\", and role \"{role}\" is not a member of it. Postgres lets only the owner drop a trigger."),
                format!("Run this as \"{owner}\", or as a member of it."),
            ),
            Self::OldSnapshot { what } => (
                format!("{what} cannot wait in a transaction that is REPEATABLE READ or SERIALIZABLE"),
                "Such a transaction sees no message that is enqueued after its first statement.".into(),
                "Call it in a READ COMMITTED transaction (see default_transaction_isolation), or read with pgmq.read, which does not wait.".into(),
            ),
            Self::InTransaction { what } => (
                format!("{what} cannot be called in a transaction block"),
                "It commits before it sleeps. Several statements in one query string are a transaction too.".into(),
                "Call it with autocommit on, alone in its query string, or use the function of the same purpose.".into(),
            ),
            Self::WaitsAlready => (
                "this session waits for messages already".into(),
                "A blocking call was made while another one of the same session reads, by a trigger for instance.".into(),
                "Use pgmq.read in there, which does not wait.".into(),
            ),
            Self::PgmqMissing => (
                "aimq needs the extension pgmq".into(),
                "It is not installed in this database.".into(),
                "Run CREATE EXTENSION pgmq.".into(),
            ),
            Self::PgmqTooOld { found } => (
                format!("pgmq {found} is too old for aimq"),
                format!("aimq needs pgmq {}.{}.{} or later.", PGMQ_MIN.0, PGMQ_MIN.1, PGMQ_MIN.2),
                "Install a later pgmq on the server, then run ALTER EXTENSION pgmq UPDATE.".into(),
            ),
            Self::Misuse(misuse) => misuse.texts(),
        }
    }
}

impl Misuse {
    fn texts(self) -> (String, String, String) {
        let message = match self {
            Self::NotATrigger => "a trigger function of aimq was not called as a trigger",
            Self::NotAnEvent => {
                "aimq.event_trigger() must be attached BEFORE, FOR EACH ROW but for TRUNCATE"
            }
            Self::Level => "aimq.realtime_trigger() must be attached FOR EACH ROW",
            Self::Time => "aimq.realtime_trigger() must be attached BEFORE INSERT",
            Self::Event => "aimq.realtime_trigger() FOR EACH ROW must be attached to INSERT alone",
            Self::Arguments => {
                "a trigger function of aimq takes three arguments: channel (1 to 63 bytes), event, queue; and, if any, options"
            }
            Self::Table => "aimq.realtime_trigger() is attached to a table that is no pgmq queue",
        };
        let detail = match self {
            Self::Table => "The table has no column vt of type timestamptz.",
            _ => "",
        };
        let hint = match self {
            Self::NotATrigger => "Call aimq.enable_realtime(queue), which attaches it.",
            _ => {
                "Drop this trigger and call aimq.enable_realtime(queue), which attaches it as it should be."
            }
        };
        (message.into(), detail.into(), hint.into())
    }
}

/// What a user should hear about although the transaction goes on.
#[derive(Debug)]
pub(crate) enum Warning {
    /// 53400
    NotifyQueueFull,
    /// 0A000
    PreparedTransaction { queues: Vec<String> },
    /// 53400
    TableFull { queue: String },
    /// 55000
    NoNotifier,
    /// 55000
    SinkWithoutNotifier,
    /// 55000
    NoRealtimeSend,
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
            Self::PreparedTransaction { queues } => (
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                "aimq will not wake workers for this prepared transaction".to_owned(),
                format!(
                    "Postgres refuses NOTIFY in a transaction that is prepared. Queues: {}.",
                    queues.join(", ")
                ),
                "After COMMIT PREPARED, run NOTIFY on the queues' channel, or have the workers read now and then all the same.",
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
                "Broadcasts are the notifier's, and this server has none: aimq is not preloaded.".to_owned(),
                "Add aimq to shared_preload_libraries and restart the server.",
            ),
            Self::NoRealtimeSend => (
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "there is no function realtime.send(jsonb, text, text, boolean)".to_owned(),
                "It is Supabase's. The notifier tries again until there is one.".to_owned(),
                "Enable Supabase Realtime in this database, or choose the sink \"notify\".",
            ),
            Self::NoSharedMemory { reason } => (
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "aimq cannot use its shared memory".to_owned(),
                format!("Workers are woken by notifications in the transactions that enqueue. The reason: {reason}"),
                "If aimq was updated, restart the server. Else see the detail.",
            ),
        };
        ErrorReport::new(code, message, "aimq")
            .set_detail(detail)
            .set_hint(hint)
            .report(PgLogLevel::WARNING);
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
                format!("Run SELECT aimq.enable_realtime({}).", pgrx::spi::quote_literal(&queue)),
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
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            "aimq polls for messages, at first every 20 ms and then up to every second",
            "aimq",
        )
        .set_detail(detail)
        .set_hint(hint)
        .report(PgLogLevel::NOTICE);
    }
}
