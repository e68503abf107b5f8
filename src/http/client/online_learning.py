"""Asks online-learning which agent to take, and reports what came of it.

    from online_learning import decide

    with decide("code_review", {"complexity": "high"}, candidates=["a", "b"]) as d:
        answer = agents[d.agent](task)
        d.quality, d.cost = grade(answer), answer.usd    # optional

ONLINE_LEARNING_URL and ONLINE_LEARNING_TOKEN name the service. While it is away the agent is `default`, or the first
candidate; outcomes wait, are sent in the background, and count once. Only a wrong question raises (ValueError).
"""

from __future__ import annotations
import asyncio, atexit, contextlib, http.client, itertools, json, os, sys, threading, time, uuid
from collections import deque
from typing import Any, Sequence
from urllib.parse import urlsplit

QUEUE_MAX, BATCH_MAX, PAUSE_MIN_S, PAUSE_MAX_S = 10_000, 500, 0.1, 30.0


class Client:
    """A service. Any number of threads may use one; each has a connection, which is kept."""

    def __init__(self, url: str | None = None, token: str | None = None, tenant: str | None = None,
                 timeout: float = 2.0) -> None:
        self._url = urlsplit(url or os.environ.get("ONLINE_LEARNING_URL") or "http://127.0.0.1:8000")
        token = token or os.environ.get("ONLINE_LEARNING_TOKEN")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._tenant, self._timeout, self.lost = tenant, timeout, 0  # lost: outcomes that were refused, or too many
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.flush)

    def _reset(self) -> None:
        """In a forked process the queue is empty: what was in it, the parent sends."""
        self._local, self._changed = threading.local(), threading.Condition()
        self._queue: deque[bytes] = deque()
        self._flushing, self._batch_max = 0, BATCH_MAX
        threading.Thread(target=self._send, name="online-learning", daemon=True).start()

    def decide(self, task_type: str | None = None, context: dict[str, Any] | None = None, *,
               candidates: Sequence[str] | None = None, default: str | None = None, **question: Any) -> Decision:
        """A block in which an agent works. `question` are further fields, such as `objective` or `exclude`."""
        known = {"task_type": task_type, "context": context, "tenant_id": self._tenant}
        names = None if candidates is None else list(candidates)
        return Decision(self, known, {"candidates": names, **question}, default if default or not names else names[0])

    def report(self, event: dict[str, Any]) -> None:
        """Takes an outcome event, to be sent soon; returns at once. It gets an identity where it has none."""
        event = {"event_id": uuid.uuid4().hex, "tenant_id": self._tenant, **event}
        line = json.dumps({name: value for name, value in event.items() if value is not None}, default=str).encode()
        with self._changed:
            if len(self._queue) < QUEUE_MAX:
                self._queue.append(line)
                self._changed.notify_all()
            else:
                self.lost += 1

    def flush(self, timeout: float = 5.0) -> bool:
        """Waits until no outcome waits to be sent; whether that is so. Also done at the exit."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            is_sent = self._changed.wait_for(lambda: not self._queue, timeout)
            self._flushing -= 1
            return is_sent

    def _send(self) -> None:
        pause = PAUSE_MIN_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue))
                batch = list(itertools.islice(self._queue, self._batch_max))
            refused = self._refused(batch)
            with self._changed:
                if refused is not None:
                    self.lost += refused
                    for _ in batch:
                        self._queue.popleft()
                    self._changed.notify_all()
                    pause = PAUSE_MIN_S
                    continue
                self._changed.wait_for(lambda: self._flushing > 0, pause)
            time.sleep(PAUSE_MIN_S if self._flushing else 0)
            pause = min(2 * pause, PAUSE_MAX_S)

    def _refused(self, batch: list[bytes]) -> int | None:
        """How many of a batch were refused; none where it has to be sent again."""
        try:
            status, answer = self._post("outcomes", b"\n".join(batch), "application/x-ndjson", {})
        except (OSError, http.client.HTTPException, ValueError):
            return None
        if 200 <= status < 300 or "rejected_total" in answer:
            return int(answer.get("rejected_total", 0))
        if status == 413 and len(batch) > 1:
            self._batch_max = len(batch) // 2
            return None
        return len(batch) if status in (400, 404, 405, 413, 415, 422) else None

    def _post(self, path: str, body: bytes, media: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and answer. What met a kept connection that the service has closed is sent again."""
        if not hasattr(self._local, "connection"):
            kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
            self._local.connection = kind(self._url.hostname or "", self._url.port, timeout=self._timeout)
        connection = self._local.connection
        while True:
            is_kept = connection.sock is not None
            try:
                connection.request("POST", f"{self._url.path.rstrip('/')}/api/learning/{path}", body,
                                   {"Content-Type": media, **self._headers, **headers})
                response = connection.getresponse()
                answer = json.loads(response.read() or b"{}")
                return response.status, answer if isinstance(answer, dict) else {}
            except BaseException as error:
                connection.close()
                if not is_kept or not isinstance(error, (ConnectionError, http.client.BadStatusLine)):
                    raise


