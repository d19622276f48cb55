"""The OpenTelemetry export: what a collector takes, in the names of the GenAI conventions."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given

from pytest_tokenbudget.reports.exports import traces
from support.documents import HAIKU, SONNET, document, loop, scenario, used
from support.strategies import documents as any_document

TIME = 1_763_760_000_000_000_000


def spans(made: Any, time: int = TIME) -> list[Any]:
    (resource,) = traces(made, time)["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    found: list[Any] = scope["spans"]
    return found


def attributes(span: Any) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}


def test_golden(documents: Any, golden: Any) -> None:
    (resource,) = traces(documents["each"], TIME)["resourceSpans"]
    lines = [json.dumps(resource["resource"]), *map(json.dumps, resource["scopeSpans"][0]["spans"])]
    golden("each-otel.jsonl", "\n".join(lines) + "\n")


def test_input_tokens_include_the_cache_as_the_conventions_say() -> None:
    turn = used(f"{SONNET} (batch)", 60, 4000, 300, 12)
    made = document([scenario("test_a.py::test", "within", [turn], [turn])])
    root, call = spans(made)
    found = attributes(call)
    assert call["name"] == f"chat {SONNET}"
    assert found["gen_ai.request.model"] == found["gen_ai.response.model"] == SONNET
    assert found["gen_ai.usage.input_tokens"] == "4360"
    assert found["gen_ai.usage.cache_write.input_tokens"] == "4000"
    assert found["gen_ai.usage.cache_creation.input_tokens"] == "4000"
    assert found["gen_ai.usage.cache_read.input_tokens"] == "300"
    assert found["gen_ai.usage.output_tokens"] == "12"
    assert found["tokenbudget.measured.input_tokens"] == "60", "ours are the uncached ones only"
    assert attributes(root)["tokenbudget.verdict"] == "within"


def test_what_is_unknown_is_left_out() -> None:
    was = loop(HAIKU, 500, [10, 20])
    root, known, unknown = spans(
        document([scenario("test_a.py::test", "stale", was, [was[0], None], models=[HAIKU] * 2)])
    )
    assert "gen_ai.usage.input_tokens" in attributes(known)
    assert not [
        key for key in attributes(unknown) if key.startswith(("gen_ai.usage", "tokenbudget.measured"))
    ]
    assert attributes(unknown)["tokenbudget.recorded.prompt_tokens"] == str(was[1]["prompt_tokens"])
    assert not [key for key in attributes(root) if key.startswith("tokenbudget.measured")]
    assert root["status"] == {"code": 2, "message": "stale"}


@given(any_document())
def test_every_document_makes_one_tree_a_scenario(made: Any) -> None:
    listed = spans(made)
    assert spans(made) == listed
    assert len(listed) == len(made["scenarios"]) + sum(len(one["turns"]) for one in made["scenarios"])
    roots = {span["spanId"] for span in listed if not span["parentSpanId"]}
    assert all(span["parentSpanId"] in roots for span in listed if span["parentSpanId"])
    for span in listed:
        assert (len(span["traceId"]), len(span["spanId"])) == (32, 16)
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        assert None not in attributes(span).values()
    json.dumps(traces(made, TIME), allow_nan=False)


def test_two_runs_do_not_share_ids() -> None:
    was = loop(HAIKU, 500, [10])
    made = document([scenario("test_a.py::test", "within", was, was)])
    assert {span["spanId"] for span in spans(made)}.isdisjoint(
        span["spanId"] for span in spans(made, TIME + 1)
    )
