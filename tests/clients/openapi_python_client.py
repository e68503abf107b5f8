"""Selects, reports and reads the decision with the client that openapi-python-client made."""

import sys

from openapi_python_client_made import Client
from openapi_python_client_made.api.outcomes import report_outcome, report_outcomes
from openapi_python_client_made.api.reports import get_decision
from openapi_python_client_made.api.selection import select_agent
from openapi_python_client_made.models import OutcomeEvent, OutcomeEventStatus, PredictionRequest

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
answer = select_agent.sync(client=client, body=PredictionRequest(task_type="review", candidates=["a", "b"]))
agent = answer.recommendations[0].agent_name
event = OutcomeEvent(agent_name=agent, status=OutcomeEventStatus.SUCCESS, decision_id=answer.decision_id)
report = report_outcome.sync(client=client, body=event, wait=True)
others = [OutcomeEvent(agent_name=agent, status=OutcomeEventStatus.FAILURE, event_id=id) for id in ("1", "2")]
assert (report.accepted, report.rejected_total) == (1, 0), report
assert report_outcomes.sync(client=client, body=[others[0], *others]).accepted == 2
decision = get_decision.sync(answer.decision_id, client=client)
assert (decision.chosen, decision.outcome.status) == (agent, "success"), decision
