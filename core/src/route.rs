//! Where the news of a queue goes: the three arguments of the queue's trigger.

use std::ffi::CStr;

/// The longest channel that Postgres takes, in bytes: `NAMEDATALEN - 1` (commands/async.c).
pub const CHANNEL_MAX_BYTES: usize = 63;

/// Channel, event and queue, as the trigger carries them: bytes in the server's encoding, without NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route<'a> {
    /// The channel of `LISTEN` and `NOTIFY`.
    pub channel: &'a CStr,
    /// The event that the payload names.
    pub event: &'a CStr,
    /// The queue's name as `pgmq.meta` has it.
    pub queue: &'a CStr,
}

impl<'a> Route<'a> {
    /// Writes the route into `key`, replacing what it held. Keeps `key`'s capacity.
    pub(crate) fn write_key(self, key: &mut Vec<u8>) {
        key.clear();
        self.append_key(key);
    }

    /// Writes the route behind what `key` holds.
    pub fn append_key(self, key: &mut Vec<u8>) {
        for part in [self.channel, self.event, self.queue] {
            key.extend_from_slice(part.to_bytes_with_nul());
        }
    }

    /// The route as one string of bytes: each part with its NUL. What a slot of the shared table holds,
    /// and a trigger's arguments in the catalog.
    #[must_use]
    pub fn key(self) -> Box<[u8]> {
        let mut key = Vec::new();
        self.write_key(&mut key);
        key.into_boxed_slice()
    }

    /// Whether `key` is what [`Route::write_key`] writes: without writing it.
    pub(crate) fn is_key(self, key: &[u8]) -> bool {
        let mut rest = key;
        for part in [self.channel, self.event, self.queue] {
            let Some(after) = rest.strip_prefix(part.to_bytes_with_nul()) else {
                return false;
            };
            rest = after;
        }
        rest.is_empty()
    }

    /// Reads back what [`Route::key`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_key(key: &'a [u8]) -> Option<Self> {
        let channel = CStr::from_bytes_until_nul(key).ok()?;
        let rest = &key[channel.count_bytes() + 1..];
        let event = CStr::from_bytes_until_nul(rest).ok()?;
        let queue = CStr::from_bytes_with_nul(&rest[event.count_bytes() + 1..]).ok()?;
        Some(Self { channel, event, queue })
    }
}
