//! What statements tell the watcher: that a trigger of ours was made, that a table's triggers may
//! have changed or gone, that messages may have come in while no trigger fired, that a prepared transaction has ended.
//!
//! Postgres calls a library for none of these but through the hook on utility statements. It is told
//! at the commit, and follows savepoints: what is rolled back tells nothing.
//!
//! A session that has not loaded the library has no hook. That can be one where aimq is not preloaded, and which never
//! touched a realtime queue. There an event trigger has it loaded by the first statement that may matter, and tells the
//! same. Not guaranteed then: what is done to the catalogs by hand, or with event triggers switched off.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};

use aimq_core::batch::Level;
use aimq_core::shared::{News, State, Wake};
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::{Error, Misuse};
use crate::notifier::launcher;
use crate::settings::{self, Delivery};
use crate::{delivery, ffi, shared};

/// For each thing to tell: the outermost level at which it was done.
#[derive(Clone, Copy)]
struct Done {
    /// A trigger of ours was made.
    made: Option<Level>,
    /// Something was altered or dropped.
    changed: Option<Level>,
    /// Somebody's trigger was enabled, or a table got rows in a way that fires no trigger.
    enabled: Option<Level>,
    /// Messages may have come in anywhere while no trigger fired.
    unseen: Option<Level>,
    /// The same in whatever database: a setting with which no trigger fires is another than before.
    switched: Option<Level>,
    /// A prepared transaction was ended, which runs in a transaction of its own.
    finished: bool,
}

impl Done {
    const NOTHING: Self = Self {
        made: None,
        changed: None,
        enabled: None,
        unseen: None,
        switched: None,
        finished: false,
    };

    fn levels(&mut self) -> [&mut Option<Level>; 5] {
        let Self { made, changed, enabled, unseen, switched, finished: _ } = self;
        [made, changed, enabled, unseen, switched]
    }
}

thread_local! {
    static DONE: Cell<Done> = const { Cell::new(Done::NOTHING) };
    /// Anything was noted there. Hardly any transaction notes something, but each asks.
    static HAS_NOTED: Cell<bool> = const { Cell::new(false) };
    /// Of a transaction that is committed; and whether there is anything.
    static UNTOLD: Cell<Done> = const { Cell::new(Done::NOTHING) };
    static HAS_UNTOLD: Cell<bool> = const { Cell::new(false) };
    static FORMER: Cell<pg_sys::ProcessUtility_hook_type> = const { Cell::new(None) };
}

pub(crate) fn init() {
    // SAFETY: a plain variable; the hook is a function of this library, which is never unloaded.
    unsafe {
        FORMER.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(on_utility);
        pg_sys::RegisterResourceReleaseCallback(Some(on_release), std::ptr::null_mut());
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
            delivery::prepare();
            note(statement);
        }
    }
    pg_sys::Datum::null()
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
                if brings_rows(&*node.cast::<pg_sys::AlterTableStmt>()) {
                    outermost(&mut done.enabled);
                }
            }
            Tag::T_AlterObjectSchemaStmt => {
                outermost(&mut done.changed);
                if is_pgmq((*node.cast::<pg_sys::AlterObjectSchemaStmt>()).newschema) {
                    outermost(&mut done.made);
                }
            }
            Tag::T_RenameStmt => {
                outermost(&mut done.changed);
                let statement = &*node.cast::<pg_sys::RenameStmt>();
                if statement.renameType == pg_sys::ObjectType::OBJECT_SCHEMA
                    && is_pgmq(statement.newname)
                {
                    outermost(&mut done.made);
                }
            }
            Tag::T_DropStmt
            | Tag::T_DropOwnedStmt
            | Tag::T_ReassignOwnedStmt
            | Tag::T_GrantStmt
            | Tag::T_GrantRoleStmt => outermost(&mut done.changed),
            // What a subscription applies fires no statement trigger, and what is due of it has to be known when that
            // ends.
            Tag::T_CreateSubscriptionStmt
            | Tag::T_AlterSubscriptionStmt
            | Tag::T_DropSubscriptionStmt => outermost(&mut done.unseen),
            Tag::T_AlterDatabaseSetStmt => {
                if !switches_triggers((*node.cast::<pg_sys::AlterDatabaseSetStmt>()).setstmt) {
                    return;
                }
                outermost(&mut done.switched);
            }
            Tag::T_AlterRoleSetStmt => {
                if !switches_triggers((*node.cast::<pg_sys::AlterRoleSetStmt>()).setstmt) {
                    return;
                }
                outermost(&mut done.switched);
            }
            _ => return,
        }
        DONE.set(done);
        HAS_NOTED.set(true);
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

