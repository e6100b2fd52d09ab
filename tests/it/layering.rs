//! Dependencies point one way: `py, bin → actors → sql → storage`.

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer with those above it, which it must not know.
const ABOVE: [(&str, &[&str]); 3] =
    [("storage", &["sql", "actors", "py"]), ("sql", &["actors", "py"]), ("actors", &["py"])];

#[test]
fn no_layer_uses_one_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let root = fs::read_to_string(source.join("lib.rs")).unwrap();
    let mut wrong = Vec::new();
    for (layer, above) in ABOVE {
        let files = sources(&source.join(layer));
        assert!(!files.is_empty(), "{layer} has no sources");
        let forbidden = forbidden(&root, above);
        for file in files {
            let used = used(&fs::read_to_string(&file).unwrap());
            let backward = used.into_iter().filter(|name| forbidden.contains(name));
            wrong.extend(backward.map(|name| format!("{} uses crate::{name}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "arrows that run back:\n{}", wrong.join("\n"));
}

#[test]
fn an_arrow_that_runs_back_is_seen() {
    assert_eq!(used("use crate::{Error, sql::{Planner, Split}, storage::Meadow};"), ["Error", "sql", "storage"]);
    assert_eq!(used("//! See [`crate::py`].\nlet x = crate::actors::Colony::start; // crate::py"), ["actors"]);
    assert_eq!(used("use super::super::py::wait;\nuse super::lead;"), ["py"]);
    let root = "pub use actors::{Colony, Settings};\npub use storage::Meadow;\npub use sql::Planner;";
    assert_eq!(forbidden(root, &["actors", "py"]), ["actors", "Colony", "Settings", "py"]);
}

/// The layers `above` and the names that the crate's root hands on from them.
fn forbidden(root: &str, above: &[&str]) -> Vec<String> {
    let names = |layer: &&str| {
        let exported: Vec<String> = root.split(&format!("pub use {layer}::")).skip(1).flat_map(heads).collect();
        [vec![layer.to_string()], exported].concat()
    };
    above.iter().flat_map(names).collect()
}

/// The first segments of all paths from the crate's root in a file of a layer's folder, outside comments.
fn used(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n").replace("super::super::", "crate::");
    code.split("crate::").skip(1).flat_map(heads).collect()
}

/// What a path goes on with: one name, or those of a group in braces.
fn heads(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else { return vec![first_name(rest)] };
    let (mut depth, mut heads) = (0, vec![String::new()]);
    for letter in group.chars() {
        match letter {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(String::new()),
            _ => {}
        }
        if let Some(head) = heads.last_mut().filter(|_| depth == 0 && letter != ',') {
            head.push(letter);
        }
    }
    heads.iter().map(|head| first_name(head)).filter(|name| !name.is_empty()).collect()
}

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let below = |entry: fs::DirEntry| match entry.path() {
        path if path.is_dir() => sources(&path),
        path if path.extension().is_some_and(|ending| ending == "rs") => vec![path],
        _ => Vec::new(),
    };
    fs::read_dir(folder).unwrap().flat_map(|entry| below(entry.unwrap())).collect()
}
