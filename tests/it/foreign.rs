//! Frames as other engines leave them: rows that are marked as deleted, columns that cells call something else.

use std::fs;
use std::path::{Path, PathBuf};

use apiary::{AsOf, Colony, ErrorKind, WriteMode};
use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use delta_kernel::actions::deletion_vector::DeletionVectorDescriptor;
use delta_kernel::actions::deletion_vector_writer::{KernelDeletionVector, StreamingDeletionVectorWriter};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::support::{batch, folder, integers, name, numbers, read, refusal, run, settings, start, values, write};

/// Rows of the large cell: three row groups.
const ROWS: i64 = 300_000;

fn frame_folder(root: &Path, frame: &str) -> PathBuf {
    root.join("default/default").join(frame)
}

fn commits(frame: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(frame.join("_delta_log")).unwrap().map(|entry| entry.unwrap().path());
    let mut commits: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    commits.sort();
    commits
}

fn actions(commit: &Path) -> Vec<Value> {
    fs::read_to_string(commit).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Appends a commit as another engine would.
fn commit(frame: &Path, actions: &[Value]) {
    let lines: Vec<_> = actions.iter().map(Value::to_string).collect();
    let next = commits(frame).len();
    fs::write(frame.join(format!("_delta_log/{next:020}.json")), lines.join("\n")).unwrap();
}

/// Marks rows of the frame's largest cell as deleted.
fn mark(frame: &Path, deleted: impl IntoIterator<Item = u64>) {
    let all: Vec<Value> = commits(frame).iter().flat_map(|commit| actions(commit)).collect();
    let adds = all.iter().filter_map(|action| action.get("add"));
    let add = adds.max_by_key(|add| add["size"].as_u64()).unwrap().clone();
    let vector = vector(frame, deleted);
    let mut marked = add.clone();
    marked["deletionVector"] = vector;
    commit(
        frame,
        &[
            json!({ "commitInfo": { "operation": "DELETE", "timestamp": 0, "engineInfo": "somebody" } }),
            json!({ "protocol": {
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"],
            }}),
            json!({ "remove": { "path": add["path"], "dataChange": true, "deletionTimestamp": 0 } }),
            json!({ "add": marked }),
        ],
    );
}

/// Writes a deletion vector beside the cells.
fn vector(frame: &Path, deleted: impl IntoIterator<Item = u64>) -> Value {
    let mut rows = KernelDeletionVector::new();
    rows.add_deleted_row_indexes(deleted);
    let mut bytes = Vec::new();
    let mut writer = StreamingDeletionVectorWriter::new(&mut bytes);
    let written = writer.write_deletion_vector(rows).unwrap();
    writer.finalize().unwrap();
    // The name that stands in the log: an identifier of sixteen zero bytes.
    let entry = json!({
        "storageType": "u", "pathOrInlineDv": "00000000000000000000", "offset": written.offset,
        "sizeInBytes": written.size_in_bytes, "cardinality": written.cardinality,
    });
    let descriptor: DeletionVectorDescriptor = serde_json::from_value(entry.clone()).unwrap();
    let root = url::Url::from_directory_path(frame).unwrap();
    fs::write(descriptor.absolute_path(&root).unwrap().unwrap().to_file_path().unwrap(), bytes).unwrap();
    entry
}

fn is_deleted(x: i64) -> bool {
    x % 1000 == 7 || (122_870..122_890).contains(&x) || x >= ROWS - 5
}

fn kept() -> Vec<i64> {
    (0..ROWS).filter(|x| !is_deleted(*x)).chain(ROWS..ROWS + 10).collect()
}

fn answers(colony: &Colony, kept: &[i64]) {
    let facts = run(colony, "SELECT count(*), count(x), sum(x), min(x), max(x), count(DISTINCT x) FROM t");
    let facts: Vec<i64> = (0..6).map(|index| integers(&facts, index)[0]).collect();
    let (rows, sum) = (kept.len() as i64, kept.iter().sum());
    assert_eq!(facts, [rows, rows, sum, kept[0], *kept.last().unwrap(), rows]);
}

#[test]
fn rows_that_are_marked_as_deleted_are_gone_for_every_statement() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT)");
    write(&colony, "t", numbers(0..ROWS), WriteMode::Append).unwrap();
    let frame = frame_folder(folder.path(), "t");
    // Both bees write when there is enough: the test needs one cell, of known order.
    run(&colony, "OPTIMIZE t CLUSTER BY (x)");
    write(&colony, "t", numbers(ROWS..ROWS + 10), WriteMode::Append).unwrap();
    mark(&frame, (0..ROWS).filter(|x| is_deleted(*x)).map(|x| x as u64));

    let marked = kept();
    answers(&colony, &marked);
    assert_eq!(values(&colony, "t"), marked);
    assert!(run(&colony, "SELECT x FROM t WHERE x = 1007").iter().all(|b| b.num_rows() == 0));
    assert_eq!(integers(&run(&colony, "SELECT max(x) FROM t WHERE x < 122890"), 0), [122_869]);
    let described = colony.block_on(colony.describe(&name("t"))).unwrap();
    assert_eq!(described.rows, Some(marked.len() as u64));
    let version = described.version;

    run(&colony, "DELETE FROM t WHERE x = 0 OR x = 1007");
    answers(&colony, &marked[1..]);
    run(&colony, &format!("RESTORE t TO VERSION AS OF {version}"));
    answers(&colony, &marked);
    run(&colony, "UPDATE t SET x = -1 WHERE x = 0");
    assert_eq!(values(&colony, "t")[0], -1);
    assert_eq!(read(&colony, "t", AsOf::Version(version)).unwrap(), marked);
    run(&colony, &format!("RESTORE t TO VERSION AS OF {version}"));
    run(&colony, "OPTIMIZE t CLUSTER BY (x)");
    answers(&colony, &marked);
    assert_eq!(read(&colony, "t", AsOf::Version(version - 1)).unwrap().len() as i64, ROWS + 10);
}

