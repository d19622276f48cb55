"""Bad input gets one clear error that names the file and the fix, and nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from budgeted import against, run
from messages_api import SECRETS, MessagesApi

SUITE = """
import anthropic
import pytest


@pytest.mark.token_budget
def test_one():
    messages = [{"role": "user", "content": "Hello"}]
    with anthropic.Anthropic() as client:
        client.messages.create(model="claude-haiku-4-5", max_tokens=99, messages=messages)
"""
CASSETTE = Path("cassettes/test_bad/test_one.yaml")
BASELINE = Path("token_budgets/test_bad.yaml")


def answer(body: Mapping[str, Any]) -> str:
    return "Hello"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "test_bad.py").write_text(SUITE, "utf-8")
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n", "utf-8")
    with MessagesApi(answer) as api:
        done = run(folder, "--token-budget-record=once", **against(api.url))
    assert done.returncode == 0, done.stdout + done.stderr
    assert run(folder, "--token-budget", "--token-budget-update").returncode == 0
    return folder


@pytest.fixture
def suite(recorded: Path, tmp_path: Path) -> Path:
    """A good suite of one scenario, for a test to spoil."""
    copy = tmp_path / "suite"
    shutil.copytree(recorded, copy)
    return copy


def cut(text: str) -> str:
    return text[: len(text) * 2 // 3]


def nothing(text: str) -> str:
    return ""


def not_yaml(text: str) -> str:
    return "{[ this: is no YAML\n" + text


def binary(text: str) -> str:
    return "\x00\x01\x02" + text


def newer(text: str) -> str:
    return text.replace("version: 1", "version: 99")


def another_shape(text: str) -> str:
    return "- just\n- a list\n"


def refused(suite: Path, *arguments: str) -> str:
    """The output of a run that fails without a traceback of the plugin's own."""
    done = run(suite, *arguments)
    output = done.stdout + done.stderr
    assert done.returncode in (1, 4), output
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize("spoil", [nothing, cut, not_yaml, binary, another_shape])
def test_spoiled_cassette(suite: Path, spoil: Callable[[str], str]) -> None:
    file = suite / CASSETTE
    file.write_text(spoil(file.read_text("utf-8")), "utf-8")
    spoiled = file.read_bytes()
    output = refused(suite, "--token-budget")
    assert CASSETTE.name in output
    assert "--token-budget-record=" in output
    assert file.read_bytes() == spoiled


def test_missing_cassette(suite: Path) -> None:
    (suite / CASSETTE).unlink()
    output = refused(suite, "--token-budget")
    assert "--token-budget-record=once" in output
    assert "test_one" in output
    assert not (suite / CASSETTE).exists()


@pytest.mark.parametrize("spoil", [nothing, cut, not_yaml, binary, another_shape, newer])
def test_spoiled_baselines(suite: Path, spoil: Callable[[str], str]) -> None:
    file = suite / BASELINE
    file.write_text(spoil(file.read_text("utf-8")), "utf-8")
    spoiled = file.read_bytes()
    for arguments in (["--token-budget"], ["--token-budget", "--token-budget-update"]):
        output = refused(suite, *arguments)
        assert BASELINE.name in output
        assert file.read_bytes() == spoiled


def test_missing_baselines_are_new_and_name_the_command(suite: Path) -> None:
    (suite / BASELINE).unlink()
    output = refused(suite, "--token-budget")
    assert "is new" in output
    assert "--token-budget-update" in output
    assert not (suite / BASELINE).exists()


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
def test_bad_marker(suite: Path, marker: str, complaint: str) -> None:
    file = suite / "test_bad.py"
    file.write_text(SUITE.replace("mark.token_budget", f"mark.token_budget({marker})"), "utf-8")
    output = refused(suite, "--token-budget")
    assert complaint in output
    assert "test_one" in output


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [("tolerance = 'lots'", "lots"), ("tolerence = '5%'", "tolerence"), ("redact = ['(']", "redact")],
)
def test_bad_settings(suite: Path, settings: str, complaint: str) -> None:
    (suite / "pyproject.toml").write_text(
        f"[tool.pytest.ini_options]\n[tool.tokenbudget]\n{settings}\n", "utf-8"
    )
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
def test_bad_options(suite: Path, option: str, complaint: str) -> None:
    assert complaint in refused(suite, "--token-budget", option)


def test_a_report_cannot_be_written_over_a_folder(suite: Path) -> None:
    (suite / "out.json").mkdir()
    assert "out.json" in refused(suite, "--token-budget", "--token-budget-report=json:out.json")


def test_an_update_that_cannot_write_says_so(suite: Path) -> None:
    """A file where the folder should be: even root cannot write below it."""
    shutil.rmtree(suite / BASELINE.parent)
    (suite / BASELINE.parent).write_text("taken", "utf-8")
    output = refused(suite, "--token-budget", "--token-budget-update")
    assert BASELINE.parent.name in output
    assert (suite / BASELINE.parent).read_text("utf-8") == "taken"


def test_recording_needs_a_key(suite: Path) -> None:
    (suite / CASSETTE).unlink()
    output = refused(suite, "--token-budget-record=once")
    assert "ANTHROPIC_API_KEY" in output
    assert not (suite / CASSETTE).exists()


def test_secrets_never_reach_the_cassette(suite: Path) -> None:
    with MessagesApi(answer) as api:
        done = run(suite, "--token-budget-record=all", **against(api.url))
    assert done.returncode == 0, done.stdout + done.stderr
    text = (suite / CASSETTE).read_text("utf-8")
    for secret in (*SECRETS, against(api.url)["ANTHROPIC_API_KEY"], "req_011test"):
        assert secret not in text
