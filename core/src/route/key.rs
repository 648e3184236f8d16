//! A route as a string of bytes that somebody keeps.

use std::borrow::Borrow;
use std::ops::Deref;

use super::Route;

/// A route as one string of bytes: the table's OID, then each argument with its NUL. It is what a slot holds, and by
/// what everybody knows a route. Where a transaction passes it on without an allocation, it is a slice of these bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey(Box<[u8]>);

impl RouteKey {
    /// Reads the route back; `None` if the bytes are none.
    #[must_use]
    pub fn route(&self) -> Option<Route<'_>> {
        Route::from_key(self)
    }

    /// The route's table, by its OID; 0 if the bytes are no route.
    #[must_use]
    pub fn relation(&self) -> u32 {
        Route::relation_of(self)
    }
}

impl Deref for RouteKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A map whose keys these are is asked by the bytes alone.
impl Borrow<[u8]> for RouteKey {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for RouteKey {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&[u8]> for RouteKey {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}
