//! The dashboard in a real browser: headless Chromium, driven over its `DevTools` protocol. Without a
//! `chromium` each test says `skipped` and passes, unless `REQUIRE_CHROMIUM` is set.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use online_learning::outcome::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::{TempDir, tempdir};
use tungstenite::{Message, WebSocket};

use crate::broker::skipped;
use crate::harness::{SOON, Service, Setup, eventually};

const OUTCOMES: &str = "/api/learning/outcomes";
const PREDICT: &str = "/api/learning/predict/agent-selection";
const MARKUP: &str = "<img src=x onerror=\"document.title='owned'\">";

/// A browser with one page; ended when dropped.
struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    last_id: u64,
    /// What the page told of itself: requests, messages, exceptions.
    events: Vec<Value>,
    /// Its profile.
    _directory: TempDir,
}

impl Browser {
    /// A browser, if there is one.
    fn start() -> Option<Self> {
        let directory = tempdir().expect("a directory can be made");
        let child = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--hide-scrollbars"])
            .args(["--remote-debugging-port=0", "--window-size=1280,900", "about:blank"])
            .arg(format!("--user-data-dir={}", directory.path().display()))
            .env("HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let required = std::env::var_os("REQUIRE_CHROMIUM").is_some();
                assert!(!required, "REQUIRE_CHROMIUM is set, and there is no chromium");
                skipped("there is no chromium");
                return None;
            }
            Err(error) => panic!("chromium can't be run: {error}"),
        };
        let stderr = child.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(stderr).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("DevTools listening on ws://").map(str::to_owned))
            .expect("it says where it listens");
        // What it says later must be read, or it would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let host = address.split('/').next().unwrap_or_default();
        let socket = eventually("the browser has a page", || {
            let mut list = ureq::get(format!("http://{host}/json/list")).call().ok()?;
            let pages: Value =
                serde_json::from_str(&list.body_mut().read_to_string().ok()?).ok()?;
            let page = pages.as_array()?.iter().find(|page| page["type"] == "page")?;
            let stream = TcpStream::connect(host).ok()?;
            stream.set_read_timeout(Some(SOON)).ok()?;
            Some(tungstenite::client(page["webSocketDebuggerUrl"].as_str()?, stream).ok()?.0)
        });
        let mut browser =
            Self { child, socket, last_id: 0, events: Vec::new(), _directory: directory };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    #[track_caller]
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.last_id += 1;
        let request = json!({"id": self.last_id, "method": method, "params": parameters});
        self.socket.send(Message::text(request.to_string())).expect("the browser listens");
        loop {
            let message = self.socket.read().expect("the browser answers");
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text).expect("it is JSON");
            if message["id"] == self.last_id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// What an expression is in the page.
    #[track_caller]
    fn eval(&mut self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", &parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is neither false, null nor empty.
    #[track_caller]
    fn wait(&mut self, expression: &str) -> Value {
        eventually(expression, || {
            let value = self.eval(expression);
            let is_nothing = value.is_null() || value == json!(false) || value == json!("");
            (!is_nothing).then_some(value)
        })
    }

    /// The text of an element.
    #[track_caller]
    fn text(&mut self, selector: &str) -> String {
        let value = self.eval(&format!("document.querySelector({selector:?})?.innerText ?? ''"));
        value.as_str().expect("it is text").to_owned()
    }

    /// Waits until an element's text holds this.
    #[track_caller]
    fn wait_for_text(&mut self, selector: &str, text: &str) {
        self.wait(&format!("document.querySelector({selector:?})?.innerText.includes({text:?})"));
    }

    #[track_caller]
    fn click(&mut self, selector: &str) {
        self.wait(&format!("document.querySelector({selector:?}) !== null"));
        self.eval(&format!("document.querySelector({selector:?}).click()"));
    }

    /// Presses a key as a person would.
    fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "code": key, "text": text,
                               "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    #[track_caller]
    fn open(&mut self, service: &Service, path: &str) {
        self.call("Page.navigate", &json!({"url": service.url(path)}));
        self.wait("document.readyState === 'complete' && document.querySelector('.tile') !== null");
    }

    fn look(&mut self, theme: &str, width: u32, height: u32) {
        let features = json!([{"name": "prefers-color-scheme", "value": theme}]);
        self.call("Emulation.setEmulatedMedia", &json!({"features": features}));
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Keeps a picture of the whole page, for people to look at.
    #[track_caller]
    fn screenshot(&mut self, name: &str) {
        let drawn = "[...document.querySelectorAll('[data-plot]')].every((image) => \
                     image.closest('[hidden]') || (image.complete && image.naturalWidth > 0))";
        self.wait(drawn);
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let answer = self.call("Page.captureScreenshot", &parameters);
        let data = answer["data"].as_str().expect("it is a picture");
        let picture = data_encoding::BASE64.decode(data.as_bytes()).expect("it is base64");
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000);
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        std::fs::write(folder.join(format!("{name}.png")), picture).expect("it can be written");
    }

    /// Nothing went wrong in the page, and it asked nobody else.
    #[track_caller]
    fn check_clean(&mut self, service: &Service) {
        // Whatever is still on its way comes before the answer.
        assert_ne!(self.eval("document.title"), "owned", "a name became markup");
        assert_eq!(self.eval("document.querySelectorAll('img:not([data-plot])').length"), 0);
        let own = [
            format!("http://{}/", service.address),
            "data:image/svg+xml,".to_owned(),
            format!("blob:http://{}/", service.address),
            "about:blank".to_owned(),
        ];
        let mut requests = 0;
        for event in std::mem::take(&mut self.events) {
            let parameters = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" => panic!("{event}"),
                "Log.entryAdded" => assert_ne!(parameters["entry"]["level"], "error", "{event}"),
                "Runtime.consoleAPICalled" => {
                    assert!(
                        !["error", "assert"].contains(&parameters["type"].as_str().unwrap_or("")),
                        "{event}"
                    );
                }
                "Network.requestWillBeSent" => {
                    requests += 1;
                    let url = parameters["request"]["url"].as_str().unwrap_or_default();
                    assert!(own.iter().any(|own| url.starts_with(own.as_str())), "asked {url}");
                }
                _ => {}
            }
        }
        assert!(requests > 5, "{requests}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Outcomes of one agent, a line each.
fn outcomes(agent: &str, task: &str, successes: usize, failures: usize) -> String {
    let line = |status: &str| {
        let event = json!({"agent_name": agent, "task_type": task, "status": status,
                           "latency_ms": 1200, "cost_estimate": 0.02});
        format!("{event}\n")
    };
    line("success").repeat(successes) + &line("failure").repeat(failures)
}

fn setup(directory: &TempDir) -> Setup {
    Setup::new(directory.path()).with("SAMPLE_INTERVAL", 0.2).with("MODEL_SAVE_INTERVAL", 0)
}

/// The names of the agents in the order of the page.
const AGENTS: &str = "[...document.querySelectorAll('#leaders tbody tr')]\
                      .map((row) => row.querySelector('bdi').innerText).join('|')";

#[test]
fn the_page_comes_to_life_with_the_first_outcome_and_follows_without_a_reload() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempdir().unwrap();
    let service = setup(&directory).start();
    browser.open(&service, "/");
    browser.wait("!document.querySelector('#empty').hidden");
    browser.eval("window.sameDocument = true");
    // What it shows works as it stands.
    let command = browser.text("#empty-curl");
    let output = Command::new("sh").args(["-ec", &command]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).expect(&command);
    assert_eq!(answer["accepted"], 1, "{command}: {answer}");
    browser.wait_for_text("#leaders tbody", "ReActAgent");
    assert_eq!(browser.eval("document.querySelector('#empty').hidden"), true);

    service.learn(&outcomes("other", "search", 40, 0));
    browser.wait(&format!("{AGENTS}.startsWith('other|')"));
    service.learn(&outcomes("ReActAgent", "search", 200, 0));
    service.learn(&outcomes("other", "search", 0, 60));
    browser.wait(&format!("{AGENTS}.startsWith('ReActAgent|')"));
    assert!(browser.text("#leaders tbody tr").contains("201"), "its samples");
    browser.wait("document.querySelector('[data-plot=best]').naturalWidth > 0");

    // Only who has had a task of this type is listed.
    browser.eval("document.querySelector('#task').focus()");
    browser.wait(
        "[...document.querySelector('#task').options].some((o) => o.value === 'code_review')",
    );
    browser.eval(
        "{ const task = document.querySelector('#task'); task.value = 'code_review'; \
         task.dispatchEvent(new Event('change')); }",
    );
    browser.wait(&format!("{AGENTS} === 'ReActAgent'"));
    assert_eq!(browser.eval("window.sameDocument"), true, "it was never loaded again");
    browser.check_clean(&service);
    service.stop();
}

/// The agents in the order of their names, each with what is said of it.
fn rows(said: &str) -> String {
    format!(
        "[...document.querySelectorAll('#leaders tbody tr')].map((row) => \
         `${{row.querySelector('bdi').innerText}} ${{{said}}}`).sort().join('|')"
    )
}

#[test]
fn what_agents_are_expected_to_take_and_cost_and_who_is_unbeaten_follow_the_filters() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempdir().unwrap();
    let service = setup(&directory).start();
    let mut lines = Vec::new();
    let mut add = |tenant: &str, agent: &str, task: &str, successes: usize, value: Option<u32>| {
        for index in 0..40 {
            let status = if index < successes { "success" } else { "partial" };
            let mut event = json!({"tenant_id": tenant, "agent_name": agent, "task_type": task,
                                   "status": status, "quality_score": 0});
            if let Some(value) = value {
                event["latency_ms"] = json!(value);
                event["cost"] = json!(f64::from(value) / 1_000.0);
            }
            lines.push(format!("{event}\n"));
        }
    };
    add("default", "quick", "review", 38, Some(400));
    add("default", "slow", "review", 10, Some(3_000));
    add("default", "quick", "search", 0, Some(400));
    add("default", "slow", "search", 40, Some(3_000));
    add("default", "silent", "review", 5, None);
    add("other", "silent", "review", 5, None);
    service.learn(&lines.concat());
    browser.open(&service, "/");
    browser.wait_for_text("#leaders tbody", "silent");
    let choose = |browser: &mut Browser, what: &str, value: &str| {
        browser.eval(&format!(
            "{{ const select = document.querySelector('#{what}'); select.value = '{value}'; \
             select.dispatchEvent(new Event('change')); }}"
        ));
    };
    let cell =
        |label: &str| rows(&format!("row.querySelector('[data-label=\"{label}\"]').innerText"));
    let is_unbeaten = rows("row.querySelector('.unbeaten') ? 'yes' : 'no'");

    browser.wait("[...document.querySelector('#task').options].some((o) => o.value === 'review')");
    choose(&mut browser, "task", "review");
    browser.wait(&format!("{is_unbeaten} === 'quick yes|silent no|slow no'"));
    let expected = "quick 0.40|silent unknown|slow 3.00";
    assert_eq!(browser.eval(&cell("Cost")), expected);
    for label in ["Latency", "95 % below"] {
        let said = browser.eval(&cell(label));
        let said = said.as_str().unwrap();
        assert!(
            said.starts_with("quick 4") && said.contains(" ms|silent unknown|slow 3."),
            "{said}"
        );
    }

    choose(&mut browser, "task", "search");
    browser.wait(&format!("{is_unbeaten} === 'quick yes|slow yes'"));
    browser.wait("document.querySelector('#tenant').options.length === 2");
    choose(&mut browser, "tenant", "other");
    browser.wait(&format!("{} === 'silent unknown'", cell("Cost")));
    assert_eq!(browser.eval(&is_unbeaten), "silent yes", "there is nobody else");
    browser.check_clean(&service);
    service.stop();
}