/// Has everything looked at when the transaction is committed.
pub(crate) fn note_unseen() {
    HAS_NOTED.set(true);
    change(|done| outermost(&mut done.unseen));
}

/// The savepoint at `level` was released.
pub(crate) fn release(level: Level) {
    change(|done| {
        for noted in done.levels() {
            *noted = noted.map(|at| at.min(level - 1));
        }
    });
}

/// The savepoint at `level` was rolled back.
pub(crate) fn roll_back(level: Level) {
    change(|done| {
        for noted in done.levels() {
            *noted = noted.filter(|at| *at < level);
        }
    });
}

fn change(change: impl FnOnce(&mut Done)) {
    if HAS_NOTED.get() {
        let mut done = DONE.get();
        change(&mut done);
        DONE.set(done);
    }
}

/// The transaction is committed. What it has done is told a moment later: now its locks are still held, and others have
/// not heard of its changes of the catalogs (access/transam/xact.c, CommitTransaction). A process that looked now would
/// see a table without the partition that was just attached. Cannot raise.
pub(crate) fn committed() {
    if HAS_NOTED.get() {
        UNTOLD.set(DONE.get());
        HAS_UNTOLD.set(true);
    }
}

/// The transaction's locks are given back, and its changes of the catalogs are known to all.
unsafe extern "C-unwind" fn on_release(
    phase: pg_sys::ResourceReleasePhase::Type,
    _is_commit: bool,
    is_top_level: bool,
    _argument: *mut c_void,
) {
    if is_top_level
        && phase == pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS
        && HAS_UNTOLD.replace(false)
    {
        tell(UNTOLD.replace(Done::NOTHING));
    }
}

/// Tells what a transaction has done. Cannot raise, and allocates nothing.
fn tell(mut done: Done) {
    if settings::delivery() == Delivery::Transaction {
        // Nobody is to be started for this session's queues.
        done.changed = done.changed.or(done.made.take());
        done.enabled = None;
    }
    if done.switched.is_some()
        && let Some(shared) = shared::get()
    {
        let others = shared.databases.all.iter().filter(|entry| entry.oid() != 0);
        for entry in others.filter(|entry| entry.is_followed() && entry.tell(News::EVERYTHING)) {
            delivery::ring(shared, entry, Wake::WATCHER);
        }
    }
    let has_changed = done.made.is_some() || done.changed.is_some();
    if !has_changed && done.unseen.is_none() && !done.finished {
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
    if runs || database.is_followed() {
        let told = [
            (done.finished, News::FINISHED),
            (has_changed, News::QUEUES),
            (done.unseen.is_some(), News::EVERYTHING),
        ];
        let told = told.into_iter().filter(|(is_so, _)| *is_so);
        let news = told.fold(News(0), |all, (_, news)| all | news);
        if database.tell(news) {
            delivery::ring(shared, database, Wake::WATCHER);
        }
    }
    // The entry of a queue whose trigger was disabled has stayed.
    if runs {
    } else if done.made.is_some() || done.enabled.is_some() || done.finished {
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
        delivery::ring(shared, database, Wake::WATCHER);
    }
}

/// The transaction is rolled back: what it did to a prepared transaction stays done.
/// Cannot raise.
pub(crate) fn aborted() {
    change(|done| done.levels().into_iter().for_each(|noted| *noted = None));
    committed();
}

/// Forgets what was noted. Cannot raise.
pub(crate) fn forget() {
    if HAS_NOTED.replace(false) {
        DONE.set(Done::NOTHING);
    }
}
