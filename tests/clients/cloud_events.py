"""Sends an event with the CloudEvents SDK in binary mode, twice; the second is a duplicate."""

import sys

import requests
from cloudevents.core.bindings.http import to_binary_event
from cloudevents.core.v1.event import CloudEvent

attributes = {"id": "7", "source": "/agents", "type": "com.example.agent.outcome", "datacontenttype": "application/json"}
for expected in [(1, 0), (0, 1)]:
    message = to_binary_event(CloudEvent(attributes, {"agent_name": "a", "status": "success"}))
    answer = requests.post(sys.argv[1] + "/api/learning/outcomes", data=message.body, headers=message.headers)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["accepted"], answer.json()["duplicates"]) == expected, answer.text
