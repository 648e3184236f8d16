//! The major versions of PostgreSQL that aimq supports.

use anyhow::{Context, Result};

/// A supported major version of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Major(
    /// The number.
    pub u32,
);

/// Every major that is supported.
pub const ALL_MAJORS: [Major; 5] = [Major(14), Major(15), Major(16), Major(17), Major(18)];
/// The one that is taken where nobody says which.
pub const DEFAULT_MAJOR: Major = Major(17);

impl Major {
    /// Reads `17` or `pg17`.
    pub fn parse(text: &str) -> Result<Self> {
        let major = text.trim_start_matches("pg").parse().map(Self).ok();
        major.filter(|major| ALL_MAJORS.contains(major)).with_context(|| {
            format!("PostgreSQL {text:?} is not supported: choose one of 14, 15, 16, 17, 18")
        })
    }

    /// What cargo calls it.
    pub fn feature(self) -> String {
        format!("pg{}", self.0)
    }
}
