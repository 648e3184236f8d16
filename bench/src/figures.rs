//! What tables, verdicts and pictures all read from the raw results.

use aimq_lab::stats::{median, percentile};

use crate::callers::Call;
use crate::contestants::{ALL, Key};
use crate::results::{Background, Blocked, Latency, Polling, Results};
use crate::worker::Way;

/// One figure for each round.
pub(crate) type Rounds = Vec<(usize, f64)>;

/// A ratio of two contestants, from the rounds that both have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) pairs: usize,
}

/// Sorted samples of all rounds, in milliseconds.
pub(crate) struct Latencies {
    pub(crate) wake: Vec<f64>,
    pub(crate) statement: Vec<f64>,
    pub(crate) missed: u64,
}

/// Commits per second, `synchronous_commit` on.
pub(crate) fn tps(results: &Results, key: Key, clients: u32, listeners: u32) -> Rounds {
    throughput(results, key, clients, listeners, true)
}

pub(crate) fn throughput(
    results: &Results,
    key: Key,
    clients: u32,
    listeners: u32,
    synchronous_commit: bool,
) -> Rounds {
    let ours = results.throughput.iter().filter(|it| {
        (it.contestant, it.clients, it.listeners, it.synchronous_commit)
            == (key, clients, listeners, synchronous_commit)
    });
    ours.map(|it| (it.round, it.tps)).collect()
}

pub(crate) fn middle(rounds: &[(usize, f64)]) -> Option<f64> {
    let values: Vec<f64> = rounds.iter().map(|(_, value)| *value).collect();
    (!values.is_empty()).then(|| median(&values))
}

/// `a` in ratio to `b`, in each round that both have.
fn pairs(a: &[(usize, f64)], b: &[(usize, f64)]) -> Rounds {
    let other = |round| b.iter().find(|(other, _)| *other == round);
    a.iter().filter_map(|(round, a)| Some((*round, a / other(*round)?.1))).collect()
}

/// How many times `b` is `a`: pairs of the same round, their median.
pub(crate) fn ratio(a: &[(usize, f64)], b: &[(usize, f64)]) -> Option<Ratio> {
    let pairs = pairs(a, b);
    Some(Ratio { median: middle(&pairs)?, pairs: pairs.len() })
}

/// Of those that notify in the transaction and lose nothing: the fastest in this cell.
pub(crate) fn best_in_transaction(results: &Results, clients: u32, listeners: u32) -> Option<Key> {
    let speed = |key: &Key| middle(&tps(results, *key, clients, listeners)).unwrap_or(0.0);
    let rivals = ALL.into_iter().filter(|key| key.in_transaction() && speed(key) > 0.0);
    rivals.max_by(|a, b| speed(a).total_cmp(&speed(b)))
}

fn followed(results: &Results, key: Key, background: Background) -> impl Iterator<Item = &Latency> {
    results.latency.iter().filter(move |it| (it.contestant, it.background) == (key, background))
}

pub(crate) fn latencies(results: &Results, key: Key, background: Background) -> Latencies {
    let ours = || followed(results, key, background);
    Latencies {
        wake: sorted_ms(ours().flat_map(|it| &it.wake_us)),
        statement: sorted_ms(ours().flat_map(|it| &it.statement_us)),
        missed: ours().map(|it| it.missed).sum(),
    }
}

/// The p50 of each round, in milliseconds.
pub(crate) fn wake_p50(results: &Results, key: Key, background: Background) -> Rounds {
    let ours = followed(results, key, background).filter(|it| !it.wake_us.is_empty());
    ours.map(|it| (it.round, p50(&it.wake_us))).collect()
}

/// Commits per second to one of so many queues.
pub(crate) fn growth(results: &Results, key: Key, queues: u32) -> Rounds {
    let ours = results.growth.iter().filter(|it| (it.contestant, it.queues) == (key, queues));
    ours.map(|it| (it.round, it.tps)).collect()
}

/// What a message costs with aimq, in messages without a trigger, among so many queues.
pub(crate) fn growth_cost(results: &Results, key: Key, queues: u32) -> Rounds {
    let ours = growth(results, key, queues);
    pairs(&growth(results, Key::None, queues), &ours)
}

/// Who stands for aimq in the growth measures.
pub(crate) fn growing(results: &Results) -> Key {
    let notifier = results.growth.iter().any(|it| it.contestant == Key::Notifier);
    if notifier { Key::Notifier } else { Key::Transaction }
}

