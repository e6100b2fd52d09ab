//! An entry of a frame's log.
#![no_main]

mod place;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    place::read("default/default/f/_delta_log/00000000000000000001.json", bytes);
});