#[test]
fn what_a_tenant_may_spend_is_shown_or_how_to_say_so() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempdir().unwrap();
    let service = setup(&directory).start();
    let spent = |tenant: &str, cost: f64| {
        let event =
            json!({"agent_name": "a", "status": "success", "cost": cost, "tenant_id": tenant});
        format!("{event}\n")
    };
    service.learn(&(spent("default", 50.0) + &spent("it's b/c", 3.0)));
    browser.open(&service, "/");
    browser.wait_for_text("#budget-none", "may spend without limit");
    browser.wait("document.querySelector('#tenant').options.length === 2");
    // The command works as it stands, whatever the tenant is called.
    for (tenant, amounts) in [
        ("default", ["200.00 per month", "50.00", "25.0 %"]),
        ("it's b/c", ["200.00 per month", "3.00", "1.5 %"]),
    ] {
        browser.eval(&format!(
            "{{ const select = document.querySelector('#tenant'); select.value = {tenant:?}; \
             select.dispatchEvent(new Event('change')); }}"
        ));
        browser.wait_for_text("#budget-hint", tenant);
        browser.wait("document.querySelector('#budget-curl').offsetParent !== null");
        let command = browser.text("#budget-curl");
        let output = Command::new("sh").args(["-ec", &command]).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).expect(&command);
        assert_eq!(answer["tenant_id"], tenant, "{command}: {answer}");
        // Another look comes with the next outcome, or after some seconds.
        service.learn(&spent(tenant, 0.0));
        for amount in amounts {
            browser.wait_for_text("#budget", amount);
        }
        assert_eq!(browser.eval("document.querySelector('#budget-none').hidden"), true);
    }
    assert!(browser.text("#budget").contains("Share of the month gone"));
    service.learn(&spent("it's b/c", 200.0));
    browser.wait_for_text("#budget", "101.5 %");
    assert_eq!(browser.eval("document.querySelectorAll('#budget .tile.bad').length"), 2);
    browser.check_clean(&service);
    service.stop();
}

