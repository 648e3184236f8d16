//! Verdicts.
use crate::results::Results;
pub(crate) fn print(_results: &Results) {}
