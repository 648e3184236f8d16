//! What statements tell the watcher: that a trigger of ours was made, that a table's triggers may
//! have changed or gone, that messages may have come in while no trigger fired, that a prepared transaction has ended.
//!
//! Postgres calls a library for none of these but through the hook on utility statements. It is told after the commit
//! ([`told`]).
//!
//! A session that has not loaded the library has no hook. That can be one where aimq is not preloaded, and which never
//! touched a realtime queue. There an event trigger has it loaded by the first statement that may matter, and tells the
//! same. Not guaranteed then: what is done to the catalogs by hand, or with event triggers switched off.

use crate::catalog::pgmq;
use crate::catalog::triggers::is_name_of_ours;
use crate::error::{Error, Misuse};
use crate::pg::function::event_trigger_function;
use crate::pg::statement::{self, Does, Statement};
use crate::shared;
use crate::shared::told::{self, Did};

pub(crate) fn init() {
    statement::register(note);
}

event_trigger_function! {
    /// `aimq.ddl_trigger()`, the function of the event trigger: notes the statement where the hook could not, because
    /// the library has just been loaded. Does nothing where it is preloaded.
    aimq_ddl_trigger, pg_finfo_aimq_ddl_trigger, on_event
}

fn on_event(statement: Option<Statement>) {
    let Some(statement) = statement else {
        Error::from(Misuse::NotATrigger).raise();
    };
    if !shared::is_preloaded() {
        // So that the commit can tell.
        shared::prepare();
        note(statement);
    }
}

fn note(statement: Statement) {
    let note_if = |is_so: bool, did| {
        if is_so {
            told::note(did);
        }
    };
    match statement.does() {
        Does::EndPrepared => told::note(Did::Finished),
        // In whatever schema.
        Does::CreateTrigger { function } => note_if(is_name_of_ours(function), Did::Made),
        Does::AlterTable { brings_rows } => {
            told::note(Did::Changed);
            note_if(brings_rows, Did::Enabled);
        }
        Does::Move { schema } => {
            told::note(Did::Changed);
            note_if(schema == pgmq::SCHEMA, Did::Made);
        }
        Does::Rename { schema } => {
            told::note(Did::Changed);
            note_if(schema == Some(pgmq::SCHEMA), Did::Made);
        }
        Does::DropOrGrant => told::note(Did::Changed),
        // What a subscription applies fires no statement trigger, and what is due of it has to be known when that
        // ends.
        Does::Subscribe => told::note(Did::Unseen),
        // With these settings triggers don't fire.
        Does::Set { setting } => {
            let switches = [c"aimq.enabled", c"session_replication_role"];
            note_if(setting.is_none_or(|it| switches.contains(&it)), Did::Switched);
        }
        Does::Other => {}
    }
}
