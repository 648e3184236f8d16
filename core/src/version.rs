//! Whether something is as it was: compared by a number that stands for all that was known of it.

use std::hash::{DefaultHasher, Hasher};

/// What is known of a thing that has several parts, which come in no order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version(u64);

impl Version {
    /// The version of one part.
    #[must_use]
    pub fn of(part: &str) -> Self {
        // A hash each bit of which depends on every bit of the text: the hashes are added up. With FNV two triggers
        // that change in the same way had, once in some hundred times, the same sum as before, and nobody looked.
        let mut hash = DefaultHasher::new();
        hash.write(part.as_bytes());
        Self(hash.finish())
    }

    /// Adds a part.
    pub fn add(&mut self, part: Self) {
        // A sum, so that the order does not matter.
        self.0 = self.0.wrapping_add(part.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The two triggers of a queue, altered by one transaction after the other.
    #[test]
    fn each_change_of_both_triggers_makes_another_version() {
        const CHANGES: usize = 5000;
        let versions = (10_000..).take(CHANGES).map(|xmin| {
            let mut version = Version::default();
            for oid in [72_981, 72_984] {
                version.add(Version::of(&format!("{oid} {xmin} O 72969 {xmin} 72969")));
            }
            version.0
        });
        assert_eq!(versions.collect::<HashSet<_>>().len(), CHANGES);
    }

    #[test]
    fn the_order_of_the_parts_does_not_matter() {
        let [one, other] = [["a", "b"], ["b", "a"]].map(|parts| {
            let mut version = Version::default();
            parts.iter().for_each(|part| version.add(Version::of(part)));
            version
        });
        assert_eq!(one, other);
        assert_ne!(one, Version::of("a"));
    }
}
