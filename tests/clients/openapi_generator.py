"""Selects, reports and reads the decision with the client that openapi-generator made."""

import sys

from openapi_generator_made import ApiClient, Configuration, OutcomeEvent, OutcomesApi, PredictionRequest, ReportsApi, SelectionApi

with ApiClient(Configuration(host=sys.argv[1])) as client:
    outcomes = OutcomesApi(client)
    question = PredictionRequest(task_type="review", candidates=["a", "b"])
    answer = SelectionApi(client).select_agent(prediction_request=question)
    agent = answer.recommendations[0].agent_name
    event = OutcomeEvent(agent_name=agent, status="success", decision_id=answer.decision_id)
    report = outcomes.report_outcome(wait=True, outcome_event=event).actual_instance
    others = [OutcomeEvent(agent_name=agent, status="failure", event_id=id) for id in ("3", "4")]
    assert (report.accepted, report.rejected_total) == (1, 0), report
    assert outcomes.report_outcomes(outcome_event=[others[0], *others]).accepted == 2
    decision = ReportsApi(client).get_decision(answer.decision_id)
    assert (decision.chosen, decision.outcome.status) == (agent, "success"), decision
