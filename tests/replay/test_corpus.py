"""Cassettes that other projects recorded with the real API: replayed, every turn measures what was billed."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import vcr

from pytest_tokenbudget.model import Paired, Tokens
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.pairing import Recording
from pytest_tokenbudget.replay.playback import Ledger, Rules
from pytest_tokenbudget.replay.traffic import Reader, Traffic
from pytest_tokenbudget.replay.vcr_bridge import adopt
from pytest_tokenbudget.wire.endpoints import unmetered_reason
from support.parsed_bodies import ParsedBodies
from support.sample import WHOLE, tenth

CORPUS = Path(os.environ.get("TOKENBUDGET_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
CASSETTES = CORPUS / "cassettes"
PATHS = tenth(sorted(CASSETTES.rglob("*.yaml")), of="corpus")

pytestmark = [
    pytest.mark.whole_run,
    pytest.mark.skipif(not CASSETTES.is_dir(), reason=f"the corpus of real traffic is not at {CORPUS}"),
]

Row = dict[str, Any]


@pytest.fixture(scope="module")
def billed() -> dict[str, dict[int, Row]]:
    """What was billed, by file and interaction, as an independent reader of the corpus has it."""
    rows: dict[str, dict[int, Row]] = defaultdict(dict)
    with gzip.open(CORPUS / "exchanges.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            rows[f"{row['repo'].replace('+', '__')}/{row['file']}"][row["index_in_cassette"]] = row
    return rows


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"the network was used: {args}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def read(path: Path) -> Any:
    return ParsedBodies.deserialize(path.read_text(encoding="utf-8"))


def replay(path: Path, numbers: Sequence[int], client: Any) -> Ledger:
    """Send these recorded requests of a user's cassette anew, in order."""
    ledgers: list[Ledger] = []

    def ledger_of(path: str, interactions: Sequence[Interaction], rules: Rules) -> Ledger:
        ledgers.append(Ledger(path, "pytest", interactions, rules))
        return ledgers[-1]

    library = vcr.VCR(record_mode="none", match_on=("method", "uri", "body"))
    library.register_serializer("any", ParsedBodies)
    with adopt(ledger_of), library.use_cassette(str(path), serializer="any") as cassette:
        for number in numbers:
            request = cassette.data[number][0]
            headers = {
                k: v for k, v in request.headers.items() if k.lower() not in ("content-length", "host")
            }
            client.request(request.method, request.uri, headers=headers, content=request.body)
        assert cassette.play_count == len(numbers)
    (ledger,) = ledgers
    return ledger


def tokens(usage: Row) -> Tokens:
    created = usage.get("cache_creation") or {}
    hour = created.get("ephemeral_1h_input_tokens") or 0
    return Tokens(
        input_tokens=usage["input_tokens"],
        ephemeral_5m_input_tokens=(usage.get("cache_creation_input_tokens") or 0) - hour,
        ephemeral_1h_input_tokens=hour,
        cache_read_input_tokens=usage.get("cache_read_input_tokens") or 0,
        output_tokens=usage["output_tokens"],
        web_search_requests=(usage.get("server_tool_use") or {}).get("web_search_requests") or 0,
    )