/// Commits per second under a `notify_interval`; `None` for no trigger.
pub(crate) fn interval(results: &Results, ms: Option<u32>, listeners: u32) -> Rounds {
    let key = if ms.is_some() { Key::Notifier } else { Key::None };
    let ours = results.interval.iter().filter(|it| {
        (it.run.contestant, it.run.listeners) == (key, listeners)
            && ms.is_none_or(|ms| ms == it.notify_interval_ms)
    });
    ours.map(|it| (it.run.round, it.run.tps)).collect()
}

/// What 200 listeners take of these, in % of those without listeners.
pub(crate) fn interval_cost(results: &Results, ms: u32) -> Option<f64> {
    let [with, without] = [200, 0].map(|listeners| interval(results, Some(ms), listeners));
    ratio(&with, &without).map(|it| (1.0 - it.median) * 100.0)
}

/// Reads per second of so many messages each.
pub(crate) fn reads(results: &Results, key: Key, size: u32) -> Rounds {
    let ours = results.reads.iter().filter(|it| (it.contestant, it.size) == (key, size));
    ours.map(|it| (it.round, it.reads_per_second)).collect()
}

/// How late messages were, in milliseconds, sorted.
pub(crate) fn lateness(results: &Results, way: Way, killed: bool) -> Vec<f64> {
    let ours = results.lateness.iter().filter(|it| (it.way, it.killed > 0) == (way, killed));
    sorted_ms(ours.flat_map(|it| &it.late_us))
}

/// One figure of each round in which messages went to many idle sessions.
pub(crate) fn blocked(results: &Results, way: Call, of: fn(&Blocked) -> f64) -> Rounds {
    let ours = results.blocked.iter().filter(|it| it.way == way);
    ours.map(|it| (it.round, of(it))).collect()
}

/// One figure of each round in which workers waited.
pub(crate) fn polling(results: &Results, way: Call, of: fn(&Polling) -> f64) -> Rounds {
    let ours = results.polling.iter().filter(|it| it.way == way);
    ours.map(|it| (it.round, of(it))).collect()
}

/// Sessions that were woken for nothing, for each message. Sessions that block don't say so, but the kernel does
/// (measure/blocked.rs), and it counts at least as many.
pub(crate) fn empty_wake_ups(it: &Blocked) -> f64 {
    let all = if it.way == Call::Listens { it.empty_reads } else { it.idle_switches };
    all as f64 / it.sent.max(1) as f64
}

/// Messages per second beside many connections, those that block or those that don't.
pub(crate) fn crowd(results: &Results, is_theirs: bool, is_blocked: bool) -> Rounds {
    let ours = results.crowd.iter();
    let ours = ours.filter(|it| (it.is_theirs, it.is_blocked) == (is_theirs, is_blocked));
    ours.map(|it| (it.round, it.tps)).collect()
}

/// Microseconds as sorted milliseconds.
pub(crate) fn sorted_ms<'a>(us: impl IntoIterator<Item = &'a u32>) -> Vec<f64> {
    let mut all: Vec<f64> = us.into_iter().map(|us| f64::from(*us) / 1000.0).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The middle of samples in microseconds, in milliseconds.
pub(crate) fn p50(us: &[u32]) -> f64 {
    percentile(&sorted_ms(us), 0.5)
}

/// p50, p95, p99 and the greatest, as the tables show them.
pub(crate) fn percentiles(sorted: &[f64]) -> [String; 4] {
    [0.5, 0.95, 0.99, 1.0].map(|part| number(percentile(sorted, part)))
}

/// The values that a list of samples has, sorted, each once.
pub(crate) fn distinct<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.collect::<std::collections::BTreeSet<T>>().into_iter().collect()
}

/// Those that a list of samples has, in the usual order.
pub(crate) fn contestants(found: impl Iterator<Item = Key>) -> Vec<Key> {
    let found = distinct(found);
    ALL.into_iter().filter(|key| found.contains(key)).collect()
}

/// `12,345` from 1,000 on; fewer digits the larger it is.
pub(crate) fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "–".into(),
        v if v >= 100.0 => whole(v),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// `12,345`, and nothing behind the point.
pub(crate) fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn percentiles_reach_from_the_first_to_the_last() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.0), 0.0);
        assert_eq!(percentile(&sorted, 0.95), 95.0);
        assert_eq!(percentile(&sorted, 1.0), 100.0);
    }

    #[test]
    fn only_pairs_of_the_same_round_are_compared() {
        let found = ratio(&[(1, 2.0), (2, 9.0), (4, 3.0)], &[(1, 1.0), (2, 3.0), (3, 1.0)]);
        let found = found.unwrap();
        assert_eq!((found.median, found.pairs), (2.5, 2));
        assert!(ratio(&[], &[(1, 1.0)]).is_none());
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(999.6), "1,000");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.987), "0.99");
    }
}
