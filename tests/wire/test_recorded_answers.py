"""Real recordings of other projects: every answer is read, to the token; skipped where they are absent."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pytest_tokenbudget.model import Tokens
from pytest_tokenbudget.wire.answers import read_answer
from pytest_tokenbudget.wire.exchange import Answer, Request
from pytest_tokenbudget.wire.framing import assemble, disassemble, read_sse, write_sse
from pytest_tokenbudget.wire.requests import read_request

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("TOKENBUDGET_CORPUS", ROOT.parent / "shared" / "corpus"))

pytestmark = [
    pytest.mark.whole_run,
    pytest.mark.skipif(
        not CORPUS.is_dir(), reason="no corpus of recordings: set TOKENBUDGET_CORPUS to its folder"
    ),
]


@pytest.fixture(scope="module")
def exchanges() -> list[dict[str, Any]]:
    with gzip.open(CORPUS / "exchanges.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class Recorded(NamedTuple):
    key: tuple[str, str, int]
    """Project, file in it, and index of the exchange."""
    request: Request
    answer: Answer


@pytest.fixture(scope="module")
def cassettes() -> list[Recorded]:
    return list(read_cassettes(CORPUS / "cassettes"))


def read_cassettes(root: Path) -> Iterator[Recorded]:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in sorted(root.rglob("*.yaml")):
        project, *rest = path.relative_to(root).parts
        interactions = yaml.load(path.read_bytes(), loader)["interactions"]
        for index, interaction in enumerate(interactions):
            sent, received = interaction["request"], interaction["response"]
            request = read_request(sent["method"], sent["uri"], headers_of(sent), body_of(sent))
            if request is not None:
                status = received["status"]["code"]
                answer = read_answer(status, headers_of(received), body_of(received), request)
                yield Recorded((project, "/".join(rest), index), request, answer)


def headers_of(side: dict[str, Any]) -> dict[str, str]:
    values = (side.get("headers") or {}).items()
    return {name.lower(): value[0] if isinstance(value, list) else value for name, value in values}


def body_of(side: dict[str, Any]) -> bytes:
    """As the projects' serializers wrote it: text, bytes, or parsed JSON."""
    body = side["parsed_body"] if "parsed_body" in side else side.get("body")
    if isinstance(body, dict) and "string" in body:
        body = body["string"]
    if isinstance(body, dict):
        return json.dumps(body).encode()
    return body.encode() if isinstance(body, str) else body or b""


def told(usage: dict[str, Any]) -> tuple[int, ...]:
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    return tuple(usage.get(name) or 0 for name in names)


def counted(tokens: Tokens) -> tuple[int, ...]:
    written = tokens.ephemeral_5m_input_tokens + tokens.ephemeral_1h_input_tokens
    return (tokens.input_tokens, written, tokens.cache_read_input_tokens, tokens.output_tokens)


def test_every_exchange_bills_what_its_usage_says(exchanges: list[dict[str, Any]]) -> None:
    left: Counter[str] = Counter()
    equal = 0
    for row in exchanges:
        request = read_request("POST", row["url"], {}, json.dumps(row["request"]).encode())
        if request is None:
            left["Bedrock's count-tokens"] += row["url"].endswith("/count-tokens")
            left["unread"] += not row["url"].endswith("/count-tokens")
            continue
        answer = read_answer(row["status"], {}, json.dumps(row["response_message"]).encode(), request)
        if row["usage"] and request.endpoint.api == "messages":
            assert answer.usage is not None, (row["file"], answer.error)
            assert counted(answer.usage.tokens) == told(row["usage"]), row["file"]
            assert answer.usage.turns == 1
            equal += 1
        else:
            left["free" if answer.usage is not None else "failed"] += 1
    assert equal > 1000
    assert left["unread"] == 0
    assert left["failed"] == sum(row["status"] != 200 for row in exchanges)
    assert equal + left.total() == len(exchanges)


def test_every_answer_in_the_cassettes_has_its_usage(cassettes: list[Recorded]) -> None:
    reasons = Counter(answer.error for _, _, answer in cassettes if answer.usage is None)
    print(f"{len(cassettes)} answers, without usage: {dict(reasons)}")
    assert len(cassettes) > 300
    assert {answer.error for _, _, answer in cassettes if answer.billed and answer.usage is None} == set()
    assert set(reasons) <= {"invalid_request_error", "not_found_error", "authentication_error", "HTTP 400"}


def test_streams_become_the_messages_that_others_made_of_them(
    cassettes: list[Recorded], exchanges: list[dict[str, Any]]
) -> None:
    rows = {(row["repo"].replace("+", "__"), row["file"], row["index_in_cassette"]): row for row in exchanges}
    streamed = [
        one for one in cassettes if one.request.prompt.stream and one.key in rows and one.answer.billed
    ]
    for one in streamed:
        assert one.answer.message == rows[one.key]["response_message"], one.key
    assert len(streamed) > 100


def test_every_message_survives_being_streamed(exchanges: list[dict[str, Any]]) -> None:
    messages = [row["response_message"] for row in exchanges if row["kind"] == "messages" and row["usage"]]
    for message in messages:
        streamed = assemble(read_sse(write_sse(disassemble(message))))
        assert (streamed.message, streamed.error) == (message, None)
    assert len(messages) > 1000
