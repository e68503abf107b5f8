//! What the README says is what the program does, and the layout is what it says.

use std::fs;
use std::path::Path;
use std::process::Command;

use online_learning::config::OPTIONS;
use serde_json::{Value, json};

use crate::harness::{Service, Setup};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands in the README for what was left out there.
const LEFT_OUT: &str = "...";

/// A fenced block of the README.
struct Block<'a> {
    language: &'a str,
    text: String,
    /// Counts the headings before it.
    section: usize,
}

fn blocks(readme: &str) -> Vec<Block<'_>> {
    let (mut blocks, mut section, mut is_open) = (Vec::<Block<'_>>::new(), 0, false);
    for line in readme.lines() {
        match (line.strip_prefix("```"), blocks.last_mut()) {
            (Some(language), _) => {
                is_open = !is_open;
                if is_open {
                    blocks.push(Block { language, text: String::new(), section });
                }
            }
            (None, Some(block)) if is_open => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            _ => section += usize::from(line.starts_with('#')),
        }
    }
    assert!(!is_open, "the last block ends");
    blocks
}

/// The blocks of commands that hold one of these words, each with what the README says they print.
fn commands<'a>(
    blocks: &'a [Block<'a>],
    language: &str,
    words: &[&str],
) -> Vec<(&'a str, Option<&'a str>)> {
    let is_asked = |block: &Block<'_>| words.iter().any(|word| block.text.contains(word));
    let found = blocks.iter().enumerate().filter(|(_, block)| block.language == "sh");
    let with_output = found.filter(|(_, block)| is_asked(block)).map(|(place, block)| {
        let output = blocks[place + 1..]
            .iter()
            .take_while(|after| after.language != "sh" && after.section == block.section)
            .find(|after| after.language == language);
        (&*block.text, output.map(|output| &*output.text))
    });
    with_output.collect()
}

/// What a script prints; it must succeed.
#[track_caller]
fn run(script: &str, service: &Service, directory: &Path) -> String {
    let output = Command::new("sh")
        .args(["-ec", script])
        .env("ONLINE_LEARNING_URL", service.url(""))
        .env("MODEL_STORAGE_PATH", directory)
        .output()
        .expect("there is a shell");
    let [said, complained] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{script}\n{said}\n{complained}");
    said
}

