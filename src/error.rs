//! Every error, warning and log message of aimq: one variant each, with its SQLSTATE, message, detail and hint.
//!
//! Not here is what `pg/` raises, which is on the floor below: errors that others raised and that it passes on
//! (`passed_on.rs`), and failures of SPI, which are bugs of ours (`spi.rs`).

mod logged;
mod said;

use std::ffi::CStr;

use aimq_core::memory::OutOfMemory;
use aimq_core::payload::PAYLOAD_MAX_BYTES;
use aimq_core::route::CHANNEL_MAX_BYTES;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::function::Refusal;
use crate::pg::passed_on;
use crate::pg::text::quote_literal;

pub(crate) use logged::{GivenUp, Log};
pub(crate) use said::{Advice, Notice, Warning};

/// The oldest pgmq that aimq works with. Before, queue tables were members of the extension, and
/// pg_dump left their triggers out.
pub(crate) const PGMQ_MIN: (u32, u32, u32) = (1, 6, 0);

/// What a user can get wrong.
#[derive(Debug)]
pub(crate) enum Error {
    /// 42704
    QueueNotFound { queue: String, meant: Option<String> },
    /// 42P01: pgmq.meta may name the queue, but there is no such table.
    QueueTableNotFound { queue: String, table: String },
    /// 42P01: there is no such table, but one of a queue whose name is much like it.
    QueueMisspelt { queue: String, table: String, meant: String },
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
    /// 22021
    UnknownEncoding { argument: &'static str },
    /// 42622
    ChannelTooLong { bytes: usize },
    /// 54000
    EventTooLong { bytes: usize },
    /// 55000
    RealtimeElsewhere { queue: String, own: String, channel: String },
    /// 42501
    NoTriggerPrivilege { table: String, role: String },
    /// 42501
    NoSelectPrivilege { table: String, role: String },
    /// 42501: not even the list of queues may be read.
    MayNotSeeQueues { role: String, lacks: &'static str, grant: &'static str },
    /// 42501
    NotOwner { table: String, owner: String, role: String },
    /// 25000
    OldSnapshot { what: String },
    /// 25006
    ReadOnly { what: String, is_standby: bool },
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
    /// 53200
    OutOfMemory,
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

/// What keeps a trigger or a commit from its work: see [`Refusal`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Misuse(Misuse),
    OutOfMemory,
}

impl From<Misuse> for Fault {
    fn from(misuse: Misuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl From<OutOfMemory> for Fault {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl Refusal for Fault {
    fn plain(self) -> Option<(PgSqlErrorCode, [&'static CStr; 3])> {
        match self {
            Self::Misuse(_) => None,
            Self::OutOfMemory => Some((Error::OutOfMemory.sqlstate(), OUT_OF_MEMORY)),
        }
    }

    #[cold]
    fn raise(self) -> ! {
        match self {
            Self::Misuse(misuse) => Error::from(misuse).raise(),
            Self::OutOfMemory => Error::OutOfMemory.raise(),
        }
    }
}

/// Message, detail and hint.
const OUT_OF_MEMORY: [&CStr; 3] = [
    c"aimq is out of memory",
    c"The server has no memory left to note which queues this transaction enqueues to, or to tell it.",
    c"Run the transaction again. If that fails too, look for what takes the memory, or lower work_mem or max_connections.",
];

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
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
        passed_on::say_in_servers_encoding(error.sqlstate(), [&message, &detail, &hint]);
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
            Self::QueueTableNotFound { .. } | Self::QueueMisspelt { .. } => {
                Code::ERRCODE_UNDEFINED_TABLE
            }
            Self::NullArgument { .. } => Code::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::EmptyArgument { .. } => Code::ERRCODE_INVALID_NAME,
            Self::TooFew { .. } | Self::NoSuchValue { .. } | Self::EventsWithoutEnqueued => {
                Code::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::NoRoomToBroadcast { .. } => Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::ReservedEvent { .. } => Code::ERRCODE_INVALID_NAME,
            Self::UnknownEncoding { .. } => Code::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
            Self::ChannelTooLong { .. } => Code::ERRCODE_NAME_TOO_LONG,
            Self::EventTooLong { .. } => Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::NoTriggerPrivilege { .. }
            | Self::NoSelectPrivilege { .. }
            | Self::MayNotSeeQueues { .. }
            | Self::NotOwner { .. } => Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::OldSnapshot { .. } => Code::ERRCODE_INVALID_TRANSACTION_STATE,
            Self::ReadOnly { .. } => Code::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            Self::InTransaction { .. } => Code::ERRCODE_ACTIVE_SQL_TRANSACTION,
            Self::RealtimeElsewhere { .. } | Self::WaitsAlready | Self::PgmqMissing => {
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::PgmqTooOld { .. } => Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::Misuse(Misuse::Table) => Code::ERRCODE_WRONG_OBJECT_TYPE,
            Self::Misuse(_) => Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            Self::OutOfMemory => Code::ERRCODE_OUT_OF_MEMORY,
        }
    }

    /// Message, detail and hint; empty where there is none.
    fn texts(&self) -> (String, String, String) {
        match self {
            Self::QueueNotFound { queue, meant } => (
                format!("queue \"{queue}\" does not exist"),
                match meant {
                    Some(_) => "A queue is named as in pgmq.create: without a schema, and without the q_ of its table.".into(),
                    None if queue.contains('.') => {
                        "pgmq.meta has no queue of this name in any spelling. A queue's table is in the schema pgmq: no other can be realtime.".into()
                    }
                    None => "pgmq.meta has no queue of this name in any spelling.".into(),
                },
                match meant {
                    Some(meant) => did_you_mean(meant),
                    None => format!(
                        "Create it with SELECT aimq.create_queue({}), or look for it in the view aimq.queues.",
                        quote_literal(queue)
                    ),
                },
            ),
            Self::QueueMisspelt { queue, table, meant } => (
                format!("queue \"{queue}\" has no table"),
                format!("There is no table {table}. A queue is named as in pgmq.create: without a schema, and without the q_ of its table."),
                did_you_mean(meant),
            ),
            Self::QueueTableNotFound { queue, table } => (
                format!("queue \"{queue}\" has no table"),
                format!("There is no table {table}."),
                format!(
                    "Create it with SELECT aimq.create_queue({0}). If it was renamed, give it back its name; if it was dropped and the queue is to be gone too, run SELECT pgmq.create({0}), pgmq.drop_queue({0}).",
                    quote_literal(queue)
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
                "This name says what happens to a message later: see the argument events.".into(),
                "Choose another name for what is said when messages are enqueued.".into(),
            ),
            Self::UnknownEncoding { argument } => (
                format!("{argument} is not UTF-8"),
                "The database's encoding is SQL_ASCII: nobody knows which characters these bytes are, and clients could not read them.".into(),
                format!("Choose {} of ASCII, or in UTF-8.", if *argument == "event" { "an event" } else { "a channel" }),
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
                    quote_literal(queue)
                ),
            ),
            Self::NoTriggerPrivilege { table, role } => (
                format!("permission denied to make queue table {table} realtime"),
                format!("Role \"{role}\" lacks the TRIGGER privilege on the table."),
                format!("Have the table's owner run GRANT TRIGGER ON {table} TO \"{role}\"."),
            ),
            Self::NoSelectPrivilege { table, role } => (
                format!("permission denied to have {table} looked at"),
                format!("Role \"{role}\" lacks the SELECT privilege on the table."),
                format!("Have the table's owner run GRANT SELECT ON {table} TO \"{role}\"."),
            ),
            Self::MayNotSeeQueues { role, lacks, grant } => (
                "permission denied to see the queues".into(),
                format!("Role \"{role}\" lacks {lacks}."),
                format!("Have the owner of pgmq run {}.", grant.replace("ROLE", &format!("\"{role}\""))),
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
            Self::ReadOnly { what, is_standby } => (
                format!("{what} cannot read messages in a read-only transaction"),
                "Reading a message writes its visibility timeout: when it can be read again.".into(),
                match is_standby {
                    true => "This server is a standby: connect the worker to the primary.",
                    false => "Call it in a transaction that may write: see default_transaction_read_only.",
                }
                .into(),
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
            Self::OutOfMemory => OUT_OF_MEMORY.map(|text| text.to_string_lossy().into_owned()).into(),
        }
    }
}

fn did_you_mean(meant: &str) -> String {
    format!("Did you mean the queue {}?", quote_literal(meant))
}

impl Misuse {
    fn texts(self) -> (String, String, String) {
        let message = match self {
            Self::NotATrigger => "a trigger function of aimq was not called as a trigger",
            Self::NotAnEvent => {
                "aimq.event_trigger() must be attached BEFORE, and FOR EACH ROW except for TRUNCATE"
            }
            Self::Level => "aimq.realtime_trigger() must be attached FOR EACH ROW",
            Self::Time => "aimq.realtime_trigger() must be attached BEFORE INSERT",
            Self::Event => "aimq.realtime_trigger() FOR EACH ROW must be attached to INSERT alone",
            Self::Arguments => {
                "a trigger function of aimq takes three arguments: channel (1 to 63 bytes), event, queue; and, if any, options"
            }
            Self::Table => {
                "aimq.realtime_trigger() is attached to a table that is not a pgmq queue"
            }
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
