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
mod producers;
mod reads;
mod throughput;
mod wakeups;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Instant;

use aimq_lab::majors::Major;
use aimq_lab::progress::Spinner;
use aimq_lab::setup::{self, Profile};
use anyhow::Result;

use crate::contestants::Key;
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

/// One of the rounds of a measure.
struct Round<'a> {
    number: usize,
    last: usize,
    spinner: &'a Spinner,
}

impl Round<'_> {
    /// Shows what is being measured right now.
    fn say(&self, what: impl Display) {
        self.spinner.say(&format!("round {} of {}: {what}", self.number, self.last));
    }
}

impl Bench {
    /// Does these rounds, each behind a checkpoint. Number 0 is for what only warms up.
    fn rounds(
        &mut self,
        title: &str,
        numbers: RangeInclusive<usize>,
        mut each: impl FnMut(&mut Self, &Round<'_>) -> Result<()>,
    ) -> Result<()> {
        let spinner = Spinner::new(title);
        let last = *numbers.end();
        for number in numbers {
            self.servers.checkpoint()?;
            each(self, &Round { number, last, spinner: &spinner })?;
        }
        spinner.end(true);
        Ok(())
    }
}

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
        if !bench.plan.wants(measure) {
            continue;
        }
        if measure.is_of_notifier() && !bench.servers.has(Key::Notifier) {
            println!("  note: {measure:?} is not measured, because there is no notifier");
        } else {
            run(&mut bench)?;
        }
        // What has been measured is not lost when a later one fails.
        bench.results.write(&file)?;
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
