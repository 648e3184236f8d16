//! What statements tell the notifier: that a trigger of ours was made, that a table's triggers may
//! have changed or gone, that a prepared transaction has ended.
//!
//! Postgres calls a library for none of these but through the hook on utility statements. It is told
//! at the commit, and follows savepoints: what is rolled back tells nothing. A session that has not
//! loaded the library (where aimq is not preloaded, one that never touched a realtime queue) tells
//! nothing either.

use std::cell::Cell;
use std::ffi::{CStr, c_char};

use aimq_core::batch::Level;
use aimq_core::shared::{News, State};
use pgrx::pg_sys;

use crate::notifier::launcher;
use crate::settings::{self, Delivery};
use crate::{delivery, ffi, shared};

/// Of each thing to tell, the outermost level at which it was done.
#[derive(Clone, Copy, Default)]
struct Done {
    /// A trigger of ours was made.
    made: Option<Level>,
    /// Something was altered or dropped.
    changed: Option<Level>,
    /// A trigger, anybody's, was enabled.
    enabled: Option<Level>,
    /// A prepared transaction was ended, which runs in a transaction of its own.
    finished: bool,
}

thread_local! {
    static DONE: Cell<Done> = const { Cell::new(Done { made: None, changed: None, enabled: None, finished: false }) };
    static FORMER: Cell<pg_sys::ProcessUtility_hook_type> = const { Cell::new(None) };
}

pub(crate) fn init() {
    // SAFETY: a plain variable; the hook is a function of this library, which is never unloaded.
    unsafe {
        FORMER.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(on_utility);
    }
}

mod raw {
    use super::*;

    // pgrx's own is guarded, and so has no address to be called by.
    unsafe extern "C-unwind" {
        pub(super) fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            query: *const c_char,
            read_only_tree: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            parameters: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            destination: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
    }
}

/// Notes what the statement is, and hands it on. BEGIN and COMMIT come this way too, so nothing is
/// guarded: nothing here raises or panics, and when what is called raises, nothing here is skipped that
/// matters.
#[allow(ffi_unwind_calls, reason = "an error passes through: no destructor waits in this frame")]
#[allow(clippy::too_many_arguments, reason = "Postgres' own")]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: a valid statement, and what we were given is handed on as it is.
    unsafe {
        note((*statement).utilityStmt);
        let next = FORMER.get().unwrap_or(raw::standard_ProcessUtility);
        next(
            statement,
            query,
            read_only_tree,
            context,
            parameters,
            environment,
            destination,
            completion,
        );
    }
}

/// # Safety
/// `node` must be a utility statement.
unsafe fn note(node: *mut pg_sys::Node) {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the node is.
    unsafe {
        let mut done = DONE.get();
        match (*node).type_ {
            Tag::T_TransactionStmt => {
                use pg_sys::TransactionStmtKind as Kind;
                let kind = (*node.cast::<pg_sys::TransactionStmt>()).kind;
                if kind != Kind::TRANS_STMT_COMMIT_PREPARED
                    && kind != Kind::TRANS_STMT_ROLLBACK_PREPARED
                {
                    return;
                }
                done.finished = true;
            }
            Tag::T_CreateTrigStmt => {
                if !is_ours(&*node.cast::<pg_sys::CreateTrigStmt>()) {
                    return;
                }
                outermost(&mut done.made);
            }
            Tag::T_AlterTableStmt => {
                outermost(&mut done.changed);
                if enables_triggers(&*node.cast::<pg_sys::AlterTableStmt>()) {
                    outermost(&mut done.enabled);
                }
            }
            Tag::T_DropStmt
            | Tag::T_DropOwnedStmt
            | Tag::T_RenameStmt
            | Tag::T_AlterObjectSchemaStmt => outermost(&mut done.changed),
            _ => return,
        }
        DONE.set(done);
    }
}

fn outermost(level: &mut Option<Level>) {
    let now = ffi::nest_level();
    *level = Some(level.map_or(now, |before| before.min(now)));
}

