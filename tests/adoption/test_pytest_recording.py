"""A suite that uses pytest-recording: every mark and setting of it, as it is and under --token-budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from recorded_suites import MORE, Ran, RecordedSuite, Spent, by_id, charged, measured

from budgeted import Judged
from messages_api import MessagesApi

T = TypeVar("T")

CONFTEST = """
import pytest
import vcr.serialize
import yaml
from vcr.persisters.filesystem import CassetteNotFoundError


class Shouted:
    serialize = staticmethod(lambda cassette: "SHOUTED" + yaml.dump(cassette))
    deserialize = staticmethod(lambda text: yaml.safe_load(text.removeprefix("SHOUTED")))


def same_question(now, recorded):
    assert now.body == recorded.body


def pytest_recording_configure(config, vcr):
    vcr.register_serializer("shouted", Shouted)
    vcr.register_matcher("question", same_question)
"""
CONFIG = """
import pytest
from agent import ask

pytestmark = pytest.mark.vcr


def before(request):
    if request.path == "/v1/nothing":
        return None
    request.headers.pop("x-api-key", None)
    request.body = request.body.replace(b"Four", b"4")
    return request


def after(response):
    response["headers"].pop("set-cookie", None)
    return response


@pytest.fixture(scope="{scope}")
def vcr_config():
    return {config}


def test_one():
    assert ask("One", path="/v1/messages?beta=true&key=secret").startswith("You said")


def test_two():
    assert ask("Two", metadata={{"user_id": "secret"}}).startswith("You said")
    assert ask("Three").startswith("You said")
"""
ONE = """
import pytest
from agent import ask


def test_one():
    assert ask("One").startswith("You said")
"""


def config(text: str, scope: str = "module") -> str:
    return CONFIG.format(config=text, scope=scope)


MODULES = {
    "mark": """
        import pytest
        from agent import ask

        @pytest.mark.vcr
        def test_one():
            assert ask("One").startswith("You said")

        @pytest.mark.vcr()
        @pytest.mark.parametrize("words", ["Two", "a/b?"])
        def test_words(words):
            assert ask(words).startswith("You said")

        @pytest.mark.asyncio
        @pytest.mark.vcr
        async def test_async():
            assert ask("Three").startswith("You said")

        @pytest.mark.vcr
        def test_nothing():
            pass
    """,
    "class_mark": """
        import unittest

        import pytest
        from agent import ask

        @pytest.mark.vcr
        class TestIt:
            def test_one(self):
                assert ask("One").startswith("You said")

        @pytest.mark.vcr
        class Case(unittest.TestCase):
            def test_two(self):
                assert ask("Two").startswith("You said")
    """,
    "module_mark": ONE + "pytestmark = pytest.mark.vcr",
    "settings_in_mark": ONE + "pytestmark = pytest.mark.vcr(filter_headers=['host'], match_on=['method'])",
    "several_marks": """
        import pytest
        from agent import post

        pytestmark = pytest.mark.vcr(filter_headers=["x-api-key"])

        def test_one():
            assert post("One. Asked by test_several_marks.py::test_one (call)").status_code == 200

        @pytest.mark.vcr("test_one.yaml")
        @pytest.mark.vcr("test_none.yaml", match_on=["method", "path"])
        def test_two():
            assert post("One. Asked by test_several_marks.py::test_one (call)").status_code == 200
    """,
    "default_cassette": ONE + "pytestmark = [pytest.mark.vcr, pytest.mark.default_cassette('other.yaml')]",
    "function_config": config('{"filter_headers": ["x-api-key"]}', "function"),
    "class_config": config('{"filter_headers": ["x-api-key"]}', "class"),
    "session_config": config('{"filter_headers": ["x-api-key"]}', "session"),
    "filter_headers": config(
        '{"filter_headers": ["x-api-key", ("host", "HIDDEN"), ("accept", lambda key, value, request: None)]}'
    ),
    "filter_query": config('{"filter_query_parameters": ["beta", ("key", "HIDDEN")]}'),
    "filter_body": config('{"filter_post_data_parameters": ["metadata", ("temperature", "1")]}'),
    "filter_sensitive": config('{"filter_sensitive_data": [("KEY", "sk-ant-secret")]}'),
    "before_request": config('{"before_record_request": before}'),
    "before_response": config('{"before_record_response": after}'),
    "match_default": config('{"match_on": ["method", "uri"]}'),
    "match_body": config('{"match_on": ["method", "path", "body"]}'),
    "match_raw_body": config('{"match_on": ["raw_body"]}'),
    "match_headers": config('{"match_on": ["method", "uri", "headers"]}'),
    "match_own": config('{"match_on": ["method", "question"]}'),
    "ignore_hosts": config('{"ignore_hosts": ["example.com"]}'),
    "decoded": config('{"decode_compressed_response": True}'),
    "repeats": config('{"allow_playback_repeats": True}'),
    "json": config('{"serializer": "json", "decode_compressed_response": True}'),
    "serializer": config('{"serializer": "shouted"}'),
    "transformer": config('{"path_transformer": lambda path: path + ".moved"}'),
    "drop_unused": config('{"drop_unused_requests": True}'),
    "once": config('{"record_mode": "once"}'),
    "new_episodes": config('{"record_mode": "new_episodes"}'),
    "directory": ONE
    + """
