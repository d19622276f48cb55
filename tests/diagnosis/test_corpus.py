"""The diagnosis over sequences that other projects recorded: no error, and sums that hold."""

from __future__ import annotations

import copy
import gzip
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.advice import advise
from pytest_tokenbudget.advice.layout import lay_out
from pytest_tokenbudget.diagnosis import diagnose
from pytest_tokenbudget.diagnosis.volatile import compare_prefixes
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.wire.answers import read_answer
from pytest_tokenbudget.wire.exchange import Exchange, Request
from pytest_tokenbudget.wire.requests import read_request
from support.changes import MEASURED
from support.sample import WHOLE, tenth
from support.seeded import COUNTER, METER, asking, count

CORPUS = Path(os.environ.get("TOKENBUDGET_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
EXCHANGES = CORPUS / "exchanges.jsonl.gz"
PRICES = Prices()

pytestmark = [
    pytest.mark.whole_run,
    pytest.mark.skipif(not EXCHANGES.exists(), reason=f"no corpus of recordings at {CORPUS}"),
]

Entry = dict[str, Any]


@pytest.fixture(scope="module")
def sequences() -> list[list[Entry]]:
    found: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    with gzip.open(EXCHANGES, "rt", encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            if isinstance(entry["request"], dict):
                found[entry["repo"], entry["file"]].append(entry)
    return [
        sorted(entries, key=lambda entry: entry["index_in_cassette"])
        for entries in tenth(list(found.values()), of="sequences")
    ]


def sent(entry: Entry, body: Entry) -> Request | None:
    return read_request("POST", entry["url"], {}, json.dumps(body, ensure_ascii=False).encode())


def exchanges(entries: list[Entry]) -> list[Exchange]:
    found = []
    for entry in entries:
        if request := sent(entry, entry["request"]):
            message = {**(entry["response_message"] or {}), "usage": entry["usage"]}
            answer = read_answer(entry["status"], {}, json.dumps(message).encode(), request)
            found.append(Exchange(request, answer))
    return found


def run_of(entries: list[Entry], recorded: list[Exchange]) -> Run:
    """The run of an agent that sends these bodies now, answered from `recorded`."""
    requests = (sent(entry, entry["request"]) for entry in entries)
    return asking(recorded, [request for request in requests if request])


def runs(sequences: list[list[Entry]]) -> Iterator[tuple[list[Entry], list[Exchange]]]:
    for entries in sequences:
        if recorded := exchanges(entries):
            yield entries, recorded


def test_unchanged_sequences_bring_no_finding_and_levers_no_error(
    sequences: list[list[Entry]],
) -> None:
    seen = 0
    for entries, recorded in runs(sequences):
        run = run_of(entries, recorded)
        told = diagnose(run, cost=PRICES.cost, count=count, sources=SourceTree({}))
        assert {one.kind for one in told} <= {"turns_changed", "unknown"}, entries[0]["file"]
        if not run.departure:
            assert told == (), entries[0]["file"]
        for lever in advise(lay_out(run, PRICES.cost), cheaper=PRICES.cheaper_models, batchable=True):
            assert lever.cost_usd is None or lever.cost_usd <= 0, entries[0]["file"]
        prompts = [exchange.request.prompt for exchange in recorded]
        assert compare_prefixes(prompts, prompts) == []
        seen += 1
    assert seen > (100 if WHOLE else 10)


def changed(entry: Entry, number: int) -> Entry:
    """The same request with a line more in front of its system prompt, another on every turn."""
    body = copy.deepcopy(entry["request"])
    line = {"type": "text", "text": f"It is 10:0{number % 10}. Be kind to everybody who asks."}
    system = body.get("system") or []
    body["system"] = [line, *([{"type": "text", "text": system}] if isinstance(system, str) else system)]
    return {**entry, "request": body}


def test_changed_sequences_are_explained_and_the_sums_hold(sequences: list[list[Entry]]) -> None:
    explained = 0
    for entries, recorded in runs(sequences):
        run = run_of([changed(entry, number) for number, entry in enumerate(entries)], recorded)
        told = diagnose(run, cost=PRICES.cost, count=count, sources=SourceTree({}))
        sides = [
            (one.recorded, one.usage) for one in run.turns if one.recorded and one.estimate.prompt_tokens
        ]
        tokens = sum(now.tokens.prompt_tokens - was.tokens.prompt_tokens for was, now in sides)
        assert sum(one.tokens or 0 for one in told if one.kind == "growth") == tokens, entries[0]["file"]
        costs = [(PRICES.cost(was), PRICES.cost(now)) for was, now in sides]
        if all(None not in pair for pair in costs):
            difference = sum(((now or 0) - (was or 0) for was, now in costs), Decimal(0))
            parts = sum(((one.cost_usd or 0) for one in told if one.kind in MEASURED), Decimal(0))
            assert float(parts) == pytest.approx(float(difference), abs=1e-12), entries[0]["file"]
        explained += any(one.kind == "growth" and one.where == "system[0]" for one in told)
    assert explained > (100 if WHOLE else 10)
    assert COUNTER is METER.counter