/// Runs what the page says, and gives what was printed.
fn run_as_it_stands(browser: &mut Browser, selector: &str) -> String {
    let script = browser.text(selector);
    let directory = tempdir().expect("there is room for a directory");
    let output = Command::new("sh")
        .args(["-ec", &script])
        .current_dir(&directory)
        .output()
        .expect("there is a shell");
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn sources_and_how_to_connect_are_shown_and_work_as_they_stand() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempdir().unwrap();
    let service = setup(&directory).start();
    service.learn(&outcomes("a", "search", 3, 0));
    browser.open(&service, "/");
    browser.wait_for_text("#sources tbody", "http");
    let cells = "[...document.querySelectorAll('#sources tbody tr')].map((row) => \
                 [...row.children].slice(0, 5).map((cell) => cell.innerText).join(' ')).join('|')";
    browser.wait(&format!("{cells} === 'http 3 0 0 0|otlp 0 0 0 0'"));
    browser.eval("for (const one of document.querySelectorAll('details')) one.open = true");

    let said = run_as_it_stands(&mut browser, "#connect-curl");
    assert!(said.contains("task-1") && said.contains("\"accepted\":1"), "{said}");
    let quality = json!({"candidates": ["ReActAgent"]});
    let predicted = service.post_json("/api/learning/predict/quality", &quality).json();
    assert_eq!(predicted["predictions"][0]["samples"], 1, "{predicted}");
    assert!(
        ["ReActAgent\n", "PlanExecuteAgent\n"]
            .contains(&&*run_as_it_stands(&mut browser, "#connect-python"))
    );

    // What is refused is named, and telemetry without a task type is counted.
    let exporter = browser.text("#connect-otlp");
    assert!(
        exporter.contains(&format!("OTEL_EXPORTER_OTLP_ENDPOINT={}", service.url(""))),
        "{exporter}"
    );
    let span = |agent: &str| {
        let attribute =
            |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        json!({"traceId": "ab".repeat(16), "spanId": "cd".repeat(8), "attributes": [
            attribute("openinference.span.kind", "AGENT"), attribute("agent.name", agent),
        ]})
    };
    let body = json!({"resourceSpans": [{"scopeSpans": [{"spans": [span("a"), span(" ")]}]}]});
    assert_eq!(service.post_json("/v1/traces", &body).status, 200);
    browser.wait(&format!("{cells}.includes('otlp 1 0 1 1')"));
    browser.wait_for_text("#refusals", "otlp missing_agent_name");
    assert!(browser.text("#connect-litellm").contains("/api/learning/outcomes/litellm"));
    browser.check_clean(&service);
    service.stop();
}

