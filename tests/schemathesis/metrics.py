"""Reads a page of metrics as text and as OpenMetrics: both parsers find the same."""

import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text


def read(parse, accept):
    with urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"Accept": accept})) as answer:
        media, text = answer.headers.get_content_type(), answer.read().decode()
    assert media == accept, f"{accept} is answered as {media}"
    # Bounds of buckets are written differently.
    key = lambda name, value: (name, float(value)) if name == "le" else (name, value)
    return {
        (family.name, family.type, sample.name, *sorted(key(*label) for label in sample.labels.items()))
        for family in parse(text)
        for sample in family.samples
    }


text, openmetrics = read(parse_text, "text/plain"), read(parse_open, "application/openmetrics-text")
assert len(text) > 100 and text == openmetrics, f"only one of them has {text ^ openmetrics}"
print(f"metrics: {len(text)} series, the same in both formats")
