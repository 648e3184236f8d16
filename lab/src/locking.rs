//! Locks of threads of which one may have panicked.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, even if a thread panicked while it had it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