#[test]
fn an_older_version_is_activated_from_the_keyboard() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempdir().unwrap();
    let service = setup(&directory).start();
    service.learn(&outcomes("early", "t", 30, 0));
    assert_eq!(service.post("/api/learning/models/save", "", "").status, 200);
    service.learn(&outcomes("early", "t", 0, 100));
    browser.open(&service, "/");
    browser.wait_for_text("#leaders tbody tr", "130");
    browser.click("#save");
    browser.wait_for_text("#versions", "Version 2");
    let focused = "document.activeElement?.dataset.activate ?? ''";
    let mut steps = 0;
    while browser.eval(focused) != "agent_selection-1" {
        browser.press("Tab", 9);
        steps += 1;
        let visible = "!document.activeElement || document.activeElement === document.body \
                       || getComputedStyle(document.activeElement).outlineStyle !== 'none'";
        assert_eq!(browser.eval(visible), true, "the focus is seen at step {steps}");
        assert!(steps < 100, "it can't be reached");
    }
    browser.press("Enter", 13);
    browser.wait("document.querySelector('#confirm').open");
    assert!(browser.text("#confirm").contains("Activate version 1?"));
    browser.eval("document.querySelector('#confirm-yes').focus()");
    browser.press("Enter", 13);
    browser.wait_for_text("#notice", "agent_selection-1 is active again");
    browser.wait_for_text("#leaders tbody tr", "30");
    browser.wait_for_text("#versions li.active", "Version 3");
    browser.wait_for_text("#versions li.active", "goes on from version 1");
    let agents = service.get("/api/learning/agents/performance").json();
    assert_eq!(agents[0]["samples"], 30, "{agents}");
    browser.check_clean(&service);
    service.stop();
}

