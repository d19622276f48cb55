"""Replay needs no key, wherever a suite makes its clients; and what stands for one is never sent."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from support.budgeted import Project
from support.messages_api import MessagesApi
from support.scratch_suites import make

CLIENT = """
import anthropic

CLIENT = anthropic.Anthropic(max_retries=0)


def ask(words):
    messages = [{"role": "user", "content": words}]
    return CLIENT.messages.create(model="claude-haiku-4-5", max_tokens=50, messages=messages).content[0].text
"""
SCENARIO = """
import pytest
from client import ask


@pytest.mark.token_budget
def test_it():
    assert ask("Hello")
"""
CONFTEST = """
import anthropic

CLIENT = anthropic.Anthropic()


def pytest_configure(config):
    anthropic.Anthropic()


def pytest_sessionfinish(session):
    anthropic.Anthropic()
"""


def recorded(project: Project, api: MessagesApi) -> Project:
    done = project.run("--token-budget", "--token-budget-record=once", "--token-budget-update", url=api.url)
    assert done.status == 0, done.output
    return project


@pytest.fixture
def project(
    tmp_path: Any, pytester: pytest.Pytester, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> Project:
    for name in ("CLOUD_ML_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    return recorded(make(tmp_path / "suite", pytester, SCENARIO, client=CLIENT), api)


def test_a_client_at_import(project: Project) -> None:
    assert project.judge().verdicts == {"within"}
    plain = project.run()
    assert plain.status == 0, plain.output


@pytest.mark.parametrize(
    "made",
    [
        'anthropic.Anthropic(api_key=os.environ["ANTHROPIC_API_KEY"], max_retries=0)',
        'anthropic.Anthropic(api_key=os.getenv("ANTHROPIC_API_KEY") or sys.exit("no key"), max_retries=0)',
    ],
    ids=["environ", "getenv"],
)
def test_a_module_that_reads_the_variable_itself(
    made: str, tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises KeyError, or ends the process, where the variable is not set; also an empty one is none."""
    module = CLIENT.replace("anthropic.Anthropic(max_retries=0)", made).replace(
        "import anthropic", "import os\nimport sys\n\nimport anthropic"
    )
    project = recorded(make(tmp_path / "reading", pytester, SCENARIO, client=module), api)
    assert project.judge().verdicts == {"within"}
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    assert project.run("--token-budget").status == 0


def test_conftests_and_hooks_from_beginning_to_end(project: Project) -> None:
    (project.path / "conftest.py").write_text(CONFTEST, "utf-8")
    judged = project.judge()
    assert judged.status == 0, judged.output
    assert judged.verdicts == {"within"}


def test_workers_of_xdist(project: Project) -> None:
    judged = project.judge("-n", "1")
    assert judged.status == 0, judged.output


@pytest.mark.parametrize("options", [("--token-budget-record=all",), ("--token-budget-live",)])
def test_nothing_stands_in_where_calls_are_real(project: Project, options: tuple[str, ...]) -> None:
    done = project.run(*options)
    assert done.status != 0
    assert "No real call was made, and there is no key" in done.output
    assert "Could not resolve authentication method" not in done.output  # the SDK's traceback


SKIPS = """
import os

import pytest

KEY = os.environ.get("ANTHROPIC_API_KEY")


@pytest.mark.skipif(not KEY, reason="needs a key")
def test_live():
    assert False, "called"


def test_key():
    assert not KEY
"""


def test_nothing_stands_in_for_tests_that_are_no_scenarios(project: Project) -> None:
    (project.path / "test_live.py").write_text(SKIPS, "utf-8")
    for arguments in ((), ("test_live.py",)):
        done = project.run(*arguments)
        assert done.status == 0, done.output
        assert "1 skipped" in done.output


UNMETERED = """
import anthropic
import httpx2
import pytest
import requests
from client import CLIENT, ask


@pytest.mark.token_budget
def test_it():
    assert ask("Hello")


def test_sdk():
    ask("Not in a scenario")


def test_requests():
    requests.get("https://api.anthropic.com/v1/models", headers={"x-api-key": CLIENT.api_key})
"""


@pytest.mark.parametrize(
    ("arguments", "refusals"),
    [
        ((), ("is shown to no server", "is shown to no server")),
        (("--token-budget",), ("no scenario meters it: nothing was sent", "is shown to no server")),
    ],
)
def test_what_stands_in_is_never_sent(
    project: Project, arguments: tuple[str, ...], refusals: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that is no scenario has the client of the module, and may call in a plain run."""
    (project.path / "test_it.py").write_text(UNMETERED, "utf-8")
    looked_up: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: looked_up.append(args))
    done = project.run(*arguments)
    assert looked_up == []
    assert "2 failed, 1 passed" in done.output, done.output
    for refusal in refusals:
        assert done.words.count(refusal) >= refusals.count(refusal)


SETS = """
import os

os.environ["ANTHROPIC_API_KEY"] = "sk-of-the-suite"
"""
SEES = """

def test_key():
    import os

    assert os.environ["ANTHROPIC_API_KEY"] == "sk-of-the-suite"
"""


def test_what_the_user_sets_stays(project: Project) -> None:
    (project.path / "conftest.py").write_text(SETS, "utf-8")
    (project.path / "test_it.py").write_text(SCENARIO + SEES, "utf-8")
    judged = project.judge()
    assert judged.status == 0, judged.output
