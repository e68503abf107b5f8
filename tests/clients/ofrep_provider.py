"""OpenFeature's stock provider for remote evaluation gets agents, and its default where there is none.

    ofrep_provider.py URL"""

import json
import sys
import urllib.request

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode

(url,) = sys.argv[1:]


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def of(key, **attributes):
    return EvaluationContext(key, {"tenant_id": "flags-py", **attributes})


api.set_provider(OFREPProvider(url))
client = api.get_client()

nobody = client.get_string_details("review", "default", of("user-1"))
assert (nobody.value, nobody.error_code) == ("default", ErrorCode.FLAG_NOT_FOUND), nobody

for agent in ("a", "b"):
    outcome = {"agent_name": agent, "task_type": "review", "status": "success", "tenant_id": "flags-py"}
    ask("/api/learning/outcomes?wait=true", outcome)
keys = [f"user-{number}" for number in range(64)]
first, again = ([client.get_string_value("review", "default", of(key, size=3)) for key in keys] for _ in range(2))
assert first == again and set(first) == {"a", "b"}, first

chosen = client.get_string_details("review", "default", of("user-1", size=3))
assert (chosen.value, chosen.variant, chosen.reason) == (first[1], first[1], "SPLIT"), chosen
decision = chosen.flag_metadata["decision_id"]
outcome = {"agent_name": chosen.value, "status": "failure", "decision_id": decision, "tenant_id": "flags-py"}
ask("/api/learning/outcomes?wait=true", outcome)
recorded = ask(f"/api/learning/decisions/{decision}?tenant_id=flags-py")
assert (recorded["chosen"], recorded["outcome"]["status"]) == (chosen.value, "failure"), recorded

wrong = client.get_string_details("review", "default", of("user-1", candidates="a"))
assert (wrong.value, wrong.error_code) == ("default", ErrorCode.INVALID_CONTEXT), wrong
# Nothing is known of the task, and nobody in particular is served.
anybody = client.get_string_details("review", "default", EvaluationContext(attributes={"candidates": ["c"]}))
assert (anybody.value, anybody.error_code) == ("c", None), anybody
bare = client.get_string_details("review", "default")
assert bare.error_code in (None, ErrorCode.FLAG_NOT_FOUND), bare
