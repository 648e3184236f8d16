//! Instructions for each insert.

use anyhow::Result;

use crate::measure::Bench;

pub(crate) fn run(_bench: &mut Bench) -> Result<()> {
    Ok(())
}
