"""In a judging run no model call goes past the scenarios without a word."""

from __future__ import annotations

import jsonschema
import pytest

from pytest_tokenbudget.reports.document import schema
from support.messages_api import MessagesApi
from support.scratch_suites import Suite, settings

ONE = """
import pytest
from agent import ask


@pytest.mark.token_budget
def test_parcel():
    assert ask("One") == "You said One"
"""
UNMARKED = """
import pytest
from agent import ask


def test_more():
    assert ask("Two") == "You said Two"


def test_that_swallows():
    try:
        ask("Two")
    except BaseException:
        pass


class TestTeardown:
    def teardown_method(self):
        ask("Two")

    def test_nothing(self):
        pass
"""
FIXTURE = """
import pytest
from agent import ask


@pytest.fixture(scope="module")
def answer():
    return ask("Two")


def test_answer(answer):
    pass
"""
IMPORTED = 'from agent import ask\n\nANSWER = ask("Two")\n\n\ndef test_answer():\n    assert ANSWER\n'
MOCKED = """
import httpx2


def test_mocked():
    answer = httpx2.Response(200, json={"content": []})
    with httpx2.Client(transport=httpx2.MockTransport(lambda _: answer)) as client:
        assert client.post("https://api.anthropic.com/v1/messages", json={"messages": []}).json()


def test_mocked_below(monkeypatch):
    import httpcore2

    answer = httpcore2.Response(200, content=b"{}")
    monkeypatch.setattr(httpcore2.ConnectionPool, "handle_request", lambda self, request: answer)
    assert httpx2.post("https://api.anthropic.com/v1/messages", json={"messages": []}).json() == {}


def test_free():
    import os

    url = os.environ["ANTHROPIC_BASE_URL"]
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    body = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Two"}]}
    assert httpx2.post(f"{url}/v1/messages/count_tokens", json=body, headers=headers).is_success
"""


def test_a_call_that_nothing_meters_is_refused_and_named(suite: Suite, api: MessagesApi) -> None:
    project = suite(ONE, 1)
    for name, text in {"more": UNMARKED, "fixture": FIXTURE, "mocked": MOCKED}.items():
        (project.path / f"test_{name}.py").write_text(text, "utf-8")
    judged = project.judge("-rf", url=api.url)
    assert (judged.status, len(api.charges)) == (1, 1)
    assert [entry["id"] for entry in judged.document["scenarios"]] == ["test_it.py::test_parcel"]
    errors = {error["id"]: error["text"] for error in judged.document["errors"]}
    more = "test_more.py::test_more"
    assert errors[more] == (
        f"{more} calls a model at 127.0.0.1, and no scenario meters it: nothing was sent. Put "
        f'@pytest.mark.token_budget above the test; or let it pass: allow_unmetered = ["{more}"] in '
        "[tool.tokenbudget]."
    )
    assert "test_that_swallows calls a model" in errors["test_more.py::test_that_swallows"]
    assert "fixture answer calls a model at 127.0.0.1" in judged.output
    assert "Traceback" not in judged.output
    assert "test_mocked" not in "".join(errors)
    jsonschema.Draft202012Validator(schema()).validate(judged.document)
    settings(project, f'allow_unmetered = ["test_more.py", "{more}"]\nexclude = ["test_fixture.py"]')
    judged = project.judge(url=api.url)
    assert (judged.status, len(api.charges)) == (0, 5)
    assert "; 1 excluded; 4 unmetered calls" in judged.words
    assert {entry["id"]: entry["calls"] for entry in judged.document["unmetered"]} == {
        more: 1,
        "test_more.py::test_that_swallows": 1,
        "test_more.py::teardown of TestTeardown::test_nothing": 1,
        "test_fixture.py::test_answer": 1,
    }
    settings(project, 'allow_unmetered = ["127.0.0.1"]')
    assert project.judge("-n", "2", url=api.url).document["unmetered"][0]["calls"] == 1
    assert len(api.charges) == 9


def test_a_call_at_import_is_of_the_file(suite: Suite, api: MessagesApi) -> None:
    project = suite(ONE, 1)
    (project.path / "test_imported.py").write_text(IMPORTED, "utf-8")
    judged = project.judge("--continue-on-collection-errors", url=api.url)
    assert (judged.status, len(api.charges)) == (1, 1)
    (error,) = judged.document["errors"]
    assert error["id"] == "test_imported.py"
    assert error["text"].startswith("collection of test_imported.py calls a model at 127.0.0.1")
    assert 'allow_unmetered = ["test_imported.py"]' in error["text"]
    recorded = project.run("--token-budget-record=all", url=api.url)  # a recording is closed, too
    assert (recorded.status, len(api.charges)) == (2, 1)
    assert project.run("-k", "answer", url=api.url).status == 0  # a plain run refuses nothing
    assert len(api.charges) == 2
    settings(project, "allow_unmetered = true")
    assert project.judge(url=api.url).status == 0


def test_a_forgotten_marker_is_called_that(suite: Suite, api: MessagesApi) -> None:
    project = suite(ONE, 1)
    test = project.path / "test_it.py"
    test.write_text(test.read_text("utf-8").replace("@pytest.mark.token_budget\n", ""), "utf-8")
    judged = project.judge(url=api.url)
    assert (judged.status, len(api.charges)) == (1, 1)
    (error,) = judged.document["errors"]
    assert "Its marker was forgotten, for it has a cassette and a baseline" in error["text"]
    test.write_text(ONE, "utf-8")
    assert project.judge().status == 0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('"host"', "write true, or a list of hosts and tests"),
        ('["https://db.internal"]', "'https://db.internal' is no host"),
        ("[1]", "write a list of strings"),
    ],
)
def test_what_may_be_allowed(suite: Suite, value: str, says: str) -> None:
    project = suite(ONE, 1)
    settings(project, f"allow_unmetered = {value}")
    done = project.run("--token-budget")
    assert done.status == 4
    assert says in done.output