pytestmark = pytest.mark.vcr


@pytest.fixture(scope="module")
def vcr_cassette_dir(request):
    return str(request.path.parent / "cassettes" / "elsewhere")
""",
    "names": ONE
    + """
pytestmark = pytest.mark.vcr


@pytest.fixture
def default_cassette_name(request):
    return f"named-{request.node.name}"
""",
    "markers": ONE
    + """
@pytest.fixture
def vcr_markers():
    return [pytest.mark.vcr(filter_headers=["x-api-key"]).mark]
""",
    "fixture": """
        import pytest
        from agent import ask

        @pytest.fixture
        def letter():
            yield ask("Fetch a letter.")
            ask("Put it back.")

        @pytest.mark.vcr
        def test_one(letter, vcr):
            played = vcr.play_count
            assert ask("One").startswith("You said")
            assert vcr.play_count == (played + 1 if vcr.rewound else 0)
            assert vcr.dirty is not vcr.rewound
            assert [request.path for request in vcr.requests] == ["/v1/messages"] * len(vcr)
            assert [response["status"]["code"] for response in vcr.responses] == [200] * len(vcr)
            assert not vcr.all_played
    """,
    "block_network": """
        import socket

        import pytest
        from agent import ask

        def connect():
            with socket.socket() as one:
                one.settimeout(1)
                one.connect(("127.0.0.1", 1))

        @pytest.mark.vcr
        @pytest.mark.block_network
        def test_one():
            assert ask("One").startswith("You said")

        @pytest.mark.block_network
        def test_refused():
            with pytest.raises(RuntimeError, match="Network is disabled"):
                connect()

        @pytest.mark.block_network(allowed_hosts=["127.0.0.1"])
        def test_allowed():
            with pytest.raises(ConnectionError):
                connect()

        @pytest.mark.block_network(hosts=["127.0.0.1"])
        def test_misspelled():
            pass
    """,
    "outcomes": """
        import pytest
        from agent import ask, post

        pytestmark = pytest.mark.vcr

        @pytest.fixture
        def broken():
            raise OSError("nothing to do with a model")

        def test_skipped():
            ask("One")
            pytest.skip("not today")

        def test_fails():
            assert ask("One") == "Something else"

        def test_error(broken):
            ask("One")

        @pytest.mark.xfail(reason="not yet")
        def test_expected():
            assert ask("One") == "Something else"

        def test_refused_by_the_api():
            assert post("One", model="claude-unknown-1").status_code == 404

        def test_not_a_model_call():
            assert post("One", path="/v1/nothing").status_code == 404
    """,
}  # fmt: skip
REFUSED_IF_CHANGED = {"match_body", "match_raw_body", "match_headers", "match_own"}
"""Whose `match_on` finds no answer to a changed prompt."""
OLD_ANSWERS = {"test_repeats.py::test_two", "test_several_marks.py::test_two"}
"""Tests that are answered what others, or they themselves, have asked."""


@dataclass(frozen=True, repr=False)
class Runs:
    """What became of the suite."""

    charged: Mapping[str, Spent]
    recorded: Ran
    plain: Ran
    judged: Judged
    ran: Ran
    grown_plain: Ran
    grown: Judged
    grown_ran: Ran


@pytest.fixture(scope="module")
def made() -> list[Runs]:
    return []


@pytest.fixture
def runs(made: list[Runs], home: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Recorded by a plain run; then the server is gone."""
    if made:
        return made[0]
    files = {"conftest": CONFTEST, **{f"test_{name}": text for name, text in MODULES.items()}}
    with MessagesApi(lambda body: f"You said: {body['messages'][-1]['content']}", gzip=True) as api:
        suite = RecordedSuite.write(home / "suite", pytester, api, files)
        recorded = suite.plain("--record-mode=once")
    suite.judge("--token-budget-update")
    plain, judged = suite.plain(), suite.judge()
    monkeypatch.setenv("GROWN", MORE)
    made.append(Runs(charged(api), recorded, plain, *judged, suite.plain(), *suite.judge()))
    return made[0]


