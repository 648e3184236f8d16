//! Pictures, drawn from the raw results alone.

mod bars;
mod latency;
mod lines;
mod panel;
mod svg;

use std::path::{Path, PathBuf};

use aimq_lab::majors::Major;
use anyhow::{Context, Result, ensure};

use crate::machine::About;
use crate::results::Results;
use crate::{paths, report, verdict};

/// Every picture that there are results for: its file's name, and what is in it.
pub(crate) fn all(results: &Results) -> Vec<(&'static str, String)> {
    let pictures = [
        ("throughput.svg", bars::throughput(results)),
        ("latency.svg", latency::draw(results)),
        ("lateness.svg", latency::lateness(results)),
        ("listeners.svg", lines::listeners(results)),
        ("interval.svg", bars::interval(results)),
        ("growth.svg", lines::growth(results)),
    ];
    let footer = footer(&results.about);
    pictures.into_iter().filter_map(|(name, it)| Some((name, it?.draw(&footer)))).collect()
}

/// Draws all of them into files.
pub(crate) fn draw(results: &Results, to: &Path) -> Result<Vec<PathBuf>> {
    let write = |(name, picture): (&str, String)| {
        std::fs::create_dir_all(to)?;
        let file = to.join(name);
        std::fs::write(&file, picture)?;
        Ok(file)
    };
    all(results).into_iter().map(write).collect()
}

/// `aimq-bench pictures`: prints and draws what a run has kept.
pub(crate) fn redraw(major: Major, results: Option<PathBuf>, to: Option<PathBuf>) -> Result<()> {
    let file = results.unwrap_or_else(|| paths::kept_results(major));
    let results = Results::read(&file).context("no results to draw; `make bench` makes some")?;
    println!("{}{}", report::text(&results), verdict::text(&results));
    let to = to.unwrap_or_else(paths::kept_pictures);
    let files = draw(&results, &to)?;
    ensure!(!files.is_empty(), "there is nothing to draw in {}", paths::shown(&file));
    for file in files {
        println!("picture: {}", paths::shown(&file));
    }
    Ok(())
}

/// The line below a picture.
fn footer(about: &About) -> String {
    let rounds = if about.is_a_look() {
        format!("a look, no measurement ({})", report::rounds_of(about.rounds))
    } else {
        format!("median of {} interleaved rounds", about.rounds)
    };
    let About { postgres, pgmq, aimq, cores, date, .. } = about;
    let date = date.split(' ').next().unwrap_or_default();
    format!(
        "{rounds}; PostgreSQL {postgres}, pgmq {pgmq}, aimq {aimq}; {cores} cores, fsync on; \
         {date}; make bench"
    )
}
