"""The Python client as its users meet it: a fresh service, one that goes away, one that never comes back.

    python_client.py PROGRAM

stands beside online_learning.py, and starts services of its own."""

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import online_learning
from online_learning import Client

program = sys.argv[1]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Service:
    def __init__(self, directory):
        self.directory, self.port = directory, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        settings = {"MODEL_STORAGE_PATH": self.directory, "LISTEN_ADDR": f"127.0.0.1:{self.port}"}
        command = [program, "serve"]
        self.process = subprocess.Popen(command, env=settings, stderr=open(f"{self.directory}.log", "a"))
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.get("/readyz")
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, "it does not start"
                time.sleep(0.05)

    def end(self, by):
        self.process.send_signal(by)
        self.process.wait()

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def executions(self):
        """Those that are learned, once everything is that was accepted."""
        headers = {"Content-Type": "application/x-ndjson"}
        request = urllib.request.Request(self.url + "/api/learning/outcomes?wait=true", b"", headers)
        urllib.request.urlopen(request, timeout=60).close()
        return sum(row["total_executions"] for row in self.get("/api/learning/agents/performance"))


def decides_and_reports(service):
    """1,000 decisions, 1,000 joined outcomes, and no time lost."""
    client = Client(service.url)
    took = []
    for number in range(1_000):
        begun = time.perf_counter()
        with client.decide("review", {"size": number % 3}, candidates=["a", "b"]) as d:
            took.append(time.perf_counter() - begun)
            assert d.fallback is None and d.agent in ("a", "b"), d.fallback
            d.quality, d.cost = 0.5, 0.01
    assert client.flush(), "it is all sent"
    assert service.executions() == 1_000
    decisions = service.get("/api/learning/metrics")["decisions"]
    assert (decisions["recorded"], decisions["with_outcome"], client.lost) == (1_000, 1_000, 0), decisions
    print(f"a decision takes {statistics.median(took) * 1e3:.3f} ms (p50), {sorted(took)[990] * 1e3:.3f} ms (p99)")


def tells_how_it_ended(service):
    client = Client(service.url, tenant="ends")
    class ReadTimeout(Exception):
        pass
    ends = [(None, "success"), (TimeoutError(), "timeout"), (ReadTimeout(), "timeout"), (OSError("x"), "failure"),
            (KeyboardInterrupt(), "cancelled"), (asyncio.CancelledError(), "cancelled")]
    ids = []
    for error, _ in ends:
        try:
            with client.decide("t", candidates=["a"]) as d:
                ids.append(d.decision_id)
                if error:
                    raise error
        except BaseException as raised:
            assert raised is error
        else:
            assert error is None

    async def asked():
        async with client.decide("t", candidates=["a"]) as d:
            d.status = "partial"
            await asyncio.sleep(0)
        ids.append(d.decision_id)

    asyncio.run(asked())
    assert client.flush()
    service.executions()
    outcomes = [service.get(f"/api/learning/decisions/{id}?tenant_id=ends")["outcome"] for id in ids]
    # One that was cancelled says nothing of the agent, so it is not joined.
    statuses = [outcome["status"] if outcome else "cancelled" for outcome in outcomes]
    assert statuses == [status for _, status in ends] + ["partial"], statuses
    assert service.get("/api/learning/metrics")["accepted"] >= 1_000 + len(statuses)
    for wrong in [{"candidates": ["a"], "exclude": ["a"]}, {"candidates": ["a"], "nonsense": 1}]:
        try:
            client.decide("t", **wrong).__enter__()
        except ValueError:
            continue
        raise AssertionError(f"{wrong} is answered")


def outlives_the_service(service):
    """Killed for five seconds while four threads decide: nothing is raised, lost, or counted twice."""
    before, client, stop, counted = service.executions(), Client(service.url), threading.Event(), [0] * 4

    def work(place):
        while not stop.is_set():
            with client.decide("review", candidates=["a", "b"], default="b") as d:
                assert d.agent
            counted[place] += 1
            time.sleep(0.01)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    failures = []
    threading.excepthook = lambda args: failures.append(args.exc_value)
    for thread in threads:
        thread.start()
    time.sleep(1)
    service.end(signal.SIGKILL)
    time.sleep(5)
    service.start()
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert client.flush(30), "it is all sent"
    # A decision that was answered in the last moment before the kill may be gone, its outcome is not.
    assert (failures, client.lost, service.executions() - before) == ([], 0, sum(counted)), (failures, counted)
    print(f"{sum(counted)} tasks while the service was killed, each counted once")


def flushes_much_at_the_end(service):
    before = service.executions()
    script = f"""
from online_learning import Client
client = Client({service.url!r})
for number in range(10_000):
    client.report({{"agent_name": "a", "status": "success"}})
client.report({{"agent_name": "a", "status": "success"}})
"""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
    took = time.monotonic() - begun
    assert took < 6 and service.executions() - before >= 10_000, (took, service.executions() - before)
    print(f"10,000 outcomes and the end of the process took {took:.1f} s")


def is_away(port):
    """Nobody has ever answered: the default, at once, and an end that is not held up for long."""
    script = f"""
import time
from online_learning import Client
client = Client("http://127.0.0.1:{port}")
begun = time.monotonic()
with client.decide("t", candidates=["a", "b"]) as first, client.decide("t", default="d") as second:
    assert (first.agent, second.agent) == ("a", "d") and first.fallback and second.fallback
with client.decide("t") as d:
    assert d.agent is None
assert time.monotonic() - begun < 1
"""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
    assert 4 < time.monotonic() - begun < 8, "it tries for five seconds"


def is_within_a_trace(service):
    """With OpenTelemetry the agent's spans are in the trace of the question."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    client = Client(service.url)
    with client.decide("t", candidates=["a"]):
        with trace.get_tracer("agent").start_as_current_span("invoke_agent a"):
            pass
    agent, selection = exporter.get_finished_spans()
    assert selection.name == "select_agent" and agent.parent.span_id == selection.context.span_id
    assert not trace.get_current_span().get_span_context().is_valid, "it has ended"
    assert client.flush()


with tempfile.TemporaryDirectory() as home:
    service = Service(os.path.join(home, "models"))
    try:
        decides_and_reports(service)
        tells_how_it_ended(service)
        outlives_the_service(service)
        flushes_much_at_the_end(service)
        is_within_a_trace(service)
        is_away(free_port())
        service.end(signal.SIGTERM)
        assert service.process.returncode == 0
    finally:
        service.process.kill()
