//! The arguments of triggers and the keys of slots: whatever the bytes are, reading them ends, and what is read is
//! written as it was.

#![no_main]

use aimq_core::options::Options;
use aimq_core::route::Route;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(route) = Route::from_arguments(bytes) {
        assert_eq!(*route.arguments(), *bytes);
    }
    if let Some(route) = Route::from_key(bytes) {
        let key = route.key();
        assert_eq!(*key, *bytes);
        assert!(route.is_key(bytes));
        assert_eq!(route.key_len(), bytes.len());
        assert_eq!(key.route(), Some(route));
        assert_eq!(route.relation, Route::relation_of(bytes));
    }
    // Read, written and read again, options mean the same.
    let options = Options::from_bytes(bytes);
    assert_eq!(Options::from_bytes(options.text().as_bytes()), options);
});