class Decision:
    """A task, which `agent` is to do. Latency and status are those of the block, unless they are set."""

    def __init__(self, client: Client, known: dict[str, Any], question: dict[str, Any], default: str | None) -> None:
        # An id of our own: a question that is asked again has the same answer.
        question = {"decision_id": str(uuid.uuid4()), "top_k": 1, **known, **question}
        question = {name: value for name, value in question.items() if value is not None}
        self._client, self._known, self._body = client, known, json.dumps(question).encode()
        self.agent: Any = default
        self.answer: dict[str, Any] = {}  # the whole answer; empty where there was none
        self.fallback: str | None = None  # why the agent is the default
        self.decision_id = self.status = None  # type: str | None
        self.quality = self.cost = self.latency_ms = None  # type: float | None
        self._spans, self._mistake, self._started = contextlib.ExitStack(), "", 0.0

    def _ask(self, headers: dict[str, str]) -> None:
        try:
            status, answer = self._client._post("predict/agent-selection", self._body, "application/json", headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            status, answer = 0, {"detail": f"no answer: {error!r}"}
        if status in (400, 404, 422):
            self._mistake = str(answer.get("detail", f"the service answered {status}"))
        elif status == 200 and answer.get("recommendations"):
            self.answer, self.decision_id = answer, answer["decision_id"]
            self.agent = answer["recommendations"][0]["agent_name"]
        else:
            self.fallback = str(answer.get("detail", "no agent is known"))

    def _span(self) -> dict[str, str]:
        """Where OpenTelemetry is loaded, a span around the agent's spans: they join by its trace."""
        if "opentelemetry" not in sys.modules:
            return {}
        from opentelemetry import trace
        tracer = trace.get_tracer("online_learning")
        of = self._spans.enter_context(tracer.start_as_current_span("select_agent")).get_span_context()
        return {"traceparent": f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags:02x}"} if of.is_valid else {}

    def _begin(self) -> Decision:
        if self._mistake:
            self._spans.close()
            raise ValueError(self._mistake)
        self._started = time.perf_counter()
        return self

    def __enter__(self) -> Decision:
        self._ask(self._span())
        return self._begin()

    async def __aenter__(self) -> Decision:
        await asyncio.get_running_loop().run_in_executor(None, self._ask, self._span())
        return self._begin()

    def __exit__(self, *raised: Any) -> None:
        took_ms = (time.perf_counter() - self._started) * 1_000
        self._spans.__exit__(*raised)
        if self.agent is not None:
            self._client.report({**self._known, "agent_name": self.agent, "decision_id": self.decision_id,
                                 "status": self.status or _status(raised[0]), "quality_score": self.quality,
                                 "latency_ms": took_ms if self.latency_ms is None else self.latency_ms,
                                 "cost_estimate": self.cost})

    async def __aexit__(self, *raised: Any) -> None:
        self.__exit__(*raised)


def _status(kind: type[BaseException] | None) -> str:
    names = {base.__name__ for base in kind.__mro__} if kind else set()
    if names & {"CancelledError", "KeyboardInterrupt", "GeneratorExit"}:
        return "cancelled"
    return "success" if not kind else "timeout" if "timeout" in " ".join(names).lower() else "failure"


_default: list[Client] = []


def decide(task_type: str | None = None, context: dict[str, Any] | None = None, **options: Any) -> Decision:
    if not _default:
        _default.append(Client())
    return _default[0].decide(task_type, context, **options)
