//! What a realtime trigger is, as SQL asks for it: conditions on a row `t` of pg_trigger, made of what
//! [`super::triggers`] defines. No name in them depends on the search_path. SQL that is written by hand has the same
//! from `aimq._kinds()`.

use std::ffi::CStr;

use super::triggers::{EVENT, FORMER_ARCHIVED, REALTIME, TRIGGERS};

/// The OID of a function; null where the database has no aimq. A query looks it up once, not for each row.
fn oid(function: &CStr) -> String {
    let name = function.to_string_lossy();
    format!("(SELECT pg_catalog.to_regprocedure('aimq.{name}()')::pg_catalog.oid)")
}

/// The OID of the function of the triggers that tell what happens to messages later.
pub(crate) fn event_function() -> String {
    oid(EVENT)
}

/// It notes messages.
pub(crate) fn is_realtime() -> String {
    format!("t.tgfoid OPERATOR(pg_catalog.=) {}", oid(REALTIME))
}

/// It tells what happens to messages later.
pub(crate) fn is_event() -> String {
    format!("t.tgfoid OPERATOR(pg_catalog.=) {}", oid(EVENT))
}

/// It calls a function of ours.
pub(crate) fn is_ours() -> String {
    format!("({} OR {})", is_realtime(), is_event())
}

/// It is as `aimq.enable_realtime` attaches it, under whatever name, and fires for each row: others refuse their first
/// row, or may let it pass. Those for each statement say nothing that another one does not say.
pub(crate) fn is_attached() -> String {
    let types = |function| {
        let of_rows = TRIGGERS.iter().filter(|it| it.level == "ROW" && it.function == function);
        let former = (function == EVENT).then_some(FORMER_ARCHIVED);
        let all = of_rows.map(|it| it.tgtype).chain(former).map(|tgtype| tgtype.to_string());
        format!(
            "t.tgtype OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.int2[])",
            all.collect::<Vec<_>>().join(",")
        )
    };
    format!(
        "({} AND {} OR {} AND {})
           AND t.tgqual IS NULL
           AND t.tgnargs OPERATOR(pg_catalog.=) ANY ('{{3,4}}'::pg_catalog.int2[])
           AND t.tgenabled OPERATOR(pg_catalog.<>) 'D'::pg_catalog.\"char\"
           AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid",
        is_realtime(),
        types(REALTIME),
        is_event(),
        types(EVENT)
    )
}
