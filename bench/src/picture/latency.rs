//! How long a wake-up takes, and how late delayed messages are read: from p50 to p99 on a logarithmic
//! scale.

use aimq_lab::stats::percentile;

use crate::contestants::Key;
use crate::figures::{self, latencies, number};
use crate::picture::svg::{Anchor, Scale, Svg};
use crate::picture::{colour, footer};
use crate::results::{Background, Results};
use crate::worker::Way;

const WIDTH: f64 = 980.0;
const ROW: f64 = 24.0;
const LEFT: f64 = 220.0;

pub(crate) fn draw(results: &Results) -> Option<String> {
    let panels = [
        (Background::Idle, "one message at a time, the queue idle"),
        (Background::Steady, "under 16 producers at the same steady rate"),
        (Background::Saturated, "under 16 producers as fast as they can"),
    ];
    let rows = |background| -> Vec<Key> {
        let ours = results.latency.iter().filter(|it| it.background == background);
        let all = figures::contestants(ours.map(|it| it.contestant));
        // A throttle that drops wake-ups has nothing to compare but those it didn't.
        all.into_iter().filter(|key| *key != Key::Pgmq250).collect()
    };
    let mut values = Vec::new();
    for (background, _) in &panels {
        for key in rows(*background) {
            let found = latencies(results, key, *background).wake;
            values.extend([percentile(&found, 0.5), percentile(&found, 0.99)]);
        }
    }
    values.retain(|value| value.is_finite());
    if values.is_empty() {
        return None;
    }
    let mut svg = Svg::new(
        WIDTH,
        "Wake-up latency: from sending the statement to the listener's receipt",
        "milliseconds, logarithmic; ● p50, ○ p99; the further to the left the better",
    );
    let scale = Scale::over(&values, (LEFT, WIDTH - 226.0));
    let mut y = 86.0;
    for (background, name) in panels {
        let keys = rows(background);
        if keys.is_empty() {
            continue;
        }
        let rate = results.latency.iter().find(|it| it.background == background);
        let rate = rate.and_then(|it| it.rate).map(|it| format!(" ({} per second)", number(it)));
        let title = format!("{name}{}", rate.unwrap_or_default());
        svg.text(LEFT, y, "panel", Anchor::Start, &title);
        y += 10.0;
        let height = ROW * keys.len() as f64;
        for tick in scale.ticks() {
            let x = scale.at(tick);
            svg.line((x, y), (x, y + height), "grid");
            svg.text(x, y + height + 15.0, "tick", Anchor::Middle, &format!("{tick} ms"));
        }
        for key in keys {
            let found = latencies(results, key, background).wake;
            let title = (key.title(), key.is_notifier());
            row(&mut svg, &scale, y, title, colour(key), &found);
            y += ROW;
        }
        y += 50.0;
    }
    Some(svg.finish(y, &footer(&results.about)))
}

/// One line: its name and whether that stands out, a mark for p50 and p99 of the sorted values, and these
/// in figures.
fn row(svg: &mut Svg, scale: &Scale, y: f64, name: (&str, bool), class: &str, sorted: &[f64]) {
    let (p50, p99) = (percentile(sorted, 0.5), percentile(sorted, 0.99));
    let middle = y + ROW / 2.0;
    let strong = if name.1 { "strong" } else { "" };
    svg.text(LEFT - 10.0, middle + 4.0, strong, Anchor::End, name.0);
    svg.line((scale.at(p50), middle), (scale.at(p99), middle), &format!("line {class}"));
    svg.dot(scale.at(p99), middle, 4.5, "ground");
    svg.dot(scale.at(p99), middle, 4.0, &format!("line thin {class}"));
    svg.dot(scale.at(p50), middle, 5.0, class);
    let label = format!("{} … {} ms", number(p50), number(p99));
    svg.text(WIDTH - 208.0, middle + 4.0, strong, Anchor::Start, &label);
    let samples = format!("n = {}", number(sorted.len() as f64).replace(".0", ""));
    svg.text(WIDTH - 24.0, middle + 4.0, "tick", Anchor::End, &samples);
}

/// How late delayed messages are read.
pub(crate) fn lateness(results: &Results) -> Option<String> {
    let ways = figures::distinct(results.lateness.iter().map(|it| it.way));
    let rows: Vec<(Way, Vec<f64>)> = ways
        .into_iter()
        .map(|way| (way, figures::lateness(results, way, false)))
        .filter(|(_, late)| !late.is_empty())
        .collect();
    let values: Vec<f64> = rows
        .iter()
        .flat_map(|(_, late)| [percentile(late, 0.5), percentile(late, 0.99)])
        .filter(|value| *value > 0.0)
        .collect();
    if values.is_empty() {
        return None;
    }
    let mut svg = Svg::new(
        WIDTH,
        "Lateness: from when a delayed message can be read to when a worker has it",
        "milliseconds, logarithmic; ● p50, ○ p99; the further to the left the better",
    );
    let scale = Scale::over(&values, (LEFT, WIDTH - 226.0));
    let (top, height) = (84.0, ROW * rows.len() as f64);
    for tick in scale.ticks() {
        let x = scale.at(tick);
        svg.line((x, top), (x, top + height), "grid");
        svg.text(x, top + height + 15.0, "tick", Anchor::Middle, &format!("{tick} ms"));
    }
    for (at, (way, late)) in rows.iter().enumerate() {
        let class = if *way == Way::Notifier { "notifier" } else { "rival" };
        let name = (way.title(), *way == Way::Notifier);
        row(&mut svg, &scale, top + ROW * at as f64, name, class, late);
    }
    Some(svg.finish(top + height + 50.0, &footer(&results.about)))
}