/// Whether the trigger calls a function of our functions' names, in whatever schema.
fn is_ours(statement: &pg_sys::CreateTrigStmt) -> bool {
    // SAFETY: a list of String nodes, as the grammar makes it, of one or two elements.
    unsafe {
        let names = statement.funcname;
        if names.is_null() || (*names).length < 1 {
            return false;
        }
        let last = (*(*names).elements.add((*names).length as usize - 1)).ptr_value;
        #[cfg(feature = "pg14")]
        let name = (*last.cast::<pg_sys::Value>()).val.str_;
        #[cfg(not(feature = "pg14"))]
        let name = (*last.cast::<pg_sys::String>()).sval;
        !name.is_null() && [c"realtime_trigger", c"event_trigger"].contains(&CStr::from_ptr(name))
    }
}

fn enables_triggers(statement: &pg_sys::AlterTableStmt) -> bool {
    use pg_sys::AlterTableType as Type;
    const ENABLE: [Type::Type; 5] = [
        Type::AT_EnableTrig,
        Type::AT_EnableAlwaysTrig,
        Type::AT_EnableReplicaTrig,
        Type::AT_EnableTrigAll,
        Type::AT_EnableTrigUser,
    ];
    // SAFETY: a list of AlterTableCmd nodes, as the grammar makes it.
    unsafe {
        let commands = statement.cmds;
        let count = if commands.is_null() { 0 } else { (*commands).length as usize };
        (0..count).any(|at| {
            let command = (*(*commands).elements.add(at)).ptr_value.cast::<pg_sys::AlterTableCmd>();
            ENABLE.contains(&(*command).subtype)
        })
    }
}

/// The savepoint at `level` was released.
pub(crate) fn release(level: Level) {
    change(|done| {
        for noted in [&mut done.made, &mut done.changed, &mut done.enabled] {
            *noted = noted.map(|at| at.min(level - 1));
        }
    });
}

/// The savepoint at `level` was rolled back.
pub(crate) fn roll_back(level: Level) {
    change(|done| {
        for noted in [&mut done.made, &mut done.changed, &mut done.enabled] {
            *noted = noted.filter(|at| *at < level);
        }
    });
}

fn change(change: impl FnOnce(&mut Done)) {
    let mut done = DONE.get();
    change(&mut done);
    DONE.set(done);
}

/// The transaction is committed. Cannot raise.
pub(crate) fn committed() {
    let mut done = DONE.get();
    if settings::delivery() == Delivery::Transaction {
        // Nobody is to be started for this session's queues.
        done.changed = done.changed.or(done.made.take());
        done.enabled = None;
    }
    if done.made.is_none() && done.changed.is_none() && !done.finished {
        return;
    }
    let Some(shared) = shared::get() else {
        return;
    };
    // Only a queue that becomes realtime is reason enough to take an entry.
    let database = match done.made {
        Some(_) => shared.wait_for_own_database(),
        None => shared.databases.find(shared::own_oid()),
    };
    let Some(database) = database else {
        return;
    };
    let runs = database.state() == State::Running;
    if done.finished {
        if !runs {
            launcher::want(shared, database);
        } else if database.tell(News::FINISHED) {
            delivery::ring(shared, database);
        }
    }
    if runs && (done.made.is_some() || done.changed.is_some()) {
        if database.tell(News::QUEUES) {
            delivery::ring(shared, database);
        }
    // Of a queue whose trigger was disabled, the entry has stayed.
    } else if done.made.is_some() || done.enabled.is_some() {
        launcher::want(shared, database);
    }
}

/// The transaction is prepared: whether a queue becomes realtime is seen when it is committed.
/// Cannot raise.
pub(crate) fn prepared() {
    let done = DONE.get();
    if done.made.is_some()
        && let Some(shared) = shared::get()
        && let Some(database) = shared.wait_for_own_database()
        && database.tell(News::PREPARED)
    {
        delivery::ring(shared, database);
    }
}

/// The transaction is rolled back: what it did to a prepared transaction is done all the same.
/// Cannot raise.
pub(crate) fn aborted() {
    change(|done| {
        (done.made, done.changed, done.enabled) = (None, None, None);
    });
    committed();
}

/// Forgets what was noted. Cannot raise.
pub(crate) fn forget() {
    DONE.set(Done::default());
}
