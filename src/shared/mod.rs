//! The shared memory of producers, notifiers and the launcher: what is in it, how a process gets to it, a session's
//! slots in it, and who is woken by it. What it means is in `aimq_core::shared`.

pub(crate) mod bell;
pub(crate) mod claims;
mod memory;
mod source;
pub(crate) mod told;

pub(crate) use memory::{Shared, own_oid};
pub(crate) use source::{get, here, is_preloaded, of_process, prepare};

pub(crate) fn init() {
    source::init();
    bell::init();
    told::init();
}
