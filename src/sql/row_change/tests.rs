use super::super::statement::{Statement, parse};
use super::*;

fn change(sql: &str) -> Result<RowChange> {
    let Statement::Other(statement) = parse(sql)? else { panic!("{sql}") };
    RowChange::of(&statement).map(|change| change.expect("a change"))
}

#[test]
fn names_and_aliases_are_kept() {
    let deleted = change("DELETE FROM h.b.F AS t WHERE t.x > 1").unwrap();
    assert_eq!((deleted.name.join("."), deleted.alias.as_str()), ("h.b.f".into(), "\"t\""));
    let updated = change("UPDATE f SET X = 1").unwrap();
    assert_eq!((updated.name.join("."), updated.alias.as_str()), ("f".into(), "\"f\""));
}

#[test]
fn keys_are_what_must_be_equal() {
    let keys = |on: &str| {
        let sql = format!("MERGE INTO f USING g AS s ON {on} WHEN MATCHED THEN DELETE");
        let Body::Merge(Merging { keys, .. }) = change(&sql).unwrap().body else { unreachable!("{sql}") };
        keys.iter().map(|key| format!("{}={}", key.source, key.target)).collect::<Vec<_>>().join(",")
    };
    assert_eq!(keys("f.a = s.b AND (s.c = f.C AND f.d > s.d)"), "\"s\".\"b\"=a,\"s\".\"c\"=c");
    for none in ["f.a = 1", "s.a = 1", "f.a = f.b", "s.a = s.b", "a = b", "f.a = s.a OR f.b = s.b", "true"] {
        assert_eq!(keys(none), "", "{none}");
    }
}

#[test]
fn what_is_not_kept_is_refused() {
    for sql in [
        "DELETE FROM f USING g WHERE f.x = g.x",
        "DELETE FROM f RETURNING x",
        "UPDATE f SET x = g.x FROM g",
        "UPDATE f SET (x, y) = (1, 2)",
        "UPDATE f SET g.x = 1",
        "DELETE FROM f PARTITION (p1)",
        "DELETE FROM f TABLESAMPLE (10 PERCENT)",
        "DELETE FROM f WHERE x NOT IN (SELECT y FROM g)",
        "DELETE FROM f WHERE a = 1 AND NOT (x IN (SELECT y FROM g))",
        "UPDATE f SET x = 1 WHERE (x IN (SELECT y FROM g)) IS NOT TRUE",
        "MERGE INTO f USING g AS s (a, b) ON f.x = s.a WHEN MATCHED THEN DELETE",
        "MERGE INTO f USING f ON true WHEN MATCHED THEN DELETE",
        "MERGE INTO f USING g ON f.x = g.x WHEN NOT MATCHED THEN DELETE",
        "MERGE INTO f USING g ON f.x = g.x WHEN MATCHED THEN INSERT (x) VALUES (1)",
        "MERGE INTO f USING g ON f.x = g.x WHEN NOT MATCHED THEN INSERT (x, y) VALUES (1)",
    ] {
        assert!(change(sql).is_err(), "{sql}");
    }
}
