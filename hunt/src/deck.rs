//! What a thread does next: each of its kinds once in every round, in a random order, so that a run of a minute has
//! done everything. All that is random is drawn before anything is done, so the same seed makes the same sequence.

use fastrand::Rng;

/// A random source of a thread's own.
pub(crate) fn source(seed: u64, who: &str) -> Rng {
    // FNV-1a: the same on every machine and with every compiler.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    Rng::with_seed(who.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix))
}

/// The kinds of a thread, and its chance.
#[derive(Debug)]
pub(crate) struct Deck<K> {
    kinds: Vec<K>,
    left: Vec<K>,
    pub(crate) chance: Rng,
}

impl<K: Clone> Deck<K> {
    /// One with these kinds.
    pub(crate) fn new(kinds: &[K], chance: Rng) -> Self {
        Self { kinds: kinds.to_vec(), left: Vec::new(), chance }
    }

    /// The next; `None` where there are no kinds.
    pub(crate) fn draw(&mut self) -> Option<K> {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.chance.shuffle(&mut self.left);
        }
        self.left.pop()
    }
}

/// What is drawn for one action, whatever it makes of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// The number of the action of its thread.
    pub(crate) number: u64,
    /// A number to choose by.
    pub(crate) pick: usize,
    /// How many, from 1 to 6.
    pub(crate) count: u32,
    /// How long, from 0 to 1.
    pub(crate) length: f64,
    /// Whether it is watched: where this is less than the share of those that are.
    pub(crate) watch: f64,
    /// How long nothing is done afterwards, from 0 to 1.
    pub(crate) pause: f64,
}

impl Draw {
    /// The next.
    pub(crate) fn new(number: u64, chance: &mut Rng) -> Self {
        Self {
            number,
            pick: chance.usize(..1 << 30),
            count: chance.u32(1..=6),
            length: chance.f64(),
            watch: chance.f64(),
            pause: chance.f64(),
        }
    }

    /// Milliseconds in a range.
    pub(crate) fn millis(&self, from: u64, to: u64) -> u64 {
        from + ((to - from) as f64 * self.length) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_each_kind_in_every_round() {
        let kinds: Vec<u32> = (0..9).collect();
        let drawn = |seed, who: &str| -> Vec<(u32, usize)> {
            let mut deck = Deck::new(&kinds, source(seed, who));
            (0..27)
                .filter_map(|number| {
                    let kind = deck.draw()?;
                    Some((kind, Draw::new(number, &mut deck.chance).pick))
                })
                .collect()
        };
        let first = drawn(1, "a");
        assert_eq!(first, drawn(1, "a"));
        assert_ne!(first, drawn(2, "a"));
        assert_ne!(first, drawn(1, "b"));
        for round in first.chunks(9) {
            let mut round: Vec<u32> = round.iter().map(|(kind, _)| *kind).collect();
            round.sort_unstable();
            assert_eq!(round, kinds);
        }
    }
}
