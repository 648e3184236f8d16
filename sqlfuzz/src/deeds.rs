//! What a session does: statements, made by chance.

use anyhow::Result;
use fastrand::Rng;
use postgres::Client;

use crate::values::{self, literal, queue, text};

/// What there is to call, as the catalogs say.
#[derive(Debug)]
pub(crate) struct Catalog {
    functions: Vec<Function>,
    views: Vec<(String, Vec<String>)>,
    settings: Vec<String>,
}

#[derive(Debug)]
struct Function {
    name: String,
    is_procedure: bool,
    types: Vec<String>,
    names: Vec<String>,
    needed: usize,
}

impl Catalog {
    /// Everything of aimq's.
    pub(crate) fn of(client: &mut Client) -> Result<Self> {
        let rows = client.query(
            "SELECT p.proname::text, p.prokind = 'p',
                    ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY a (t, n) ORDER BY n),
                    coalesce(p.proargnames, '{}'), (p.pronargs - p.pronargdefaults)::integer
               FROM pg_proc p WHERE p.pronamespace = 'aimq'::regnamespace ORDER BY p.oid::regprocedure::text",
            &[],
        )?;
        let functions = rows.iter().map(|row| Function {
            name: row.get(0),
            is_procedure: row.get(1),
            types: row.get(2),
            names: row.get(3),
            needed: usize::try_from(row.get::<_, i32>(4)).unwrap_or(0),
        });
        let functions = functions.collect();
        let rows = client.query(
            "SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum)
               FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
              WHERE c.relnamespace = 'aimq'::regnamespace AND c.relkind = 'v' GROUP BY 1 ORDER BY 1",
            &[],
        )?;
        let views = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let rows =
            client.query("SELECT name FROM pg_settings WHERE name ^@ 'aimq.' ORDER BY 1", &[])?;
        let settings = rows.iter().map(|row| row.get(0)).collect();
        Ok(Self { functions, views, settings })
    }
}

/// What kinds of deeds there are; each has to be done in a run.
pub(crate) const KINDS: [&str; 9] = [
    "function",
    "named arguments",
    "wrong type",
    "view",
    "setting",
    "trigger",
    "message",
    "table",
    "transaction",
];

/// A kind, and its statements: each is sent by itself.
pub(crate) fn next(rng: &mut Rng, catalog: &Catalog) -> (usize, Vec<String>) {
    let kind = rng.usize(..KINDS.len());
    let statements = match kind {
        0 | 1 => vec![call(rng, catalog, kind == 1, false)],
        2 => vec![call(rng, catalog, false, true)],
        3 => vec![view(rng, catalog)],
        4 => setting(rng, catalog),
        5 => trigger(rng),
        6 => vec![message(rng)],
        7 => vec![table(rng)],
        _ => transaction(rng, catalog),
    };
    (kind, statements)
}

fn call(rng: &mut Rng, catalog: &Catalog, by_name: bool, is_wrong: bool) -> String {
    let function = &catalog.functions[rng.usize(..catalog.functions.len())];
    // Sometimes one too many or too few, which the parser refuses.
    let most = function.types.len();
    let count = if rng.u8(..20) == 0 {
        rng.usize(..=most)
    } else {
        rng.usize(function.needed.min(most)..=most)
    };
    let arguments: Vec<_> = (0..count)
        .map(|at| {
            let value =
                if is_wrong { literal(&text(rng)) } else { values::of(rng, &function.types[at]) };
            let name = function.names.get(at).filter(|name| by_name && !name.is_empty());
            name.map_or(value.clone(), |name| format!("\"{name}\" => {value}"))
        })
        .collect();
    let (name, arguments) = (&function.name, arguments.join(", "));
    match (function.is_procedure, rng.u8(..6)) {
        (true, _) => format!("CALL aimq.\"{name}\"({arguments})"),
        (_, 0) => format!("SELECT aimq.\"{name}\"({arguments})"),
        (_, 1) => format!(
            "SELECT (SELECT count(*) FROM aimq.\"{name}\"({arguments})) FROM generate_series(1, 3)"
        ),
        (_, 2) => format!("SELECT aimq.\"{name}\"({arguments}) LIMIT 1"),
        _ => format!("SELECT * FROM aimq.\"{name}\"({arguments})"),
    }
}

