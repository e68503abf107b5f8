/**
 * Asks online-learning which agent to take, and reports what came of it.
 *
 *     const answer = await decide("code_review", { complexity: "high" }, { candidates: ["a", "b"] }, async (d) => {
 *       const answer = await agents[d.agent](task);
 *       [d.quality, d.cost] = [grade(answer), answer.usd]; // optional
 *       return answer;
 *     });
 *
 * ONLINE_LEARNING_URL and ONLINE_LEARNING_TOKEN name the service. While it is away the agent is `default`, or the
 * first candidate; outcomes wait, are sent in the background, and count once. Only a wrong question throws (TypeError).
 */

export type Status = "success" | "partial" | "failure" | "timeout" | "cancelled" | "pending";
export type Fields = Record<string, unknown>;

export interface Options {
  /** The service; ONLINE_LEARNING_URL unless given. */
  url?: string;
  token?: string;
  tenant?: string;
  /** Longest wait for an answer. */
  timeoutMs?: number;
}

export interface Question extends Fields {
  candidates?: readonly string[];
  /** The agent where none is answered; the first candidate unless given, else an empty name. */
  default?: string;
}

/** A task, which `agent` is to do. Latency and status are those of the block, unless they are set. */
export interface Decision {
  readonly agent: string;
  readonly decisionId?: string;
  /** The whole answer; empty where there was none. */
  readonly answer: Fields;
  /** Why the agent is the default. */
  readonly fallback?: string;
  status?: Status;
  quality?: number;
  cost?: number;
  latencyMs?: number;
}

const [QUEUE_MAX, BATCH_MAX, PAUSE_MIN_MS, PAUSE_MAX_MS, FLUSH_MS] = [10_000, 500, 100, 30_000, 5_000] as const;

type Process = { env?: Record<string, string | undefined>; on?(event: "beforeExit", listener: () => void): void };
const host = globalThis as { process?: Process };

/** A service. */
export class Client {
  /** Outcomes that never arrived: the queue was full, or they were refused. */
  lost = 0;
  readonly #url: string;
  readonly #headers: Record<string, string>;
  readonly #tenant?: string;
  readonly #timeoutMs: number;
  #queue: string[] = [];
  #batchMax: number = BATCH_MAX;
  #isSending = false;
  #flushing = 0;
  /** Ends a pause before its time. */
  #wake: () => void = () => {};

  constructor(options: Options = {}) {
    const env = host.process?.env ?? {};
    const token = options.token ?? env["ONLINE_LEARNING_TOKEN"];
    this.#url = (options.url ?? env["ONLINE_LEARNING_URL"] ?? "http://127.0.0.1:8000").replace(/\/+$/, "");
    this.#headers = token ? { authorization: `Bearer ${token}` } : {};
    if (options.tenant !== undefined) this.#tenant = options.tenant;
    this.#timeoutMs = options.timeoutMs ?? 2_000;
    let isFlushed = false; // It is asked again after all that it waits for.
    host.process?.on?.("beforeExit", () => void (isFlushed || ((isFlushed = true), this.flush())));
  }

  /** Runs a block in which an agent works, and reports what came of it. */
  async decide<Result>(
    taskType: string | undefined,
    context: Fields | undefined,
    question: Question,
    block: (decision: Decision) => Promise<Result> | Result,
  ): Promise<Result> {
    const { default: standIn, ...fields } = question;
    const known = { task_type: taskType, context, tenant_id: this.#tenant };
    // An id of our own: a question that is asked again has the same answer.
    const asked = { decision_id: crypto.randomUUID(), top_k: 1, ...known, ...fields };
    const decision = await this.#ask(asked, standIn ?? question.candidates?.[0] ?? "");
    const started = performance.now();
    let status: Status = "success";
    try {
      return await block(decision);
    } catch (error) {
      status = statusOf(error);
      throw error;
    } finally {
      const took = performance.now() - started;
      if (decision.agent) this.report({
        ...known, agent_name: decision.agent, decision_id: decision.decisionId, status: decision.status ?? status,
        latency_ms: decision.latencyMs ?? took, quality_score: decision.quality, cost_estimate: decision.cost,
      });
    }
  }

  async #ask(question: Fields, standIn: string): Promise<Decision> {
    let fallback: string;
    const body = JSON.stringify(question);
    try {
      const [status, answer] = await this.#post("predict/agent-selection", body, "application/json");
      const best = (answer["recommendations"] as { agent_name: string }[] | undefined)?.[0];
      if (status === 200 && best) return { agent: best.agent_name, decisionId: String(answer["decision_id"]), answer };
      fallback = String(answer["detail"] ?? "no agent is known");
      if ([400, 404, 422].includes(status)) throw new TypeError(fallback, { cause: "answered" });
    } catch (error) {
      if (error instanceof TypeError && error.cause === "answered") throw error;
      fallback = `no answer: ${error}`;
    }
    return { agent: standIn, answer: {}, fallback };
  }

