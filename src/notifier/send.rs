//! Sends notifications, in transactions of the notifier's own.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use crate::error::GivenUp;
use crate::pg::notify;
use crate::pg::process::{self, Failure};

/// A channel and a payload.
pub(super) type Ready = (CString, CString);

/// Sends all of them, in one transaction if it can be. Should one of them be to blame, the others must not
/// wait for it: then each is sent alone, and what is sent again later is one wake-up too many.
pub(super) fn all(notifications: &[Ready]) -> Result<(), Failure> {
    together(notifications).or_else(|failure| {
        if notifications.len() == 1 {
            return Err(failure);
        }
        let fails = |one| together(std::slice::from_ref(one)).is_err();
        match notifications.iter().filter(|one| fails(*one)).count() {
            0 => Ok(()),
            failed if failed == notifications.len() => Err(failure),
            _ => {
                let message = format!("{}; the others were sent", failure.message);
                Err(Failure { message, ..failure })
            }
        }
    })
}

fn together(notifications: &[Ready]) -> Result<(), Failure> {
    process::transaction(AssertUnwindSafe(|| {
        if !notify::has_room() {
            GivenUp::NotifyQueueFull.raise();
        }
        for (channel, payload) in notifications {
            notify::send(channel, payload);
        }
    }))
}
