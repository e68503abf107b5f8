//! What the documentation says is what the program does, and the layout is what it says.
//!
//! Each `README.md` is a session: its commands run in their order, in a directory of their own, and what
//! they print is compared with what stands below them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use online_learning::config::OPTIONS;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Service, Setup, program, without_environment};

/// Every file of the documentation.
const FILES: [&str; 15] = [
    "README.md",
    "benches/README.md",
    "data/README.md",
    "src/README.md",
    "src/commands/README.md",
    "src/evaluate/README.md",
    "src/http/README.md",
    "src/http/client/README.md",
    "src/model/README.md",
    "src/outcome/README.md",
    "src/sources/formats/README.md",
    "src/sources/kafka/README.md",
    "src/sources/otlp/README.md",
    "systemd/README.md",
    "tests/README.md",
];
/// Longest that the first of them may be, for somebody who has five minutes.
const OVERVIEW_LINES_MAX: usize = 400;
/// What stands in the documentation for what was left out there.
const LEFT_OUT: &str = "...";
/// How lines begin that are not run here, because they build, install, measure or test for long.
const NOT_RUN: [&str; 9] = [
    "cargo bench",
    "cargo build",
    "cargo install",
    "cargo test",
    "sudo ",
    ".ci/run",
    "tests/",
    "KAFKA_TEST_JARS=",
    "KAFKA_BOOTSTRAP_SERVERS=",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A fenced block of a file.
struct Block<'a> {
    language: &'a str,
    text: String,
    /// Counts the headings before it.
    section: usize,
}

