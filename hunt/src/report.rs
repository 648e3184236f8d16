//! What was found, said to people.

use std::fmt::Write;

use aimq_lab::stats::percentile;

use crate::clock::{Micros, SECOND, millis, now};
use crate::excuses::Place;
use crate::history::Act;
use crate::verdict::Demand;
use crate::world::World;
use aimq_lab::locking::lock;

/// How much of the time before a loss is told.
const BEFORE: Micros = 6 * SECOND;

/// How many losses of others are told.
const EXAMPLES: usize = 3;

/// How many lines of each kind a loss is told in.
const LINES: usize = 30;

/// A message for which somebody was not woken.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) place: Place,
    pub(crate) table: String,
    pub(crate) demand: Demand,
    /// Who, and when they were woken, or their call ended, in the end.
    pub(crate) whom: Vec<(String, Option<Micros>)>,
}

/// Tells of messages of one queue.
pub(crate) fn losses(world: &World, mut losses: Vec<Loss>) {
    losses.sort_by_key(|loss| (loss.demand.latest, loss.demand.id));
    while let Some(first) = losses.first() {
        let latest = first.demand.latest;
        let (together, rest): (Vec<_>, Vec<_>) =
            losses.into_iter().partition(|loss| loss.demand.latest == latest);
        losses = rest;
        let count = together.len() as u64;
        // Of others' losses a few say enough.
        let is_told =
            !world.plan.contestant.is_other() || lock(&world.findings).reports.len() < EXAMPLES;
        if is_told {
            println!("{}", tell(world, &together));
        }
        let kind = last_act(world, &together[0]).map_or("nothing", |act| act.kind);
        let mut findings = lock(&world.findings);
        findings.lost += count;
        *findings.after.entry(kind).or_default() += count;
        findings.reports.push(headline(world, &together));
    }
}

fn headline(world: &World, together: &[Loss]) -> String {
    let Some(first) = together.first() else { return String::new() };
    let demand = &first.demand;
    let ids: Vec<String> = together.iter().take(8).map(|loss| loss.demand.id.to_string()).collect();
    let more = together.len().saturating_sub(8);
    let mut text = format!(
        "{}.{} {} message{} {}{}: readable since {:.3} to {:.3} s",
        world.databases[first.place.database],
        first.table,
        together.len(),
        if together.len() == 1 { "" } else { "s" },
        ids.join(", "),
        if more > 0 { ", …" } else { "" },
        world.since_begun(demand.earliest),
        world.since_begun(demand.latest),
    );
    if let Some(act) = last_act(world, first) {
        let _ = write!(text, ", after {:?}", act.what);
    }
    for (name, next) in &first.whom {
        let _ = match next {
            Some(at) => write!(text, "; {name} {:.0} ms late", millis(at - demand.latest)),
            None => write!(text, "; {name} never"),
        };
    }
    text
}

/// What has most likely to do with it.
fn last_act(world: &World, loss: &Loss) -> Option<Act> {
    let table = (loss.place.database, loss.table.clone());
    let acts = world.history.of(table.0, &table.1, loss.demand.earliest - BEFORE);
    let here = |act: &Act| act.begun <= loss.demand.latest && act.queue.as_ref() == Some(&table);
    acts.into_iter().rev().find(here)
}

