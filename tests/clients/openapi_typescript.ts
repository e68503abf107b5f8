// Selects, reports and reads the decision with the types that openapi-typescript made.
import type { components } from "./schema.js";

type Schemas = components["schemas"];
const url = process.argv[2];

async function ask<Answer>(path: string, body?: object): Promise<Answer> {
  const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(`${url}/api/learning/${path}`, body && request);
  if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`);
  return (await answer.json()) as Answer;
}

const question: Schemas["PredictionRequest"] = { task_type: "review", candidates: ["a", "b"] };
const answer = await ask<Schemas["Recommendations"]>("predict/agent-selection", question);
const agent = answer.recommendations[0]!.agent_name;
const event: Schemas["OutcomeEvent"] = { agent_name: agent, status: "success", decision_id: answer.decision_id };
const report = await ask<Schemas["Received"]>("outcomes?wait=true", event);
const decision = await ask<Schemas["ExplainedDecision"]>(`decisions/${answer.decision_id}`);
if (report.accepted !== 1 || decision.chosen !== agent || decision.outcome?.status !== "success") {
  throw new Error(JSON.stringify({ report, decision }));
}
