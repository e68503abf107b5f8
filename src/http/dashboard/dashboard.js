// The dashboard: asks the API, shows the answers. Whatever comes from outside is set as text, never as HTML.
"use strict";

const POLL_MS = 2000;
const ANSWER_MS = 30000;
const PLOT_MS = 4000;
const TOKEN_KEY = "online-learning-token";
const API = "/api/learning/";

const byId = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");

// What is shown, and what was last seen.
const state = {
  token: sessionStorage.getItem(TOKEN_KEY) || "",
  tenant: "",
  task: "",
  hours: "",
  may: { scope: "admin", tenant_id: null },
  contextTypes: {},
  status: null,
  seen: {},
  plottedAt: 0,
  plottedKey: "",
};

// ---- small things

function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const whole = (value) => numbers.format(value);
const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;

function chance(value) {
  if (value > 0 && value < 0.001) return "< 0.1 %";
  if (value < 1 && value > 0.999) return "> 99.9 %";
  return percent(value);
}

function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10000 ? 1 : 2)} s`;
  return `${value.toFixed(value >= 10 ? 0 : 1)} ms`;
}

function amount(value) {
  if (value === 0) return "0";
  return value >= 1 ? value.toFixed(2) : value.toPrecision(2);
}

function ago(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (seconds < 2) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function moment(time) {
  if (!time) return el("span", {}, "never");
  const node = el("time", { title: new Date(time).toLocaleString() }, ago(time));
  node.dateTime = time;
  return node;
}

function say(text, bad = false) {
  const notice = byId("notice");
  if (notice.textContent === text) return;
  notice.textContent = text;
  notice.classList.toggle("bad", bad);
}

// Replaces the content of `parent` only when it would look different: a reader keeps their place.
function show(parent, ...children) {
  const fresh = children.filter((child) => child !== null && child !== undefined);
  const old = [...parent.childNodes];
  const isSame = old.length === fresh.length && old.every((node, at) => node.isEqualNode(fresh[at]));
  if (!isSame) parent.replaceChildren(...fresh);
}

// A list of which each item has a key: those that stay are kept, with the focus that may be in them.
function showKeyed(parent, items) {
  const known = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const wanted = items.map(([key, fresh]) => {
    fresh.dataset.key = key;
    const old = known.get(key);
    return old && old.isEqualNode(fresh) ? old : fresh;
  });
  const isSame = wanted.length === parent.children.length
    && wanted.every((node, index) => node === parent.children[index]);
  if (isSame) return;
  const focused = document.activeElement;
  const key = parent.contains(focused) ? focused.closest("[data-key]")?.dataset.key : undefined;
  parent.replaceChildren(...wanted);
  if (key !== undefined && document.activeElement !== focused) {
    const row = wanted.find((node) => node.dataset.key === key);
    row?.querySelector("button")?.focus();
  }
}

// ---- asking

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (state.token) headers.set("authorization", `Bearer ${state.token}`);
  // The round waits for its answers: one that never comes must not end it.
  const signal = AbortSignal.timeout(ANSWER_MS);
  const response = await fetch(path, { ...options, headers, signal, cache: "no-store", credentials: "omit" });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Refused(response.status, problem.detail || `the service answered ${response.status}`);
}

async function get(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== "" && value !== undefined) query.set(key, value);
  }
  const text = query.toString();
  const response = await ask(API + path + (text ? `?${text}` : ""));
  return response.json();
}

async function post(path, body) {
  const options = { method: "POST" };
  if (body !== undefined) {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(body);
  }
  const response = await ask(API + path, options);
  return response.json();
}

const coversAll = () => state.may.tenant_id === null;
const mayChange = () => state.may.scope === "admin" && coversAll();

// ---- state

function tile(name, value, kind = "") {
  return el("div", { className: `tile ${kind}`.trim() }, el("dt", {}, name), el("dd", {}, value));
}

function showState(status) {
  const kafka = status.kafka;
  const source = kafka ? `Kafka, ${kafka.state}` : "HTTP";
  // What all tenants do together is missing for a token of one of them.
  const all = status.lag !== undefined;
  const lag = all && status.lag.seconds > 1
    ? `${whole(status.lag.records)} (${Math.round(status.lag.seconds)} s)`
    : whole(status.lag?.records ?? 0);
  const version = status.active_version ? status.active_version.replace(/^.*-/, "") : "none";
  const running = status.status === "running";
  const firing = status.alerts_firing;
  show(
    byId("state"),
    tile("State", status.status, running ? "good" : "bad"),
    tile("Source", source, kafka && kafka.state !== "connected" ? "bad" : ""),
    tile("Learned", whole(status.model_version)),
    tile("Version", version),
    ...(all ? [
      tile("Lag", lag),
      tile("Last event", moment(status.last_event)),
      tile("Last batch", moment(status.last_update)),
      tile("Last save", moment(status.last_save)),
      tile("Dead letters", whole(status.dead_letters_total)),
      tile("Alerts", whole(firing), firing > 0 ? "bad" : ""),
    ] : []),
  );
  if (status.trouble) say(`Learning is held up: ${status.trouble}`, true);
  const uptime = ago(new Date(Date.now() - 1000 * status.uptime_seconds).toISOString());
  byId("footer").textContent =
    `online-learning ${status.version}, strategy ${status.strategy}, started ${uptime}`;
}

function showEmpty(isEmpty) {
  byId("empty").hidden = !isEmpty;
  for (const node of document.querySelectorAll("[data-learned]")) node.hidden = isEmpty;
  const event = {
    agent_name: "ReActAgent",
    task_type: "code_review",
    status: "success",
    latency_ms: 1850,
  };
  byId("empty-curl").textContent =
    asCommand("POST", "outcomes?wait=true", event, { ...(state.tenant && { tenant_id: state.tenant }) });
}

function asCommand(method, path, body, more = {}) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  // With a body curl posts by itself.
  const flags = method === "POST" ? "-s" : `-s -X ${method}`;
  const lines = [`curl ${flags} ${quoted(`${location.origin}${API}${path}`)}`];
  if (state.token) lines.push("-H \"authorization: Bearer $TOKEN\"");
  lines.push("-H 'content-type: application/json'");
  lines.push(`-d ${quoted(JSON.stringify({ ...body, ...more }))}`);
  return lines.join(" \\\n  ");
}

// ---- what can be chosen

function choices(select, values, first) {
  const options = values.map((value) => el("option", { value }, value));
  if (first !== undefined) options.unshift(el("option", { value: "" }, first));
  const chosen = select.value;
  if (![...options].some((option) => option.value === chosen) && chosen) {
    options.push(el("option", { value: chosen }, chosen));
  }
  if (document.activeElement !== select) {
    show(select, ...options);
    select.value = chosen;
  }
}

async function loadCatalog() {
  const catalog = await get("catalog", { tenant_id: state.tenant });
  state.may = catalog.caller;
  state.contextTypes = catalog.context_types;
  const tenants = catalog.tenants;
  byId("tenant-field").hidden = tenants.length < 2;
  if (!byId("tenant").value && tenants.length > 0) {
    const chosen = tenants.includes("default") ? "default" : tenants[0];
    show(byId("tenant"), el("option", { value: chosen }, chosen));
    byId("tenant").value = chosen;
    if (chosen !== "default" && coversAll()) state.tenant = chosen;
  }
  choices(byId("tenant"), tenants);
  choices(byId("task"), catalog.task_types, "all");
  show(byId("task-types"), ...catalog.task_types.map((value) => el("option", { value })));
  for (const node of document.querySelectorAll("[data-all-tenants]")) node.hidden = !coversAll();
  byId("save").hidden = !mayChange();
}

// ---- agents

// A range of shares and a dot among them; what it says must stand beside it as text.
function rangeBar(low, high, at) {
  const bar = el("div", { className: "bar" });
  bar.setAttribute("aria-hidden", "true");
  const range = el("span", { className: "range" });
  range.style.left = percent(low, 2).replace(" ", "");
  range.style.width = percent(high - low, 2).replace(" ", "");
  const dot = el("span", { className: "dot" });
  dot.style.left = percent(at, 2).replace(" ", "");
  bar.append(range, dot);
  return bar;
}

function cell(label, content, className = "") {
  const node = el("td", { role: "cell", className }, content);
  node.dataset.label = label;
  return node;
}

function agentRow(row) {
  const colour = row.plot_index === null || row.plot_index === undefined ? "none" : row.plot_index;
  const swatch = el("span", { className: `swatch c${colour}` });
  swatch.setAttribute("aria-hidden", "true");
  const name = el("th", { role: "rowheader", scope: "row", className: "name" }, swatch, el("bdi", {}, row.agent_name));
  if (row.is_other) name.append(el("span", { className: "tag" }, "past the cap"));
  if (row.unbeaten) {
    const title = "No other agent here beats it in expected success, latency and cost at once";
    name.append(el("span", { className: "tag unbeaten", title }, "unbeaten"));
  }
  const known = typeof row.expected_success === "number";
  const [low, high] = row.interval || [row.expected_success, row.expected_success];
  const expected = known
    ? el("div", { className: "expected" }, rangeBar(low, high, row.expected_success), el("span", {}, percent(row.expected_success)))
    : "–";
  const interval = row.interval ? row.interval.map((end) => (100 * end).toFixed(0)).join(" – ") + " %" : "–";
  const shown = (value, unit) =>
    (typeof value === "number" ? unit(value) : el("span", { className: "hint" }, "unknown"));
  return el(
    "tr",
    { role: "row" },
    name,
    cell("Expected success", expected, "wide"),
    cell("Interval", interval, "num"),
    cell("Likely best", known ? chance(row.probability_best) : "–", "num"),
    cell("Success rate", row.samples > 0 ? percent(row.success_rate) : "–", "num"),
    cell("Samples", whole(row.samples), "num"),
    cell("Unreported", row.decisions ? percent(row.decisions_missing / row.decisions) : "–", "num"),
    cell("Latency", shown(row.expected_latency_ms, milliseconds), "num"),
    cell("95 % below", shown(row.expected_latency_p95_ms, milliseconds), "num"),
    cell("Cost", shown(row.expected_cost, amount), "num"),
  );
}

async function loadAgents() {
  const rows = await get("agents/performance", { tenant_id: state.tenant, task_type: state.task, outlook: true });
  const order = (row) => (typeof row.expected_success === "number" ? row.expected_success : -1);
  rows.sort((a, b) => order(b) - order(a));
  showKeyed(
    byId("leaders").tBodies[0],
    rows.map((row) => [`${row.is_other ? "other " : "agent "}${row.agent_name}`, agentRow(row)]),
  );
  byId("leaders").hidden = rows.length === 0;
  byId("leaders-none").hidden = rows.length > 0;
}

// ---- plots

async function loadPlot(image) {
  const figure = image.closest("figure");
  if (figure.hidden) return;
  const style = getComputedStyle(figure);
  const inner = figure.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const query = new URLSearchParams({
    theme: dark.matches ? "dark" : "light",
    width: Math.min(1200, Math.max(280, Math.round(inner))),
  });
  if (state.tenant) query.set("tenant_id", state.tenant);
  if (state.task) query.set("task_type", state.task);
  if (state.hours) query.set("hours", state.hours);
  const response = await ask(`/plots/${image.dataset.plot}.svg?${query}`);
  const url = URL.createObjectURL(await response.blob());
  const old = image.src;
  await new Promise((resolve) => {
    image.onload = image.onerror = resolve;
    image.src = url;
  });
  if (old) URL.revokeObjectURL(old);
}

async function loadPlots(key) {
  const now = Date.now();
  // A sample may come a moment after what it shows: look once more then.
  if (key === state.plottedKey && state.plottedAgain) return;
  if (now - state.plottedAt < PLOT_MS && key.split("\n")[1] === state.plottedKey.split("\n")[1]) return;
  state.plottedAgain = key === state.plottedKey;
  state.plottedAt = now;
  state.plottedKey = key;
  await Promise.all([...document.querySelectorAll("[data-plot]")].map(loadPlot));
}

// ---- versions

function versionItem(version) {
  const metrics = version.metrics || {};
  const score = typeof metrics.model_score === "number" ? `, score ${percent(metrics.model_score)}` : "";
  const item = el(
    "li",
    { className: version.status },
    el(
      "div",
      { className: "what" },
      el("strong", {}, `Version ${version.version_number}`),
      el("span", { className: `tag ${version.status}` }, version.status),
    ),
    el("div", { className: "hint" }, moment(version.created_at), `, ${whole(version.training_samples)} outcomes${score}`),
  );
  if (version.parent_version) {
    const number = version.parent_version.replace(/^.*-/, "");
    item.append(el("div", { className: "hint" }, `goes on from version ${number}`));
  }
  if (version.status === "deprecated" && mayChange()) {
    const button = el("button", { type: "button" }, "Activate");
    button.dataset.activate = version.id;
    button.dataset.number = version.version_number;
    button.setAttribute("aria-label", `Activate version ${version.version_number}`);
    item.append(button);
  }
  return item;
}

async function loadVersions() {
  if (!coversAll()) return;
  const { versions } = await get("models/agent_selection/versions", { limit: 20 });
  showKeyed(byId("versions"), versions.map((version) => [version.id, versionItem(version)]));
  byId("versions-none").hidden = versions.length > 0;
}

function confirmActivation(id, number) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = `Activate version ${number}?`;
  byId("confirm-text").textContent =
    `The model goes on from version ${number}. Outcomes learned since then no longer count; they stay in the journal.`;
  dialog.dataset.version = id;
  dialog.showModal();
}

async function activate() {
  const id = byId("confirm").dataset.version;
  byId("confirm").close();
  await attempt(async () => {
    const answer = await post(`models/agent_selection/versions/${encodeURIComponent(id)}/activate`);
    say(answer.message);
    state.seen = {};
    await round();
  });
}

// ---- sources

function showSources(status) {
  if (!status.sources) return;
  const cell = (text, more = {}) => el("td", { role: "cell", ...more }, text);
  const number = (label, value) => {
    const node = cell(whole(value), { className: "num" });
    node.dataset.label = label;
    return node;
  };
  const rows = status.sources.map((source) => {
    const last = el("td", { role: "cell" }, moment(source.last_event));
    last.dataset.label = "Last";
    const name = el("th", { role: "rowheader", scope: "row" }, source.name);
    const row = el(
      "tr",
      { role: "row" },
      name,
      number("Accepted", source.accepted),
      number("Known already", source.duplicates),
      number("Refused", source.rejected),
      number("Without task type", source.without_task_type),
      last,
    );
    return [source.name, row];
  });
  showKeyed(document.querySelector("#sources tbody"), rows);
}

async function loadRefusals() {
  if (!coversAll()) return;
  const { dead_letters: letters } = await get("dead-letters", { limit: 5 });
  const item = (letter) => el("li", {}, el("strong", {}, letter.source), ` ${letter.code}: ${letter.detail} `, moment(letter.created_at));
  showKeyed(byId("refusals"), letters.map((letter) => [letter.id, item(letter)]));
}

function showConnect() {
  const base = location.origin;
  byId("connect-token").hidden = !state.token;
  const otlp = [`export OTEL_EXPORTER_OTLP_ENDPOINT=${base}`, "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"];
  const python = [
    `export ONLINE_LEARNING_URL=${base}`,
    "curl -s \"$ONLINE_LEARNING_URL/client/online_learning.py\" > online_learning.py",
    "python3 - <<'END'",
    "from online_learning import decide",
    "with decide(\"code_review\", candidates=[\"ReActAgent\", \"PlanExecuteAgent\"]) as d:",
    "    print(d.agent)",
    "END",
  ];
  const litellm = [
    "litellm_settings:",
    "  callbacks: [\"online_learning\"]",
    "callback_settings:",
    "  online_learning:",
    "    callback_type: generic_api",
    `    endpoint: ${base}${API}outcomes/litellm`,
    `    headers: {${state.token ? "Authorization: Bearer TOKEN" : ""}}`,
    "    max_retries: 5",
    "    retry_delay: 1",
  ];
  if (state.token) {
    otlp.push("export OTEL_EXPORTER_OTLP_HEADERS=\"authorization=Bearer%20$TOKEN\"");
    python.unshift("export ONLINE_LEARNING_TOKEN=\"$TOKEN\"");
  }
  const tenant = state.tenant && { tenant_id: state.tenant };
  const question = { task_type: "code_review", candidates: ["ReActAgent", "PlanExecuteAgent"], decision_id: "task-1" };
  const outcome = { agent_name: "ReActAgent", status: "success", event_id: "run-1", decision_id: "task-1" };
  byId("connect-otlp").textContent = otlp.join("\n");
  byId("connect-python").textContent = python.join("\n");
  byId("connect-litellm").textContent = litellm.join("\n");
  byId("connect-curl").textContent = [
    asCommand("POST", "predict/agent-selection", question, tenant),
    asCommand("POST", "outcomes?wait=true", outcome, tenant),
    asCommand("POST", "feedback", { event_id: "run-1", quality_score: 0.75 }, tenant),
  ].join("\n");
}

// ---- budget

async function loadBudget() {
  const tenant = state.tenant || state.may.tenant_id || "default";
  const { budgets } = await get("budgets");
  const budget = budgets.find((one) => one.tenant_id === tenant);
  byId("budget").hidden = !budget;
  byId("budget-none").hidden = Boolean(budget);
  const legend = budget ? `; the bar is what was spent, the dot how much of the ${budget.period} has gone` : "";
  show(byId("budget-hint"), el("span", {}, "of ", el("bdi", {}, tenant), legend));
  if (!budget) {
    const body = { amount: 200, period: "month" };
    byId("budget-curl").textContent = asCommand("PUT", `budgets/${encodeURIComponent(tenant)}`, body);
    return;
  }
  const spent = Math.min(1, budget.share_spent);
  const bar = rangeBar(0, spent, budget.share_elapsed);
  bar.classList.toggle("bad", budget.exhausted);
  const until = new Date(budget.period_end);
  const ends = until.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  show(
    byId("budget"),
    bar,
    el(
      "dl",
      { className: "tiles plain" },
      tile("Amount", `${amount(budget.amount)} per ${budget.period}`),
      tile("Spent", amount(budget.spent), budget.exhausted ? "bad" : ""),
      tile("Share spent", percent(budget.share_spent), budget.exhausted ? "bad" : ""),
      tile(`Share of the ${budget.period} gone`, percent(budget.share_elapsed)),
      tile("Ends", ends),
    ),
  );
}

// ---- alerts

async function loadAlerts() {
  if (!coversAll()) return;
  const { alerts } = await get("alerts", { limit: 12 });
  const item = (alert) => {
    const firing = alert.status === "firing";
    const kind = firing ? alert.severity : "resolved";
    return el(
      "li",
      { className: kind },
      el("span", { className: `tag ${kind}` }, firing ? alert.severity : "resolved"),
      el("div", {}, el("bdi", {}, alert.message), el("div", { className: "hint" },
        firing ? "since " : "resolved ", moment(firing ? alert.since : alert.resolved_at), `, ${alert.rule}`)),
    );
  };
  alerts.sort((a, b) => (a.status === "firing" ? 0 : 1) - (b.status === "firing" ? 0 : 1));
  showKeyed(byId("alerts"), alerts.map((alert) => [alert.id + alert.status, item(alert)]));
  byId("alerts-none").hidden = alerts.length > 0;
}

// ---- decisions

function decisionRow(decision) {
  const outcome = decision.outcome;
  const button = el("button", { type: "button" }, "Explain");
  button.dataset.explain = decision.decision_id;
  button.setAttribute("aria-label", `Explain the decision of ${new Date(decision.timestamp).toLocaleTimeString()}`);
  const why = !decision.explore ? "best known" : decision.explored ? "explored" : "best known";
  return el(
    "tr",
    { role: "row" },
    cell("Time", moment(decision.timestamp)),
    cell("Task type", el("bdi", {}, decision.task_type ?? "any"), "wide task"),
    cell("Chosen", el("bdi", {}, decision.chosen ?? "nobody"), "wide strong"),
    cell("Probability", decision.propensity === null ? "–" : chance(decision.propensity), "num"),
    cell("Why so", el("span", { className: `tag ${decision.explored ? "explored" : ""}`.trim() }, why)),
    cell("Outcome", outcome ? el("span", { className: `tag ${outcome.status}` }, outcome.status) : "none yet", "plain"),
    cell("", button, "wide"),
  );
}

async function loadDecisions() {
  const { decisions } = await get("decisions", { tenant_id: state.tenant, limit: 10 });
  const rows = decisions.map((decision) => [decision.decision_id, decisionRow(decision)]);
  showKeyed(byId("decisions").tBodies[0], rows);
  byId("decisions").hidden = rows.length === 0;
  byId("decisions-none").hidden = rows.length > 0;
}

async function explain(id) {
  const decision = await get(`decisions/${encodeURIComponent(id)}`, { tenant_id: state.tenant });
  const body = byId("explanation-body");
  const context = Object.entries(decision.context || {}).map(([key, value]) => `${key} = ${value}`);
  const facts = el("dl", { className: "facts" });
  const fact = (name, value) => facts.append(el("dt", {}, name), el("dd", {}, el("bdi", {}, value)));
  fact("Asked", new Date(decision.timestamp).toLocaleString());
  fact("Task type", decision.task_type ?? "any");
  fact("Context", context.length > 0 ? context.join(", ") : "none");
  fact("Chosen", decision.chosen ?? "nobody");
  fact("Strategy", decision.strategy);
  fact("Id", decision.decision_id);
  if (decision.outcome) fact("Outcome", `${decision.outcome.status}, reward ${decision.outcome.reward}`);
  const table = el("table", {}, el("thead", {}, el("tr", {},
    el("th", { scope: "col" }, "Who competed"),
    el("th", { scope: "col", className: "num" }, "Expected then"),
    el("th", { scope: "col", className: "num" }, "Probability then"))));
  const rows = el("tbody");
  const competed = [...decision.candidates].sort((a, b) => b.propensity - a.propensity);
  for (const candidate of competed.slice(0, 20)) {
    rows.append(el("tr", {},
      el("th", { scope: "row" }, el("bdi", {}, candidate.agent_name)),
      el("td", { className: "num" }, percent(candidate.expected_success)),
      el("td", { className: "num" }, chance(candidate.propensity))));
  }
  table.append(rows);
  const reasons = el("div", { className: "reasons" }, el("h3", {}, "What the model says of them now"));
  const agents = decision.explain?.agents || {};
  for (const candidate of competed.slice(0, 20)) {
    const explanation = agents[candidate.agent_name];
    if (!explanation) continue;
    reasons.append(explanationOf(candidate.agent_name, explanation, candidate.agent_name === decision.chosen));
  }
  body.replaceChildren(facts, table, reasons);
  byId("explanation").showModal();
}

function explanationOf(name, explanation, open) {
  const parts = el("ul", { className: "parts" });
  for (const part of explanation.parts) {
    let text = "";
    if (typeof part.log_odds === "number") {
      text = `${part.log_odds >= 0 ? "+" : "−"}${Math.abs(part.log_odds).toFixed(2)} ± ${part.deviation.toFixed(2)}`;
    } else if (typeof part.reward === "number") {
      text = `${amount(part.reward)} of ${amount(part.reward + part.missed)}`;
    }
    const rests = part.outcomes > 0 ? `${whole(part.outcomes)} outcomes` : "";
    parts.append(el("li", {}, el("bdi", {}, part.name), el("span", { className: "num" }, text),
      el("span", { className: "num hint" }, rests)));
  }
  const details = el("details", { open },
    el("summary", {}, el("bdi", {}, name), ` ${percent(explanation.expected_success)}`), parts);
  if ((explanation.weights || []).length > 0) {
    const weights = explanation.weights.map((copy) => `${copy.assumes} ${percent(copy.weight, 0)}`);
    details.append(el("p", { className: "hint" }, `Copies of the model: ${weights.join(", ")}`));
  }
  return details;
}

// ---- trying

// What a score is made of, 1 is best.
const PARTS = { success: "Success", quality: "Quality", latency: "Speed", cost: "Price" };

function question() {
  const form = byId("try");
  const context = {};
  for (const line of form.context.value.split("\n")) {
    const at = line.indexOf("=");
    if (at < 1) continue;
    const [key, text] = [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    if (key === "" || text === "") continue;
    // 3.10 may be a number or a version: what outcomes said of the key tells.
    const type = state.contextTypes[key];
    if (type === "boolean" && /^(true|false)$/i.test(text)) context[key] = /^true$/i.test(text);
    else if (type === "number" && /^-?\d+(\.\d+)?$/.test(text)) context[key] = Number(text);
    else context[key] = text;
  }
  const body = {};
  if (form.task_type.value.trim()) body.task_type = form.task_type.value.trim();
  if (Object.keys(context).length > 0) body.context = context;
  body.top_k = Number(form.top_k.value) || 3;
  if (!form.explore.checked) body.explore = false;
  if (form.objective.value) body.objective = form.objective.value;
  if (state.tenant) body.tenant_id = state.tenant;
  return body;
}

function showQuestion() {
  byId("try-curl").textContent = asCommand("POST", "predict/agent-selection", question());
}

async function tryPrediction() {
  const answer = await post("predict/agent-selection", question());
  const parts = Object.keys(PARTS).filter((part) => part in (answer.recommendations[0]?.parts ?? {}));
  const table = el("table", {}, el("thead", {}, el("tr", {},
    el("th", { scope: "col", className: "num" }, "Rank"),
    el("th", { scope: "col" }, "Agent"),
    el("th", { scope: "col", className: "num" }, "Score"),
    ...parts.map((part) => el("th", { scope: "col", className: "num" }, PARTS[part])),
    el("th", { scope: "col", className: "num" }, "Expected"),
    el("th", { scope: "col", className: "num" }, "Likely first"))));
  const rows = el("tbody");
  for (const row of answer.recommendations) {
    rows.append(el("tr", {},
      el("td", { className: "num" }, String(row.rank)),
      el("th", { scope: "row" }, el("bdi", {}, row.agent_name)),
      el("td", { className: "num" }, percent(row.score)),
      ...parts.map((part) => el("td", { className: "num" }, percent(row.parts[part]))),
      el("td", { className: "num" }, percent(row.expected_success)),
      el("td", { className: "num" }, chance(row.propensity))));
  }
  table.append(rows);
  const empty = answer.recommendations.length === 0;
  byId("try-answer").replaceChildren(
    empty ? el("p", { className: "none" }, "No agent is known yet.") : table,
    el("p", { className: "hint" }, `Decision ${answer.decision_id}`),
  );
  await loadDecisions();
}

// ---- going round

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) needToken();
    say(error instanceof Refused ? error.message : "The service does not answer; trying again.", true);
  }
}

function needToken() {
  byId("token-button").classList.add("main");
}

async function round() {
  const status = await get("status");
  const before = state.status;
  state.status = status;
  const shown = `${state.tenant}\n${state.task}\n${state.hours}\n${dark.matches}`;
  const model = `${status.model_version} ${status.active_version}`;
  const due = (name, key, seconds) => {
    const seen = state.seen[name];
    const stale = !seen || seen.key !== key || Date.now() - seen.at > 1000 * seconds;
    if (stale) state.seen[name] = { key, at: Date.now() };
    return stale;
  };
  showState(status);
  if (due("catalog", `${model}${state.tenant}`, 60)) await loadCatalog();
  showEmpty(status.model_version === 0);
  showSources(status);
  showConnect();
  const work = [];
  if (due("agents", model + shown, 30)) work.push(loadAgents());
  if (due("versions", `${status.active_version}${status.last_save}`, 30)) work.push(loadVersions());
  if (due("alerts", String(status.alerts_firing), 10)) work.push(loadAlerts());
  if (due("refusals", String(status.dead_letters_total), 30)) work.push(loadRefusals());
  if (due("budget", model + shown, 10)) work.push(loadBudget());
  work.push(loadDecisions());
  await Promise.all(work);
  await loadPlots(`${model}\n${shown.replaceAll("\n", "\t")}`);
  const notice = byId("notice");
  if (notice.classList.contains("bad") && !status.trouble) say("");
  byId("token-button").classList.toggle("main", false);
  if (before && before.active_version !== status.active_version && status.active_version) {
    say(`Version ${status.active_version.replace(/^.*-/, "")} is active.`);
  }
}

let isGoing = false;

async function poll() {
  if (!isGoing && !document.hidden) {
    isGoing = true;
    await attempt(round);
    isGoing = false;
  }
  setTimeout(poll, POLL_MS);
}

// Shows what was chosen at once.
async function again() {
  state.seen = {};
  state.plottedAt = 0;
  showQuestion();
  if (!isGoing) {
    isGoing = true;
    await attempt(round);
    isGoing = false;
  }
}

async function copy(button) {
  const text = byId(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it";
    getSelection().selectAllChildren(byId(button.dataset.copy));
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function listen() {
  byId("tenant").addEventListener("change", (event) => {
    state.tenant = event.target.value;
    byId("task").value = "";
    state.task = "";
    again();
  });
  byId("task").addEventListener("change", (event) => {
    state.task = event.target.value;
    again();
  });
  byId("hours").addEventListener("change", (event) => {
    state.hours = event.target.value;
    again();
  });
  byId("try").addEventListener("input", showQuestion);
  byId("try").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(tryPrediction);
  });
  byId("save").addEventListener("click", () => attempt(async () => {
    const answer = await post("models/save");
    say(answer.message);
    await loadVersions();
  }));
  byId("confirm-yes").addEventListener("click", activate);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.activate) confirmActivation(button.dataset.activate, button.dataset.number);
    if (button.dataset.explain) attempt(() => explain(button.dataset.explain));
    if (button.dataset.copy) copy(button);
    if ("close" in button.dataset) button.closest("dialog").close();
  });
  byId("token-button").addEventListener("click", () => {
    byId("token").value = state.token;
    byId("token-dialog").showModal();
  });
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useToken(byId("token").value.trim());
  });
  byId("token-forget").addEventListener("click", () => useToken(""));
  dark.addEventListener("change", again);
  let resized;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => {
      state.plottedAt = 0;
      state.plottedKey = "";
      attempt(round);
    }, 300);
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) again(); });
}

function useToken(token) {
  state.token = token;
  if (token) sessionStorage.setItem(TOKEN_KEY, token);
  else sessionStorage.removeItem(TOKEN_KEY);
  byId("token").value = "";
  byId("token-dialog").close();
  // It may be another tenant's.
  state.tenant = "";
  byId("tenant").replaceChildren();
  again();
}

listen();
showQuestion();
poll();
