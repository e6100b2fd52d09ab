//! What is written for a setting: sizes, names, URLs, and SET.
#![no_main]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use apiary::sql::split_statements;
use apiary::{Colony, FrameRef, Settings};

libfuzzer_sys::fuzz_target!(|text: &str| {
    static COLONY: OnceLock<Colony> = OnceLock::new();
    let colony = COLONY.get_or_init(|| {
        Colony::start(Settings::new("memory://").with_bees(1).with_memory(64 << 20)).expect("a colony")
    });
    drop(apiary::size::parse_size(text));
    drop(text.parse::<FrameRef>());
    let (statements, rest) = split_statements(text);
    assert!(statements.iter().map(|statement| statement.len()).sum::<usize>() + rest.len() <= text.len());
    // Only places of others: a folder would be made.
    if ["s3://", "gs://", "az://", "abfss://"].iter().any(|scheme| text.starts_with(scheme)) {
        let options = BTreeMap::new();
        colony.block_on(async {
            drop(apiary::storage::open_backend(text, &options, &tokio::runtime::Handle::current()));
        });
    }
    colony.block_on(async {
        drop(colony.session().sql(&format!("SET {text}")).await);
    });
});