fn documents(text: &str) -> Vec<Value> {
    let answers: Result<Vec<Value>, _> =
        serde_json::Deserializer::from_str(text).into_iter().collect();
    answers.unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Where an answer has other keys or types than the README prints, if it does.
fn difference(printed: &Value, real: &Value, at: &str) -> Option<String> {
    match (printed, real) {
        (Value::Object(printed), Value::Object(real)) => {
            let is_cut = printed.contains_key(LEFT_OUT);
            let mut printed = printed.iter().filter(|(key, _)| *key != LEFT_OUT);
            let missing =
                real.keys().find(|key| !is_cut && printed.clone().all(|(p, _)| p != *key));
            if let Some(key) = missing {
                return Some(format!("{at}/{key} is not in the README"));
            }
            printed.find_map(|(key, value)| match real.get(key) {
                None => Some(format!("{at}/{key} is not in the answer")),
                Some(real) => difference(value, real, &format!("{at}/{key}")),
            })
        }
        (Value::Array(printed), Value::Array(real)) => {
            let (printed, is_cut) = match printed.split_last() {
                Some((last, before)) if last == LEFT_OUT => (before, true),
                _ => (&printed[..], false),
            };
            if printed.len() > real.len() || (!is_cut && printed.len() != real.len()) {
                return Some(format!("{at} has {} elements in the answer", real.len()));
            }
            let pairs = printed.iter().zip(real).enumerate();
            pairs.into_iter().find_map(|(index, (printed, real))| {
                difference(printed, real, &format!("{at}/{index}"))
            })
        }
        _ if std::mem::discriminant(printed) == std::mem::discriminant(real) => None,
        _ => Some(format!("{at} is {real} in the answer, {printed} in the README")),
    }
}

#[test]
fn documents_differ_where_keys_or_types_do_and_in_nothing_else() {
    let check = |printed: Value, real: Value, expected: Option<&str>| {
        let found = difference(&printed, &real, "");
        assert_eq!(found.as_deref(), expected, "{printed} {real}");
    };
    check(json!({"a": 1, "b": [1, 2]}), json!({"b": [0.5, 7], "a": -2}), None);
    check(json!({"a": 1}), json!({"a": 1, "b": 2}), Some("/b is not in the README"));
    check(json!({"a": 1, "...": null}), json!({"a": 1, "b": 2}), None);
    check(json!({"a": 1, "...": null}), json!({"b": 2}), Some("/a is not in the answer"));
    let types = "/a/0/b is null in the answer, 1 in the README";
    check(json!({"a": [{"b": 1}, "..."]}), json!({"a": [{"b": null}, 1]}), Some(types));
    check(json!(["..."]), json!([1, "x"]), None);
    check(json!([1]), json!([1, 2]), Some(" has 2 elements in the answer"));
    check(json!([1, "..."]), json!([]), Some(" has 0 elements in the answer"));
}

#[test]
fn every_curl_command_of_the_readme_works_in_order_and_prints_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    let sample = read("data/sample_outcomes.jsonl");
    assert_eq!(service.learn(&sample)["accepted"], 816);
    let readme = read("README.md");
    let blocks = blocks(&readme);
    let commands = commands(&blocks, "json", &["curl"]);
    let compared = commands.iter().filter(|(_, printed)| printed.is_some()).count();
    assert!(compared >= 8, "the tour has gone: {compared} of {}", commands.len());
    for (script, printed) in commands {
        let script = script
            .replace("127.0.0.1:8000", &service.address.to_string())
            .replace("curl -s", "curl -sS --fail-with-body");
        let answers = documents(&run(&script, &service, directory.path()));
        assert_eq!(answers.len(), script.matches("curl -sS").count(), "{script}\n{answers:?}");
        // Of several answers the README may print some, in their order.
        let mut left = answers.iter();
        let printed = printed.unwrap_or_default();
        let printed = printed.replace("...}", "\"...\": null}").replace("...]", "\"...\"]");
        for printed in documents(&printed) {
            let mut differences = Vec::new();
            let found = left.find(|real| match difference(&printed, real, "") {
                None => true,
                Some(difference) => {
                    differences.push(difference);
                    false
                }
            });
            assert!(found.is_some(), "{script}\nprints no such {printed}: {differences:#?}");
        }
    }
}

/// A line with `#` in the place of each number, and single spaces.
fn masked(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut masked = String::new();
    let mut letters = words.join(" ");
    letters.push(' ');
    let letters: Vec<char> = letters.chars().collect();
    for pair in letters.windows(2) {
        let is_inside = masked.ends_with('#');
        match pair[0] {
            '0'..='9' if is_inside => {}
            '0'..='9' => masked.push('#'),
            '.' if is_inside && pair[1].is_ascii_digit() => {}
            letter => masked.push(letter),
        }
    }
    masked
}

#[test]
fn tables_of_the_readme_look_as_what_the_commands_print() {
    assert_eq!(masked("   1  a.b 0.825   12 %  x"), "# a.b # # % x");
    let directory = tempfile::tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    service.learn(&read("data/sample_outcomes.jsonl"));
    let readme = read("README.md");
    let blocks = blocks(&readme);
    let words = ["-- predict ", "-- simulate", "online-learning evaluate "];
    let commands = commands(&blocks, "text", &words);
    assert_eq!(commands.len(), words.len());
    for (script, printed) in commands {
        let program = env!("CARGO_BIN_EXE_online-learning");
        let script = script
            .replace("cargo run --", program)
            .replace("online-learning evaluate", &format!("{program} evaluate"));
        let printed = printed.unwrap_or_else(|| panic!("{script} prints something"));
        let said = run(&script, &service, directory.path());
        let [printed, said] =
            [printed, &said].map(|text| text.lines().map(masked).collect::<Vec<_>>());
        assert_eq!(printed, said, "{script}");
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