#[test]
fn a_prediction_is_tried_and_its_decision_explained_and_names_are_text() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempdir().unwrap();
    let service =
        setup(&directory).with("ALERT_INTERVAL", 0.1).with("ALERT_PERFECT_OUTCOMES", 200).start();
    service.learn(&outcomes(MARKUP, MARKUP, 200, 0));
    service.learn(&outcomes("plain", MARKUP, 5, 5));
    browser.open(&service, "/");
    browser.wait_for_text("#leaders tbody", MARKUP);
    browser.wait_for_text("#alerts", MARKUP);
    browser.eval(&format!(
        "{{ const form = document.querySelector('#try'); form.task_type.value = {MARKUP:?}; \
         form.context.value = \"complexity = it's high\\nsize=3\"; \
         form.dispatchEvent(new Event('input')); }}"
    ));
    let command = browser.text("#try-curl");
    let output = Command::new("sh").args(["-ec", &command]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).expect(&command);
    assert_eq!(answer["recommendations"].as_array().map(Vec::len), Some(2), "{command}: {answer}");

    browser.click("#try button[type=submit]");
    browser.wait_for_text("#try-answer", MARKUP);
    let decision_id = browser.text("#try-answer > p").replace("Decision ", "");
    let path = format!("/api/learning/decisions/{decision_id}");
    let decision = eventually("it is recorded", || {
        let answer = service.get(&path);
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(decision["context"], json!({"complexity": "it's high", "size": "3"}));
    assert_eq!(decision["task_type"], MARKUP);
    let both = [&decision, &answer].map(|said| said["model_version"].clone());
    assert_eq!(both[0], both[1], "form and command ask the same");

    assert!(!browser.text("#try-answer thead").contains("Speed"));
    browser.eval(
        "{ const form = document.querySelector('#try'); form.objective.value = 'fast'; \
         form.dispatchEvent(new Event('input')); }",
    );
    assert!(browser.text("#try-curl").contains(r#""objective":"fast""#));
    browser.click("#try button[type=submit]");
    browser.wait_for_text("#try-answer thead", "Speed");
    browser.wait_for_text("#try-answer tbody", "%");

    browser.click(&format!("[data-explain='{decision_id}']"));
    browser.wait("document.querySelector('#explanation').open");
    let explained = browser.text("#explanation-body");
    for part in
        [MARKUP, "plain", "complexity = it's high", "difficulty for all agents", &decision_id]
    {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    browser.screenshot("explanation");
    browser.press("Escape", 27);
    browser.wait("!document.querySelector('#explanation').open");
    browser.check_clean(&service);
    service.stop();
}

/// A service that has learned, been asked and answered for.
fn busy(directory: &TempDir) -> Service {
    let service = setup(directory)
        .with("ALERT_INTERVAL", 0.1)
        .with("ALERT_AGENT_SUCCESS_MIN", 0.4)
        .with("MODEL_BATCH_SIZE", 5)
        .start();
    let agents =
        [("ReActAgent", 7), ("ReflectionAgent", 9), ("PlanExecuteAgent", 5), ("ToolUseAgent", 3)];
    for round in 0..40 {
        for (index, (agent, of_ten)) in agents.iter().enumerate() {
            let task =
                ["code_review", "compliance_analysis", "data_extraction"][(round + index) % 3];
            let body = json!({"task_type": task, "context": {"complexity": "high"}, "candidates": [agent]});
            let decision = service.post_json(PREDICT, &body).json();
            let is_good = (round * 7 + index) % 10 < *of_ten;
            let event = json!({
                "agent_name": agent, "task_type": task, "decision_id": decision["decision_id"],
                "status": if is_good { "success" } else { "failure" },
                "latency_ms": 600 + 170 * ((round * 13 + index * 5) % 17), "cost_estimate": 0.01,
            });
            assert_eq!(service.post_json(OUTCOMES, &event).status, 202);
        }
        if round % 12 == 11 {
            service.learn("{\"agent_name\": \"ReActAgent\", \"status\": \"success\"}\n");
            assert_eq!(service.post("/api/learning/models/save", "", "").status, 200);
        }
    }
    service
}

/// The address of a page of somebody else, which is there until the test ends.
fn page_of_elsewhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let _ = lines.find(String::is_empty);
            let page = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/html\r\n\
                        content-length: 16\r\n\r\n<p id=elsewhere>";
            let _ = (&stream).write_all(page.as_bytes());
        }
    });
    // Another site, too: a name is not an address.
    format!("http://localhost:{port}/")
}

