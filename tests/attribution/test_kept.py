"""What a scenario leaves in memory once it is over: its entry, and nothing of what was asked and recorded."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator

import pytest

from pytest_tokenbudget.replay.traffic import Reader
from support.scratch_suites import Suite

SUITE = """
import os

import pytest
import vcr
from agent import ask


@pytest.mark.token_budget
@pytest.mark.parametrize("number", [1, 2, 3])
def test_parcel(number):
    ask(f"Parcel {number}?")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_letter(number):
    options = {"filter_headers": ["x-api-key"], "match_on": ["method", "path"]}
    with vcr.use_cassette(f"letter{number}.yaml", **options):
        ask(f"Letter {number}?")


@pytest.mark.token_budget
@pytest.mark.parametrize("number", [1, 2, 3])
def test_more(number):
    ask(f"More {number}?")
    if "MORE" in os.environ:
        ask("And more?")
"""
WATCH = """
import gc
import json
from collections import Counter

import pytest

ERRORS = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call):
    ERRORS.append(call.excinfo)  # as pytest-rerunfailures keeps the error of a test, with its traceback


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid):
    ours = (type(it) for it in gc.get_objects() if str(type(it).__module__).startswith("pytest_tokenbudget"))
    with open("alive.jsonl", "a") as lines:
        lines.write(json.dumps([nodeid, len(ERRORS), Counter(kind.__name__ for kind in ours)]) + "\\n")
"""
HEAVY = ("Exchange", "Pair", "Request", "Sent", "Prompt", "Turn")
"""Types whose objects hold whole bodies."""
HEADS = 2 * 16
"""Tools and system prompts that are remembered, each of one block here: they come back on every turn."""


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_a_conversation_holds_each_long_text_once() -> None:
    """It is sent anew with each turn, as recorded and now: 24 turns of 300 KB are 600 KB, not 17 MB."""
    reader, said = Reader(), [str(number) * 20_000 for number in range(4)]
    read = []
    for turns in (2, 3, 4, 4):
        messages = [{"role": "user", "content": [{"type": "text", "text": text}]} for text in said[:turns]]
        body = {"model": "claude-haiku-4-5", "system": f"Turn {len(read)}", "messages": messages}
        sent = {"method": "POST", "uri": "https://api.anthropic.com/v1/messages", "body": json.dumps(body)}
        request = reader.read(sent).request
        assert request is not None
        assert request.body == body
        read.append(request)
    texts = [block.content["text"] for request in read for block in request.prompt.level("messages")]
    texts += [m["content"][0]["text"] for request in read for m in (request.body or {})["messages"]]
    assert len(texts) == 2 * (2 + 3 + 4 + 4)
    assert len({id(text) for text in texts}) == len(said)


def test_a_scenario_that_is_over_keeps_nothing_of_what_it_asked(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, no_garbage_collection: None
) -> None:
    """20 failing cassettes of 7.7 MB took 607 MB: what held the error of a test held all its turns."""
    project = suite(SUITE, 9, conftest=WATCH)
    monkeypatch.setenv("MORE", " Never promise a date that nobody has confirmed, and sign with it." * 4)
    log = project.path / "alive.jsonl"
    log.unlink()
    ours = (type(it) for it in gc.get_objects() if str(type(it).__module__).startswith("pytest_tokenbudget"))
    before = Counter(kind.__name__ for kind in ours)
    judged = project.judge()
    assert judged.verdicts == {"over", "stale"}, judged.output
    lines = [*map(json.loads, log.read_text("utf-8").splitlines())]
    assert [errors for _, errors, _ in lines] == [3 * number for number in range(1, 10)]
    for test, _, alive in lines:
        assert alive["Block"] <= before["Block"] + HEADS, test
        assert {name: number for name in HEAVY if (number := alive.get(name, 0) - before[name]) > 0} == {}, (
            test
        )