fn view(rng: &mut Rng, catalog: &Catalog) -> String {
    let (view, columns) = &catalog.views[rng.usize(..catalog.views.len())];
    let column = &columns[rng.usize(..columns.len())];
    let value = literal(&text(rng));
    match rng.u8(..8) {
        0 => format!("DELETE FROM aimq.{view}"),
        1 => format!("UPDATE aimq.{view} SET \"{column}\" = {value}"),
        2 => format!("INSERT INTO aimq.{view} (\"{column}\") VALUES ({value})"),
        3 => format!("SELECT * FROM aimq.{view} FOR UPDATE"),
        4 => format!("SELECT \"{column}\", count(*) FROM aimq.{view} GROUP BY 1 ORDER BY 1 DESC"),
        5 => format!("SELECT v, v::text, to_jsonb(v) FROM aimq.{view} v, aimq.{view} w"),
        _ => format!("SELECT * FROM aimq.{view} WHERE \"{column}\"::text > {value}"),
    }
}

fn setting(rng: &mut Rng, catalog: &Catalog) -> Vec<String> {
    let name = match rng.u8(..6) {
        0 => "aimq.nonsense".to_owned(),
        _ => catalog.settings[rng.usize(..catalog.settings.len())].clone(),
    };
    let value = match rng.u8(..4) {
        0 => values::of(rng, "integer"),
        1 => literal(["off", "on", "auto", "transaction", "notifier"][rng.usize(..5)]),
        _ => literal(&text(rng)),
    };
    let set = match rng.u8(..6) {
        0 => format!("SELECT set_config({}, {value}::text, true)", literal(&name)),
        1 => format!("ALTER ROLE CURRENT_USER SET {name} = {}", literal(value.trim_matches('\''))),
        2 => format!("ALTER ROLE CURRENT_USER RESET {name}"),
        _ => format!("SELECT set_config({}, {value}::text, false)", literal(&name)),
    };
    let used = format!("SELECT pgmq.send({}, '{{}}')", literal(&queue(rng)));
    vec![set, used, format!("RESET {name}")]
}

/// aimq's trigger functions, attached by hand to tables of all kinds.
fn trigger(rng: &mut Rng) -> Vec<String> {
    let table = ["t", "pgmq.q_own", "pgmq.a_own", "pgmq.q_mixed"][rng.usize(..4)];
    let when = [
        "BEFORE INSERT",
        "AFTER INSERT",
        "BEFORE UPDATE",
        "BEFORE DELETE",
        "AFTER TRUNCATE",
        "BEFORE INSERT OR UPDATE OF vt",
    ][rng.usize(..6)];
    let function =
        ["realtime_trigger", "event_trigger", "ddl_trigger"][usize::from(rng.u8(..7)) / 3];
    let each = if rng.u8(..5) == 0 { "STATEMENT" } else { "ROW" };
    let count = if rng.u8(..3) == 0 { rng.usize(..7) } else { rng.usize(3..5) };
    let arguments: Vec<_> = (0..count).map(|_| literal(&queue(rng))).collect();
    let name = ["x", "aimq_realtime", "aimq_realtime_vt", "aimq_realtime_deleted"][rng.usize(..4)];
    let columns = [
        "msg_id bigint, vt timestamptz, message jsonb, read_ct integer",
        "vt timestamptz",
        "vt text, msg_id text, read_ct text, message text",
        "msg_id integer, vt timestamp, gone integer, message jsonb, read_ct smallint",
        "",
    ][rng.usize(..5)];
    let time = values::of(rng, "timestamp with time zone");
    vec![
        format!("CREATE TEMP TABLE t ({columns})"),
        "ALTER TABLE t DROP COLUMN gone".to_owned(),
        format!("DROP TRIGGER {name} ON {table}"),
        format!(
            "CREATE TRIGGER {name} {when} ON {table} FOR EACH {each} EXECUTE FUNCTION aimq.{function}({})",
            arguments.join(", ")
        ),
        format!("INSERT INTO {table} (vt, message) VALUES ({time}, '{{}}')"),
        format!("INSERT INTO {table} (vt) VALUES ({time}), (NULL)"),
        format!("INSERT INTO {table} DEFAULT VALUES"),
        format!("UPDATE {table} SET vt = {time}"),
        format!("UPDATE {table} SET read_ct = 7, msg_id = msg_id"),
        format!("DELETE FROM {table}"),
        format!("TRUNCATE {table}"),
        format!("DROP TRIGGER {name} ON {table}"),
        "DROP TABLE t".to_owned(),
    ]
}

