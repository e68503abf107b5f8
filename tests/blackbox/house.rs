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

/// The code of a text without comments and without the tests at its end.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// The first names of a list in braces, up to its end: of `a, b::{c, d}, e` these are `a`, `b` and `e`.
fn listed(list: &str) -> Vec<&str> {
    let (mut depth, mut from, mut names) = (0, 0, Vec::new());
    for (place, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let name = list[from..place].split("::").next().unwrap_or_default();
                names.push(name.split_whitespace().next().unwrap_or_default());
                from = place + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty() && *name != "self");
    names
}

/// The module that a file is, as a path from `src`.
fn module_of(file: &str) -> Vec<&str> {
    let path = file.trim_end_matches(".rs");
    path.strip_suffix("/mod").unwrap_or(path).split('/').collect()
}

/// Everything that a file names behind `crate::` or `super::`, as paths from `src`.
fn paths_named(file: &str, text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (start, parents) in [("crate::", 0), ("super::", 1)] {
        for (place, _) in text.match_indices(start) {
            let before = text[..place].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || ":_".contains(letter)) {
                continue;
            }
            let mut base = module_of(file);
            base.truncate(if parents == 0 { 0 } else { base.len() - 1 });
            let mut rest = &text[place + start.len()..];
            loop {
                if let Some(list) = rest.strip_prefix('{') {
                    found.extend(listed(list).into_iter().map(|name| {
                        let path = base.iter().copied().chain([name]);
                        path.map(str::to_owned).collect::<Vec<_>>()
                    }));
                    break;
                }
                let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
                let (name, behind) = rest.split_at(end.unwrap_or(rest.len()));
                if name == "super" {
                    base.pop();
                } else {
                    base.push(name);
                }
                let Some(behind) = behind.strip_prefix("::") else {
                    found.push(base.iter().copied().map(str::to_owned).collect());
                    break;
                };
                rest = behind;
            }
        }
    }
    found
}

/// What imports what in a folder: its files, and its folders as one each. What is named that is neither stands
/// in the façade, under the name of the folder.
fn imports_in<'a>(
    folder: &str,
    sources: &'a BTreeMap<String, String>,
) -> BTreeMap<&'a str, BTreeSet<String>> {
    let inside: Vec<&str> = folder.split('/').collect();
    let entry_of = |file: &'a str| {
        let module = module_of(file);
        module.starts_with(&inside).then(|| module.get(inside.len()).copied()).flatten()
    };
    let is_test = |file: &str| file.ends_with("tests.rs") || file.contains("tests/");
    let files = sources.iter().filter(|(file, _)| !is_test(file));
    let mut imports: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in files {
        let Some(entry) = entry_of(file) else { continue };
        let of_entry = imports.entry(entry).or_default();
        for path in paths_named(file, &code_of(text)) {
            if path.len() > inside.len() && path.iter().zip(&inside).all(|(a, b)| a == b) {
                of_entry.insert(path[inside.len()].clone());
            }
        }
    }
    let entries: BTreeSet<String> = imports.keys().map(ToString::to_string).collect();
    for (entry, of_entry) in &mut imports {
        let named = std::mem::take(of_entry);
        let known = |name: String| if entries.contains(&name) { name } else { folder.to_owned() };
        of_entry.extend(named.into_iter().map(known).filter(|name| name != entry));
    }
    imports
}

/// A way from an entry back to itself, if there is one.
fn circle(imports: &BTreeMap<&str, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        imports: &BTreeMap<&str, BTreeSet<String>>,
        way: &mut Vec<String>,
        left: &mut BTreeSet<String>,
    ) -> bool {
        let last = way.last().expect("a way begins somewhere").clone();
        for next in imports.get(&*last).into_iter().flatten() {
            if let Some(start) = way.iter().position(|entry| entry == next) {
                way.drain(..start);
                way.push(next.clone());
                return true;
            }
            if !left.contains(next) {
                way.push(next.clone());
                if walk(imports, way, left) {
                    return true;
                }
            }
        }
        way.pop();
        left.insert(last);
        false
    }
    let mut left = BTreeSet::new();
    imports.keys().find_map(|entry| {
        let mut way = vec![(*entry).to_owned()];
        (!left.contains(*entry) && walk(imports, &mut way, &mut left)).then_some(way)
    })
}

#[test]
fn a_circle_is_found_however_its_imports_are_written() {
    let sources = |files: &[(&str, &str)]| -> BTreeMap<String, String> {
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
    };
    let check = |files: &[(&str, &str)], expected: Option<&str>| {
        let sources = sources(files);
        let found = circle(&imports_in("m", &sources));
        let found = found.map(|way| way.join(" > "));
        assert_eq!(found.as_deref(), expected, "{files:?}");
    };
    let plain = [("m/a.rs", "use super::b::B;"), ("m/b.rs", "use crate::m::c::C;")];
    check(&[plain[0], plain[1], ("m/c.rs", "// use super::a;\nuse crate::n::a;")], None);
    check(&[plain[0], plain[1], ("m/c.rs", "fn f() { super::a::f() }")], Some("a > b > c > a"));
    let list = "use super::{\n    d::{e, f},\n    a::A,\n};";
    check(&[plain[0], plain[1], ("m/c.rs", list)], Some("a > b > c > a"));
    let deep = "use super::super::a::A;\nuse super::own::Own;";
    check(&[plain[0], plain[1], ("m/c/deep.rs", deep)], Some("a > b > c > a"));
    let tests = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use super::a::A;\n}";
    check(&[plain[0], plain[1], ("m/c.rs", tests)], None);
    let of_facade = [("m/mod.rs", "mod a;\npub use a::A;"), ("m/a.rs", "use super::{A, helper};")];
    let of_facade = sources(&of_facade);
    assert_eq!(imports_in("m", &of_facade)["a"], BTreeSet::from(["m".to_owned()]));
}

/// Folders whose `mod.rs` only declares, re-exports and documents, as do those inside: no file imports of it.
const WITH_FACADES: [&str; 1] = ["model"];

#[test]
fn files_of_a_folder_import_each_other_in_no_circle() {
    let sources = sources();
    let folders: BTreeSet<&str> =
        sources.keys().filter_map(|file| Some(file.rsplit_once('/')?.0)).collect();
    for folder in folders {
        let imports = imports_in(folder, &sources);
        assert_eq!(circle(&imports), None, "in {folder}");
        let has_facade = WITH_FACADES.contains(&part(folder));
        for (entry, imported) in imports {
            let is_helped = has_facade && imported.contains(folder);
            assert!(!is_helped, "{folder}/{entry} imports what stands in the façade of {folder}");
        }
    }
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
        ("Timestamp::now", &["learner/event.rs"]),
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
