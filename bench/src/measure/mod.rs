//! The measures, one after the other; what each of them finds is kept at once.

mod batches;
mod blocked;
mod crowd;
mod growth;
mod instructions;
mod interval;
mod latency;
mod lateness;
mod polling;
mod reads;
mod throughput;
mod wakeups;

use std::path::PathBuf;
use std::time::Instant;

use aimq_lab::setup::{self, Major, Profile};
use anyhow::Result;

use crate::machine::About;
use crate::plan::{Measure, Plan, Wishes};
use crate::results::Results;
use crate::servers::Servers;
use crate::{paths, picture, report, verdict};

/// What every measure works with.
pub(crate) struct Bench {
    pub(crate) major: Major,
    pub(crate) plan: Plan,
    pub(crate) servers: Servers,
    pub(crate) results: Results,
}

type Run = fn(&mut Bench) -> Result<()>;

/// `aimq-bench run`.
pub(crate) fn run(major: Major, wishes: &Wishes) -> Result<()> {
    let begun = Instant::now();
    let plan = Plan::new(wishes);
    println!("aimq bench, PostgreSQL {}\n", major.0);
    if !wishes.no_build {
        setup::ready(major, Profile::Release)?;
    }
    let servers = Servers::start(major, &plan)?;
    let about = About::gather(&plan, &servers)?;
    println!("\n{}\n", about.line());
    let stamp = about.date.replace([' ', ':'], "-").trim_end_matches("-UTC").to_owned();
    let name = format!("pg{}-{stamp}{}", major.0, if plan.quick { "-quick" } else { "" });
    let (file, pictures): (PathBuf, PathBuf) = if wishes.keep {
        (paths::kept_results(major), paths::kept_pictures())
    } else {
        let file = wishes.to.clone().unwrap_or(paths::unkept().join(format!("{name}.json")));
        (file.clone(), file.with_extension(""))
    };
    let mut bench =
        Bench { major, plan, servers, results: Results { about, ..Results::default() } };
    let measures: [(Measure, Run); 14] = [
        (Measure::Throughput, throughput::by_clients),
        (Measure::Async, throughput::without_flush),
        (Measure::Listeners, throughput::by_listeners),
        (Measure::Latency, latency::run),
        (Measure::Wakeups, wakeups::run),
        (Measure::Batches, batches::run),
        (Measure::Growth, growth::run),
        (Measure::Interval, interval::run),
        (Measure::Reads, reads::run),
        (Measure::Lateness, lateness::run),
        (Measure::Blocked, blocked::run),
        (Measure::Polling, polling::run),
        (Measure::Crowd, crowd::run),
        (Measure::Instructions, instructions::run),
    ];
    for (measure, run) in measures {
        if bench.plan.wants(measure) {
            run(&mut bench)?;
            // What has been measured is not lost when a later one fails.
            bench.results.write(&file)?;
        }
    }
    let Bench { results, servers, .. } = bench;
    drop(servers);
    let tables = report::text(&results) + &verdict::text(&results);
    std::fs::write(file.with_extension("txt"), &tables)?;
    print!("{tables}");
    let drawn = picture::draw(&results, &pictures)?;
    println!("\n{:.1} minutes; nothing is left running", begun.elapsed().as_secs_f64() / 60.0);
    if !drawn.is_empty() {
        println!("pictures: {}", paths::shown(&pictures));
    }
    println!("raw results: {}", paths::shown(&file));
    Ok(())
}
