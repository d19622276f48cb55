"""Bad input gets one clear error that names the file and the fix, and nothing is lost."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.budgeted import KEY, Project, run_apart
from support.messages_api import SECRETS, MessagesApi

SUITE = """
import anthropic
import pytest


@pytest.mark.token_budget
def test_one():
    messages = [{"role": "user", "content": "Hello"}]
    with anthropic.Anthropic() as client:
        client.messages.create(model="claude-haiku-4-5", max_tokens=99, messages=messages)
"""
PYPROJECT = '[tool.pytest.ini_options]\nasyncio_default_fixture_loop_scope = "function"\n'
CASSETTE = Path("cassettes/test_bad/test_one.yaml")
BASELINE = Path("token_budgets/test_bad.yaml")


def answer(body: Mapping[str, Any]) -> str:
    return "Hello"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "test_bad.py").write_text(SUITE, "utf-8")
    (folder / "pyproject.toml").write_text(PYPROJECT, "utf-8")
    with MessagesApi(answer) as api:
        done = run_apart(folder, "--token-budget-record=once", url=api.url)
    assert done.status == 0, done.output
    done = run_apart(folder, "--token-budget", "--token-budget-update")
    assert done.status == 0, done.output
    return folder


@pytest.fixture
def suite(recorded: Path, tmp_path: Path, pytester: pytest.Pytester) -> Project:
    """A good suite of one scenario, for a test to spoil."""
    copy = tmp_path / "suite"
    shutil.copytree(recorded, copy)
    return Project(copy, pytester)


def cut(text: str) -> str:
    return text[: len(text) * 2 // 3]


def nothing(text: str) -> str:
    return ""


def not_yaml(text: str) -> str:
    return "{[ this: is no YAML\n" + text


def binary(text: str) -> str:
    return "\x00\x01\x02" + text


def newer(text: str) -> str:
    return re.sub(r"version: \d+", "version: 99", text)


def another_shape(text: str) -> str:
    return "- just\n- a list\n"


def refused(suite: Project, *arguments: str) -> str:
    """The output of a run that fails without a traceback of the plugin's own."""
    done = suite.run(*arguments)
    assert done.status in (1, 4), done.output
    assert "INTERNALERROR" not in done.output
    assert "Traceback" not in done.output
    return done.output


@pytest.mark.parametrize("spoil", [nothing, cut, not_yaml, binary, another_shape])
def test_spoiled_cassette(suite: Project, spoil: Callable[[str], str]) -> None:
    file = suite.path / CASSETTE
    file.write_text(spoil(file.read_text("utf-8")), "utf-8")
    spoiled = file.read_bytes()
    output = refused(suite, "--token-budget")
    assert CASSETTE.name in output
    assert "--token-budget-record=" in output
    assert file.read_bytes() == spoiled


def test_missing_cassette(suite: Project) -> None:
    (suite.path / CASSETTE).unlink()
    output = refused(suite, "--token-budget")
    assert CASSETTE.name in output
    assert "its cassette and its baseline go with it" in " ".join(output.split())
    assert "--token-budget-record=" in output
    assert not (suite.path / CASSETTE).exists()


@pytest.mark.parametrize("spoil", [nothing, cut, not_yaml, binary, another_shape, newer])
def test_spoiled_baselines(suite: Project, spoil: Callable[[str], str]) -> None:
    file = suite.path / BASELINE
    file.write_text(spoil(file.read_text("utf-8")), "utf-8")
    spoiled = file.read_bytes()
    for arguments in (["--token-budget"], ["--token-budget", "--token-budget-update"]):
        output = refused(suite, *arguments)
        assert BASELINE.name in output
        assert file.read_bytes() == spoiled


def test_missing_baselines_are_new_and_name_the_command(suite: Project) -> None:
    (suite.path / BASELINE).unlink()
    output = refused(suite, "--token-budget")
    assert "token budgets: 1 new" in output
    assert "--token-budget-update" in output
    assert not (suite.path / BASELINE).exists()


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("budget=3", "budget"),
        ("tolerance='lots'", "lots"),
        ("tolerance={'tokens': '5%'}", "tokens"),
        ("max_turns=-1", "max_turns"),
        ("max_cost_usd='cheap'", "cheap"),
        ("5", "keyword"),
    ],
)
def test_bad_marker(suite: Project, marker: str, complaint: str) -> None:
    file = suite.path / "test_bad.py"
    file.write_text(SUITE.replace("mark.token_budget", f"mark.token_budget({marker})"), "utf-8")
    output = refused(suite, "--token-budget")
    assert complaint in output
    assert "test_one" in output


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [("tolerance = 'lots'", "lots"), ("tolerence = '5%'", "tolerence"), ("redact = ['(']", "redact")],
)
def test_bad_settings(suite: Project, settings: str, complaint: str) -> None:
    (suite.path / "pyproject.toml").write_text(f"{PYPROJECT}[tool.tokenbudget]\n{settings}\n", "utf-8")
    output = refused(suite, "--token-budget")
    assert complaint in output
    assert "pyproject.toml" in output


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--token-budget-report=json:test_bad.py/out.json", "test_bad.py"),
        ("--token-budget-report=xml:out.xml", "xml"),
        ("--token-budget-report=out.json", "TYPE:DEST"),
        ("--token-budget-max-spend=much", "much"),
        ("--token-budget-record=sometimes", "sometimes"),
        ("--token-budget-samples=0", "samples"),
    ],
)
def test_bad_options(suite: Project, option: str, complaint: str) -> None:
    assert complaint in refused(suite, "--token-budget", option)


def test_a_report_cannot_be_written_over_a_folder(suite: Project) -> None:
    (suite.path / "out.json").mkdir()
    assert "out.json" in refused(suite, "--token-budget", "--token-budget-report=json:out.json")


def test_an_update_that_cannot_write_says_so(suite: Project) -> None:
    """A file where the folder should be: even root cannot write below it."""
    shutil.rmtree(suite.path / BASELINE.parent)
    (suite.path / BASELINE.parent).write_text("taken", "utf-8")
    output = refused(suite, "--token-budget", "--token-budget-update")
    assert BASELINE.parent.name in output
    assert (suite.path / BASELINE.parent).read_text("utf-8") == "taken"


def test_recording_needs_a_key(suite: Project) -> None:
    (suite.path / CASSETTE).unlink()
    output = refused(suite, "--token-budget-record=once")
    assert "neither ANTHROPIC_API_KEY nor ANTHROPIC_AUTH_TOKEN is set" in output
    assert "Traceback" not in output
    assert not (suite.path / CASSETTE).exists()


def test_secrets_never_reach_the_cassette(suite: Project) -> None:
    with MessagesApi(answer) as api:
        done = suite.run("--token-budget-record=all", url=api.url)
    assert done.status == 0, done.output
    text = (suite.path / CASSETTE).read_text("utf-8")
    for secret in (*SECRETS, KEY, "req_011test"):
        assert secret not in text
