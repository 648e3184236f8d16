//! Utility statements: the hook that is called for each, and what they say.

use std::cell::Cell;
use std::ffi::{CStr, c_char};

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as Tag;

/// A utility statement, for as long as it runs.
#[derive(Clone, Copy)]
pub(crate) struct Statement(*mut pg_sys::Node);

/// What a statement does, as far as anybody here wants to know.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does<'a> {
    /// COMMIT PREPARED or ROLLBACK PREPARED.
    EndPrepared,
    /// CREATE TRIGGER: the name of the function, without its schema.
    CreateTrigger { function: &'a CStr },
    /// ALTER TABLE; `brings_rows` if rows may have come in, or come in with this, for which no trigger fired.
    AlterTable { brings_rows: bool },
    /// SET SCHEMA.
    Move { schema: &'a CStr },
    /// RENAME; the new name of a schema, if it is of one.
    Rename { schema: Option<&'a CStr> },
    /// DROP, GRANT, REVOKE, REASSIGN OWNED.
    DropOrGrant,
    /// CREATE, ALTER and DROP SUBSCRIPTION.
    Subscribe,
    /// ALTER DATABASE or ROLE … SET and RESET: the setting; `None` for all.
    Set { setting: Option<&'a CStr> },
    /// Anything else.
    Other,
}

impl Statement {
    /// The statement that an event trigger is called for. `None` if the function is not called as one.
    ///
    /// # Safety
    /// `fcinfo` must be what Postgres called us with.
    pub(crate) unsafe fn of_event(fcinfo: pg_sys::FunctionCallInfo) -> Option<Self> {
        // SAFETY: as demanded of the caller; the tag says what the context is.
        unsafe {
            let context = (*fcinfo).context;
            let is_event = !context.is_null() && (*context).type_ == Tag::T_EventTriggerData;
            is_event.then(|| Self((*context.cast::<pg_sys::EventTriggerData>()).parsetree))
        }
    }

    pub(crate) fn does(&self) -> Does<'_> {
        // SAFETY: the tag says what the node is, and the grammar what it has.
        unsafe {
            match (*self.0).type_ {
                Tag::T_TransactionStmt => {
                    use pg_sys::TransactionStmtKind as Kind;
                    match self.node::<pg_sys::TransactionStmt>().kind {
                        Kind::TRANS_STMT_COMMIT_PREPARED | Kind::TRANS_STMT_ROLLBACK_PREPARED => {
                            Does::EndPrepared
                        }
                        _ => Does::Other,
                    }
                }
                Tag::T_CreateTrigStmt => {
                    match last_name(self.node::<pg_sys::CreateTrigStmt>().funcname) {
                        Some(function) => Does::CreateTrigger { function },
                        None => Does::Other,
                    }
                }
                Tag::T_AlterTableStmt => Does::AlterTable { brings_rows: brings_rows(self.node()) },
                Tag::T_AlterObjectSchemaStmt => {
                    let schema = self.node::<pg_sys::AlterObjectSchemaStmt>().newschema;
                    Does::Move { schema: text(schema).unwrap_or_default() }
                }
                Tag::T_RenameStmt => {
                    let it = self.node::<pg_sys::RenameStmt>();
                    let is_schema = it.renameType == pg_sys::ObjectType::OBJECT_SCHEMA;
                    Does::Rename { schema: text(it.newname).filter(|_| is_schema) }
                }
                Tag::T_DropStmt
                | Tag::T_DropOwnedStmt
                | Tag::T_ReassignOwnedStmt
                | Tag::T_GrantStmt
                | Tag::T_GrantRoleStmt => Does::DropOrGrant,
                Tag::T_CreateSubscriptionStmt
                | Tag::T_AlterSubscriptionStmt
                | Tag::T_DropSubscriptionStmt => Does::Subscribe,
                Tag::T_AlterDatabaseSetStmt => {
                    setting_of(self.node::<pg_sys::AlterDatabaseSetStmt>().setstmt)
                }
                Tag::T_AlterRoleSetStmt => {
                    setting_of(self.node::<pg_sys::AlterRoleSetStmt>().setstmt)
                }
                _ => Does::Other,
            }
        }
    }

    /// The name that the statement gives a table: CREATE TABLE and its like, RENAME, SET SCHEMA.
    pub(crate) fn names_table(&self) -> Option<&CStr> {
        // SAFETY: as in `does`.
        unsafe {
            match (*self.0).type_ {
                Tag::T_CreateStmt => text((*self.node::<pg_sys::CreateStmt>().relation).relname),
                Tag::T_CreateTableAsStmt => {
                    text((*(*self.node::<pg_sys::CreateTableAsStmt>().into).rel).relname)
                }
                Tag::T_RenameStmt => text(self.node::<pg_sys::RenameStmt>().newname),
                Tag::T_AlterObjectSchemaStmt => {
                    let relation = self.node::<pg_sys::AlterObjectSchemaStmt>().relation;
                    if relation.is_null() { None } else { text((*relation).relname) }
                }
                _ => None,
            }
        }
    }

    /// # Safety
    /// It must be such a node.
    unsafe fn node<T>(&self) -> &T {
        // SAFETY: as demanded of the caller.
        unsafe { &*self.0.cast::<T>() }
    }
}

/// # Safety
/// Null, or a string that outlives what is returned.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a CStr> {
    // SAFETY: as demanded of the caller.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
}

/// The last part of a name.
///
/// # Safety
/// Null, or a list of String nodes, as the grammar makes it.
unsafe fn last_name<'a>(names: *const pg_sys::List) -> Option<&'a CStr> {
    // SAFETY: as demanded of the caller.
    unsafe {
        if names.is_null() || (*names).length < 1 {
            return None;
        }
        let last = (*(*names).elements.add((*names).length as usize - 1)).ptr_value;
        #[cfg(feature = "pg14")]
        let name = (*last.cast::<pg_sys::Value>()).val.str_;
        #[cfg(not(feature = "pg14"))]
        let name = (*last.cast::<pg_sys::String>()).sval;
        text(name)
    }
}

/// # Safety
/// Null, or a part of a statement.
unsafe fn setting_of<'a>(statement: *const pg_sys::VariableSetStmt) -> Does<'a> {
    if statement.is_null() {
        return Does::Other;
    }
    // SAFETY: as demanded of the caller; without a name it is RESET ALL.
    Does::Set { setting: unsafe { text((*statement).name) } }
}

/// # Safety
/// A list of AlterTableCmd nodes, as the grammar makes it.
unsafe fn brings_rows(statement: &pg_sys::AlterTableStmt) -> bool {
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
    // SAFETY: as demanded of the caller.
    unsafe {
        let commands = statement.cmds;
        let count = if commands.is_null() { 0 } else { (*commands).length as usize };
        (0..count).any(|at| {
            let command = (*(*commands).elements.add(at)).ptr_value.cast::<pg_sys::AlterTableCmd>();
            BRINGS.contains(&(*command).subtype)
        })
    }
}

thread_local! {
    static FORMER: Cell<pg_sys::ProcessUtility_hook_type> = const { Cell::new(None) };
    static CALLBACK: Cell<Option<fn(Statement)>> = const { Cell::new(None) };
}

/// Has `callback` told of each utility statement before it runs: BEGIN and COMMIT too. It must neither raise nor panic.
/// To be called once in a backend.
pub(crate) fn register(callback: fn(Statement)) {
    CALLBACK.set(Some(callback));
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

/// Tells what the statement is, and hands it on. Nothing is guarded: nothing here raises or panics, and when what is
/// called raises, nothing here is skipped that matters.
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
        if let Some(callback) = CALLBACK.get() {
            callback(Statement((*statement).utilityStmt));
        }
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
