//! Every kind of place keeps the promises that the registry and the ledger rest on: one suite, run on each; and the
//! decorators keep theirs.

use std::sync::Arc;

use apiary::ErrorKind;
use apiary::storage::faulty::{Faults, Faulty};
use apiary::storage::hedged::{Hedged, Hedges};
use apiary::storage::metered::{Meter, MeterReading, Metered};
use apiary::storage::{LocalBackend, MemoryBackend, StorageBackend, open_backend};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;

use crate::support::{Place, files, folder, refusal};
use crate::{azurite, ministack};

/// Smallest part that S3 takes in an upload of several.
const PART: usize = 5 << 20;
const RACERS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_folder_conforms_and_keeps_no_temporary_files() {
    let folder = folder();
    suite(Arc::new(LocalBackend::open(folder.path()).unwrap())).await;
    assert_eq!(files(folder.path(), "#"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms() {
    suite(Arc::new(MemoryBackend::default())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_server_conforms() {
    let url = ministack::url("conformance");
    suite(open_backend(&url, &ministack::options(), &Handle::current()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_azure_server_conforms() {
    let url = azurite::url("conformance");
    suite(open_backend(&url, &azurite::options(), &Handle::current()).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metered_place_conforms() {
    let metered = Metered::new(MemoryBackend::default().store(), Arc::default());
    suite(Arc::new(Place(Arc::new(metered)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedged_place_conforms() {
    let hedges = Arc::new(Hedges::new(true, Handle::current()));
    let hedged = Hedged::new(MemoryBackend::default().store(), hedges, Arc::default());
    suite(Arc::new(Place(Arc::new(hedged)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_place_without_faults_conforms() {
    suite(Arc::new(faulty(MemoryBackend::default().store(), Faults::default(), 1))).await;
}

async fn suite(place: Arc<dyn StorageBackend>) {
    objects_are_written_replaced_and_read(&place).await;
    ranges_are_read_in_their_order(&place).await;
    a_second_creation_loses(&place).await;
    of_racing_creators_one_wins(&place, "race").await;
    listings_are_sorted_and_end_at_their_prefix(&place).await;
    removals_are_idempotent_and_end_at_their_prefix(&place).await;
    what_is_missing_is_not_found(&place).await;
    large_objects_come_back_whole(&place).await;
}

async fn objects_are_written_replaced_and_read(place: &Arc<dyn StorageBackend>) {
    let path = Path::from("plain/object");
    for body in ["one", "another, longer", ""] {
        place.put(&path, Bytes::from_static(body.as_bytes())).await.unwrap();
        assert_eq!(place.get(&path).await.unwrap(), Bytes::from_static(body.as_bytes()));
    }
}

async fn ranges_are_read_in_their_order(place: &Arc<dyn StorageBackend>) {
    let path = Path::from("ranges");
    place.put(&path, Bytes::from_static(b"abcdefghij")).await.unwrap();
    assert_eq!(place.get_range(&path, 2..4).await.unwrap(), Bytes::from_static(b"cd"));
    let parts = place.get_ranges(&path, &[7..10, 0..1, 3..5]).await.unwrap();
    assert_eq!(parts, [Bytes::from_static(b"hij"), Bytes::from_static(b"a"), Bytes::from_static(b"de")]);
}

async fn a_second_creation_loses(place: &Arc<dyn StorageBackend>) {
    let path = Path::from("once/created");
    assert!(place.put_if_not_exists(&path, Bytes::from_static(b"first")).await.unwrap());
    assert!(!place.put_if_not_exists(&path, Bytes::from_static(b"second")).await.unwrap());
    assert_eq!(place.get(&path).await.unwrap(), Bytes::from_static(b"first"));
    place.delete(&path).await.unwrap();
    assert!(place.put_if_not_exists(&path, Bytes::from_static(b"third")).await.unwrap());
}

async fn of_racing_creators_one_wins(place: &Arc<dyn StorageBackend>, key: &str) {
    let path = Path::from(key);
    let race = (0..RACERS).map(|racer| {
        let (place, path) = (Arc::clone(place), path.clone());
        tokio::spawn(async move { place.put_if_not_exists(&path, racer_name(racer)).await.unwrap() })
    });
    let won: Vec<bool> = join_all(race).await.into_iter().map(|result| result.unwrap()).collect();
    let winners: Vec<usize> = (0..RACERS).filter(|racer| won[*racer]).collect();
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    assert_eq!(place.get(&path).await.unwrap(), racer_name(winners[0]));
}

async fn listings_are_sorted_and_end_at_their_prefix(place: &Arc<dyn StorageBackend>) {
    for path in ["list/b", "list/a/b", "list/a-b", "listless/c"] {
        place.put(&Path::from(path), Bytes::from_static(b"1234")).await.unwrap();
    }
    let listed = place.list(&Path::from("list")).await.unwrap();
    let paths: Vec<&str> = listed.iter().map(|object| object.location.as_ref()).collect();
    assert_eq!(paths, ["list/a-b", "list/a/b", "list/b"]);
    assert!(listed.iter().all(|object| object.size == 4));
    assert!(place.list(&Path::from("nothing/here")).await.unwrap().is_empty());
    let later = place.store().list_with_offset(Some(&Path::from("list")), &Path::from("list/a-b"));
    let mut later: Vec<Path> = later.map_ok(|object| object.location).try_collect().await.unwrap();
    later.sort();
    assert_eq!(later, [Path::from("list/a/b"), Path::from("list/b")]);
}

async fn removals_are_idempotent_and_end_at_their_prefix(place: &Arc<dyn StorageBackend>) {
    for path in ["gone/a", "gone/b/c", "gone/b/d", "goner"] {
        place.put(&Path::from(path), Bytes::from_static(b"x")).await.unwrap();
    }
    place.delete(&Path::from("gone/a")).await.unwrap();
    place.delete(&Path::from("gone/a")).await.unwrap();
    assert_eq!(place.list(&Path::from("gone")).await.unwrap().len(), 2);
    place.delete_below(&Path::from("gone")).await.unwrap();
    place.delete_below(&Path::from("gone")).await.unwrap();
    assert!(place.list(&Path::from("gone")).await.unwrap().is_empty());
    assert_eq!(place.get(&Path::from("goner")).await.unwrap(), Bytes::from_static(b"x"));
}

async fn what_is_missing_is_not_found(place: &Arc<dyn StorageBackend>) {
    let path = Path::from("missing/object");
    assert_eq!(refusal(place.get(&path).await), ErrorKind::NotFound);
    assert_eq!(refusal(place.get_range(&path, 0..1).await), ErrorKind::NotFound);
}

async fn large_objects_come_back_whole(place: &Arc<dyn StorageBackend>) {
    let body = Bytes::from((0..12u32 << 20).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
    let whole = Path::from("large/whole");
    place.put(&whole, body.clone()).await.unwrap();
    assert!(place.get(&whole).await.unwrap() == body);

    let parts = Path::from("large/parts");
    let mut writer = BufWriter::with_capacity(place.store(), parts.clone(), PART);
    for chunk in body.chunks(1 << 20) {
        writer.write_all(chunk).await.unwrap();
    }
    assert_eq!(refusal(place.get(&parts).await), ErrorKind::NotFound, "an upload shows before it is complete");
    writer.shutdown().await.unwrap();
    assert!(place.get(&parts).await.unwrap() == body);
}

#[tokio::test]
async fn a_meter_counts_every_request_and_adds_to_its_parent() {
    let colony = Arc::new(Meter::default());
    let query = Meter::within(&colony);
    let place = Place(Arc::new(Metered::new(MemoryBackend::default().store(), Arc::clone(&query))));
    let path = Path::from("counted");
    place.put(&path, Bytes::from_static(b"abc")).await.unwrap();
    place.get(&path).await.unwrap();
    place.get_range(&path, 1..2).await.unwrap();
    place.list(&path).await.unwrap();
    place.delete(&path).await.unwrap();
    let counted = MeterReading { gets: 2, hedges: 0, puts: 1, lists: 1, deletes: 1, bytes_read: 4, bytes_written: 3 };
    assert_eq!((query.read(), colony.read()), (counted, counted));
    assert_eq!(counted.requests(), 5);
}

#[tokio::test]
async fn a_lost_acknowledgement_of_a_creation_is_settled_by_reading_back() {
    let lossy = Faults { lost_ack: 1.0, ..Faults::default() };
    let place = faulty(MemoryBackend::default().store(), lossy, 1);
    let path = Path::from("commit");
    assert_eq!(refusal(place.put(&Path::from("plain"), Bytes::new()).await), ErrorKind::Storage);
    assert!(place.put_if_not_exists(&path, Bytes::from_static(b"mine")).await.unwrap());
    assert!(!place.put_if_not_exists(&path, Bytes::from_static(b"theirs")).await.unwrap());
    assert_eq!(place.get(&path).await.unwrap(), Bytes::from_static(b"mine"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_creators_one_wins_though_acknowledgements_are_lost() {
    let lossy = Faults { lost_ack: 0.5, ..Faults::default() };
    let place: Arc<dyn StorageBackend> = Arc::new(faulty(MemoryBackend::default().store(), lossy, 1));
    for round in 0..20 {
        of_racing_creators_one_wins(&place, &format!("race/{round}")).await;
    }
}

#[tokio::test]
async fn a_refused_request_has_no_effect() {
    let store = MemoryBackend::default().store();
    let refusing = Faults { error: 1.0, ..Faults::default() };
    let place = faulty(Arc::clone(&store), refusing, 1);
    let path = Path::from("refused");
    assert_eq!(refusal(place.put(&path, Bytes::from_static(b"x")).await), ErrorKind::Storage);
    assert_eq!(refusal(place.put_if_not_exists(&path, Bytes::from_static(b"x")).await), ErrorKind::Storage);
    assert_eq!(refusal(Place(store).get(&path).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn one_seed_gives_the_same_faults_again() {
    let first = outcomes(7).await;
    assert_eq!(first, outcomes(7).await);
    assert_ne!(first, outcomes(8).await);
}

async fn outcomes(seed: u64) -> Vec<bool> {
    let shaky = Faults { error: 0.5, ..Faults::default() };
    let place = faulty(MemoryBackend::default().store(), shaky, seed);
    let mut outcomes = Vec::new();
    for number in 0..64 {
        outcomes.push(place.put(&Path::from(format!("{number}")), Bytes::new()).await.is_ok());
    }
    outcomes
}

fn faulty(store: Arc<dyn ObjectStore>, faults: Faults, seed: u64) -> Place {
    Place(Arc::new(Faulty::new(store, faults, seed)))
}

fn racer_name(racer: usize) -> Bytes {
    Bytes::from(format!("racer {racer}"))
}
