//! What `aimq.doctor()` says, and doing what its hints say, word for word.

use std::process::Command;

use aimq_lab::cluster::Cluster;
use postgres::{Client, NoTls};

use crate::servers::{config, connect};
use crate::{names, run, value, wait_until};

/// The rows of `aimq.doctor()` in a line each: severity, subject, problem.
pub fn problems(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT concat_ws(' ', severity, subject || ':', problem) FROM aimq.doctor() ORDER BY 1",
    )
}

/// The hint of the first row that has this in it.
#[track_caller]
pub fn hint_of(client: &mut Client, what: &str) -> String {
    let sql = "SELECT hint FROM aimq.doctor()
                WHERE position($1 IN concat_ws(' ', severity, subject || ':', problem)) > 0 LIMIT 1";
    let rows = client.query(sql, &[&what]).expect("the doctor");
    rows.first().unwrap_or_else(|| panic!("no row has {what}: {:?}", problems(client))).get(0)
}

/// The statements that a hint says first, and what it says to do on the machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Way {
    /// Each without its semicolon.
    pub statements: Vec<String>,
    /// Whether the server is to be restarted then.
    pub restarts: bool,
    /// A command of the shell.
    pub command: Option<String>,
}

/// What a hint says to do, if it is of the kind that can be done as it stands: behind `run`, each statement up to its
/// semicolon. Behind `Or` there is another way.
pub fn way(hint: &str) -> Option<Way> {
    let start =
        ["Run ", " run "].iter().filter_map(|run| Some(hint.find(run)? + run.len())).min()?;
    let mut rest = &hint[start..];
    let mut statements = Vec::new();
    while let Some(end) = end_of_statement(rest) {
        statements.push(rest[..end].to_owned());
        rest = rest[end + 1..].trim_start();
        // Statements begin with a keyword in capitals.
        let word = rest.split(' ').next().unwrap_or_default();
        if word.len() < 3 || !word.chars().all(|it| it.is_ascii_uppercase()) {
            break;
        }
    }
    let command = rest
        .find("kill -CONT ")
        .map(|at| rest[at..].split(' ').take(3).collect::<Vec<_>>().join(" "));
    let restarts = rest.starts_with("and restart the server.");
    (!statements.is_empty()).then_some(Way { statements, restarts, command })
}

/// The first semicolon outside of quotes.
fn end_of_statement(sql: &str) -> Option<usize> {
    let mut quote = None;
    sql.char_indices().find_map(|(at, character)| {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, ';') => return Some(at),
            _ => {}
        }
        None
    })
}

/// Does what a hint says, short of a restart: true if it is to be one.
#[track_caller]
pub fn follow(client: &mut Client, hint: &str) -> bool {
    let way = way(hint).unwrap_or_else(|| panic!("it says no statement: {hint}"));
    for statement in &way.statements {
        run(client, statement);
    }
    if let Some(command) = way.command {
        let done = Command::new("sh").args(["-c", &command]).status().expect("a shell");
        assert!(done.success(), "{command}");
    }
    way.restarts
}

/// Stops and starts a server, and connects to it.
pub fn restart(cluster: &Cluster) -> Client {
    cluster.shut_down("fast").expect("a stop");
    cluster.run().expect("a start");
    connect(cluster)
}

/// A role that is a member of `pg_monitor`, and nothing else.
pub fn monitor(cluster: &Cluster) -> Client {
    run(
        &mut connect(cluster),
        "DO $$ BEGIN CREATE ROLE monitor LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         GRANT pg_monitor TO monitor",
    );
    config(cluster.folder()).user("monitor").connect(NoTls).expect("connect")
}

/// Waits for a row with this in it, which `monitor` sees too, with the same hint; does what the hint says, and waits
/// until the row has gone, and with it all others.
#[track_caller]
pub fn mend_alone(cluster: &Cluster, mut client: Client, what: &str) -> Client {
    wait_until(what, || problems(&mut client).iter().any(|it| it.contains(what)));
    let found = problems(&mut client);
    assert!(found.len() == 1, "{what} and nothing else: {found:?}");
    let mut monitor = monitor(cluster);
    let hint = hint_of(&mut client, what);
    assert_eq!(problems(&mut monitor), found);
    assert_eq!(hint_of(&mut monitor, what), hint);
    if follow(&mut client, &hint) {
        client = restart(cluster);
    }
    well(&mut client);
    client
}

/// Waits until the doctor says nothing.
#[track_caller]
pub fn well(client: &mut Client) {
    wait_until("all to be well", || problems(client).is_empty());
    let said: i64 = value(client, "SELECT count(*) FROM aimq.doctor()");
    assert_eq!(said, 0);
}