#[test]
fn a_page_of_elsewhere_may_show_plots_and_learns_nothing_from_them() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempdir().unwrap();
    let service = setup(&directory).start();
    service.learn(&(outcomes("a", "t", 30, 5) + &outcomes("b", "t", 5, 30)));
    browser.call("Page.navigate", &json!({"url": page_of_elsewhere()}));
    browser.wait("document.querySelector('#elsewhere') !== null");
    let mut shown = |path: &str, more: &str| {
        let url = service.url(path);
        browser.eval(&format!(
            "new Promise((resolve) => {{ const image = new Image(); {more} \
             image.onload = () => resolve(`${{image.naturalWidth}} x ${{image.naturalHeight}}`); \
             image.onerror = () => resolve('refused'); image.src = '{url}'; }})"
        ))
    };
    let sizes = [
        "/plots/posterior.svg?width=400",
        "/plots/posterior.svg?width=400&tenant_id=nobody",
        "/plots/traffic.svg?width=400&task_type=t",
        "/plots/traffic.svg?width=400&task_type=nothing",
    ]
    .map(|path| shown(path, ""));
    assert_eq!(sizes, ["400 x 280"; 4], "it is the same whatever there is to show");
    let readable = shown("/plots/posterior.svg", "image.crossOrigin = 'anonymous';");
    assert_eq!(readable, "refused", "not so that it could read the pixels");
    for path in ["/api/learning/agents/performance", "/api/learning/status", "/dashboard.js"] {
        let taken = browser.eval(&format!(
            "fetch('{}', {{mode: 'no-cors'}}).then(() => 'taken', () => 'refused')",
            service.url(path)
        ));
        assert_eq!(taken, "refused", "{path}");
    }
    service.stop();
}

