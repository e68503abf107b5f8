"""Calls with mocked answers, reported by LiteLLM's callback generic_api as the documentation sets it up; then what was
learned of them."""

import asyncio
import json
import logging
import sys
import time
import urllib.request
from pathlib import Path

import litellm
import yaml
from litellm.integrations.generic_api.generic_api_callback import GenericAPILogger
from litellm.litellm_core_utils.logging_callback_manager import LoggingCallbackManager
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

CALLS, FAILING, AT_ONCE = 1_000, 100, 50
MODELS = ("gpt-4o", "gpt-4o-mini")
DEADLINE_S = 120
DOCUMENTATION = Path(__file__).parents[3] / "src/sources/formats/README.md"
URL, FORMAT = sys.argv[1:]


# It warns that it waits for connections of its own.
logging.getLogger("LiteLLM").setLevel(logging.ERROR)


def ask(path, method="GET", body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(URL + path, data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


async def call(number):
    """The cost that LiteLLM itself tells of a call; 0 of one that fails."""
    fails = number % (CALLS // FAILING) == 0
    try:
        answer = await litellm.acompletion(
            model=MODELS[number % len(MODELS)],
            messages=[{"role": "user", "content": f"MARKER asked {number}"}],
            mock_response="litellm.RateLimitError" if fails else f"MARKER answered {number}",
            metadata={"spend_logs_metadata": {"task_type": "review"}, "note": "MARKER"},
            max_retries=0,
        )
    except litellm.RateLimitError:
        assert fails, number
        return 0.0
    assert not fails, number
    return answer._hidden_params["response_cost"]


def performance():
    return ask("/api/learning/agents/performance?task_type=review")


def documented():
    """The callback that the configuration in the documentation makes, but for the address and the log format."""
    configuration = yaml.safe_load(DOCUMENTATION.read_text().split("```yaml\n")[1].split("```")[0])
    (name,) = configuration["litellm_settings"]["callbacks"]
    settings = configuration["callback_settings"][name]
    settings["endpoint"] = settings["endpoint"].replace("http://127.0.0.1:8000", URL)
    litellm.callback_settings = {name: {**settings, "log_format": FORMAT}}
    callback = LoggingCallbackManager.add_custom_callback_generic_api_str(name)
    assert isinstance(callback, GenericAPILogger), callback
    return callback


async def main():
    callback = documented()
    litellm.callbacks = [callback]
    costs, marked = [], False
    for first in range(0, CALLS, AT_ONCE):
        costs += await asyncio.gather(*map(call, range(first, first + AT_ONCE)))
        marked = marked or "MARKER" in str(callback.log_queue)
    assert marked, "what is reported holds what was asked"
    # Failing calls are reported by tasks of their own: until all are there.
    deadline = time.monotonic() + DEADLINE_S
    while sum(row["samples"] for row in performance()) < CALLS:
        assert time.monotonic() < deadline, performance()
        await GLOBAL_LOGGING_WORKER.flush()
        await callback.flush_queue()
        await asyncio.sleep(0.1)
    await litellm.close_litellm_async_clients()
    return costs


costs = asyncio.run(main())
rows = performance()
assert sorted(row["agent_name"] for row in rows) == sorted(MODELS), rows
assert sum(row["samples"] for row in rows) == CALLS, rows
assert sum(row["total_executions"] for row in rows) == CALLS, rows
succeeded = sum(row["success_rate"] * row["samples"] for row in rows)
assert abs(succeeded - (CALLS - FAILING)) < 1e-6, rows
spent = ask("/api/learning/budgets/default", "PUT", {"amount": 100, "period": "month"})["spent"]
assert sum(cost > 0 for cost in costs) == CALLS - FAILING
assert abs(spent - sum(costs)) < 1e-9, (spent, sum(costs))
assert ask("/api/learning/dead-letters")["dead_letters"] == []
with urllib.request.urlopen(f"{URL}/metrics") as answer:
    assert b"MARKER" not in answer.read()
print(f"litellm {FORMAT}: {CALLS} calls learned, {FAILING} of them failed, cost {spent:.6f}")
