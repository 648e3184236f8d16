//! What is asked for beside a notification: the fourth argument of a queue's triggers.
//!
//! Words, so that it can be read in a dump: `sink=supabase`, `sink=both`, `ids`. Where nothing is asked for there is no
//! argument, so that triggers of earlier releases stay what they were.

/// Where the news of a queue goes, and whether with ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// By NOTIFY.
    pub notifies: bool,
    /// By the `realtime.send` of Supabase.
    pub broadcasts: bool,
    /// With the messages' ids.
    pub ids: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { notifies: true, broadcasts: false, ids: false }
    }
}

impl Options {
    /// Reads them. A word that is not known is one of a later release.
    #[must_use]
    pub fn from_bytes(text: &[u8]) -> Self {
        let mut options = Self::default();
        for word in text.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            match word {
                b"sink=supabase" => (options.notifies, options.broadcasts) = (false, true),
                b"sink=both" => options.broadcasts = true,
                b"ids" => options.ids = true,
                _ => {}
            }
        }
        options
    }

    /// Writes them: always the same text for the same options, empty for the default.
    #[must_use]
    pub fn text(self) -> String {
        let sink = self.broadcasts.then(|| format!("sink={}", self.sink()));
        let words = [sink, self.ids.then(|| "ids".to_owned())];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Where the news goes, by the name that `aimq.enable_realtime` takes.
    #[must_use]
    pub fn sink(self) -> &'static str {
        match (self.notifies, self.broadcasts) {
            (_, false) => "notify",
            (false, true) => "supabase",
            (true, true) => "both",
        }
    }

    /// Whether anybody wants to know which messages there are.
    #[must_use]
    pub fn wants_ids(self) -> bool {
        self.ids || self.broadcasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (notifies, broadcasts) in [(true, false), (false, true), (true, true)] {
            for ids in [false, true] {
                let options = Options { notifies, broadcasts, ids };
                assert_eq!(Options::from_bytes(options.text().as_bytes()), options);
            }
        }
        assert_eq!(Options::default().text(), "");
        assert_eq!(
            Options::from_bytes(b" later ids  "),
            Options { ids: true, ..Options::default() }
        );
    }
}
