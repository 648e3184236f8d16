//! Where the news of a queue goes: the arguments of the queue's trigger, of which the fourth may be missing.

use std::ffi::CStr;

use crate::options::Options;

/// The longest channel that Postgres takes, in bytes: `NAMEDATALEN - 1` (commands/async.c).
pub const CHANNEL_MAX_BYTES: usize = 63;

/// Channel, event, queue and options, as the trigger carries them: bytes in the server's encoding, without NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route<'a> {
    /// The channel of `LISTEN` and `NOTIFY`.
    pub channel: &'a CStr,
    /// The event that the payload names.
    pub event: &'a CStr,
    /// The queue's name as `pgmq.meta` has it.
    pub queue: &'a CStr,
    /// What else is asked for, see [`Options`]; mostly empty.
    pub options: &'a CStr,
}

impl<'a> Route<'a> {
    /// Without options.
    #[must_use]
    pub const fn new(channel: &'a CStr, event: &'a CStr, queue: &'a CStr) -> Self {
        Self { channel, event, queue, options: c"" }
    }

    /// What else is asked for.
    #[must_use]
    pub fn options(self) -> Options {
        Options::from_bytes(self.options.to_bytes())
    }

    /// The parts that make the key: no options are no part.
    fn parts(self) -> impl Iterator<Item = &'a CStr> {
        let options = Some(self.options).filter(|options| !options.is_empty());
        [self.channel, self.event, self.queue].into_iter().chain(options)
    }

    /// Writes the route into `key`, replacing what it held. Keeps `key`'s capacity.
    pub(crate) fn write_key(self, key: &mut Vec<u8>) {
        key.clear();
        self.append_key(key);
    }

    /// Writes the route behind what `key` holds.
    pub fn append_key(self, key: &mut Vec<u8>) {
        for part in self.parts() {
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
        if self.options.is_empty() {
            rest.is_empty()
        } else {
            rest == self.options.to_bytes_with_nul()
        }
    }

    /// Reads back what [`Route::key`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_key(key: &'a [u8]) -> Option<Self> {
        let channel = CStr::from_bytes_until_nul(key).ok()?;
        let rest = &key[channel.count_bytes() + 1..];
        let event = CStr::from_bytes_until_nul(rest).ok()?;
        let rest = &rest[event.count_bytes() + 1..];
        let queue = CStr::from_bytes_until_nul(rest).ok()?;
        let options = match &rest[queue.count_bytes() + 1..] {
            [] => c"",
            rest => CStr::from_bytes_with_nul(rest).ok().filter(|it| !it.is_empty())?,
        };
        Some(Self { channel, event, queue, options })
    }
}
