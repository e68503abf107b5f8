//! What the README says is what the program does, and the layout is what it says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use online_learning::config::OPTIONS;
use serde_json::Value;

use crate::harness::Setup;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The blocks of commands in the README.
fn commands(readme: &str) -> Vec<&str> {
    let blocks = readme.split("\n```sh\n").skip(1);
    blocks.map(|block| block.split("\n```").next().unwrap_or_default()).collect()
}

#[test]
fn every_curl_command_of_the_readme_works_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    let sample = read("data/sample_outcomes.jsonl");
    assert_eq!(service.learn(&sample)["accepted"], 816);
    let readme = read("README.md");
    let blocks: Vec<&str> =
        commands(&readme).into_iter().filter(|block| block.contains("curl")).collect();
    assert!(blocks.len() >= 4, "the tour has gone: {blocks:?}");
    for block in blocks {
        let script = block
            .replace("127.0.0.1:8000", &service.address.to_string())
            .replace("curl -s", "curl -sS --fail-with-body");
        let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{said}\n{complained}");
        let answers: Result<Vec<Value>, _> =
            serde_json::Deserializer::from_str(&said).into_iter().collect();
        let answers = answers.unwrap_or_else(|error| panic!("{script}: {error}: {said}"));
        assert_eq!(answers.len(), script.matches("curl -sS").count(), "{script}\n{said}");
    }
}

#[test]
fn every_setting_is_in_the_readme_and_in_the_example_environment() {
    let (readme, example) = (read("README.md"), read("systemd/online-learning.env"));
    for option in OPTIONS {
        assert!(readme.contains(&format!("`{}`", option.env)), "README: {}", option.env);
        assert!(example.contains(option.env), "online-learning.env: {}", option.env);
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn only_the_files_that_may_name_a_thing_name_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let cases = [
        ("rusqlite::", &["store.rs", "store/"][..]),
        ("plotters::", &["plots.rs", "plots/"]),
        ("httparse::", &["http/server.rs", "http/server/"]),
        ("thread::Builder", &["service.rs", "http/server.rs", "http/server/"]),
        ("thread::spawn", &["http/server.rs", "http/server/"]),
        ("SystemTime::now", &[]),
        ("Timestamp::now", &["learner.rs"]),
    ];
    for file in files {
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        if name.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (thing, allowed) in cases {
            let may = allowed.iter().any(|place| name == *place || name.starts_with(place));
            assert!(may || !text.contains(thing), "{name} names {thing}");
        }
        let is_pure = ["model", "outcome"].iter().any(|module| name.starts_with(module));
        for thing in ["std::fs", "std::net", "Instant::now", "rand::rng()", "crossbeam_channel"] {
            assert!(!is_pure || !text.contains(thing), "{name} is pure and names {thing}");
        }
    }
}
