//! What statements tell the watcher: that a trigger of ours was made, that a table's triggers may
//! have changed or gone, that messages may have come in while no trigger fired, that a prepared transaction has ended.
//!
//! Postgres calls a library for none of these but through the hook on utility statements. It is told after the commit
//! ([`told`]).
//!
//! A session that has not loaded the library has no hook. That can be one where aimq is not preloaded, and which never
//! touched a realtime queue. There an event trigger has it loaded by the first statement that may matter, and tells the
//! same. Not guaranteed then: what is done to the catalogs by hand, or with event triggers switched off.

use std::cell::Cell;
use std::ffi::{CStr, c_char};

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::catalog::triggers;
use crate::error::{Error, Misuse};
use crate::pg::ffi;
use crate::shared;
use crate::shared::told::{self, Did};

thread_local! {
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

/// Tells Postgres that [`aimq_ddl_trigger`] is called by the version-1 convention.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub extern "C" fn pg_finfo_aimq_ddl_trigger() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// `aimq.ddl_trigger()`, the function of the event trigger: notes the statement where the hook could not, because the
/// library has just been loaded. Does nothing where it is preloaded.
#[unsafe(no_mangle)]
#[pg_guard]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub unsafe extern "C-unwind" fn aimq_ddl_trigger(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: Postgres calls this with valid call information; the tag says what the context is.
    unsafe {
        let Some(statement) = ffi::statement_of_event(fcinfo) else {
            Error::from(Misuse::NotATrigger).raise();
        };
        if !shared::is_preloaded() {
            // So that the commit can tell.
            shared::prepare();
            note(statement);
        }
    }
    pg_sys::Datum::null()
}

/// # Safety
/// `node` must be a utility statement.
unsafe fn note(node: *mut pg_sys::Node) {
    use pg_sys::NodeTag as Tag;
    let note_if = |is_so: bool, did| {
        if is_so {
            told::note(did);
        }
    };
    // SAFETY: the tag says what the node is.
    unsafe {
        match (*node).type_ {
            Tag::T_TransactionStmt => {
                use pg_sys::TransactionStmtKind as Kind;
                let kind = (*node.cast::<pg_sys::TransactionStmt>()).kind;
                let ends = [Kind::TRANS_STMT_COMMIT_PREPARED, Kind::TRANS_STMT_ROLLBACK_PREPARED];
                note_if(ends.contains(&kind), Did::Finished);
            }
            Tag::T_CreateTrigStmt => {
                note_if(is_ours(&*node.cast::<pg_sys::CreateTrigStmt>()), Did::Made);
            }
            Tag::T_AlterTableStmt => {
                told::note(Did::Changed);
                note_if(brings_rows(&*node.cast::<pg_sys::AlterTableStmt>()), Did::Enabled);
            }
            Tag::T_AlterObjectSchemaStmt => {
                told::note(Did::Changed);
                let schema = (*node.cast::<pg_sys::AlterObjectSchemaStmt>()).newschema;
                note_if(is_pgmq(schema), Did::Made);
            }
            Tag::T_RenameStmt => {
                told::note(Did::Changed);
                let statement = &*node.cast::<pg_sys::RenameStmt>();
                let is_schema = statement.renameType == pg_sys::ObjectType::OBJECT_SCHEMA;
                note_if(is_schema && is_pgmq(statement.newname), Did::Made);
            }
            Tag::T_DropStmt
            | Tag::T_DropOwnedStmt
            | Tag::T_ReassignOwnedStmt
            | Tag::T_GrantStmt
            | Tag::T_GrantRoleStmt => told::note(Did::Changed),
            // What a subscription applies fires no statement trigger, and what is due of it has to be known when that
            // ends.
            Tag::T_CreateSubscriptionStmt
            | Tag::T_AlterSubscriptionStmt
            | Tag::T_DropSubscriptionStmt => told::note(Did::Unseen),
            Tag::T_AlterDatabaseSetStmt => {
                let set = (*node.cast::<pg_sys::AlterDatabaseSetStmt>()).setstmt;
                note_if(switches_triggers(set), Did::Switched);
            }
            Tag::T_AlterRoleSetStmt => {
                let set = (*node.cast::<pg_sys::AlterRoleSetStmt>()).setstmt;
                note_if(switches_triggers(set), Did::Switched);
            }
            _ => {}
        }
    }
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
        !name.is_null() && triggers::FUNCTIONS.contains(&CStr::from_ptr(name))
    }
}

fn is_pgmq(schema: *const c_char) -> bool {
    // SAFETY: null, or a string of the statement's.
    unsafe { !schema.is_null() && CStr::from_ptr(schema) == c"pgmq" }
}

/// Whether it is of a setting with which triggers don't fire.
fn switches_triggers(statement: *const pg_sys::VariableSetStmt) -> bool {
    // SAFETY: null, or a part of the statement; without a name it is RESET ALL.
    unsafe {
        !statement.is_null()
            && ((*statement).name.is_null()
                || [c"aimq.enabled", c"session_replication_role"]
                    .contains(&CStr::from_ptr((*statement).name)))
    }
}

/// Whether rows may have come in, or come in with this, for which no trigger fired.
fn brings_rows(statement: &pg_sys::AlterTableStmt) -> bool {
    use pg_sys::AlterTableType as Type;
    const BRINGS: [Type::Type; 7] = [
        Type::AT_EnableTrig,
        Type::AT_EnableAlwaysTrig,
        Type::AT_EnableReplicaTrig,
        Type::AT_EnableTrigAll,
        Type::AT_EnableTrigUser,
        Type::AT_AttachPartition,
        Type::AT_AddInherit,
    ];
    // SAFETY: a list of AlterTableCmd nodes, as the grammar makes it.
    unsafe {
        let commands = statement.cmds;
        let count = if commands.is_null() { 0 } else { (*commands).length as usize };
        (0..count).any(|at| {
            let command = (*(*commands).elements.add(at)).ptr_value.cast::<pg_sys::AlterTableCmd>();
            BRINGS.contains(&(*command).subtype)
        })
    }
}
