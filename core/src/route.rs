//! Whose news it is and where it goes: the queue's table, and the arguments of its trigger, of which the fourth may be
//! missing.
//!
//! The table is part of it, because anybody can repeat the arguments on a table of his own.

mod key;

use std::ffi::CStr;
use std::hash::Hasher;

use crate::memory::OutOfMemory;
use crate::options::Options;

pub use key::RouteKey;

/// The longest channel that Postgres takes, in bytes: `NAMEDATALEN - 1` (commands/async.c).
pub const CHANNEL_MAX_BYTES: usize = 63;

/// How many bytes of a key say which table it is of.
pub const RELATION_BYTES: usize = size_of::<u32>();

/// The queue's table, and channel, event, queue and options, as the trigger carries them: bytes in the server's
/// encoding, without NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route<'a> {
    /// The table whose trigger says the rest, by its OID: of a partitioned one the root.
    pub relation: u32,
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
    /// Without options, and of no table yet.
    #[must_use]
    pub const fn new(channel: &'a CStr, event: &'a CStr, queue: &'a CStr) -> Self {
        Self { relation: 0, channel, event, queue, options: c"" }
    }

    /// The same of a table.
    #[must_use]
    pub const fn of(self, relation: u32) -> Self {
        Self { relation, ..self }
    }

    /// What else is asked for.
    #[must_use]
    pub fn options(self) -> Options {
        Options::from_bytes(self.options.to_bytes())
    }

    /// The arguments: no options are no part.
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
        key.extend_from_slice(&self.relation.to_le_bytes());
        for part in self.parts() {
            key.extend_from_slice(part.to_bytes_with_nul());
        }
    }

    /// How many bytes the key has.
    #[must_use]
    pub fn key_len(self) -> usize {
        RELATION_BYTES + self.parts().map(|part| part.count_bytes() + 1).sum::<usize>()
    }

    /// The same where an allocation may fail; then `key` is as it was.
    pub fn try_append_key(self, key: &mut Vec<u8>) -> Result<(), OutOfMemory> {
        key.try_reserve(self.key_len())?;
        self.append_key(key);
        Ok(())
    }

    /// Gives a hash the bytes of the key, without writing them anywhere.
    pub(crate) fn hash_key(self, state: &mut impl Hasher) {
        state.write(&self.relation.to_le_bytes());
        self.parts().for_each(|part| state.write(part.to_bytes_with_nul()));
    }

    /// The arguments as the catalog holds them: each with its NUL.
    #[must_use]
    pub fn arguments(self) -> Box<[u8]> {
        self.key()[RELATION_BYTES..].into()
    }

    /// The route as one string of bytes.
    #[must_use]
    pub fn key(self) -> RouteKey {
        let mut key = Vec::new();
        self.write_key(&mut key);
        key.into()
    }

    /// Whether `key` is what [`Route::write_key`] writes: without writing it.
    #[must_use]
    pub fn is_key(self, key: &[u8]) -> bool {
        let Some(mut rest) = key.strip_prefix(&self.relation.to_le_bytes()) else {
            return false;
        };
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
        let (relation, arguments) = key.split_first_chunk()?;
        Some(Self::from_arguments(arguments)?.of(u32::from_le_bytes(*relation)))
    }

    /// The table of what [`Route::key`] wrote; 0 for anything else.
    #[must_use]
    pub fn relation_of(key: &[u8]) -> u32 {
        key.first_chunk().map_or(0, |relation| u32::from_le_bytes(*relation))
    }

    /// Reads what [`Route::arguments`] wrote, and the catalog holds.
    #[must_use]
    pub fn from_arguments(key: &'a [u8]) -> Option<Self> {
        let channel = CStr::from_bytes_until_nul(key).ok()?;
        let rest = &key[channel.count_bytes() + 1..];
        let event = CStr::from_bytes_until_nul(rest).ok()?;
        let rest = &rest[event.count_bytes() + 1..];
        let queue = CStr::from_bytes_until_nul(rest).ok()?;
        let options = match &rest[queue.count_bytes() + 1..] {
            [] => c"",
            rest => CStr::from_bytes_with_nul(rest).ok().filter(|it| !it.is_empty())?,
        };
        Some(Self { options, ..Self::new(channel, event, queue) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Route<'_> = Route::new(c"c", c"e", c"q").of(7);

    #[test]
    fn what_is_written_is_read() {
        for route in [ROUTE, Route { options: c"ids", ..ROUTE }] {
            let key = route.key();
            assert_eq!((key.route(), key.relation()), (Some(route), 7));
            assert!(route.is_key(&key));
            assert_eq!(route.key_len(), key.len());
            assert_eq!(Route::from_arguments(&route.arguments()), Some(route.of(0)));
        }
    }

    #[test]
    fn each_part_makes_another_key() {
        for other in [
            ROUTE.of(8),
            Route { channel: c"d", ..ROUTE },
            Route { event: c"d", ..ROUTE },
            Route { queue: c"d", ..ROUTE },
            Route { options: c"ids", ..ROUTE },
        ] {
            assert!(!ROUTE.is_key(&other.key()) && !other.is_key(&ROUTE.key()), "{other:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_no_route() {
        let whole = Route { options: c"ids", ..ROUTE }.key();
        let queue_ends = ROUTE.key().len();
        for length in (0..whole.len()).filter(|length| *length != queue_ends) {
            assert_eq!(Route::from_key(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(Route::relation_of(&whole[..RELATION_BYTES - 1]), 0);
        let with_empty_options = [&*ROUTE.key(), b"\0"].concat();
        assert_eq!(Route::from_key(&with_empty_options), None);
    }
}
