"""The stock exporters of Python, as a team would set them up: 1,000 spans in each encoding, again, evaluations as log
records, and questions that share a trace with the agent's span."""

import sys

import requests
from opentelemetry import trace
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

SPANS = 1_000
TRACED = 50
url = sys.argv[1]


def counted(name, source="otlp"):
    line = next(
        line
        for line in requests.get(f"{url}/metrics").text.splitlines()
        if line.startswith(f'online_learning_{name}_total{{source="{source}"}} ')
    )
    return int(line.rsplit(" ", 1)[1])


def check(what, actual, expected):
    print(f"{what}: {actual}")
    assert actual == expected, f"{what} is {actual}, expected is {expected}"


def agent_span(tracer, agent, task_type):
    attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": agent,
        "gen_ai.input.messages": "MARKER of what was asked",
        "gen_ai.output.messages": ["MARKER of what was answered"],
    }
    if task_type:
        attributes["task_type"] = task_type
    return tracer.start_as_current_span(f"invoke_agent {agent}", attributes=attributes)


def spans():
    """Each encoding learns all of its spans, and none of them again."""
    for compression in Compression.NoCompression, Compression.Gzip:
        before, known = counted("events_accepted"), counted("events_duplicate")
        exporter = OTLPSpanExporter(f"{url}/v1/traces", compression=compression)
        kept = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=2 * SPANS))
        provider.add_span_processor(BatchSpanProcessor(kept, max_queue_size=2 * SPANS))
        tracer = provider.get_tracer("stock")
        contexts = []
        for number in range(SPANS):
            with agent_span(tracer, f"agent{number % 4}", "exported") as span:
                contexts.append(trace.set_span_in_context(span))
        assert provider.force_flush()
        check(f"{compression.value}: accepted", counted("events_accepted") - before, SPANS)
        result = exporter.export(kept.get_finished_spans())
        check(f"{compression.value}: again", result, SpanExportResult.SUCCESS)
        check(f"{compression.value}: duplicates", counted("events_duplicate") - known, SPANS)
        check(f"{compression.value}: accepted in all", counted("events_accepted") - before, SPANS)
    return contexts


def samples():
    question = {"candidates": [f"agent{number}" for number in range(4)], "top_k": 4}
    answer = requests.post(f"{url}/api/learning/predict/quality", json=question).json()
    return sum(prediction["samples"] for prediction in answer["predictions"])


def evaluations(contexts):
    """As many qualities as there are evaluations; sent again, not one more."""
    for _ in range(2):
        provider = LoggerProvider()
        exporter = OTLPLogExporter(f"{url}/v1/logs", compression=Compression.Gzip)
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter, max_queue_size=2 * SPANS))
        logger = provider.get_logger("stock")
        for number, context in enumerate(contexts):
            attributes = {
                "gen_ai.evaluation.name": "relevance",
                "gen_ai.evaluation.score.value": number % 5 / 4,
                "gen_ai.evaluation.explanation": "MARKER of a reason",
            }
            name = "gen_ai.evaluation.result"
            logger.emit(LogRecord(context=context, event_name=name, attributes=attributes))
        assert provider.force_flush()
        check("qualities", samples(), SPANS)


def decisions():
    """A question within a span, the agent's span in the same trace: that is all it takes."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    tracer = provider.get_tracer("stock")
    RequestsInstrumentor().instrument(tracer_provider=provider)
    ids = []
    for _ in range(TRACED):
        with tracer.start_as_current_span("a task"):
            question = {"task_type": "traced", "candidates": ["agent0", "agent1"]}
            path = "/api/learning/predict/agent-selection"
            answer = requests.post(url + path, json=question).json()
            ids.append(answer["decision_id"])
            with agent_span(tracer, answer["recommendations"][0]["agent_name"], None):
                pass
    RequestsInstrumentor().uninstrument()
    assert provider.force_flush()
    requests.post(f"{url}/api/learning/outcomes?wait=true")
    rows = (requests.get(f"{url}/api/learning/decisions/{id}").json() for id in ids)
    check("joined", sum(row["outcome"] is not None for row in rows), TRACED)


evaluations(spans())
decisions()
