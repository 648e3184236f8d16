//! What a database's processes are told besides the marks, and which of them has to be woken.

/// What the process that watches is told besides the marks. Bits, so that they can be told together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News(pub u32);

impl News {
    /// Queues may have become realtime, or ceased to be.
    pub const QUEUES: Self = Self(1);
    /// Anything may have been enqueued anywhere: look at every queue.
    pub const EVERYTHING: Self = Self(2);
    /// A transaction with messages was prepared.
    pub const PREPARED: Self = Self(4);
    /// A prepared transaction has ended.
    pub const FINISHED: Self = Self(8);
    /// Another database has fewer slots than its share: those above the own share are to be given back.
    pub const SHARE: Self = Self(16);

    /// Whether all of `other` is in this.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for News {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Who has to be woken. A caller that gets one wakes them: a wake-up that is forgotten is a warning of the compiler.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// The notifier: there is something to announce.
    pub notifier: bool,
    /// The watcher: there is somebody to call, a time to keep, or a table to look at.
    pub watcher: bool,
    /// The launcher: a process is to be started, or to be watched over.
    pub launcher: bool,
}

impl Wake {
    /// Nobody.
    pub const NOBODY: Self = Self { notifier: false, watcher: false, launcher: false };
    /// The notifier.
    pub const NOTIFIER: Self = Self { notifier: true, ..Self::NOBODY };
    /// The watcher.
    pub const WATCHER: Self = Self { watcher: true, ..Self::NOBODY };
    /// The launcher.
    pub const LAUNCHER: Self = Self { launcher: true, ..Self::NOBODY };

    /// Whether anybody has to be.
    #[must_use]
    pub fn is_any(self) -> bool {
        self.notifier || self.watcher || self.launcher
    }

    /// This, if it has to be.
    pub fn only_if(self, has_to: bool) -> Self {
        if has_to { self } else { Self::NOBODY }
    }
}

impl std::ops::BitOr for Wake {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            notifier: self.notifier | other.notifier,
            watcher: self.watcher | other.watcher,
            launcher: self.launcher | other.launcher,
        }
    }
}

impl std::ops::BitOrAssign for Wake {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}
