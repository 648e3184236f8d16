//! What is seen as a whole: reports, verdicts and pictures, compared with what was kept. After a change that is meant,
//! `UPDATE_EXPECT=1 cargo test -p aimq-bench` keeps what there is now.

use aimq_lab::shell;
use expect_test::{expect, expect_file};

use crate::contestants::Key;
use crate::machine::About;
use crate::results::{Results, Throughput};
use crate::{paths, picture, report, verdict};

fn printed(results: &Results) -> String {
    report::text(results) + &verdict::text(results)
}

fn kept(name: &str) -> Results {
    Results::read(&shell::root().join("bench/results").join(name)).expect("results that were kept")
}

#[test]
fn what_was_kept_is_printed_and_drawn_as_it_was() {
    let results = kept("pg17.json");
    expect_file!["../results/pg17.txt"].assert_eq(&printed(&results));
    for (name, picture) in picture::all(&results) {
        expect_file![paths::kept_pictures().join(name)].assert_eq(&picture);
    }
}

#[test]
fn sessions_that_block_are_in_the_tables() {
    expect_file!["../results/pg17-blocking.txt"].assert_eq(&printed(&kept("pg17-blocking.json")));
}

/// One round of pgbench.
fn sample(contestant: Key, clients: u32, tps: f64) -> Throughput {
    Throughput {
        contestant,
        round: 1,
        clients,
        listeners: 1,
        synchronous_commit: true,
        tps,
        messages: 1000,
        notifications: 7,
        counted: if contestant == Key::Notifier { 999 } else { 0 },
        cpu_us: 12.0,
    }
}

#[test]
fn a_look_says_that_it_is_one() {
    let throughput = vec![
        sample(Key::None, 1, 2000.0),
        sample(Key::Notifier, 1, 1800.0),
        sample(Key::Notifier, 16, 9000.0),
    ];
    let about = About { quick: true, rounds: 1, ..About::default() };
    let results = Results { about, throughput, ..Results::default() };
    let text = printed(&results);
    let lines = text.lines().filter(|it| !it.contains("not measured")).map(str::trim_end);
    let lines: Vec<&str> = lines.skip(2).collect();
    expect![[r#"
        a look, no measurement: 1 round instead of at least 7

        Commits per second by clients, one listener
        (in brackets: times the same without a trigger, median of the rounds' pairs)

          clients                   1     16
          no trigger     2,000 (1.00)      –
          aimq notifier  1,800 (0.90)  9,000

        Notifications sent per message

          clients            1     16
          aimq notifier  0.007  0.007

        What the notifier must show

                                                                                      wanted         found  from
          ✗ commits, 1 client: times no trigger                                       ≥ 0.95         0.900  1 pair
          ✗ messages that no payload told of, in all throughput runs                       0             2  2,000 messages

          a look, no measurement: 1 round instead of at least 7"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn nothing_is_said_of_nothing() {
    let results = Results::default();
    assert_eq!(verdict::text(&results), "");
    assert!(picture::all(&results).is_empty());
    assert_eq!(report::text(&results).lines().count(), 3);
}
