//! How late workers read messages that become visible at random times, and whether they finish what others
//! died over. The workers are processes of their own, `aimq-bench worker`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::contestants::{Key, QUEUE};
use crate::cpu::Meter;
use crate::measure::Bench;
use crate::results::Lateness;
use crate::servers::count;
use crate::worker::Way;

/// Messages for each second.
const RATE: u32 = 1000;
const WORKERS: usize = 6;
/// What is not finished this long after the last deadline never will be.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let ways = [Way::Notifier, Way::ReadWithPoll, Way::PollEachSecond];
    bench.rounds("lateness of delayed messages", 1..=bench.plan.few_rounds, |bench, round| {
        for killed in [0, WORKERS / 3] {
            for way in ways.into_iter().filter(|way| bench.servers.has(way.contestant())) {
                round.say(format_args!("{way:?}, {killed} killed"));
                let sample = sample(bench, way, round.number, killed)?;
                bench.results.lateness.push(sample);
            }
        }
        Ok(())
    })
}

/// What a worker says.
enum Said {
    Ready,
    /// It has read a message, so many microseconds after that could be read.
    Late(u32),
    /// It holds messages, and will do nothing more.
    Holds(usize),
}

struct Worker {
    process: Child,
    reader: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(
        bench: &Bench,
        way: Way,
        number: usize,
        holds: bool,
        said: mpsc::Sender<Said>,
    ) -> Result<Self> {
        let cluster = bench.servers.of(way.contestant());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", "--way", &way.name(), "--database", &way.contestant().database()]);
        command.arg("--socket").arg(cluster.folder());
        if holds {
            command.arg("--hold");
        }
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("a worker")?;
        let output = process.stdout.take().context("its output")?;
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let what = match line.split_once(' ') {
                    Some(("late", us)) => Said::Late(us.parse().unwrap_or(u32::MAX)),
                    _ if line == "holds" => Said::Holds(number),
                    _ => Said::Ready,
                };
                if said.send(what).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, reader: Some(reader) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn sample(bench: &Bench, way: Way, round: usize, killed: usize) -> Result<Lateness> {
    let key: Key = way.contestant();
    let cluster = bench.servers.of(key);
    let mut client = bench.servers.enter(key)?;
    client.batch_execute(&format!("TRUNCATE pgmq.a_{QUEUE}"))?;
    let (sender, said) = mpsc::channel();
    let mut workers = (0..WORKERS)
        .map(|number| Worker::start(bench, way, number, number < killed, sender.clone()))
        .collect::<Result<Vec<_>>>()?;
    drop(sender);
    for _ in 0..WORKERS {
        let first = said.recv_timeout(PATIENCE).context("a worker that begins")?;
        ensure!(matches!(first, Said::Ready), "a worker that says it is ready");
    }
    let seconds = bench.plan.lateness_seconds;
    let messages = RATE * seconds;
    // None becomes visible before all are committed.
    client.execute(
        "SELECT pgmq.send($1, jsonb_build_object('due', (extract(epoch FROM at) * 1e6)::bigint), at)
           FROM (SELECT now() + interval '1 s' + random() * make_interval(secs => $2) AS at
                   FROM generate_series(1, $3)) m",
        &[&QUEUE, &f64::from(seconds), &messages.cast_signed()],
    )?;
    let cpu = Meter::start(cluster)?;
    let mut found = Lateness {
        way,
        round,
        killed: 0,
        messages: u64::from(messages),
        finished: 0,
        late_us: Vec::new(),
        cpu_us: 0.0,
    };
    let deadline = Instant::now() + Duration::from_secs(u64::from(seconds) + 1) + PATIENCE;
    let mut asked = Instant::now();
    while found.finished < found.messages && Instant::now() < deadline {
        match said.recv_timeout(Duration::from_millis(50)) {
            Ok(Said::Late(us)) => found.late_us.push(us),
            Ok(Said::Holds(number)) => {
                // SIGKILL, between the read and the archiving.
                workers[number].process.kill()?;
                found.killed += 1;
            }
            Ok(Said::Ready) | Err(_) => {}
        }
        if asked.elapsed() > Duration::from_millis(200) {
            asked = Instant::now();
            found.finished = count(&mut client, "a")?;
        }
    }
    drop(workers);
    found.late_us.extend(said.try_iter().filter_map(|what| match what {
        Said::Late(us) => Some(us),
        _ => None,
    }));
    found.cpu_us = cpu.so_far()?.us_each(found.messages as f64);
    Ok(found)
}