#[test]
fn a_deletion_vector_that_does_not_fit_its_cell_is_refused() {
    for (deleted, why) in [(vec![0, 3], "more rows than there are"), (vec![1], "a file that is not there")] {
        let folder = folder();
        let colony = start(settings(&folder));
        run(&colony, "CREATE FRAME t (x BIGINT)");
        write(&colony, "t", numbers(0..3), WriteMode::Append).unwrap();
        let frame = frame_folder(folder.path(), "t");
        mark(&frame, deleted.iter().copied());
        if deleted.len() == 1 {
            let bins = fs::read_dir(&frame).unwrap().map(|entry| entry.unwrap().path());
            bins.filter(|path| path.extension().is_some_and(|e| e == "bin"))
                .for_each(|path| fs::remove_file(path).unwrap());
        }
        let error = read(&colony, "t", AsOf::Latest).unwrap_err();
        assert!(error.message().contains("the ledger of default.default.t"), "{why}: {error}");
        assert!(
            matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Storage),
            "{why}: {error:?}"
        );
    }
}

/// Gives a frame's columns other names, as an engine does that maps columns from the beginning.
fn map(frame: &Path, mode: &str, names: &[(&str, &str)]) {
    let metadata = actions(&commits(frame)[0]).into_iter().find_map(|action| action.get("metaData").cloned());
    let mut metadata = metadata.unwrap();
    let mut schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
    for (number, (field, (physical, logical))) in
        schema["fields"].as_array_mut().unwrap().iter_mut().zip(names).enumerate()
    {
        assert_eq!(field["name"], *physical);
        field["name"] = json!(logical);
        field["metadata"] =
            json!({ "delta.columnMapping.id": number + 1, "delta.columnMapping.physicalName": physical });
    }
    let partitions = metadata["partitionColumns"].as_array_mut().unwrap();
    for partition in partitions {
        let (_, logical) = names.iter().find(|(physical, _)| partition == physical).unwrap();
        *partition = json!(logical);
    }
    metadata["schemaString"] = json!(schema.to_string());
    metadata["configuration"] =
        json!({ "delta.columnMapping.mode": mode, "delta.columnMapping.maxColumnId": names.len().to_string() });
    commit(
        frame,
        &[
            json!({ "protocol": {
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": ["columnMapping"], "writerFeatures": ["columnMapping"],
            }}),
            json!({ "metaData": metadata }),
        ],
    );
}

