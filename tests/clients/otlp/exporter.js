// The stock exporter of JavaScript, which sends JSON in chunks: 1,000 spans, and the same again.

import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { BatchSpanProcessor, InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-node";

const SPANS = 1000;
const url = process.argv[2];

async function counted(name) {
    const text = await (await fetch(`${url}/metrics`)).text();
    const start = `online_learning_${name}_total{source="otlp"} `;
    return Number(text.split("\n").find((line) => line.startsWith(start)).slice(start.length));
}

function check(what, actual, expected) {
    console.log(`${what}: ${actual}`);
    if (actual !== expected) throw new Error(`${what} is ${actual}, expected is ${expected}`);
}

const exporter = new OTLPTraceExporter({ url: `${url}/v1/traces` });
const kept = new InMemorySpanExporter();
const provider = new NodeTracerProvider({
    spanProcessors: [new BatchSpanProcessor(exporter, { maxQueueSize: 2 * SPANS }), new SimpleSpanProcessor(kept)],
});
const tracer = provider.getTracer("stock");
const [accepted, known] = [await counted("events_accepted"), await counted("events_duplicate")];
for (let number = 0; number < SPANS; number++) {
    const attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": `agent${number % 4}`,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.input.messages": "MARKER of what was asked",
    };
    tracer.startSpan("invoke_agent", { attributes }).end();
}
await provider.forceFlush();
// What was already under way when it was called is not waited for.
const deadline = Date.now() + 30_000;
while ((await counted("events_accepted")) < accepted + SPANS && Date.now() < deadline) {
    await new Promise((done) => setTimeout(done, 20));
}
check("JSON: accepted", (await counted("events_accepted")) - accepted, SPANS);
await new Promise((done, fail) => {
    exporter.export(kept.getFinishedSpans(), (result) => (result.code === 0 ? done() : fail(result.error)));
});
check("JSON: duplicates", (await counted("events_duplicate")) - known, SPANS);
check("JSON: accepted in all", (await counted("events_accepted")) - accepted, SPANS);
await provider.shutdown();