  /** Takes an outcome event, to be sent soon. It gets an identity where it has none. */
  report(event: Fields): void {
    if (this.#queue.length >= QUEUE_MAX) return void (this.lost += 1);
    this.#queue.push(JSON.stringify({ event_id: crypto.randomUUID(), tenant_id: this.#tenant, ...event }));
    if (!this.#isSending) void this.#send();
  }

  /** Waits until no outcome waits to be sent; whether that is so. Also done before the process ends. */
  async flush(timeoutMs: number = FLUSH_MS): Promise<boolean> {
    this.#flushing += 1;
    this.#wake();
    const deadline = performance.now() + timeoutMs;
    while (this.#queue.length > 0 && performance.now() < deadline) await pause(20).done;
    this.#flushing -= 1;
    return this.#queue.length === 0;
  }

  async #send(): Promise<void> {
    let pauseMs: number = PAUSE_MIN_MS;
    this.#isSending = true;
    while (this.#queue.length > 0) {
      const batch = this.#queue.slice(0, this.#batchMax);
      const refused = await this.#refused(batch);
      if (refused !== undefined) {
        this.lost += refused;
        this.#queue.splice(0, batch.length);
        pauseMs = PAUSE_MIN_MS;
        continue;
      }
      const waiting = pause(this.#flushing > 0 ? PAUSE_MIN_MS : pauseMs, true);
      this.#wake = waiting.end;
      await waiting.done;
      pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS);
    }
    this.#isSending = false;
  }

  /** How many of a batch were refused; undefined where it has to be sent again. */
  async #refused(batch: string[]): Promise<number | undefined> {
    try {
      const [status, answer] = await this.#post("outcomes", batch.join("\n"), "application/x-ndjson");
      if ((status >= 200 && status < 300) || "rejected_total" in answer) return Number(answer["rejected_total"] ?? 0);
      if (status === 413 && batch.length > 1) this.#batchMax = Math.ceil(batch.length / 2);
      else if ([400, 404, 405, 413, 415, 422].includes(status)) return batch.length;
    } catch {} // It is away.
    return undefined;
  }

  async #post(path: string, body: string, media: string): Promise<[number, Fields]> {
    const headers = { "content-type": media, ...this.#headers };
    const send = () => fetch(`${this.#url}/api/learning/${path}`, { method: "POST", body, headers, signal });
    const signal = AbortSignal.timeout(this.#timeoutMs);
    // A kept connection may have been closed meanwhile.
    const response = await send().catch((error) => (signal.aborted ? Promise.reject(error) : send()));
    return [response.status, ((await response.json()) ?? {}) as Fields];
  }
}

/** A pause; one that is idle keeps no process alive. */
function pause(ms: number, isIdle = false): { done: Promise<void>; end: () => void } {
  let end = () => {};
  const done = new Promise<void>((resolve) => {
    end = resolve;
    const timer: unknown = setTimeout(resolve, ms);
    if (isIdle) (timer as { unref?(): void }).unref?.();
  });
  return { done, end };
}

function statusOf(error: unknown): Status {
  const name = error instanceof Error ? `${error.name} ${error.constructor.name}` : "";
  if (/abort|cancel/i.test(name)) return "cancelled";
  return /timeout/i.test(name) ? "timeout" : "failure";
}

let standard: Client | undefined;

/** `Client.decide` of the service that the environment names. */
export const decide: Client["decide"] = (taskType, context, question, block) =>
  (standard ??= new Client()).decide(taskType, context, question, block);
