//! The structure of the source tree: who may import whom, and who may name what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The parts of the program, from the ground up: each may import what stands before it. Those of a line
/// stand side by side, and do not import each other.
const FLOORS: [&[&str]; 10] = [
    &["outcome"],
    &["model"],
    &["watch"],
    &["store"],
    &["learner", "evaluate"],
    &["sources"],
    &["http"],
    &["config"],
    &["service"],
    &["commands"],
];
/// What every part may import, and what imports none of them.
const OPEN: [&str; 4] = ["error", "logging", "plots", "stats"];
/// Most entries at the root of `src`.
const ROOT_MAX: usize = 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file under `src` by its path from there, with its text.
fn sources() -> BTreeMap<String, String> {
    let root = root();
    let (mut folders, mut found) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder is there") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("it is under src").display().to_string();
                found.insert(name, fs::read_to_string(&path).expect("it is text"));
            }
        }
    }
    assert!(found.len() > 100, "{} files were found", found.len());
    found
}

/// The part of the program that a file belongs to.
fn part(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// The code of a line, without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The names that stand right behind `prefix` in the code of a text.
fn named_after<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let behind = |line: &'a str| line.split(prefix).skip(1).collect::<Vec<_>>();
    let name = |rest: &'a str| {
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
        &rest[..end.unwrap_or(rest.len())]
    };
    text.lines().map(code).flat_map(behind).map(name).collect()
}

#[test]
fn nothing_imports_what_stands_above_it() {
    let floor = |part: &str| FLOORS.iter().position(|parts| parts.contains(&part));
    let mut imports = 0;
    for (file, text) in sources() {
        let importing = part(&file);
        if ["main", "lib"].contains(&importing) {
            continue;
        }
        // A list behind `crate::{` would hide the parts from this test.
        assert!(!text.contains("crate::{"), "{file}: name each part in a line of its own");
        for imported in named_after(&text, "crate::") {
            if imported == importing || imported.chars().next().is_none_or(char::is_uppercase) {
                continue;
            }
            imports += 1;
            if OPEN.contains(&imported) {
                continue;
            }
            assert!(!OPEN.contains(&importing), "{file} imports {imported}");
            let (from, to) = (floor(importing), floor(imported));
            let from = from.unwrap_or_else(|| panic!("{importing} stands on no floor"));
            let to =
                to.unwrap_or_else(|| panic!("{file} imports {imported}, which is on no floor"));
            assert!(to < from, "{file} imports {imported}, which stands above or beside it");
        }
    }
    assert!(imports > 200, "{imports} imports were seen");
}

#[test]
fn the_root_has_few_entries() {
    let entries = fs::read_dir(root()).expect("src is there").count();
    assert!(entries <= ROOT_MAX, "{entries} entries, allowed are {ROOT_MAX}");
    // A file beside a folder of its name would be one thing in two places.
    for file in sources().keys() {
        let folder = root().join(file.trim_end_matches(".rs"));
        assert!(!folder.is_dir(), "{file} stands beside a folder of its name");
    }
}

#[test]
fn only_the_files_that_may_name_a_thing_name_it() {
    let cases = [
        ("rusqlite::", &["store/"][..]),
        ("rdkafka::", &["sources/kafka/"]),
        ("plotters::", &["plots/"]),
        ("httparse::", &["http/server/"]),
        ("thread::Builder", &["service/mod.rs", "http/server/", "sources/file/foreign.rs"]),
        ("thread::spawn", &["http/server/"]),
        ("thread::scope", &["commands/replay.rs"]),
        ("SystemTime::now", &[]),
        ("Timestamp::now", &["learner/mod.rs"]),
    ];
    for (name, text) in sources() {
        if name.ends_with("tests.rs") || name.contains("tests/") {
            continue;
        }
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for (thing, allowed) in cases {
            let may = allowed.iter().any(|place| name.starts_with(place));
            assert!(may || !text.contains(thing), "{name} names {thing}");
        }
        let is_pure = ["model", "outcome", "stats"].contains(&part(&name));
        for thing in ["std::fs", "std::net", "Instant::now", "rand::rng()", "crossbeam_channel"] {
            assert!(!is_pure || !text.contains(thing), "{name} is pure and names {thing}");
        }
    }
}
