//! How long a wake-up takes, and how late delayed messages are read: from p50 to p99 on a logarithmic
//! scale.

use aimq_lab::stats::percentile;

use crate::contestants::Key;
use crate::figures::{self, latencies, number};
use crate::picture::panel::{Mark, Marks, Panel, Picture, Row};
use crate::picture::svg::{Scale, WIDTH};
use crate::results::{Background, Results};
use crate::worker::Way;

const NOTE: &str = "milliseconds, logarithmic; ● p50, ○ p99; the further to the left the better";
/// Between a panel and what follows it.
const BELOW: f64 = 50.0;

pub(crate) fn draw(results: &Results) -> Option<Picture> {
    let parts = [
        (Background::Idle, "one message at a time, the queue idle"),
        (Background::Steady, "under 16 producers at the same steady rate"),
        (Background::Saturated, "under 16 producers as fast as they can"),
    ];
    let parts = parts.map(|(background, name)| {
        let ours = || results.latency.iter().filter(|it| it.background == background);
        let rate = ours().next().and_then(|it| it.rate);
        let rate = rate.map(|it| format!(" ({} per second)", number(it))).unwrap_or_default();
        let keys = figures::contestants(ours().map(|it| it.contestant)).into_iter();
        // A throttle that drops wake-ups has nothing to compare but those it didn't.
        let keys = keys.filter(|key| *key != Key::Pgmq250);
        let row = |key| Row::of(key, Some(range(&latencies(results, key, background).wake)));
        (format!("{name}{rate}"), keys.map(row).collect())
    });
    let title = "Wake-up latency: from sending the statement to the listener's receipt";
    picture(title, 96.0, parts.into())
}

/// How late delayed messages are read.
pub(crate) fn lateness(results: &Results) -> Option<Picture> {
    let ways = figures::distinct(results.lateness.iter().map(|it| it.way)).into_iter();
    let rows = ways.filter_map(|way| {
        let late = figures::lateness(results, way, false);
        let is_strong = way == Way::Notifier;
        let class = if is_strong { "notifier" } else { "rival" };
        let (name, mark) = (way.title().into(), Some(range(&late)));
        (!late.is_empty()).then_some(Row { name, class, is_strong, mark })
    });
    let title = "Lateness: from when a delayed message can be read to when a worker has it";
    picture(title, 84.0, vec![(String::new(), rows.collect())])
}

fn range(sorted: &[f64]) -> Mark {
    let [p50, p99] = [0.5, 0.99].map(|part| percentile(sorted, part));
    Mark::Range { p50, p99, samples: sorted.len() }
}

/// Panels below each other, over one scale.
fn picture(title: &'static str, mut top: f64, parts: Vec<(String, Vec<Row>)>) -> Option<Picture> {
    let mut values = Vec::new();
    for row in parts.iter().flat_map(|(_, rows)| rows) {
        if let Some(Mark::Range { p50, p99, .. }) = row.mark {
            values.extend([p50, p99].into_iter().filter(|value| *value > 0.0));
        }
    }
    let scale = Scale::over(&values, (220.0, WIDTH - 226.0));
    let panels = parts.into_iter().filter(|(_, rows)| !rows.is_empty()).map(|(title, rows)| {
        let ticks = scale.labelled(|tick| format!("{tick} ms"));
        let marks = Marks::Rows { top, height: 24.0, rows };
        let panel = Panel { title, scale, ticks, goal: None, marks };
        top = panel.bottom() + BELOW + 10.0;
        panel
    });
    let panels = panels.collect();
    (!values.is_empty()).then_some(Picture { title, note: NOTE, panels, below: BELOW })
}
