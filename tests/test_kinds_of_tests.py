"""Scenarios of every kind that pytest knows, run in every way that people run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.budgeted import Project, run_apart
from support.messages_api import MessagesApi
from support.scratch_suites import echo

SUITE = """
import os
import unittest

import anthropic
import pytest

SYSTEM = "You are a clerk who files letters. " * int(os.environ.get("TIMES", "20"))


def ask(words):
    with anthropic.Anthropic() as client:
        return client.messages.create(**request(words)).content[0].text


def request(words):
    messages = [{"role": "user", "content": words}]
    return {"model": "claude-haiku-4-5", "max_tokens": 99, "system": SYSTEM, "messages": messages}


@pytest.mark.token_budget
@pytest.mark.parametrize("word", ["plain", "[a|b]", "x/y", "naïve", "two words"])
def test_parametrized(word):
    assert ask(word) == f"You said {word}"


@pytest.mark.token_budget
class TestMarked:
    def test_first(self):
        assert ask("first")

    class TestInner:
        def test_second(self):
            assert ask("second")


class TestUnit(unittest.TestCase):
    @pytest.mark.token_budget
    def test_unit(self):
        self.assertEqual(ask("unit"), "You said unit")


@pytest.mark.token_budget
@pytest.mark.asyncio
async def test_asyncio():
    async with anthropic.AsyncAnthropic() as client:
        async with client.messages.stream(**request("asyncio")) as stream:
            assert (await stream.get_final_message()).content[0].text == "You said asyncio"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.token_budget
@pytest.mark.anyio
async def test_anyio():
    async with anthropic.AsyncAnthropic() as client:
        assert (await client.messages.create(**request("anyio"))).content[0].text == "You said anyio"


def test_unmarked():
    assert SYSTEM
"""
INI = "[pytest]\naddopts = --strict-markers\nasyncio_default_fixture_loop_scope = function\n"
COUNT = 10


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that was recorded and given its baselines."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "test_kinds.py").write_text(SUITE, "utf-8")
    (folder / "pytest.ini").write_text(INI, "utf-8")
    with MessagesApi(echo) as api:
        done = run_apart(folder, "--token-budget-record=once", url=api.url)
    assert done.status == 0, done.output
    assert len(api.charges) == COUNT
    done = run_apart(folder, "--token-budget", "--token-budget-update")
    assert done.status == 0, done.output
    return folder


@pytest.fixture
def suite(recorded: Path, pytester: pytest.Pytester) -> Project:
    return Project(recorded, pytester)


def test_every_kind_is_within(suite: Project) -> None:
    result = suite.judge()
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    assert len(result.scenarios) == COUNT
    assert {entry["basis"] for entry in result.document["scenarios"]} == {"recorded"}


def test_every_kind_has_files_of_its_own(suite: Project) -> None:
    assert len(list((suite.path / "cassettes/test_kinds").iterdir())) == COUNT
    assert [path.name for path in (suite.path / "token_budgets").iterdir()] == ["test_kinds.yaml"]


@pytest.mark.parametrize(
    "arguments", [("-n", "2"), ("-p", "no:randomly"), ("--reruns", "1"), ("-v",), ("-q",)], ids=" ".join
)
def test_however_it_is_run_the_document_is_the_same(suite: Project, arguments: tuple[str, ...]) -> None:
    assert suite.judge(*arguments).document == suite.judge().document


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("-k", "asyncio or anyio"), {"test_asyncio", "test_anyio"}),
        (("test_kinds.py::TestUnit",), {"TestUnit::test_unit"}),
        (("test_kinds.py::TestMarked::TestInner::test_second",), {"TestMarked::TestInner::test_second"}),
        (("test_kinds.py::test_parametrized[[a|b]]",), {"test_parametrized[[a|b]]"}),
    ],
    ids=["-k", "class", "nested", "parameter"],
)
def test_a_partial_run_judges_what_it_ran(
    suite: Project, arguments: tuple[str, ...], names: set[str]
) -> None:
    result = suite.judge(*arguments)
    assert (result.status, set(result.scenarios)) == (0, names), result.output


def test_without_the_flag_scenarios_replay_and_nothing_is_judged(
    suite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMES", "40")
    done = suite.run()
    assert done.status == 0, done.output
    assert f"{COUNT + 1} passed" in done.output
    assert "token budget" not in done.output.lower()


def test_growth_fails_every_kind_in_the_call_phase(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMES", "40")
    result = suite.judge(f"--junitxml={suite.path / 'junit.xml'}")
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    assert f"{COUNT} failed, 1 passed" in result.output
    assert "error" not in result.output.splitlines()[-1]
    assert "Traceback" not in result.output
    junit = (suite.path / "junit.xml").read_text("utf-8")
    assert junit.count("<failure") == COUNT
    assert "Over budget: " in junit
