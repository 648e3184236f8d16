//! Pictures, drawn from the raw results alone.

mod bars;
mod latency;
mod lines;
mod panel;
mod svg;

use std::path::{Path, PathBuf};

use aimq_lab::setup::Major;
use anyhow::{Context, Result, ensure};

use crate::machine::About;
use crate::results::Results;
use crate::{paths, report, verdict};

/// Draws every picture that there are results for.
pub(crate) fn draw(results: &Results, to: &Path) -> Result<Vec<PathBuf>> {
    let pictures = [
        ("throughput", bars::throughput(results)),
        ("latency", latency::draw(results)),
        ("lateness", latency::lateness(results)),
        ("listeners", lines::listeners(results)),
        ("interval", bars::interval(results)),
        ("growth", lines::growth(results)),
    ];
    let mut files = Vec::new();
    for (name, picture) in pictures {
        let Some(picture) = picture else {
            continue;
        };
        std::fs::create_dir_all(to)?;
        let file = to.join(format!("{name}.svg"));
        std::fs::write(&file, picture.draw(&footer(&results.about)))?;
        files.push(file);
    }
    Ok(files)
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
    format!(
        "{rounds}; PostgreSQL {}, pgmq {}, aimq {}; {} cores, fsync on; {}; make bench",
        about.postgres,
        about.pgmq,
        about.aimq,
        about.cores,
        about.date.split(' ').next().unwrap_or_default()
    )
}