fn message(rng: &mut Rng) -> String {
    let name = literal(&queue(rng));
    let json = values::of(rng, "jsonb");
    let number = values::of(rng, "integer");
    let id = values::of(rng, "bigint");
    let time = values::of(rng, "timestamp with time zone");
    match rng.u8(..12) {
        0 => format!("SELECT pgmq.send({name}, {json}, {number})"),
        1 => format!("SELECT pgmq.send({name}, {json}, {time})"),
        2 => format!("SELECT pgmq.send_batch({name}, array_fill({json}, ARRAY[1000]), {number})"),
        3 => format!("SELECT pgmq.set_vt({name}, {id}, {number})"),
        4 => format!("SELECT pgmq.archive({name}, {id})"),
        5 => format!("SELECT pgmq.delete({name}, {id})"),
        6 => format!("SELECT * FROM pgmq.read({name}, {number}, 5)"),
        7 => format!("SELECT pgmq.pop({name})"),
        8 => format!("SELECT pgmq.purge_queue({name})"),
        9 => format!("UPDATE pgmq.q_own SET vt = {time}, read_ct = {number}"),
        10 => format!(
            "INSERT INTO pgmq.q_own (vt, message) SELECT {time}, {json} FROM generate_series(1, 100)"
        ),
        _ => format!("SELECT pgmq.send({name}, {json})"),
    }
}

/// What the owner of a queue, or a superuser, may do to its table, and what brings it back.
fn table(rng: &mut Rng) -> String {
    let table = ["pgmq.q_own", "pgmq.a_own", "pgmq.q_mixed", "pgmq.q_unlogged"][rng.usize(..4)];
    let deed = match rng.u8(..16) {
        0 => "ALTER TABLE {} DROP COLUMN vt",
        1 => "ALTER TABLE {} ADD COLUMN vt timestamptz DEFAULT now()",
        2 => "ALTER TABLE {} ALTER vt TYPE text",
        3 => "ALTER TABLE {} ALTER vt TYPE timestamptz USING now()",
        4 => "ALTER TABLE {} DROP COLUMN msg_id",
        5 => "ALTER TABLE {} ADD COLUMN msg_id bigint GENERATED ALWAYS AS IDENTITY",
        6 => "ALTER TABLE {} ENABLE ROW LEVEL SECURITY",
        7 => "ALTER TABLE {} FORCE ROW LEVEL SECURITY",
        8 => "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
        9 => "ALTER TABLE {} ENABLE ALWAYS TRIGGER ALL",
        10 => "ALTER TABLE {} DISABLE TRIGGER USER",
        11 => "ALTER TABLE {} ENABLE TRIGGER USER",
        12 => "DROP TABLE {}",
        13 => "CREATE TABLE {} (LIKE pgmq.q_honest INCLUDING ALL)",
        14 => "ALTER TABLE {} ALTER vt DROP NOT NULL",
        _ => "SELECT pgmq.create('own'), pgmq.create('Mixed'), pgmq.create_unlogged('unlogged')",
    };
    deed.replace("{}", table)
}

/// Several deeds in one transaction, with savepoints, prepared statements or cursors.
fn transaction(rng: &mut Rng, catalog: &Catalog) -> Vec<String> {
    let mut statements = vec!["BEGIN".to_owned()];
    match rng.u8(..5) {
        0 => statements.push("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE".into()),
        1 => statements.push("SET TRANSACTION READ ONLY".into()),
        2 => statements.push("SET LOCAL session_replication_role = replica".into()),
        _ => {}
    }
    for at in 0..rng.usize(1..5) {
        statements.push(format!("SAVEPOINT s{at}"));
        let one = match rng.u8(..4) {
            0 => message(rng),
            1 => table(rng),
            2 => format!("DECLARE c{at} CURSOR FOR {}", view(rng, catalog)),
            _ => call(rng, catalog, false, false),
        };
        statements.push(one);
        // Needed after an error; otherwise it rolls back what worked.
        if rng.bool() {
            statements.push(format!("ROLLBACK TO s{at}"));
        }
        if rng.bool() {
            statements.push(format!("RELEASE s{at}"));
        }
    }
    statements.push(["COMMIT", "ROLLBACK", "PREPARE TRANSACTION 'x'"][rng.usize(..3)].to_owned());
    statements.push("ROLLBACK".into());
    statements.push("ROLLBACK PREPARED 'x'".into());
    statements
}
