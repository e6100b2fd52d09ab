//! The record of a frame in the registry.
#![no_main]

mod place;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    place::read("_registry/default/default/f.json", bytes);
});
