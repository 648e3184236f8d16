//! What each shape of the trigger costs a producer: one statement of n messages, and COPY, in ratio to the same queue
//! with no trigger, counted in the time that the session was on a processor. docs/design/trigger.md has the decision.

use std::fmt::Write as _;
use std::io::Write as _;

use aimq_lab::cluster::Cluster;
use aimq_lab::majors::Major;
use aimq_lab::progress::Spinner;
use aimq_lab::setup::{self, Profile};
use aimq_lab::stats::median;
use anyhow::Result;

use crate::table::Table;
use crate::{cpu, paths};

/// What is measured against `none`. The second is what `aimq.enable_realtime` attaches.
const SHAPES: [(&str, &str); 6] = [
    ("none", ""),
    ("before row", "SELECT aimq.enable_realtime('b')"),
    (
        "after row",
        "CREATE TRIGGER t AFTER INSERT ON pgmq.q_b FOR EACH ROW
         EXECUTE FUNCTION shape_after_row('aimq:jobs', 'job_enqueued', 'b')",
    ),
    (
        "after row, when",
        "CREATE TRIGGER t AFTER INSERT ON pgmq.q_b FOR EACH ROW
         WHEN (shape_when('aimq:jobs', 'job_enqueued', 'b', NEW.vt))
         EXECUTE FUNCTION shape_after_row('aimq:jobs', 'job_enqueued', 'b')",
    ),
    (
        "statement",
        "CREATE TRIGGER t AFTER INSERT ON pgmq.q_b FOR EACH STATEMENT
         EXECUTE FUNCTION shape_statement('aimq:jobs', 'job_enqueued', 'b')",
    ),
    (
        "statement, rows",
        "CREATE TRIGGER t AFTER INSERT ON pgmq.q_b REFERENCING NEW TABLE AS n FOR EACH STATEMENT
         EXECUTE FUNCTION shape_statement_rows('aimq:jobs', 'job_enqueued', 'b')",
    ),
];

/// A message that is next to nothing, so that all the rest is seen, and one of the usual size.
const TINY: &str = r#"{"n": 1}"#;
const USUAL: &str = r#"{"job": "send_email", "to": "someone@example.org", "template": "welcome", "locale": "en", "data": {"name": "Some One", "plan": "basic", "url": "https://example.org/confirm/0123456789abcdef0123456789abcdef"}, "attempt": 1}"#;

/// What is done with each shape.
struct Load {
    name: &'static str,
    messages: u64,
    message: &'static str,
    /// How many times in one sample.
    repeats: u32,
    pairs: usize,
}

const LOADS: [Load; 8] = [
    Load { name: "send_batch of 1", messages: 1, message: TINY, repeats: 2000, pairs: 21 },
    Load { name: "send_batch of 100", messages: 100, message: TINY, repeats: 100, pairs: 31 },
    Load { name: "send_batch of 1,000", messages: 1000, message: TINY, repeats: 20, pairs: 61 },
    Load { name: "the same, 240 bytes", messages: 1000, message: USUAL, repeats: 20, pairs: 61 },
    Load { name: "send_batch of 10,000", messages: 10_000, message: TINY, repeats: 3, pairs: 21 },
    Load { name: "COPY of 100,000", messages: 100_000, message: TINY, repeats: 1, pairs: 21 },
    Load { name: "the same, 240 bytes ", messages: 100_000, message: USUAL, repeats: 1, pairs: 11 },
    Load { name: "INSERT of 1,000,000", messages: 1_000_000, message: TINY, repeats: 1, pairs: 5 },
];

