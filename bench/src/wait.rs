//! Waiting for what happens by itself.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Asks again and again until there is an answer; `None` if there is none in all that time.
pub(crate) fn until<T>(
    patience: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = ask()?;
        if answer.is_some() || Instant::now() >= deadline {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
