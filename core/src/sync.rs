//! The atomics of the shared state: those of the standard library, or loom's, which tries every
//! order in which threads can run.

#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(feature = "loom")]
pub(crate) use checked::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

/// To loom a new atomic's value is not sequentially consistent, so that a load may find it even after
/// others have stored, which no load of ours may: the value is stored once more.
#[cfg(feature = "loom")]
mod checked {
    use loom::sync::atomic::{self, Ordering::SeqCst};
    pub(crate) use loom::sync::atomic::{Ordering, fence};

    macro_rules! checked {
        ($name:ident, $number:ty) => {
            #[derive(Debug)]
            #[allow(unreachable_pub, reason = "public fields are of this type")]
            pub struct $name(atomic::$name);

            impl $name {
                pub(crate) fn new(number: $number) -> Self {
                    let new = atomic::$name::new(number);
                    new.store(number, SeqCst);
                    Self(new)
                }
            }

            impl std::ops::Deref for $name {
                type Target = atomic::$name;

                fn deref(&self) -> &Self::Target {
                    &self.0
                }
            }
        };
    }

    checked!(AtomicI64, i64);
    checked!(AtomicU32, u32);
    checked!(AtomicU64, u64);
}
