//! A headless Chromium of a test's own, driven by the DevTools protocol over its pipe: JSON, each message ended by a
//! zero byte. No driver, no WebSocket, and a browser that ends with its test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::DEADLINE;

/// Debian's.
const PROGRAM: &str = "/usr/bin/chromium";

/// How long one may take to start: a cold one reads some hundred megabytes.
const START: Duration = Duration::from_secs(60);

/// A browser with one page, ended when dropped.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: String,
    calls: u64,
}

impl Browser {
    /// A new one that keeps everything in `folder`, with a page that has loaded `address`.
    ///
    /// A Chromium that says nothing for a minute is ended, and another one is started, twice at most: on a machine that
    /// is busy otherwise, now and then one hangs before it reads its pipe. That is no fault of the page's.
    pub fn open(address: &str, folder: &Path) -> Self {
        let blank = json!({ "url": "about:blank" });
        let (mut browser, target) = (1..=3)
            .find_map(|attempt| {
                let mut browser = Self::start(&folder.join(attempt.to_string()));
                let target = browser.answer("Target.createTarget", &blank, START)?;
                Some((browser, target))
            })
            .expect("a chromium that answers");
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", target);
        attached["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        browser.call("Page.enable", json!({}));
        browser.call("Page.navigate", json!({ "url": address }));
        browser
    }

    fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        // It reads from 3 and writes to 4, which a shell can give it.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>&2", PROGRAM]);
        command.args(["--headless", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu"]);
        command.args(["--disable-quic", "--no-first-run", "--disable-background-networking"]);
        command.args(["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]);
        command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
        for name in ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(name, folder);
        }
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut process = pipes.spawn().expect("chromium");
        let to = process.stdin.take().expect("a pipe");
        let mut reader = BufReader::new(process.stdout.take().expect("a pipe"));
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while reader.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                let parsed = serde_json::from_slice(&message);
                message.clear();
                if parsed.is_ok_and(|value: Value| sender.send(value).is_err()) {
                    return;
                }
            }
        });
        Self { process, to, from, session: String::new(), calls: 0 }
    }

    /// Calls a method of the protocol, and returns its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.answer(method, &params, DEADLINE).expect("an answer of chromium")
    }

    /// The same; nothing if there is no answer in time.
    fn answer(&mut self, method: &str, params: &Value, within: Duration) -> Option<Value> {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("chromium to listen");
        let deadline = Instant::now() + within;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let mut answer = self.from.recv_timeout(rest).ok()?;
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Some(answer["result"].take());
            }
        }
    }

    /// What an expression is, in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut result = self.call("Runtime.evaluate", params);
        let exception = &result["exceptionDetails"];
        assert!(exception.is_null(), "{expression}: {exception}");
        result["result"]["value"].take()
    }

    /// Waits until an expression holds.
    pub fn wait_until(&mut self, expression: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.value(expression) != true {
            assert!(
                Instant::now() < deadline,
                "waited too long for {expression}; the page says: {}",
                self.value("document.body?.innerText")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A picture of the page, as a PNG.
    pub fn picture(&mut self, file: &Path, width: u32, height: u32, scheme: &str) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", scheme);
        self.call("Emulation.setScrollbarsHidden", json!({ "hidden": true }));
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let decoded = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(file).expect("a file"))
            .spawn();
        let mut decoder = decoded.expect("base64");
        let data = shot["data"].as_str().expect("a picture").as_bytes();
        decoder.stdin.take().expect("a pipe").write_all(data).expect("base64 to read");
        assert!(decoder.wait().expect("base64").success());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends all its processes, and only then its own.
        let id = self.calls + 1;
        let close = json!({ "id": id, "method": "Browser.close" });
        let _ = self.to.write_all(format!("{close}\0").as_bytes());
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
