//! Hostile values of each type, as SQL.

use fastrand::Rng;

/// Texts that are names, values of other types, SQL, or bytes that some code does not expect.
const TEXTS: [&str; 40] = [
    "a",
    "A",
    "own",
    "honest",
    "Mixed",
    "unlogged",
    "no such queue",
    "",
    " ",
    "\u{1}",
    "\n",
    "\t\r\u{7f}",
    "'",
    "''",
    "\"",
    "\\",
    "%s%n%I",
    "$1",
    "$$",
    "é中😀",
    "\u{202e}x\u{fffd}",
    "'; DROP TABLE pgmq.q_own; --",
    "NaN",
    "infinity",
    "-1",
    "1e999",
    "{}",
    "[]",
    "{NULL}",
    "null",
    "true",
    "ids",
    "sink=both",
    "both",
    "notify",
    "supabase",
    "aimq:jobs",
    "job_enqueued",
    "job_archived",
    "pg_catalog",
];

const LENGTHS: [usize; 9] = [47, 48, 63, 64, 255, 264, 7999, 8192, 1_000_000];

const INTEGERS: [&str; 8] = ["0", "1", "-1", "2147483647", "-2147483648", "2", "1000000", "1024"];

const BIGINTS: [&str; 6] =
    ["0", "1", "-1", "9223372036854775807", "(-9223372036854775808)", "4294967296"];

const FLOATS: [&str; 9] =
    ["0", "-0", "NaN", "infinity", "-infinity", "1e308", "-1e308", "5e-324", "0.001"];

const INTERVALS: [&str; 11] = [
    "0",
    "1 ms",
    "20 ms",
    "-1 s",
    "1 us",
    "-178000000 years",
    "178000000 years",
    "1 month -30 days",
    "2147483647 days",
    "292277 years 9223372036 s",
    "infinity",
];

const TIMES: [&str; 7] = [
    "now",
    "infinity",
    "-infinity",
    "4714-11-24 00:00:00+00 BC",
    "294276-12-31 23:59:59.999999+00",
    "1970-01-01 00:00:00+00",
    "tomorrow",
];

const JSONS: [&str; 8] = [
    "{}",
    "[]",
    "null",
    "1",
    "\"x\"",
    "{\"a\": {\"b\": [1e400]}}",
    "{\"\": null}",
    "{\"x-pgmq-group\": \"g\"}",
];

/// A literal in which nothing is special.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn one<'a>(rng: &mut Rng, all: &[&'a str]) -> &'a str {
    all[rng.usize(..all.len())]
}

/// A hostile text.
pub(crate) fn text(rng: &mut Rng) -> String {
    match rng.u8(..10) {
        0 => "x".repeat(LENGTHS[rng.usize(..LENGTHS.len())]),
        // A character that ends where a name is cut.
        1 => "é".repeat(rng.usize(20..40)),
        2 => format!("{}{}", one(rng, &TEXTS), one(rng, &TEXTS)),
        _ => one(rng, &TEXTS).to_owned(),
    }
}

/// The name of a queue that may be there, more often than not.
pub(crate) fn queue(rng: &mut Rng) -> String {
    if rng.u8(..3) > 0 { one(rng, &TEXTS[..6]).to_owned() } else { text(rng) }
}

fn array(rng: &mut Rng) -> String {
    match rng.u8(..8) {
        0 => "'{}'::text[]".to_owned(),
        1 => "ARRAY[NULL]::text[]".to_owned(),
        2 => "'{{own,a},{b,NULL}}'::text[]".to_owned(),
        3 => "'[-3:-2]={own,a}'::text[]".to_owned(),
        4 => "array_fill('own'::text, ARRAY[10000])".to_owned(),
        5 => "'{job_enqueued,job_started,job_archived,job_deleted}'::text[]".to_owned(),
        _ => {
            let count = rng.usize(1..4);
            let all: Vec<_> = (0..count).map(|_| literal(&queue(rng))).collect();
            format!("ARRAY[{}]::text[]", all.join(", "))
        }
    }
}

/// A hostile value of a type, as an expression. The type is as `format_type` names it.
pub(crate) fn of(rng: &mut Rng, of: &str) -> String {
    if rng.u8(..8) == 0 {
        return format!("NULL::{of}");
    }
    match of {
        "text" => format!("{}::text", literal(&queue(rng))),
        "text[]" => array(rng),
        "integer" => format!("({})::integer", one(rng, &INTEGERS)),
        "bigint" => format!("({})::bigint", one(rng, &BIGINTS)),
        "boolean" => format!("{}::boolean", one(rng, &["true", "false"])),
        "double precision" => format!("'{}'::float8", one(rng, &FLOATS)),
        "interval" => format!("'{}'::interval", one(rng, &INTERVALS)),
        "timestamp with time zone" => format!("'{}'::timestamptz", one(rng, &TIMES)),
        "jsonb" => format!("{}::jsonb", literal(one(rng, &JSONS))),
        "oid" => one(
            rng,
            &[
                "0::oid",
                "4294967295::oid",
                "1259::oid",
                "to_regclass('pgmq.q_own')::oid",
                "to_regclass('aimq.queues')::oid",
            ],
        )
        .to_owned(),
        // Of a type that nobody has thought of: its text is somebody else's.
        _ => format!("{}::{of}", literal(&text(rng))),
    }
}
