"""Recorded usage that cannot be that of its prompt: it fails, unless its host is trusted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.run import session
from support.budgeted import Done, Project
from support.messages_api import MessagesApi
from support.messages_api import api as api_of_the_tests
from support.scratch_suites import echo, make, record

TEST = """
import pytest

from agent import ask


@pytest.mark.token_budget
def test_it():
    ask("Where is my parcel?", "You answer the customers of a parcel service, briefly and kindly. " * 100)
"""
FITS_NOT = r"usage does not fit its prompt on 1 of 1 turns: turn 1 was billed [\d,]+ prompt tokens, and its"


@pytest.fixture
def project(tmp_path: Path, pytester: pytest.Pytester) -> Project:
    made = make(tmp_path / "suite", pytester, TEST)
    with MessagesApi(echo) as api:
        record(made, api, 1)
    return made


def edit(project: Project) -> None:
    """Make the recorded answer bill a third."""
    (path,) = (project.path / "cassettes").rglob("*.yaml")
    text = path.read_text("utf-8")
    edited = re.sub(r"\binput_tokens: (\d{3,})", lambda found: f"input_tokens: {int(found[1]) // 3}", text)
    assert edited != text
    path.write_text(edited, "utf-8")


def one_line(done: Done) -> str:
    """What a run said, as it was before it was wrapped."""
    return done.words


def baseline(project: Project) -> str:
    (path,) = (project.path / "token_budgets").rglob("*.yaml")
    return path.read_text("utf-8")


def test_a_cassette_that_bills_a_third_of_its_prompt_fails(project: Project) -> None:
    accepted = baseline(project)
    edit(project)
    judged = project.judge()
    assert judged.status == 1
    assert judged.verdicts == {"stale"}
    assert re.search(FITS_NOT, one_line(judged))
    assert 'trusted_usage = ["127.0.0.1"] in [tool.tokenbudget]' in one_line(judged)
    assert project.judge("--token-budget-update").status == 1
    assert baseline(project) == accepted


def test_the_command_that_is_named_resolves_it(project: Project) -> None:
    edit(project)
    told = one_line(project.judge())
    assert "pytest --token-budget --token-budget-record=all test_it.py::test_it" in told
    assert "--token-budget-record=changed" not in told
    with MessagesApi(echo) as api:
        recorded = project.judge("--token-budget-record=all", "test_it.py::test_it", url=api.url)
    assert recorded.status == 0, recorded.output
    assert project.judge().verdicts == {"within"}


def test_a_first_baseline_is_not_written_of_it(project: Project) -> None:
    edit(project)
    (path,) = (project.path / "token_budgets").rglob("*.yaml")
    path.unlink()
    judged = project.judge("--token-budget-update")
    assert judged.status == 1
    assert re.search(FITS_NOT, one_line(judged))
    assert not path.exists()


def test_usage_of_a_trusted_host_is_taken_as_it_is(project: Project) -> None:
    edit(project)
    settings = '[tool.tokenbudget]\ntrusted_usage = ["127.0.0.1"]\n'
    (project.path / "pyproject.toml").write_text(settings, "utf-8")
    judged = project.judge()
    assert judged.status == 0, judged.output
    assert judged.verdicts == {"improved"}


def test_usage_of_a_trusted_host_is_not_even_counted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(project)
    (project.path / "pyproject.toml").write_text(
        '[tool.tokenbudget]\ntrusted_usage = ["127.0.0.1"]\n', "utf-8"
    )
    monkeypatch.setattr(session, "best_counter", lambda _: Never())
    assert project.judge().verdicts == {"improved"}


class Never:
    """A counter that must not be asked."""

    name, exact = "never", True

    def count(self, text: str, family: Family) -> int:
        raise AssertionError(f"counted {text!r}")


def test_what_was_accepted_is_not_counted_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "best_counter", lambda _: Never())
    for arguments in ([], ["--token-budget-update"]):
        judged = project.judge(*arguments)
        assert judged.status == 0, judged.output
        assert judged.verdicts == {"within"}


def test_a_gateway_that_counts_otherwise_is_told_when_it_is_recorded(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recording is kept, since it was paid for."""
    made = make(tmp_path / "suite", pytester, TEST)
    monkeypatch.setattr(
        api_of_the_tests,
        "_usage_document",
        lambda usage, _: {"input_tokens": 3 * usage.input_tokens, "output_tokens": usage.output_tokens},
    )
    with MessagesApi(echo) as api:
        recorded = made.run("--token-budget-record=all", url=api.url)
        assert len(api.charges) == 1
    assert list((made.path / "cassettes").rglob("*.yaml"))
    assert recorded.status == 1
    assert re.search(FITS_NOT, one_line(recorded))
