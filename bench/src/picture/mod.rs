//! Pictures.
use crate::results::Results;
use aimq_lab::setup::Major;
use anyhow::Result;
use std::path::{Path, PathBuf};
pub(crate) fn draw(_results: &Results, _to: &Path) -> Result<()> {
    Ok(())
}
pub(crate) fn redraw(_major: Major, _results: Option<PathBuf>, _to: Option<PathBuf>) -> Result<()> {
    Ok(())
}
