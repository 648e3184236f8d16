//! What the README says is so: its SQL runs, its workers work, its tables are complete. Its `make`
//! commands are run by `lab test commands`.

use std::process::{Child, Command, Stdio};

use aimq_client_tests::*;
use aimq_core::payload::Payload;

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// The code blocks of a language, in their order.
fn blocks(language: &str) -> Vec<String> {
    let readme = readme();
    let fence = format!("```{language}\n");
    let parts = readme.split(&fence).skip(1);
    parts.map(|part| part.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_sql_runs_as_it_stands() {
    let database = Database::empty();
    let mut client = database.connect();
    let blocks = blocks("sql");
    assert!(blocks.len() >= 3);
    for (number, block) in blocks.iter().enumerate() {
        // Nothing comes that would end a wait.
        let block = block.replace("'20 s'", "'20 ms'");
        for statement in block.split_inclusive(";").filter(|text| text.contains(';')) {
            run(&mut client, statement);
        }
        if number == 0 {
            let mut listener = database.listen(CHANNEL);
            run(&mut client, "SELECT pgmq.send('emails', '{}')");
            assert_eq!(listener.counts(), one([("emails", 1)]));
        }
    }
}

#[test]
fn the_payload_is_one() {
    let payload: Payload = serde_json::from_str(&blocks("json")[0]).expect("a payload");
    assert_eq!(payload.queues.expect("queues")["emails"].count, 3);
}

#[test]
fn the_worker_is_the_file_of_the_examples() {
    let file = "examples/psycopg_worker.py";
    let text = std::fs::read_to_string(root().join(file)).expect(file);
    assert_eq!(blocks("python"), [text], "README.md and {file} differ");
}

/// A worker's process, ended with it.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// It never polls: what it does, it was woken for.
fn works(command: &mut Command) {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('emails')");
    // Enqueued before it listens: found by its first read.
    run(&mut client, "SELECT pgmq.send('emails', '{}')");
    let socket = std::env::var("AIMQ_TEST_SOCKET").expect("a server");
    command.env("DATABASE_URL", format!("host={socket} user=postgres dbname={}", database.name));
    let _worker = Worker(command.stdout(Stdio::null()).spawn().expect("the worker"));
    let archived = "SELECT count(*) FROM pgmq.a_emails";
    wait_until("the first read", || value::<i64>(&mut client, archived) == 1);
    for number in 2..5_i64 {
        run(&mut client, "SELECT pgmq.send('emails', '{}')");
        wait_until("the worker to be woken", || value::<i64>(&mut client, archived) == number);
    }
    run(&mut client, "SELECT pgmq.send_batch('emails', array_fill('{}'::jsonb, '{25}'))");
    wait_until("the worker to drain the queue", || value::<i64>(&mut client, archived) == 29);
    // It loses its connection, jobs come, it comes back.
    let terminated: i64 = value(
        &mut client,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
          WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    );
    assert_eq!(terminated, 1);
    run(&mut client, "SELECT pgmq.send('emails', '{}')");
    wait_until("the worker to come back", || value::<i64>(&mut client, archived) == 30);
    run(&mut client, "SELECT pgmq.send('emails', '{}')");
    wait_until("the worker to be woken again", || value::<i64>(&mut client, archived) == 31);
}

#[test]
fn the_python_worker_works() {
    let mut command = Command::new("python3");
    command.arg(root().join("examples/psycopg_worker.py"));
    command.env("PYTHONPATH", aimq_lab::drivers::python_packages());
    works(&mut command);
}

#[test]
fn the_reference_is_complete() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "LOAD 'aimq'");
    let readme = readme();
    let functions = client
        .query(
            "SELECT CASE prokind
                      WHEN 'p' THEN format('`CALL aimq.%s(%s)`', proname, pg_get_function_arguments(oid))
                      ELSE format('`aimq.%s(%s) → %s`', proname, pg_get_function_arguments(oid), pg_get_function_result(oid))
                    END
               FROM pg_proc WHERE pronamespace = 'aimq'::regnamespace AND proname !~ '^_'",
            &[],
        )
        .expect("functions");
    let rest = client
        .query(
            "SELECT format('| `aimq.%s` |', relname) FROM pg_class
              WHERE relnamespace = 'aimq'::regnamespace AND relkind = 'v'
             UNION ALL SELECT format('| `%s` | `%s` |', name, boot_val) FROM pg_settings WHERE name LIKE 'aimq.%'",
            &[],
        )
        .expect("views and settings");
    assert!(functions.len() >= 6 && rest.len() >= 2);
    for row in functions.into_iter().chain(rest) {
        // As people write it.
        let text: String = row.get(0);
        let text = ["::text[]", "::text", "IN "].iter().fold(text, |text, it| text.replace(it, ""));
        let text = text.replace("SETOF", "setof");
        assert!(readme.contains(&text), "README.md does not have {text}");
    }
    for column in client.query("SELECT attname::text FROM pg_attribute WHERE attrelid IN ('aimq.queues'::regclass, 'aimq.stats'::regclass, 'aimq.notifiers'::regclass, 'aimq.waiters'::regclass) AND attnum > 0", &[]).expect("columns") {
        let name: String = column.get(0);
        assert!(readme.contains(&format!("`{name}`")), "README.md does not have the column {name}");
    }
}

#[test]
fn every_make_command_exists() {
    let readme = readme();
    let words = readme
        .split("make ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next());
    let mut targets: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    targets.sort_unstable();
    targets.dedup();
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("Makefile");
    let known = |target: &&str| makefile.contains(&format!("\n{target}: ## "));
    let named: Vec<_> = targets
        .into_iter()
        .filter(|word| {
            readme.contains(&format!("`make {word}")) || readme.contains(&format!("\nmake {word}"))
        })
        .collect();
    assert!(named.len() >= 5, "{named:?}");
    assert!(named.iter().all(known), "{named:?}");
}
