// The TypeScript client as its users meet it: a service, and one that is away.
import { Client, decide } from "./online_learning.js";

const url = process.argv[2]!;

function check(holds: boolean, what: unknown): void {
  if (!holds) throw new Error(JSON.stringify(what));
}

async function read(path: string): Promise<any> {
  return (await fetch(`${url}/api/learning/${path}`)).json();
}

/** 1,000 decisions, 1,000 joined outcomes. */
async function decidesAndReports(): Promise<void> {
  const client = new Client({ url });
  const before = (await read("metrics")).decisions;
  const took: number[] = [];
  for (let number = 0; number < 1_000; number += 1) {
    const begun = performance.now();
    await client.decide("review", { size: number % 3 }, { candidates: ["a", "b"] }, (d) => {
      took.push(performance.now() - begun);
      check(d.fallback === undefined && ["a", "b"].includes(d.agent), d);
      [d.quality, d.cost] = [0.5, 0.01];
    });
  }
  check(await client.flush(), "it is all sent");
  await fetch(`${url}/api/learning/outcomes?wait=true`, { method: "POST" });
  const { recorded, with_outcome } = (await read("metrics")).decisions;
  check(recorded - before.recorded === 1_000 && with_outcome - before.with_outcome === 1_000, { recorded, with_outcome });
  check(client.lost === 0, client.lost);
  console.log(`a decision takes ${took.sort((a, b) => a - b)[500]!.toFixed(3)} ms (p50)`);
}

async function tellsHowItEnded(): Promise<void> {
  const client = new Client({ url, tenant: "typed" });
  const ids: [string, string][] = [];
  for (const [error, status] of [
    [undefined, "success"],
    [new DOMException("too late", "TimeoutError"), "timeout"],
    [new Error("it broke"), "failure"],
  ] as const) {
    const asked = client.decide("t", {}, { candidates: ["a"] }, (d) => {
      ids.push([d.decisionId!, status]);
      if (error) throw error;
    });
    check((await asked.then(() => undefined, (raised) => raised)) === error, status);
  }
  check(await client.flush(), "it is all sent");
  for (const [id, status] of ids) {
    const { outcome } = await read(`decisions/${id}?tenant_id=typed`);
    check(outcome?.status === status, { status, outcome });
  }
  const wrong = client.decide("t", {}, { candidates: ["a"], nonsense: 1 }, () => {});
  check((await wrong.catch((error) => error)) instanceof TypeError, "it throws");
}

/** Nobody answers: the default, at once, and an end that is not held up for long. */
async function isAway(): Promise<void> {
  const client = new Client({ url: "http://127.0.0.1:1" });
  const begun = performance.now();
  const agents = [
    await client.decide("t", {}, { candidates: ["a", "b"] }, (d) => d.agent),
    await client.decide("t", {}, { default: "d" }, (d) => d.agent),
  ];
  check(agents.join() === "a,d" && performance.now() - begun < 1_000, agents);
  const isSent = await client.flush(200);
  check(!isSent && client.lost === 0, { isSent, lost: client.lost });
  for (let number = 0; number < 10_010; number += 1) client.report({ agent_name: "a", status: "success" });
  check(client.lost === 12, client.lost);
}

await decidesAndReports();
await tellsHowItEnded();
await decide("t", {}, { candidates: ["a"] }, (d) => check(d.fallback === undefined, "the environment names it"));
await isAway();
