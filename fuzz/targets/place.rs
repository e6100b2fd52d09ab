//! A meadow in memory with one frame, in which one object is replaced by what the fuzzer made.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use apiary::storage::{Meadow, MemoryBackend, StorageBackend};
use apiary::{AsOf, FrameRef};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use object_store::path::Path;
use tokio::runtime::Runtime;

struct Place {
    runtime: Runtime,
    frame: FrameRef,
    objects: BTreeMap<Path, Bytes>,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let runtime = Runtime::new().expect("a runtime");
        let frame: FrameRef = "default.default.f".parse().expect("a name");
        let handle = runtime.handle().clone();
        let objects = runtime.block_on(async {
            let backend = Arc::new(MemoryBackend::default());
            let meadow = Meadow::open_backend(Arc::clone(&backend) as _, false, handle).await.expect("a meadow");
            let columns = vec![
                Field::new("id", DataType::Int64, false),
                Field::new("region", DataType::Utf8, true),
                Field::new("parts", DataType::new_list(DataType::Float64, true), true),
            ];
            let made = meadow.create_frame(&frame, &Schema::new(columns), &["region".into()], false).await;
            assert!(made.expect("a frame"));
            let mut objects = BTreeMap::new();
            for object in backend.list(&Path::default()).await.expect("a listing") {
                let bytes = backend.get(&object.location).await.expect("an object");
                objects.insert(object.location, bytes);
            }
            objects
        });
        Place { runtime, frame, objects }
    })
}

/// Reads all that there is to read of the frame, when the object `path` is `bytes`. Errors are answers; what ends the process,
/// or takes more memory or time than it is allowed, is a find.
pub fn read(path: &str, bytes: &[u8]) {
    let place = place();
    let handle = place.runtime.handle().clone();
    place.runtime.block_on(async {
        let backend = Arc::new(MemoryBackend::default());
        for (path, bytes) in &place.objects {
            backend.put(path, bytes.clone()).await.expect("memory");
        }
        backend.put(&Path::from(path), Bytes::copy_from_slice(bytes)).await.expect("memory");
        let Ok(meadow) = Meadow::open_backend(backend as _, false, handle).await else { return };
        let frame = &place.frame;
        drop(meadow.registry().frames_of(&frame.hive, &frame.box_).await);
        if let Ok((state, cells)) = meadow.version(frame, AsOf::Latest).await {
            for cell in 0..cells.len() {
                drop((cells.path(cell).clone(), cells.rows(cell), cells.partition(cell)));
            }
            drop(meadow.verify_files(&state, &cells).await);
        }
        drop(meadow.ledger().history(frame, None).await);
        drop(meadow.restore(frame, AsOf::Version(0)).await);
        drop(meadow.vacuum(frame, std::time::Duration::ZERO, true).await);
    });
}