fn blocks(file: &str) -> Vec<Block<'_>> {
    let (mut blocks, mut section, mut is_open) = (Vec::<Block<'_>>::new(), 0, false);
    for line in file.lines() {
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

/// A file without its blocks.
fn prose(file: &str) -> String {
    let mut is_open = false;
    let mut lines = Vec::new();
    for line in file.lines() {
        if line.starts_with("```") {
            is_open = !is_open;
        } else if !is_open {
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// The blocks of commands, each with what the file says they print.
fn commands<'a>(blocks: &'a [Block<'a>]) -> Vec<(&'a str, Option<&'a Block<'a>>)> {
    let found = blocks.iter().enumerate().filter(|(_, block)| block.language == "sh");
    let with_output = found.map(|(place, block)| {
        let mut after = blocks[place + 1..]
            .iter()
            .take_while(|after| after.language != "sh" && after.section == block.section);
        (&*block.text, after.find(|after| ["json", "text"].contains(&after.language)))
    });
    with_output.collect()
}

/// Where the commands of a file run.
struct Session {
    home: TempDir,
    cluster: MockCluster<'static, DefaultProducerContext>,
    service: Option<Service>,
}

impl Session {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("there is room");
        let link = |from: &Path, to: &str| {
            std::os::unix::fs::symlink(from, home.path().join(to)).expect("there is room");
        };
        link(&root().join("data"), "data");
        fs::create_dir(home.path().join("bin")).expect("there is room");
        link(Path::new(env!("CARGO_BIN_EXE_online-learning")), "bin/online-learning");
        let cluster = MockCluster::new(1).expect("a mock cluster can be started");
        cluster.create_topic("agent-outcomes", 3, 1).expect("the topic is new");
        Self { home, cluster, service: None }
    }

    /// Starts a service in the place of the one that runs, and waits for what it should log.
    fn serve(&mut self, arguments: &str, logs: Option<&str>) {
        if let Some(service) = self.service.take() {
            service.stop();
        }
        let mut setup = Setup::new(Path::new("./models")).within(self.home.path());
        for argument in arguments.split_whitespace() {
            setup = setup.argument(argument);
        }
        let mut service = setup.start();
        let mut expected = logs.unwrap_or_default().lines().map(masked).peekable();
        if let Some(last) = logs.and_then(|logs| logs.lines().last()) {
            crate::harness::eventually(last, || {
                service.log().lines().any(|line| masked(line).contains(&masked(last))).then_some(())
            });
        }
        let log = service.log();
        for line in log.lines().map(masked) {
            expected.next_if(|expected| line.contains(expected));
        }
        assert_eq!(expected.next(), None, "serve {arguments} logs no such line: {log}");
        self.service = Some(service);
    }

    /// What a script prints; it must end as it says.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        let service = self.service.as_ref().expect("it was started before");
        let path = std::env::var("PATH").unwrap_or_default();
        let output = without_environment("sh")
            .args(["-ec", script])
            .current_dir(self.home.path())
            .env("PATH", format!("{}:{path}", self.home.path().join("bin").display()))
            .env("LISTEN_ADDR", service.address.to_string())
            .env("ONLINE_LEARNING_URL", service.url(""))
            .output()
            .expect("there is a shell");
        let [said, complained] = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let code = script.split_once("exit ").map_or(0, |(_, code)| {
            let digits = code.split(|letter: char| !letter.is_ascii_digit()).next();
            digits.and_then(|digits| digits.parse().ok()).expect("exit has a number")
        });
        assert_eq!(output.status.code(), Some(code), "{script}\n{said}\n{complained}");
        said
    }

    /// Runs a block of commands and compares.
    #[track_caller]
    fn play(&mut self, script: &str, printed: Option<&Block<'_>>) {
        let script = script
            .replace("cargo run --release -- ", "online-learning ")
            .replace("cargo run -- ", "online-learning ")
            .replace("localhost:9092", &self.cluster.bootstrap_servers());
        if let Some(arguments) = script.strip_prefix("online-learning serve") {
            return self.serve(arguments, printed.map(|block| &*block.text));
        }
        if self.service.is_none() {
            self.serve("--import data/sample_outcomes.jsonl", Some("import=done accepted=816"));
        }
        let address = self.service.as_ref().expect("it was just started").address.to_string();
        let script = script
            .replace("127.0.0.1:8000", &address)
            .replace("curl -s", "curl -sS --fail-with-body");
        let said = self.run(&script);
        match printed {
            Some(block) if block.language == "text" => check_lines(&script, &block.text, &said),
            _ if script.contains("curl") => {
                let answers = documents(&said);
                let calls = script.matches("curl -sS").count();
                assert_eq!(answers.len(), calls, "{script}\n{answers:?}");
                let printed = printed.map(|block| &*block.text).unwrap_or_default();
                check_documents(&script, printed, &answers);
            }
            Some(block) => check_documents(&script, &block.text, &documents(&said)),
            None => {}
        }
    }
}

/// Of several answers the file may print some, in their order.
#[track_caller]
fn check_documents(script: &str, printed: &str, answers: &[Value]) {
    let mut left = answers.iter();
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

fn documents(text: &str) -> Vec<Value> {
    let answers: Result<Vec<Value>, _> =
        serde_json::Deserializer::from_str(text).into_iter().collect();
    answers.unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Where an answer has other keys or types than the file prints, if it does.
fn difference(printed: &Value, real: &Value, at: &str) -> Option<String> {
    match (printed, real) {
        (Value::Object(printed), Value::Object(real)) => {
            let is_cut = printed.contains_key(LEFT_OUT);
            let mut printed = printed.iter().filter(|(key, _)| *key != LEFT_OUT);
            let missing =
                real.keys().find(|key| !is_cut && printed.clone().all(|(p, _)| p != *key));
            if let Some(key) = missing {
                return Some(format!("{at}/{key} is not in the file"));
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
        _ => Some(format!("{at} is {real} in the answer, {printed} in the file")),
    }
}

#[test]
fn documents_differ_where_keys_or_types_do_and_in_nothing_else() {
    let check = |printed: Value, real: Value, expected: Option<&str>| {
        let found = difference(&printed, &real, "");
        assert_eq!(found.as_deref(), expected, "{printed} {real}");
    };
    check(json!({"a": 1, "b": [1, 2]}), json!({"b": [0.5, 7], "a": -2}), None);
    check(json!({"a": 1}), json!({"a": 1, "b": 2}), Some("/b is not in the file"));
    check(json!({"a": 1, "...": null}), json!({"a": 1, "b": 2}), None);
    check(json!({"a": 1, "...": null}), json!({"b": 2}), Some("/a is not in the answer"));
    let types = "/a/0/b is null in the answer, 1 in the file";
    check(json!({"a": [{"b": 1}, "..."]}), json!({"a": [{"b": null}, 1]}), Some(types));
    check(json!(["..."]), json!([1, "x"]), None);
    check(json!([1]), json!([1, 2]), Some(" has 2 elements in the answer"));
    check(json!([1, "..."]), json!([]), Some(" has 0 elements in the answer"));
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

/// Whether lines are those printed, numbers put aside. A line `...` stands for any, and at the end of a
/// line `...` stands for its rest.
fn are_lines(printed: &[&str], said: &[&str]) -> bool {
    match (printed.split_first(), said.split_first()) {
        (None, None) => true,
        (Some((&LEFT_OUT, printed)), _) => {
            (0..=said.len()).any(|skipped| are_lines(printed, &said[skipped..]))
        }
        (Some((first, printed)), Some((seen, said))) => {
            let seen = masked(seen);
            let is_same = match first.strip_suffix(LEFT_OUT) {
                Some(beginning) => seen.starts_with(masked(beginning).trim_end()),
                None => seen == masked(first),
            };
            is_same && are_lines(printed, said)
        }
        _ => false,
    }
}

#[track_caller]
fn check_lines(script: &str, printed: &str, said: &str) {
    let [wanted, seen]: [Vec<&str>; 2] = [printed, said].map(|text| text.lines().collect());
    assert!(are_lines(&wanted, &seen), "{script}\nprints\n{said}\nand not\n{printed}");
}

#[test]
fn lines_are_compared_without_their_numbers() {
    assert_eq!(masked("   1  a.b 0.825   12 %  x"), "# a.b # # % x");
    let check = |printed: &str, said: &str, expected: bool| {
        let [printed, said]: [Vec<&str>; 2] = [printed, said].map(|text| text.lines().collect());
        assert_eq!(are_lines(&printed, &said), expected, "{printed:?} {said:?}");
    };
    check("a 1\nb", "a  22\nb", true);
    check("a 1\nb", "a 22", false);
    check("a 1", "a 22\nb", false);
    check("a\n...\nd", "a\nb\nc\nd", true);
    check("a\n...\nd", "a\nb\nc", false);
    check("a b ...", "a b c", true);
    check("a b ...", "a c c", false);
}

/// Runs every command of a file, and compares what it prints.
#[track_caller]
fn check_file(path: &str) {
    let file = read(path);
    let blocks = blocks(&file);
    let mut session = None;
    for (script, printed) in commands(&blocks) {
        let is_run = |line: &str| !NOT_RUN.iter().any(|beginning| line.starts_with(beginning));
        if script.lines().all(|line| !is_run(line)) {
            check_paths(path, script.split(|letter: char| " \"()\n".contains(letter)));
            continue;
        }
        assert!(script.lines().all(is_run), "{path}: this is run in part: {script}");
        session.get_or_insert_with(Session::new).play(script, printed);
    }
}

/// Words that look as a path of the repository are one.
#[track_caller]
fn check_paths<'a>(path: &str, words: impl Iterator<Item = &'a str>) {
    for word in words {
        let folder = word.split_once('/').map(|(folder, _)| folder);
        let is_ours = folder.is_some_and(|folder| {
            [".ci", "benches", "data", "src", "systemd", "tests"].contains(&folder)
        });
        assert!(!is_ours || root().join(word).exists(), "{path} names {word}");
    }
}

#[test]
fn the_overview_is_right() {
    check_file("README.md");
}

#[test]
fn the_commands_are_as_described() {
    check_file("src/commands/README.md");
}

#[test]
fn the_api_is_as_described() {
    check_file("src/http/README.md");
}

#[test]
fn evaluation_is_as_described() {
    check_file("src/evaluate/README.md");
}

#[test]
fn kafka_is_as_described() {
    check_file("src/sources/kafka/README.md");
}

#[test]
fn telemetry_is_as_described() {
    check_file("src/sources/otlp/README.md");
}

#[test]
fn formats_are_as_described() {
    check_file("src/sources/formats/README.md");
}

#[test]
fn operations_are_as_described() {
    check_file("systemd/README.md");
}

#[test]
fn everything_else_is_as_described() {
    for path in ["benches", "data", "src", "src/http/client", "src/model", "src/outcome", "tests"] {
        check_file(&format!("{path}/README.md"));
    }
}

#[test]
fn the_overview_is_short_and_every_file_is_known() {
    let lines = read("README.md").lines().count();
    assert!(lines <= OVERVIEW_LINES_MAX, "README.md has {lines} lines");
    let mut found = BTreeSet::new();
    for folder in ["benches", "data", "src", "systemd", "tests"] {
        files(&root().join(folder), "md", &mut found);
    }
    let found: BTreeSet<String> = found
        .iter()
        .map(|path| path.strip_prefix(root()).expect("it is below").display().to_string())
        .chain(["README.md".to_owned()])
        .collect();
    assert_eq!(found, FILES.map(str::to_owned).into());
}

/// How a heading is called in links, as GitHub does it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = letters.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn links_lead_somewhere_and_paths_are_there() {
    for path in FILES {
        let text = prose(&read(path));
        let folder = root().join(path).parent().expect("it is a file").to_owned();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { root().join(path) } else { folder.join(file) };
            assert!(file.exists(), "{path} links to {target}");
            if !fragment.is_empty() {
                let linked = fs::read_to_string(&file).expect("it can be read");
                let linked = prose(&linked);
                let mut headings = linked.lines().filter(|line| line.starts_with('#'));
                assert!(headings.any(|line| anchor(line) == fragment), "{path} links to {target}");
            }
        }
        check_paths(path, text.split('`').skip(1).step_by(2));
    }
}

#[test]
fn every_block_says_what_it_is() {
    for path in FILES {
        for block in blocks(&read(path)) {
            let language = block.language;
            let is_known =
                ["ini", "json", "python", "sh", "text", "ts", "yaml"].contains(&language);
            assert!(is_known, "{path}: a block is of {language:?}: {}", block.text);
        }
        assert!(!read(path).contains("TODO"), "{path} is not written to its end");
    }
}

#[test]
fn the_table_of_calls_names_every_call_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let service = Setup::new(directory.path()).start();
    let description = service.get("/openapi.json").json();
    let paths = description["paths"].as_object().expect("it has paths");
    let readme = read("README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| `") && line.contains(" /"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let named: BTreeSet<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter_map(|call| call.split(' ').next_back()?.split('?').next())
        .filter(|path| path.starts_with('/'))
        .collect();
    assert_eq!(named, paths.keys().map(String::as_str).collect());
}

#[test]
fn every_setting_is_in_the_documentation_and_in_the_example_environment() {
    let (all, example) = (read("systemd/README.md"), read("systemd/online-learning.env"));
    for option in OPTIONS {
        assert!(all.contains(&format!("`{}`", option.env)), "systemd/README.md: {}", option.env);
        assert!(example.contains(option.env), "online-learning.env: {}", option.env);
    }
    // What is said of defaults is what they are.
    let overview = read("README.md");
    for row in all.lines().chain(overview.lines()) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, names, defaults, ..] = cells[..] else { continue };
        for (name, said) in names.split(", ").zip(defaults.split(", ")) {
            let name = name.trim_matches('`');
            let option = OPTIONS.iter().find(|option| option.env == name);
            if let Some(option) = option.filter(|option| !option.default.is_empty()) {
                assert_eq!(said.trim_matches('`'), option.default, "{row}");
            }
        }
    }
}

/// Adds the files below a folder that end so.
fn files(folder: &Path, ends: &str, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            files(&path, ends, found);
        } else if path.extension().is_some_and(|extension| extension == ends) {
            found.insert(path);
        }
    }
}

#[test]
fn the_program_prints_every_file_as_a_topic() {
    let help = |words: &[&str]| {
        let mut command = program();
        command.arg("help").args(words).output().expect("it can be run")
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    let listed = text(help(&[]).stdout);
    let (_, topics) = listed.split_once("online-learning help TOPIC").expect("topics are listed");
    let topics = topics.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let printed: BTreeSet<String> = topics.map(|topic| text(help(&[topic]).stdout)).collect();
    let files: BTreeSet<String> =
        FILES.iter().map(|file| format!("{}\n", read(file).trim_end())).collect();
    assert_eq!(printed.len(), files.len());
    assert!(printed == files, "a topic prints another text than its file has");
    // Commands are listed, and each has its help, also one of two words.
    assert!(listed.contains("\n  dispatch"), "{listed}");
    for words in [&["dispatch"][..], &["config", "print"], &["help"]] {
        let printed = help(words);
        assert!(printed.status.success(), "{printed:?}");
        assert!(text(printed.stdout).contains("Usage: online-learning"), "{words:?}");
    }
    let unknown = help(&["me"]);
    assert_eq!(unknown.status.code(), Some(2));
    let said = text(unknown.stderr);
    assert!(said.contains("\"me\" is unknown, allowed are a command or one of overview"), "{said}");
}
