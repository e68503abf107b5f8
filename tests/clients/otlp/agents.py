"""A library of agents with its own telemetry: two runs are two outcomes, whatever spans are in them."""

import sys

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from pydantic_ai import Agent
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.models.test import TestModel

url = sys.argv[1]
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
settings = InstrumentationSettings(tracer_provider=provider)


def run(agent):
    agent.instrument = settings
    return agent.run_sync("MARKER of what was asked")


def slow(messages, info):
    raise TimeoutError("it took too long")


reviewer = Agent(TestModel(), name="reviewer")


@reviewer.tool_plain
def look_up(term: str) -> str:
    return "MARKER of what was found"


run(reviewer)
try:
    run(Agent(FunctionModel(slow), name="sleeper"))
except TimeoutError:
    pass
assert provider.force_flush()
requests.post(f"{url}/api/learning/outcomes?wait=true")
rows = requests.get(f"{url}/api/learning/agents/performance").json()
ended = {
    row["agent_name"]: {status: count for status, count in row["statuses"].items() if count}
    for row in rows
    if row["agent_name"] in ("reviewer", "sleeper")
}
print(ended)
assert ended == {"reviewer": {"success": 1}, "sleeper": {"timeout": 1}}, ended
