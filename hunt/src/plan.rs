//! What a run is to do.

use aimq_lab::majors::{DEFAULT_MAJOR, Major};
use clap::Parser;

use crate::contestant::Contestant;
use crate::deck;

/// The producers' kinds that only aimq makes a difference to.
const OF_AIMQ: [&str; 2] = ["delivery = transaction", "delivery = transaction, delayed"];

/// Looks at random for lost wake-ups, on a throw-away server.
#[derive(Clone, Debug, Parser)]
#[command(name = "aimq-hunt")]
pub(crate) struct Plan {
    /// The major version of PostgreSQL.
    #[arg(long, default_value = "17", value_parser = |text: &str| Major::parse(text).map_err(|e| e.to_string()))]
    pub(crate) pg: Major,
    /// How long.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// The same seed makes each thread do the same things in the same order. Without it, another each time.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Whether the server has aimq preloaded: 1 or 0.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) preload: u8,
    /// How many databases.
    #[arg(long, default_value_t = 2)]
    pub(crate) databases: usize,
    /// No DDL, neither by its own thread nor by others.
    #[arg(long)]
    pub(crate) no_ddl: bool,
    /// Nothing happens to processes or the server.
    #[arg(long)]
    pub(crate) no_faults: bool,
    /// Only these kinds of actions (as the counts at the end name them, with ; in between), and no demand that each was
    /// done.
    #[arg(long, value_delimiter = ';')]
    pub(crate) only: Vec<String>,
    /// All kinds except these.
    #[arg(long, value_delimiter = ';')]
    pub(crate) except: Vec<String>,
    /// aimq.max_queues; without it, the seed has it small in one run of four.
    #[arg(long)]
    pub(crate) max_queues: Option<u32>,
    /// By how many milliseconds a wake-up may be late; without it 1000, and 1 s more where aimq is not preloaded.
    #[arg(long)]
    pub(crate) slack: Option<i64>,
    /// The average time in milliseconds between two actions of a producer.
    #[arg(long, default_value_t = 400)]
    pub(crate) pace: u64,
    /// Who wakes the listeners. The others' losses are counted, beside producers alone.
    #[arg(long, value_enum, default_value = "aimq")]
    pub(crate) contestant: Contestant,
    /// Makes the failing run of this seed small.
    #[arg(long, conflicts_with = "seed")]
    pub(crate) shrink: Option<u64>,
    /// How often a candidate is tried when a run is made small.
    #[arg(long, default_value_t = 3)]
    pub(crate) tries: u32,
    /// Says each action when it is over.
    #[arg(long)]
    pub(crate) verbose: bool,
}

impl Plan {
    /// The seed, once it is known.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_default()
    }

    /// aimq.max_queues of this run. With the seed's luck, too small for all queues.
    pub(crate) fn max_queues(&self) -> u32 {
        let mut chance = deck::source(self.seed(), "max_queues");
        let drawn = if chance.u32(..4) == 0 { chance.u32(3..12) } else { 1024 };
        self.max_queues.unwrap_or(drawn)
    }

    /// aimq.max_waiters of this run. With the seed's luck, too small for all sessions that block.
    pub(crate) fn max_waiters(&self) -> u32 {
        let mut chance = deck::source(self.seed(), "max_waiters");
        if chance.u32(..4) == 0 { chance.u32(2..8) } else { 256 }
    }

    /// Whether the notifier knows of every queue.
    pub(crate) fn has_room_for_all(&self) -> bool {
        // With the queues of a while and those with later events.
        self.max_queues() >= 128
    }

    /// By how much a wake-up may be late, in milliseconds.
    pub(crate) fn slack(&self) -> i64 {
        self.slack.unwrap_or(if self.preload == 1 { 1000 } else { 2000 })
    }

    /// Whether a kind of action is wanted.
    pub(crate) fn wants(&self, kind: &str) -> bool {
        let names = |list: &[String]| list.iter().any(|name| name == kind);
        let is_there = !self.contestant.is_other() || !OF_AIMQ.contains(&kind);
        is_there && (self.only.is_empty() || names(&self.only)) && !names(&self.except)
    }

    /// What differs from the defaults and has no variable of the Makefile.
    fn options(&self) -> impl Iterator<Item = (&'static str, Option<String>)> {
        let flag = |is_set: bool, name: &'static str| is_set.then_some((name, None));
        let list = |name: &'static str, list: &[String]| {
            (!list.is_empty()).then(|| (name, Some(list.join(";"))))
        };
        let number = |name: &'static str, value: Option<i64>| {
            value.map(|value| (name, Some(value.to_string())))
        };
        let unlike = |value: u64, default: u64| (value != default).then_some(value as i64);
        [
            // Other contestants have neither.
            flag(self.no_ddl && !self.contestant.is_other(), "--no-ddl"),
            flag(self.no_faults && !self.contestant.is_other(), "--no-faults"),
            list("--only", &self.only),
            list("--except", &self.except),
            number("--databases", unlike(self.databases as u64, 2)),
            number("--pace", unlike(self.pace, 400)),
            number("--max-queues", self.max_queues.map(i64::from)),
            number("--slack", self.slack),
        ]
        .into_iter()
        .flatten()
    }

    /// The words of a command that does the same again.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let always = [
            ("--pg", self.pg.0.to_string()),
            ("--preload", self.preload.to_string()),
            ("--seed", self.seed().to_string()),
            ("--seconds", self.seconds.to_string()),
            ("--contestant", self.contestant.name().to_owned()),
        ];
        let always = always.into_iter().map(|(name, value)| (name, Some(value)));
        always
            .chain(self.options())
            .flat_map(|(name, value)| [Some(name.to_owned()), value].into_iter().flatten())
            .collect()
    }

    /// How to do the same again.
    pub(crate) fn again(&self) -> String {
        let mut words = vec![format!("make hunt SEED={} SECONDS={}", self.seed(), self.seconds)];
        if self.pg != DEFAULT_MAJOR {
            words.push(format!("PG={}", self.pg.0));
        }
        if self.preload == 0 {
            words.push("PRELOAD=0".into());
        }
        if self.contestant.is_other() {
            words.push(format!("CONTESTANT={}", self.contestant.name()));
        }
        let options = self.options().map(|(name, value)| match value {
            Some(value) if name == "--only" || name == "--except" => format!("{name} \"{value}\""),
            Some(value) => format!("{name} {value}"),
            None => name.to_owned(),
        });
        let options: Vec<String> = options.collect();
        if !options.is_empty() {
            words.push(format!("ARGS='{}'", options.join(" ")));
        }
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_plan_make_the_same_plan() {
        let words = "hunt --pg 16 --seed 7 --seconds 30 --slack 90 --no-ddl --databases 3";
        let mut first = Plan::parse_from(words.split(' '));
        first.only = vec!["send".into(), "INSERT … ON CONFLICT".into()];
        let again = Plan::parse_from([vec!["hunt".to_owned()], first.arguments()].concat());
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
        assert_eq!(
            again.again(),
            "make hunt SEED=7 SECONDS=30 PG=16 ARGS='--no-ddl --only \"send;INSERT … ON CONFLICT\" \
             --databases 3 --slack 90'"
        );
    }
}
