//! What one transaction that is rolled back can show: what the control plane answers and leaves in the catalogs,
//! refusals with their SQLSTATE, what the views say of it meanwhile, and Rust that asks a server. What needs a commit
//! or a second session is in `tests/client`.

mod asking;
mod attaching;
mod kinds;
mod refusals;
mod shown;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::pg::text;

/// What a query says in one row and column, as text.
pub(super) fn ask(sql: &str) -> Option<String> {
    Spi::get_one::<String>(&format!("SELECT ({sql})::text")).expect(sql)
}

pub(super) fn run(sql: &str) {
    Spi::run(sql).expect(sql);
}

/// How a statement is refused: SQLSTATE and message, then the hint. The harness has RUST_BACKTRACE set, of which
/// nothing may stand in the DETAIL.
pub(super) fn refusal(sql: &str) -> (String, String) {
    run("CREATE OR REPLACE FUNCTION pg_temp.refusal(sql text, OUT said text, OUT hint text) LANGUAGE plpgsql AS $$
         DECLARE
             state text;
             message text;
             detail text;
         BEGIN
             EXECUTE sql;
             said := 'nothing';
         EXCEPTION WHEN OTHERS THEN
             GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT,
                 detail = PG_EXCEPTION_DETAIL;
             said := state || ' ' || message || CASE WHEN detail ~ '\n +[0-9]+: ' THEN ' (backtrace)' ELSE '' END;
         END $$");
    let sql = text::quote_literal(sql);
    let (said, hint) =
        Spi::get_two(&format!("SELECT said, hint FROM pg_temp.refusal({sql})")).expect("a refusal");
    (said.unwrap_or_default(), hint.unwrap_or_default())
}

#[track_caller]
pub(super) fn refuses(sql: &str, said: &str, hint: &str) {
    let (is_said, hinted) = refusal(sql);
    assert_eq!(is_said, said, "{sql}");
    assert!(hinted.contains(hint), "{sql}: {hinted}");
}

/// The triggers of a table, by name.
pub(super) fn triggers(table: &str) -> String {
    let sql = format!(
        "SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = '{table}'::regclass"
    );
    ask(&sql).unwrap_or_default()
}

pub(super) fn oid(table: &str) -> pg_sys::Oid {
    Spi::get_one(&format!("SELECT '{table}'::regclass::oid")).expect(table).expect(table)
}
