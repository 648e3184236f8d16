//! The atomics of the shared state: those of the standard library, or loom's, which tries every
//! order in which threads can run.

#[cfg(feature = "loom")]
pub(crate) use loom::sync::atomic;
#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::atomic;

pub(crate) use atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};