#[test]
fn it_is_readable_light_dark_and_on_a_phone() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempdir().unwrap();
    let service = busy(&directory);
    let budget = json!({"amount": 2.5, "period": "day"});
    assert_eq!(service.put_json("/api/learning/budgets/default", &budget).status, 200);
    for (name, theme, width, height) in [
        ("light", "light", 1_280, 900),
        ("dark", "dark", 1_280, 900),
        ("phone", "light", 390, 844),
        ("phone-dark", "dark", 390, 844),
    ] {
        browser.look(theme, width, height);
        browser.open(&service, "/");
        browser.wait_for_text("#leaders tbody", "ToolUseAgent");
        browser.wait_for_text("#decisions tbody", "Explain");
        browser.wait_for_text("#alerts", "ToolUseAgent");
        browser.wait_for_text("#budget", "2.50 per day");
        let wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
        assert_eq!(browser.eval(wide), false, "{name} scrolls sideways");
        // No text is cut off by its box.
        let cut = "[...document.querySelectorAll('dd, td, th, h1, h2, button, label, pre, .tag')]\
                   .filter((node) => node.offsetParent && !node.closest('.unseen, thead') \
                   && node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).display !== 'inline')\
                   .map((node) => node.outerHTML).join('\\n')";
        assert_eq!(browser.eval(cut), "", "{name}");
        browser.screenshot(name);
        browser.check_clean(&service);
    }
    service.stop();
}

#[test]
fn with_tokens_it_asks_for_one_and_keeps_it_in_the_tab_alone() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    let lines = ["root", "red"].map(|name| {
        let digest = hex(&Sha256::digest(format!("{name}-secret")));
        let (scope, tenant) = if name == "root" { ("admin", "*") } else { ("read", "red") };
        format!("{name}, {scope}, {tenant}, {digest}\n")
    });
    std::fs::write(&tokens, lines.concat()).unwrap();
    let service = setup(&directory).with("AUTH_TOKENS_FILE", tokens.display()).start();
    let report = |tenant: &str, agent: &str| {
        let event = json!({"agent_name": agent, "status": "success", "tenant_id": tenant});
        let answer = ureq::post(service.url(&format!("{OUTCOMES}?wait=true")))
            .header("authorization", "Bearer root-secret")
            .header("content-type", "application/json")
            .send(event.to_string());
        assert_eq!(answer.expect("it is taken").status(), 200);
    };
    report("default", "everybody's");
    report("red", "the reds'");

    browser.call("Page.navigate", &json!({"url": service.url("/")}));
    browser.wait_for_text("#notice", "a token is needed");
    browser.events.clear();
    let enter = |browser: &mut Browser, token: &str| {
        browser.click("#token-button");
        browser.wait("document.querySelector('#token-dialog').open");
        browser.eval(&format!("document.querySelector('#token').value = '{token}'"));
        browser.click("#token-form button[type=submit]");
    };
    enter(&mut browser, "red-secret");
    browser.wait_for_text("#leaders tbody", "the reds'");
    assert_eq!(browser.eval("document.querySelector('#versions').offsetParent"), Value::Null);
    assert!(browser.text("#try-curl").contains("authorization: Bearer $TOKEN"));
    browser.check_clean(&service);

    enter(&mut browser, "root-secret");
    browser.wait_for_text("#leaders tbody", "everybody's");
    browser.wait("document.querySelector('#tenant').options.length === 2");
    assert!(!browser.text("body").contains("-secret"));
    assert_eq!(browser.eval("document.cookie + localStorage.length"), "0");
    browser.check_clean(&service);
    service.stop();
}
