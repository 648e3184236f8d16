//! The live page of examples/live in a real browser: what happens to jobs in the database is seen there, soon, in the end
//! rightly, and after either server was away. Each test has a database server, a page's server and a browser of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::MutexGuard;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aimq_client_tests::browser::Browser;
use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;

/// The page's server, ended when dropped.
struct Page {
    process: Child,
    address: String,
}

impl Page {
    /// Starts it, on any port if that is 0.
    fn serve(cluster: &Cluster, port: &str) -> Self {
        let folder = aimq_lab::setup::live_page();
        let socket = cluster.folder().display();
        let mut process = Command::new("node")
            .arg(folder.join("server.mjs"))
            .env("DATABASE_URL", format!("postgresql://postgres@/postgres?host={socket}"))
            .env("PORT", port)
            .env_remove("HOST")
            .env_remove("QUEUES")
            .stdout(Stdio::piped())
            .spawn()
            .expect("node");
        let mut address = String::new();
        let mut said = BufReader::new(process.stdout.take().expect("a pipe"));
        said.read_line(&mut address).expect("an address");
        Self { process, address: address.trim().to_owned() }
    }

    fn port(&self) -> String {
        let digits = self.address.trim_end_matches('/').rsplit(':').next();
        digits.expect("a port").to_owned()
    }

    /// As an init system does: it must end well.
    fn stop(mut self) {
        kill("TERM", i32::try_from(self.process.id()).expect("a process id"));
        let status = self.process.wait().expect("the page's server");
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ended from the first to the last.
struct Live {
    browser: Browser,
    page: Page,
    client: Client,
    cluster: Cluster,
    _alone: MutexGuard<'static, ()>,
}

/// When which job was seen first in which state: for each change of the page, by its own clock.
const WATCH: &str = "
    globalThis.seen = {};
    new MutationObserver(() => {
        for (const row of document.querySelectorAll('[data-job]'))
            seen[row.dataset.job + row.dataset.state] ??= performance.timeOrigin + performance.now();
    }).observe(document, { subtree: true, childList: true, attributes: true });";

/// A page that shows the queue `a` and others, which tell everything.
fn live(others: &[&str]) -> Live {
    let (alone, cluster) = server(&[]);
    let mut client = connect(&cluster);
    for queue in others {
        run(&mut client, &format!("SELECT aimq.create_queue('{queue}')"));
    }
    run(
        &mut client,
        "SELECT aimq.enable_realtime(queue, ids => true,
            events => '{job_enqueued,job_started,job_archived,job_deleted}') FROM aimq.queues",
    );
    wait_until_settled(&mut client, 4 * (1 + others.len()));
    let page = Page::serve(&cluster, "0");
    let mut browser = Browser::open(&page.address, &cluster.folder().join("browser"));
    browser.wait_until("document.getElementById('status')?.textContent === 'live'");
    browser.value(WATCH);
    Live { browser, page, client, cluster, _alone: alone }
}

impl Live {
    /// Does something with a job of queue `a`, and waits until it is seen: milliseconds since the client knew that it
    /// was committed.
    fn seen_after(&mut self, sql: &str, id: i64, state: &str) -> f64 {
        run(&mut self.client, sql);
        let committed = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let seen = format!("seen['[\"a\",{id}]{state}']");
        self.browser.wait_until(&format!("{seen} > 0"));
        self.browser.value(&seen).as_f64().expect("a time") - committed.as_secs_f64() * 1000.0
    }

    fn wait_for_count(&mut self, queue: &str, what: &str, count: &str) {
        let element = format!("[data-queue=\"{queue}\"] [data-count={what}]");
        self.browser
            .wait_until(&format!("document.querySelector('{element}').textContent === '{count}'"));
    }
}

#[test]
fn a_job_is_seen_at_once() {
    let mut live = live(&[]);
    let late = live.seen_after("SELECT pgmq.send('a', '{}')", 1, "waiting");
    writeln!(std::io::stderr(), "seen after {late:.1} ms").expect("stderr");
    assert!(late < 2000.0, "{late}");
}
