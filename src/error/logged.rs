//! What our own processes write to the server's log, and the errors with which they give up a transaction of their
//! own. Such an error is caught and counted, and its message gets into the log by [`Log::Failed`].

use std::time::Duration;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// What the launcher, a notifier or a watcher says. Nobody but the log hears of it.
#[derive(Debug)]
pub(crate) enum Log<'a> {
    /// 53400: there is none for this process.
    NoWorkerSlot {
        process: &'a str,
    },
    /// It is of another release, or the library is not preloaded any more.
    NoSharedMemory {
        process: &'a str,
    },
    /// The launcher ends, and is started again.
    CannotListDatabases {
        message: &'a str,
    },
    /// There is no entry for another database.
    NoRoomForDatabase,
    EndedInCall,
    /// Before the notifier has a place to count it.
    CannotBegin {
        message: &'a str,
    },
    /// 01000
    Failed {
        message: &'a str,
        again_in: Duration,
    },
}

impl Log<'_> {
    #[track_caller]
    #[cold]
    pub(crate) fn report(self) {
        use PgSqlErrorCode as Code;
        let (code, message, detail) = match self {
            Self::NoWorkerSlot { process } => (
                Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("aimq found no background worker slot for {process}"),
                Some("Without a notifier, transactions that enqueue notify themselves; without a watcher, the notifier does its work as well. Consider raising max_worker_processes.".to_owned()),
            ),
            Self::NoSharedMemory { process } => (
                Code::ERRCODE_SUCCESSFUL_COMPLETION,
                format!("{process}: there is no shared memory of this release; restart the server"),
                None,
            ),
            Self::CannotListDatabases { message } => (
                Code::ERRCODE_SUCCESSFUL_COMPLETION,
                format!("aimq launcher cannot list the databases: {message}"),
                None,
            ),
            Self::NoRoomForDatabase => (
                Code::ERRCODE_SUCCESSFUL_COMPLETION,
                "aimq notifier: no room for this database; consider raising aimq.max_queues".to_owned(),
                None,
            ),
            Self::EndedInCall => (
                Code::ERRCODE_SUCCESSFUL_COMPLETION,
                "aimq notifier: the last one ended in a call of realtime.send; nothing is broadcast for a minute".to_owned(),
                None,
            ),
            Self::CannotBegin { message } => (
                Code::ERRCODE_SUCCESSFUL_COMPLETION,
                format!("aimq notifier: {message}"),
                None,
            ),
            Self::Failed { message, again_in } => (
                Code::ERRCODE_WARNING,
                format!("aimq notifier: {message}"),
                Some(format!(
                    "It is tried again in {} ms. Nothing is lost, and enqueues go on.",
                    again_in.as_millis()
                )),
            ),
        };
        let report = ErrorReport::new(code, message, "aimq");
        let report = match detail {
            Some(detail) => report.set_detail(detail),
            None => report,
        };
        report.report(PgLogLevel::LOG);
    }
}

/// Why a notifier gives up a transaction of its own in which it notifies or broadcasts.
#[derive(Debug)]
pub(crate) enum GivenUp {
    /// 53400
    NotifyQueueFull,
    /// 38000: Supabase's function says so.
    SendFailed { message: String },
    /// 42883
    NoRealtimeSend,
    /// 42501
    TableOfSuperuser { table: String },
    /// 42501
    SendOfStranger,
    /// 42501
    MayNotSend,
}

impl GivenUp {
    /// Raises it as an ERROR, in a transaction that catches it.
    #[track_caller]
    #[cold]
    pub(crate) fn raise(self) -> ! {
        use PgSqlErrorCode as Code;
        let (code, message) = match self {
            Self::NotifyQueueFull => (
                Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                "the NOTIFY queue is nearly full".to_owned(),
            ),
            Self::SendFailed { message } => (
                Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
                format!("realtime.send failed: {message}"),
            ),
            Self::NoRealtimeSend => (
                Code::ERRCODE_UNDEFINED_FUNCTION,
                "there is no function realtime.send(jsonb, text, text, boolean)".to_owned(),
            ),
            Self::TableOfSuperuser { table } => (
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!(
                    "nothing is broadcast as a superuser: give table {table} to a role that is none (ALTER TABLE {table} OWNER TO ...)"
                ),
            ),
            Self::SendOfStranger => (
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "realtime.send belongs neither to a superuser nor to the owner of the database"
                    .to_owned(),
            ),
            Self::MayNotSend => (
                Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "the owner of the queue's table may not call realtime.send".to_owned(),
            ),
        };
        ErrorReport::new(code, message, "aimq").report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}
