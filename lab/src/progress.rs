//! Steps that take long show that they go on.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::shell;

/// How often a step says that it goes on where nobody sees a spinner turn.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// A line for each of the steps that run at the same time.
static LINES: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Runs a command as one step: its output goes to a log, its last line is shown while it runs, and
/// the end of the log is printed if it fails. Returns its output.
pub fn step(title: &str, command: &mut Command) -> Result<String> {
    let spinner = Spinner::new(title);
    let (status, all) = watch(title, &spinner, command)?;
    spinner.end(status.success());
    if !status.success() {
        let tail: Vec<_> = all.lines().rev().take(60).collect();
        LINES.suspend(|| tail.into_iter().rev().for_each(|line| eprintln!("    {line}")));
        bail!("{title}: failed ({status}); the whole log is {}", log_of(title).display());
    }
    Ok(all)
}

/// The same of a command that may fail: how it ended, and its output. Nothing is printed of either.
pub fn attempt(title: &str, command: &mut Command) -> Result<(ExitStatus, String)> {
    let spinner = Spinner::new(title);
    let ended = watch(title, &spinner, command);
    spinner.clear();
    ended
}

fn watch(title: &str, spinner: &Spinner, command: &mut Command) -> Result<(ExitStatus, String)> {
    let path = log_of(title);
    std::fs::create_dir_all(path.with_file_name(""))?;
    let mut log = File::create(&path)?;

    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let (lines, received) = mpsc::channel();
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for pipe in pipes.into_iter().flatten() {
        let lines = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let _ = lines.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
    }
    drop(lines);
    let mut all = String::new();
    loop {
        match received.recv_timeout(HEARTBEAT) {
            Ok(line) => {
                writeln!(log, "{line}")?;
                spinner.say(&line);
                all.push_str(&line);
                all.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Timeout) => spinner.heartbeat(),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok((child.wait()?, all))
}

/// Where the output of a step is kept.
pub fn log_of(title: &str) -> PathBuf {
    let name: String = title.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    shell::target().join("lab/logs").join(format!("{name}.log"))
}

/// One line that lives while a step runs.
#[derive(Debug)]
pub struct Spinner {
    title: String,
    bar: Option<ProgressBar>,
    begun: Instant,
    beaten: std::cell::Cell<Instant>,
}

impl Spinner {
    /// Begins the step.
    pub fn new(title: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("  {spinner} {prefix} {elapsed} {wide_msg:.dim}");
            let bar = LINES.add(ProgressBar::new_spinner());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("  … {title}");
        }
        let now = Instant::now();
        Self { title: title.to_owned(), bar, begun: now, beaten: now.into() }
    }

    /// What is being done right now.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(line.trim().to_owned()),
            None if self.beaten.get().elapsed() >= HEARTBEAT => {
                self.beaten.set(Instant::now());
                let seconds = self.begun.elapsed().as_secs_f64();
                eprintln!("    {seconds:4.0} s  {}: {}", self.title, line.trim());
            }
            None => {}
        }
    }

    fn heartbeat(&self) {
        self.say("still at it");
    }

    /// Ends the step, and says nothing of it.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Ends the step; `well` if it succeeded.
    pub fn end(self, well: bool) {
        self.clear();
        let mark = if well { '✓' } else { '✗' };
        let seconds = self.begun.elapsed().as_secs_f64();
        LINES.suspend(|| eprintln!("  {mark} {} ({seconds:.1} s)", self.title));
    }
}
