//! Bars: throughput by clients, and what listeners cost by interval.

use crate::contestants::Key;
use crate::figures::{self, distinct, middle, number, ratio, tps};
use crate::picture::svg::{Anchor, Scale, Svg};
use crate::picture::{colour, footer};
use crate::results::Results;

const WIDTH: f64 = 980.0;
const ROW: f64 = 21.0;

/// A panel for each number of clients; the bars are shares of the queue's own speed, so that all panels
/// have one scale.
pub(crate) fn throughput(results: &Results) -> Option<String> {
    let ours = || results.throughput.iter().filter(|it| it.listeners == 1 && it.synchronous_commit);
    let clients = distinct(ours().map(|it| it.clients));
    let keys = figures::contestants(ours().map(|it| it.contestant));
    let keys: Vec<Key> = keys.into_iter().filter(|key| *key != Key::NonePlain).collect();
    if clients.is_empty() {
        return None;
    }
    let mut svg = Svg::new(
        WIDTH,
        "Commits per second of pgmq.send, by number of clients",
        "share of the speed of the same queue without a trigger; one listener; the longer the better; * loses wake-ups",
    );
    let (left, top) = (196.0, 84.0);
    let panel_width = 150.0 + 120.0;
    let height = ROW * keys.len() as f64;
    let mut bottom = top;
    for (at, clients) in clients.iter().enumerate() {
        let (column, line) = ((at % 2) as f64, (at / 2) as f64);
        let x = left + column * (WIDTH - 40.0) / 2.0;
        let y = top + line * (height + 66.0);
        let scale =
            Scale { values: (0.0, 1.0), pixels: (x, x + panel_width - 90.0), logarithmic: false };
        let plural = if *clients == 1 { "" } else { "s" };
        svg.text(x, y, "panel", Anchor::Start, &format!("{clients} client{plural}"));
        let first = y + 10.0;
        for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let x = scale.at(share);
            let class = if share == 0.0 { "axis" } else { "grid" };
            svg.line((x, first), (x, first + height), class);
            svg.text(x, first + height + 15.0, "tick", Anchor::Middle, &format!("{share}"));
        }
        for (row, key) in keys.iter().enumerate() {
            let y = first + row as f64 * ROW;
            let found = tps(results, *key, *clients, 1);
            let baseline = tps(results, key.baseline(), *clients, 1);
            let class = if key.is_notifier() { "strong" } else { "" };
            let star = if *key == Key::Pgmq250 { " *" } else { "" };
            svg.text(x - 8.0, y + 15.0, class, Anchor::End, &format!("{}{star}", key.title()));
            if let (Some(tps), Some(share)) = (middle(&found), ratio(&found, &baseline)) {
                let end = scale.at(share.median);
                svg.rect(x, y + 3.0, end - x, ROW - 6.0, colour(*key));
                let label = if key.wakes() {
                    format!("{:.2}  ({}/s)", share.median, number(tps.round()))
                } else {
                    format!("{}/s", number(tps.round()))
                };
                svg.text(end.max(x) + 6.0, y + 15.0, class, Anchor::Start, &label);
            }
        }
        bottom = first + height + 20.0;
    }
    Some(svg.finish(bottom + 36.0, &footer(&results.about)))
}

/// What 200 listeners take of the notifier's throughput, by the interval.
pub(crate) fn interval(results: &Results) -> Option<String> {
    let ours = results.interval.iter().filter(|it| it.run.contestant == Key::Notifier);
    let intervals = distinct(ours.map(|it| it.notify_interval_ms));
    if intervals.is_empty() {
        return None;
    }
    let mut svg = Svg::new(
        WIDTH,
        "What 200 listeners cost the producers, by aimq.notify_interval",
        "commits per second lost to 200 listeners, in % of those with none; notifier, 16 clients; the shorter the better",
    );
    let (x, top) = (110.0, 84.0);
    let costs: Vec<Option<f64>> = intervals
        .iter()
        .map(|ms| {
            let with = figures::interval(results, Some(*ms), 200);
            let without = figures::interval(results, Some(*ms), 0);
            ratio(&with, &without).map(|it| (1.0 - it.median) * 100.0)
        })
        .collect();
    let most = costs.iter().flatten().fold(10.0_f64, |a, b| a.max(*b));
    let step = [2.0, 5.0, 10.0, 20.0].into_iter().find(|step| most / step <= 7.0).unwrap_or(25.0);
    let most = (most / step).ceil() * step;
    let scale = Scale { values: (0.0, most), pixels: (x, WIDTH - 180.0), logarithmic: false };
    let height = 30.0 * intervals.len() as f64;
    for tick in 0..=(most / step) as u32 {
        let value = step * f64::from(tick);
        let x = scale.at(value);
        svg.line((x, top), (x, top + height), if tick == 0 { "axis" } else { "grid" });
        svg.text(x, top + height + 16.0, "tick", Anchor::Middle, &format!("{value:.0} %"));
    }
    let goal = scale.at(5.0);
    svg.line((goal, top - 4.0), (goal, top + height), "mark");
    svg.text(goal + 5.0, top - 6.0, "note", Anchor::Start, "5 %");
    for (row, (ms, cost)) in intervals.iter().zip(costs).enumerate() {
        let y = top + 30.0 * row as f64;
        svg.text(x - 8.0, y + 19.0, "", Anchor::End, &format!("{ms} ms"));
        let Some(cost) = cost else {
            continue;
        };
        let end = scale.at(cost);
        svg.rect(x, y + 5.0, end - x, 20.0, "notifier");
        let tps = middle(&figures::interval(results, Some(*ms), 200)).unwrap_or(f64::NAN);
        let label = format!("{cost:.1} %  ({}/s)", number(tps.round()));
        // Clear of the line at 5 %.
        let from = if end < goal { goal } else { end };
        svg.text(from + 6.0, y + 19.0, "", Anchor::Start, &label);
    }
    Some(svg.finish(top + height + 56.0, &footer(&results.about)))
}