def test_every_turn_measures_what_was_billed(billed: dict[str, dict[int, Row]]) -> None:
    """With the SDKs' HTTP libraries, through vcr, a custom serializer, and `match_on` with the body."""
    clients = itertools.cycle([httpx2.Client(), httpx2.Client(), httpx.Client()])
    seen: Counter[str] = Counter()
    for path in PATHS:
        name = path.relative_to(CASSETTES).as_posix()
        rows = billed.get(name)
        if rows is None:
            continue  # named by the next test
        traffic = Traffic([(i["request"], i["response"]) for i in read(path)["interactions"]])
        ledger = replay(path, sorted({*rows, *traffic.carriers}), next(clients))
        for pair in ledger.recording.pairs:
            row = rows.get(traffic.carriers[pair.index], {"kind": "messages", "usage": None})
            if pair.request.custom_id is not None:
                assert pair.answer.usage is None, "the results of the only batch are not in the corpus"
                seen["batch entries without results"] += 1
                continue
            assert pair.how is Paired.EXACT, name
            measured = pair.answer.usage.tokens if pair.answer.usage else None
            assert measured == (tokens(row["usage"]) if row["usage"] else None), name
            assert pair.answer.billed is (measured is not None), name
            seen[f"{row['kind']} {'billed' if measured else 'failed'}"] += 1
        assert not ledger.recording.reshaped, name
        assert not ledger.recording.unplayed, name
        assert not ledger.problems, name
        seen["token counts"] += len(ledger.recording.token_counts)
        seen["files"] += 1
    expected = {
        "files": 262,
        "messages billed": 343,
        "messages failed": 9,
        "bedrock_invoke billed": 47,
        "bedrock_invoke failed": 1,
        "batch entries without results": 2,
        "token counts": 6,
    }
    assert set(+seen) <= set(expected)
    assert seen["files"] > 0
    assert seen["messages billed"] > 0
    if WHOLE:
        assert seen == expected


def test_files_that_are_left_out_hold_no_messages_traffic(billed: dict[str, dict[int, Row]]) -> None:
    """Each with its reason: what asks for Claude in them does so by another API."""
    reasons: Counter[str] = Counter()
    for path in PATHS:
        if path.relative_to(CASSETTES).as_posix() in billed:
            continue
        requests = [interaction["request"] for interaction in read(path)["interactions"]]
        assert [request for request in requests if Reader().read(request).request] == []
        found = {unmetered_reason(request["method"], request["uri"]) for request in requests}
        reasons.update(found - {None})
    expected = {
        "Bedrock's Converse API is not the Messages API; use invoke, or the SDK's AnthropicBedrock": 46
    }
    assert set(reasons) <= set(expected)
    if WHOLE:
        assert reasons == expected


# --- changed prompts ------------------------------------------------------------------------------

MORE = "Always answer in the language of the question, and never make anything up."


def longer_system(body: Row) -> None:
    system = body.get("system") or []
    body["system"] = (
        f"{system} {MORE}" if isinstance(system, str) else [*system, {"type": "text", "text": MORE}]
    )


def reworded_question(body: Row) -> None:
    first = body["messages"][0]
    asks = (
        first["content"]
        if isinstance(first["content"], list)
        else [{"type": "text", "text": first["content"]}]
    )
    first["content"] = [{"type": "text", "text": "Please help me with this: "}, *asks]


def another_tool(body: Row) -> None:
    tool = {"name": "notes", "description": "Keeps a note for later.", "input_schema": {"type": "object"}}
    body["tools"] = [tool, *body.get("tools", [])]


def other_results(body: Row) -> None:
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            if isinstance(block, dict) and block.get("type") == "tool_result":
                block["content"] = "Nothing to be found there. Try something else."


def with_examples(body: Row) -> None:
    body["messages"][:0] = [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "OK"},
    ]


@pytest.mark.parametrize(
    "change", [longer_system, reworded_question, another_tool, other_results, with_examples]
)
def test_changed_prompts_find_their_own_answers(change: Callable[[Row], None]) -> None:
    turns = 0
    for path in PATHS:
        interactions = [(i["request"], i["response"]) for i in read(path)["interactions"]]
        traffic = Traffic(interactions)
        recording = Recording(traffic.exchanges)
        for index, carrier in enumerate(traffic.carriers):
            recorded = traffic.exchanges[index].request
            if recorded.custom_id is not None or recorded.endpoint.api == "count_tokens":
                continue
            raw = interactions[carrier][0]
            body = json.loads(raw["body"])
            change(body)
            sent = Reader().read({**raw, "body": json.dumps(body)})
            assert sent.request is not None
            match = recording.choose(sent.request)
            assert match is not None, path
            assert recording.exchanges[match.index].request.digest == recorded.digest, path
            turns += 1
        assert not recording.reshaped, path
    assert turns == 400 if WHOLE else turns > 0
