//! Bars: throughput by clients, and what listeners cost by interval.

use crate::contestants::Key;
use crate::figures::{self, distinct, middle, number, ratio, tps};
use crate::picture::panel::{Mark, Marks, Panel, Picture, Row};
use crate::picture::svg::{Scale, WIDTH};
use crate::results::Results;

const SLIM: f64 = 21.0;
const TOP: f64 = 84.0;

/// A panel for each number of clients; the bars are shares of the queue's own speed, so that all panels
/// have one scale.
pub(crate) fn throughput(results: &Results) -> Option<Picture> {
    let ours = || results.throughput.iter().filter(|it| it.listeners == 1 && it.synchronous_commit);
    let keys = figures::contestants(ours().map(|it| it.contestant));
    let keys: Vec<Key> = keys.into_iter().filter(|key| *key != Key::NonePlain).collect();
    let row = |key: Key, clients: u32| {
        let found = tps(results, key, clients, 1);
        let share = ratio(&found, &tps(results, key.baseline(), clients, 1));
        let mark = middle(&found).zip(share).map(|(tps, share)| {
            let tps = number(tps.round());
            let label = format!("{:.2}  ({tps}/s)", share.median);
            Mark::Bar {
                to: share.median,
                label: if key.wakes() { label } else { format!("{tps}/s") },
            }
        });
        let mut row = Row::of(key, mark);
        row.name += if key == Key::Pgmq250 { " *" } else { "" };
        row
    };
    let panels: Vec<Panel> = distinct(ours().map(|it| it.clients))
        .into_iter()
        .enumerate()
        .map(|(at, clients)| {
            let (column, line) = ((at % 2) as f64, (at / 2) as f64);
            let x = 196.0 + column * (WIDTH - 40.0) / 2.0;
            let top = TOP + 10.0 + line * (SLIM * keys.len() as f64 + 66.0);
            let scale = Scale { values: (0.0, 1.0), pixels: (x, x + 180.0), logarithmic: false };
            Panel {
                title: format!("{clients} client{}", if clients == 1 { "" } else { "s" }),
                ticks: scale.labelled(|share| format!("{share}")),
                scale,
                goal: None,
                marks: Marks::Rows {
                    top,
                    height: SLIM,
                    rows: keys.iter().map(|key| row(*key, clients)).collect(),
                },
            }
        })
        .collect();
    (!panels.is_empty()).then_some(Picture {
        title: "Commits per second of pgmq.send, by number of clients",
        note: "share of the speed of the same queue without a trigger; one listener; \
               the longer the better; * loses wake-ups",
        panels,
        below: 56.0,
    })
}

/// What 200 listeners take of the notifier's throughput, by the interval.
pub(crate) fn interval(results: &Results) -> Option<Picture> {
    let ours = results.interval.iter().filter(|it| it.run.contestant == Key::Notifier);
    let costs: Vec<(u32, Option<f64>)> = distinct(ours.map(|it| it.notify_interval_ms))
        .into_iter()
        .map(|ms| (ms, figures::interval_cost(results, ms)))
        .collect();
    let most = costs.iter().filter_map(|(_, cost)| *cost).fold(10.0_f64, f64::max);
    let step = [2.0, 5.0, 10.0, 20.0].into_iter().find(|step| most / step <= 7.0).unwrap_or(25.0);
    let steps = (most / step).ceil();
    let row = |(ms, cost): &(u32, Option<f64>)| {
        let tps = middle(&figures::interval(results, Some(*ms), 200)).unwrap_or(f64::NAN);
        let mark = cost.map(|cost| {
            let label = format!("{cost:.1} %  ({}/s)", number(tps.round()));
            Mark::Bar { to: cost, label }
        });
        Row { name: format!("{ms} ms"), class: "notifier", is_strong: false, mark }
    };
    (!costs.is_empty()).then(|| Picture {
        title: "What 200 listeners cost the producers, by aimq.notify_interval",
        note: "commits per second lost to 200 listeners, in % of those with none; \
               notifier, 16 clients; the shorter the better",
        panels: vec![Panel {
            title: String::new(),
            scale: Scale {
                values: (0.0, steps * step),
                pixels: (110.0, WIDTH - 180.0),
                logarithmic: false,
            },
            ticks: (0..=steps as u32)
                .map(|tick| step * f64::from(tick))
                .map(|value| (value, format!("{value:.0} %")))
                .collect(),
            goal: Some((5.0, "5 %")),
            marks: Marks::Rows { top: TOP, height: 30.0, rows: costs.iter().map(row).collect() },
        }],
        below: 56.0,
    })
}