/// `quick` has two pairs of each and leaves out the large loads: a look, no measurement.
pub(crate) fn run(major: Major, quick: bool) -> Result<()> {
    setup::prepare(major)?;
    setup::install(major, Profile::Release, &["bench_shapes"])?;
    // No flush: it would hide what the CPU pays. Nothing else runs in this server.
    let cluster = Cluster::start(
        major,
        &["fsync=off", "autovacuum=off", "shared_buffers=1GB", "max_wal_size=20GB"],
    )?;
    let mut client = cluster.connect("postgres")?;
    client.batch_execute(
        "CREATE EXTENSION aimq CASCADE;
         SELECT pgmq.create('b');
         CREATE FUNCTION shape_after_row() RETURNS trigger LANGUAGE c AS '$libdir/aimq';
         CREATE FUNCTION shape_statement() RETURNS trigger LANGUAGE c AS '$libdir/aimq';
         CREATE FUNCTION shape_statement_rows() RETURNS trigger LANGUAGE c AS '$libdir/aimq';
         CREATE FUNCTION shape_when(cstring, cstring, cstring, timestamptz) RETURNS boolean LANGUAGE c AS '$libdir/aimq';",
    )?;
    let mut raw = String::from("load\tpair\tshape\tseconds\tpeak_kb\n");
    let mut table = Table::new(
        format!("Speed with other shapes of the trigger, PostgreSQL {}", major.0),
        "times the same queue with no trigger; median of the pairs",
        &["", "pairs"],
    );
    table.columns.extend(SHAPES[1..].iter().map(|(name, _)| (*name).into()));
    let spinner = Spinner::new("other shapes of the trigger");
    for load in LOADS.iter().filter(|load| !quick || load.messages <= 1000) {
        let pairs = if quick { 2 } else { load.pairs };
        let mut seconds = vec![Vec::new(); SHAPES.len()];
        let mut peaks = vec![0; SHAPES.len()];
        for pair in 0..=pairs {
            spinner.say(&format!("{}: pair {pair} of {pairs}", load.name));
            for turn in 0..SHAPES.len() {
                // A different order in each pair, so that none always runs behind the same other.
                let shape = (turn + pair) % SHAPES.len();
                let (time, peak) = sample(&cluster, load, SHAPES[shape].1)?;
                if pair == 0 {
                    continue; // warming up
                }
                seconds[shape].push(time);
                peaks[shape] = peaks[shape].max(peak);
                writeln!(raw, "{}\t{pair}\t{}\t{time:.6}\t{peak}", load.name, SHAPES[shape].0)?;
            }
        }
        let ratios = seconds[1..].iter().map(|shape| {
            let ratios: Vec<f64> =
                seconds[0].iter().zip(shape).map(|(none, it)| none / it).collect();
            format!("{:.3}", median(&ratios))
        });
        table.row(load.name, std::iter::once(pairs.to_string()).chain(ratios));
        if load.messages == 1_000_000 {
            let over = |peak: &u64| format!("{:.1}", (*peak as f64 - peaks[0] as f64) / 1024.0);
            let cells = std::iter::once(String::new()).chain(peaks[1..].iter().map(over));
            table.row("  peak memory over none, MB", cells);
        }
    }
    spinner.end(true);
    print!("{table}");
    std::fs::create_dir_all(paths::unkept())?;
    let file = paths::unkept().join(format!("shapes-pg{}.tsv", major.0));
    std::fs::write(&file, raw)?;
    println!("\nraw results: {}", paths::shown(&file));
    Ok(())
}

/// One sample in a session of its own: the seconds of processor that the load took, and the session's peak memory.
fn sample(cluster: &Cluster, load: &Load, attach: &str) -> Result<(f64, u64)> {
    let mut client = cluster.connect("postgres")?;
    client.batch_execute(
        "DROP TRIGGER IF EXISTS t ON pgmq.q_b;
         DROP TRIGGER IF EXISTS aimq_realtime ON pgmq.q_b;
         TRUNCATE pgmq.q_b; CHECKPOINT",
    )?;
    client.batch_execute(attach)?;
    let mut client = cluster.connect("postgres")?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let pid = pid.cast_unsigned();
    let begun;
    let Load { messages, message, repeats, .. } = load;
    if *messages == 100_000 {
        let text = format!("2026-01-01 00:00:00+00\t{message}\n").repeat(100_000);
        client.batch_execute("SELECT count(*) FROM pgmq.q_b")?;
        begun = cpu::on_processor(pid)?;
        let mut copy = client.copy_in("COPY pgmq.q_b (vt, message) FROM STDIN")?;
        copy.write_all(text.as_bytes())?;
        copy.finish()?;
    } else if *messages == 1_000_000 {
        begun = cpu::on_processor(pid)?;
        client.batch_execute(&format!(
            "INSERT INTO pgmq.q_b (vt, message)
             SELECT now(), '{message}' FROM generate_series(1, {messages})"
        ))?;
    } else {
        client.batch_execute(&format!(
            "CREATE TEMP TABLE m AS SELECT array_agg('{message}'::jsonb) AS m
               FROM generate_series(1, {messages});
             PREPARE s AS SELECT count(*) FROM (SELECT pgmq.send_batch('b', m) FROM m) s;
             EXECUTE s"
        ))?;
        begun = cpu::on_processor(pid)?;
        for _ in 0..*repeats {
            client.batch_execute("EXECUTE s")?;
        }
    }
    Ok((cpu::on_processor(pid)? - begun, cpu::status(pid, "VmHWM")?))
}
