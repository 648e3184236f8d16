//! `make demo`: a worker that never polls, in a process of its own, is woken by what a producer
//! enqueues; then the same load with a worker that polls each second.

mod report;
mod worker;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use postgres::Client;

use aimq_lab::cluster::Cluster;
use aimq_lab::majors::Major;
use aimq_lab::progress::Spinner;
use aimq_lab::setup::{self, Profile};

use report::Side;
use worker::{Event, Micros, now};

pub(crate) use worker::{Orders, run as worker};

const QUEUE: &str = "emails";
/// Jobs whose way is shown one by one.
const SHOWN: u64 = 5;
/// The load of the comparison.
const JOBS: u64 = 60;
const MEAN_GAP: Duration = Duration::from_millis(100);
const BURSTS: u64 = 3;
const BURST: u64 = 1000;
/// How long a job may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(major: Major) -> Result<()> {
    println!("aimq demo, PostgreSQL {}\n\nSetting up", major.0);
    setup::ready(major, Profile::Release)?;
    let starting = Spinner::new("start a throw-away server on a unix socket");
    let cluster = Cluster::start(major, &[])?;
    starting.end(true);
    let mut producer = cluster.connect("postgres")?;
    producer.batch_execute(&format!(
        "SET client_min_messages = warning;
         CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('{QUEUE}')"
    ))?;

    println!("\nOne job after the other (ms since the producer's COMMIT)\n");
    let mut worker = Worker::start(&cluster, "realtime")?;
    println!("  job   enqueued      woken       read   archived");
    for job in 1..=SHOWN {
        // On a queue that is idle: a job right after another is told of with those of the next 10 ms.
        std::thread::sleep(MEAN_GAP);
        let way = worker.follow(&mut producer, job)?;
        println!("  {job:>3}   {:>8.1}   {:>8.1}   {:>8.1}   {:>8.1}", 0.0, way[0], way[1], way[2]);
    }

    println!("\nBursts: {BURST} jobs in one transaction\n");
    for burst in 0..BURSTS {
        let first = 1000 + burst * BURST;
        let before = worker.notifications;
        let (committed, took) = worker.burst(&mut producer, first, BURST)?;
        println!(
            "  {BURST} jobs → {}; first read after {:.1} ms, all archived after {:.1} ms",
            match worker.notifications - before {
                1 => "1 notification".into(),
                several => format!("{several} notifications"),
            },
            (worker.first_read(first) - committed) as f64 / 1000.0,
            took
        );
    }
    drop(worker);

    println!(
        "\nThe same load twice: {JOBS} jobs, one every {} ms on average\n",
        MEAN_GAP.as_millis()
    );
    let mut sides = Vec::new();
    for (title, mode) in [("woken by aimq", "realtime"), ("polling each second", "polling")] {
        let mut worker = Worker::start(&cluster, mode)?;
        let spinner = Spinner::new(&format!("a worker {title}"));
        let latencies = worker.load(&mut producer)?;
        spinner.end(true);
        sides.push(Side {
            title,
            latencies,
            notifications: worker.notifications,
            empty_reads: worker.empty_reads,
        });
    }
    report::print(&sides);
    drop(producer);
    drop(cluster);
    println!("Nothing is left running.");
    Ok(())
}

/// A worker's process and what it has told so far.
struct Worker {
    process: Child,
    events: Receiver<Event>,
    notifications: u64,
    empty_reads: u64,
    woken: Micros,
    /// It has found the queue empty and done nothing since.
    waiting: bool,
    read: Vec<(u64, Micros)>,
    archived: Vec<(u64, Micros)>,
}

impl Worker {
    fn start(cluster: &Cluster, mode: &str) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["demo-worker", mode, QUEUE])
            .arg(cluster.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = process.stdout.take().context("the worker's output")?;
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str(&line) else {
                    continue;
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let mut worker = Self {
            process,
            events,
            notifications: 0,
            empty_reads: 0,
            woken: 0,
            waiting: false,
            read: Vec::new(),
            archived: Vec::new(),
        };
        // It has listened and found the queue empty: from here on it waits.
        worker.finish(0)?;
        worker.empty_reads = 0;
        Ok(worker)
    }

    fn hear(&mut self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = self.events.recv_timeout(left);
        self.waiting = matches!(event, Ok(Event::Empty));
        match event {
            Ok(Event::Woken { at, notifications }) => {
                self.woken = at;
                self.notifications += notifications;
            }
            Ok(Event::Empty) => self.empty_reads += 1,
            Ok(Event::Read { jobs, at }) => self.read.extend(jobs.into_iter().map(|job| (job, at))),
            Ok(Event::Archived { jobs, at }) => {
                self.archived.extend(jobs.into_iter().map(|job| (job, at)));
            }
            Err(_) => bail!("the worker did not do its job within {} s", PATIENCE.as_secs()),
        }
        Ok(())
    }

    /// Hears the worker out until it has archived so many jobs since the last call, and waits again.
    fn finish(&mut self, jobs: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.archived.len() < jobs || !self.waiting {
            self.hear(deadline)?;
        }
        Ok(())
    }

    /// Enqueues one job and returns when it was woken, read and archived, in ms since the commit.
    fn follow(&mut self, producer: &mut Client, job: u64) -> Result<[f64; 3]> {
        self.archived.clear();
        let committed = enqueue(producer, job, 1)?;
        self.finish(1)?;
        let since = |at: Micros| (at - committed) as f64 / 1000.0;
        Ok([since(self.woken), since(self.first_read(job)), since(self.archived[0].1)])
    }

    fn burst(&mut self, producer: &mut Client, first: u64, jobs: u64) -> Result<(Micros, f64)> {
        self.archived.clear();
        let committed = enqueue(producer, first, jobs)?;
        self.finish(usize::try_from(jobs)?)?;
        let last = self.archived.iter().map(|(_, at)| *at).max().unwrap_or(committed);
        Ok((committed, (last - committed) as f64 / 1000.0))
    }

    fn first_read(&self, job: u64) -> Micros {
        self.read.iter().find(|(read, _)| *read == job).map_or(0, |(_, at)| *at)
    }

    /// The comparison's load; returns the ms from each job's commit until it was read, sorted.
    fn load(&mut self, producer: &mut Client) -> Result<Vec<f64>> {
        let mut commits = Vec::new();
        let mut random = 0x2545_F491_4F6C_DD1D_u64;
        self.archived.clear();
        for job in 0..JOBS {
            commits.push((job, enqueue(producer, job, 1)?));
            // xorshift: the same gaps for both sides.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            std::thread::sleep(MEAN_GAP.mul_f64((random >> 11) as f64 / (1_u64 << 52) as f64));
        }
        self.finish(usize::try_from(JOBS)?)?;
        let mut latencies: Vec<f64> = commits
            .into_iter()
            .map(|(job, committed)| (self.first_read(job) - committed) as f64 / 1000.0)
            .collect();
        latencies.sort_by(f64::total_cmp);
        Ok(latencies)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Enqueues jobs in one transaction; returns when its COMMIT was sent.
fn enqueue(producer: &mut Client, first: u64, jobs: u64) -> Result<Micros> {
    let mut transaction = producer.transaction()?;
    transaction.batch_execute(&format!(
        "SELECT pgmq.send('{QUEUE}', jsonb_build_object('job', n)) FROM generate_series({first}, {}) n",
        first + jobs - 1
    ))?;
    let committed = now();
    transaction.commit()?;
    Ok(committed)
}