fn readings(xs: std::ops::Range<i64>) -> arrow::array::RecordBatch {
    let x: ArrayRef = Arc::new(Int64Array::from_iter_values(xs.clone()));
    let p: ArrayRef = Arc::new(StringArray::from_iter_values(xs.map(|x| format!("p{}", x % 2))));
    batch(vec![("x", x), ("p", p)])
}

#[test]
fn columns_that_cells_call_something_else_are_read_pruned_and_written() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT, p TEXT) PARTITIONED BY (p)");
    write(&colony, "t", readings(0..10), WriteMode::Append).unwrap();
    write(&colony, "t", readings(10..20), WriteMode::Append).unwrap();
    // Each has the other's name, so that whoever mixes them up gives wrong answers.
    map(&frame_folder(folder.path(), "t"), "name", &[("x", "p"), ("p", "x")]);

    let sums = "SELECT x, sum(p) FROM t GROUP BY x ORDER BY x";
    assert_eq!(integers(&run(&colony, sums), 1), [90, 100]);
    assert_eq!(integers(&run(&colony, "SELECT min(p), max(p) FROM t"), 1), [19]);
    let plan = run(&colony, "EXPLAIN SELECT p FROM t WHERE x = 'p1' AND p > 12");
    let told = format!("{}", arrow::util::pretty::pretty_format_batches(&plan).unwrap());
    assert!(told.contains("1 of 4 cells read"), "{told}");
    assert_eq!(integers(&run(&colony, "SELECT p FROM t WHERE x = 'p1' AND p > 12 ORDER BY p"), 0), [13, 15, 17, 19]);

    run(&colony, "INSERT INTO t (p, x) VALUES (100, 'p1')");
    run(&colony, "DELETE FROM t WHERE p = 13 AND x = 'p1'");
    run(&colony, "UPDATE t SET p = p + 1000 WHERE x = 'p1' AND p = 15");
    run(&colony, "ALTER FRAME t RENAME COLUMN p TO number");
    run(&colony, "OPTIMIZE t CLUSTER BY (number)");
    let left = run(&colony, "SELECT number FROM t WHERE x = 'p1' AND number > 12 ORDER BY number");
    assert_eq!(integers(&left, 0), [17, 19, 100, 1015]);
    let types = run(&colony, "SELECT arrow_typeof(number) FROM t LIMIT 1");
    assert_eq!(types[0].column(0).as_string::<i32>().value(0), "Int64");
    assert_eq!(run(&colony, "SELECT number FROM t LIMIT 3")[0].column(0).as_primitive::<Int64Type>().len(), 3);
}

#[test]
fn files_without_numbers_are_refused_where_columns_are_told_apart_by_them() {
    let folder = folder();
    let colony = start(settings(&folder));
    run(&colony, "CREATE FRAME t (x BIGINT, p TEXT)");
    write(&colony, "t", readings(0..10), WriteMode::Append).unwrap();
    map(&frame_folder(folder.path(), "t"), "id", &[("x", "p"), ("p", "x")]);
    let outcome = read(&colony, "t", AsOf::Latest);
    assert!(outcome.as_ref().is_err_and(|error| error.message().contains("mode 'id'")), "{outcome:?}");
    assert_eq!(refusal(outcome), ErrorKind::Unsupported);
}