def of(module: str, found: Mapping[str, T]) -> dict[str, T]:
    return {name: one for name, one in found.items() if name.startswith(f"test_{module}.py::")}


@pytest.mark.parametrize("module", MODULES)
def test_each_test_ends_as_it_does_without_the_flag(module: str, runs: Runs) -> None:
    assert of(module, runs.ran.outcomes) == of(module, runs.plain.outcomes) != {}
    assert of(module, runs.plain.outcomes) == of(module, runs.recorded.outcomes)


@pytest.mark.parametrize("module", MODULES)
def test_each_test_is_metered_with_the_recorded_usage(module: str, runs: Runs) -> None:
    expected = of(module, runs.ran.answered)
    unjudged = {name for name in expected if runs.plain.outcomes.get(name, "passed") != "passed"}
    assert {name: one for name, one in of(module, runs.charged).items() if name not in OLD_ANSWERS} == {
        name: one for name, one in expected.items() if name not in OLD_ANSWERS
    }
    judged = by_id(runs.judged)
    assert {entry["verdict"] for entry in of(module, judged).values()} <= {"within"}
    if module != "repeats":  # whose second answer is counted from the first
        assert {entry["basis"] for entry in of(module, judged).values()} <= {"recorded"}
        assert of(module, measured(runs.judged)) == {n: e for n, e in expected.items() if n not in unjudged}


def test_nothing_of_the_suite_is_written(runs: Runs) -> None:
    ran = [runs.plain, runs.ran, runs.grown_plain, runs.grown_ran]
    assert [one.cassettes == runs.recorded.cassettes for one in ran] == [True] * 4
    assert len(runs.recorded.cassettes) > len(MODULES)


@pytest.mark.parametrize("module", sorted({*MODULES} - REFUSED_IF_CHANGED))
def test_a_changed_prompt_is_counted_and_over(module: str, runs: Runs) -> None:
    """Where the suite itself, matching on less than the body, goes on passing."""
    was, now = (of(module, by_id(judged)) for judged in (runs.judged, runs.grown))
    asking = [name for name, entry in was.items() if entry["measured"]["turns"]]
    assert {name: now[name]["verdict"] for name in asking} == dict.fromkeys(asking, "over")
    assert {now[name]["basis"] for name in asking} <= {"counted", "estimated"}
    assert of(module, runs.grown_plain.outcomes) == of(module, runs.plain.outcomes)
    expected = {**of(module, runs.plain.outcomes), **dict.fromkeys(asking, "failure")}
    assert of(module, runs.grown_ran.outcomes) == expected


@pytest.mark.parametrize("module", sorted(REFUSED_IF_CHANGED))
def test_a_changed_prompt_is_refused_where_the_suite_itself_refuses_it(module: str, runs: Runs) -> None:
    """In words that name what differs, and with the command that records it."""
    now = of(module, by_id(runs.grown))
    assert {entry["verdict"] for entry in now.values()} == {"stale"}
    assert dict.fromkeys(now, "failure") == of(module, runs.grown_plain.outcomes)
    assert of(module, runs.grown_ran.outcomes) == of(module, runs.grown_plain.outcomes)
    for name, entry in now.items():
        (told,) = [found["text"] for found in entry["findings"] if found["kind"] == "problem"]
        assert re.search(r"match_on lets no request of \S+ answer it, for (.+) differs", told)
        assert f"Record it: pytest --record-mode=rewrite {name}" in told
    assert f"Record it anew (needs an API key): pytest --record-mode=rewrite {name}" in runs.grown_ran.output