/// A loss with what went before it.
fn tell(world: &World, together: &[Loss]) -> String {
    let Some(first) = together.first() else { return String::new() };
    let (demand, place) = (&first.demand, first.place);
    let (from, to) = (demand.earliest - BEFORE, now());
    let at = |time: Micros| format!("{:9.3}", world.since_begun(time));
    let mut text = format!("\nLOST  {}\n", headline(world, together));
    for loss in together.iter().take(4) {
        let demand = &loss.demand;
        let gone = demand.gone.map_or("still there".into(), |gone| {
            format!("seen until {:.3}", world.since_begun(gone))
        });
        let vt = world.since_begun(demand.vt);
        let _ = writeln!(
            text,
            "      message {}: vt {vt:.3}, read_ct {}, on {:?}, {gone}",
            demand.id, demand.reads, demand.channels
        );
    }
    let mut lines: Vec<(Micros, String)> = Vec::new();
    for act in world.history.of(place.database, &first.table, from) {
        let what: String = act.what.chars().take(300).collect();
        lines.push((
            act.begun,
            format!("{} … {}  {}: {what}", at(act.begun), at(act.ended), act.who),
        ));
    }
    for window in lock(&world.excuses).within(place, from, to) {
        let until = window.until.map_or("       on".into(), at);
        lines
            .push((window.from, format!("{} … {until}  excused: {}", at(window.from), window.why)));
    }
    for (_, hearing) in world.hearings.iter().filter(|(number, _)| *number == place.database) {
        let hearing = lock(hearing);
        let relevant = hearing.of(&demand.channels, &demand.queue, from).map(|wake| wake.at);
        lines.extend(
            relevant
                .map(|time| (time, format!("{}              {} woken", at(time), hearing.name))),
        );
    }
    lines.sort_by_key(|line| line.0);
    // Those around the time in question, where there are too many.
    let middle = lines.partition_point(|line| line.0 < demand.latest);
    let begin = middle.saturating_sub(LINES);
    for (_, line) in lines.iter().skip(begin).take(2 * LINES) {
        let _ = writeln!(text, "      {line}");
    }
    text
}

/// The figures at the end. Whether all is well.
pub(crate) fn summary(world: &World) -> bool {
    let mut is_well = true;
    println!("\nWhat was done (failed in brackets)\n");
    let counts = world.history.counts();
    let mut group = "";
    for ((of, kind), count) in &counts {
        if *of != group {
            println!("  {of}");
            group = of;
        }
        let failed = if count.failed > 0 {
            format!("({}: {})", count.failed, count.error.lines().next().unwrap_or_default())
        } else {
            String::new()
        };
        println!("    {kind:32} {:>6} {failed}", count.done);
    }
    let missing: Vec<&str> =
        counts.iter().filter(|(_, count)| count.done == 0).map(|((_, kind), _)| *kind).collect();
    let mut findings = lock(&world.findings);
    findings.lateness.sort_by(f64::total_cmp);
    let late = |part| percentile(&findings.lateness, part);
    println!();
    println!("  messages checked        {:>8}", findings.checked);
    println!("  gone before a wake-up   {:>8}", findings.gone);
    println!(
        "  late by, ms             {:>8.1} p50 {:>8.1} p99 {:>8.1} max (of {}, where nothing excuses)",
        late(0.5),
        late(0.99),
        late(1.0),
        findings.lateness.len()
    );
    println!("  wake-ups                {:>8}", findings.wake_ups);
    println!("  for nothing             {:>8}", findings.for_nothing);
    println!("  lost                    {:>8}", findings.lost);
    if !missing.is_empty() {
        println!("\nNever done: {}", missing.join(", "));
        is_well = world.plan.seconds < 60
            || world.plan.contestant.is_other()
            || !world.plan.only.is_empty();
    }
    if findings.checked == 0 {
        println!("\nNo message was checked.");
        is_well = false;
    }
    if world.plan.contestant.is_other() {
        println!("\nLosses of {}, by what came last to the queue\n", world.plan.contestant.name());
        for (kind, count) in &findings.after {
            println!("    {kind:32} {count:>6}");
        }
        println!("\nAgain: {}", world.plan.again());
        // A hunt that finds none of them is blind.
        return findings.lost > 0;
    }
    if findings.lost > 0 {
        println!("\nLosses ({} in {} reports)\n", findings.lost, findings.reports.len());
        findings.reports.iter().for_each(|report| println!("  {report}"));
        is_well = false;
    }
    println!("\nAgain: {}", world.plan.again());
    is_well
}
