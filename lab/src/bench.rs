//! Measurements: ratios from interleaved runs, medians with the number of pairs, raw results kept.

mod trigger;

use anyhow::{Result, bail};

use crate::setup::Major;

pub(crate) fn run(words: &[String], major: Major) -> Result<()> {
    match words.first().map(String::as_str) {
        Some("trigger") => trigger::run(major, words.get(1).is_some_and(|word| word == "quick")),
        _ => bail!("which measurement? `trigger`"),
    }
}

/// The value below which the share `part` of the sorted samples lies.
pub(crate) fn percentile(sorted: &[f64], part: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let at = (part * (sorted.len() - 1) as f64).round() as usize;
    sorted[at.min(sorted.len() - 1)]
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 0.5)
}
