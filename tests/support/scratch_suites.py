"""A scratch suite whose agent asks the server of the tests: recorded, and given its baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.budgeted import Project
from support.messages_api import MessagesApi

Suite = Callable[..., Project]
"""Makes a suite of one test file out of its text and the number of calls that recording it makes; further
files by name."""

AGENT = '''
import os

import httpx2


def ask(words, system=None):
    """One model call; a longer system prompt where the environment says so."""
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "system": (system or "Be brief.") + os.environ.get("MORE", ""),
        "messages": [{"role": "user", "content": words}],
    }
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    answer = httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600)
    return answer.raise_for_status().json()["content"][0]["text"]
'''
TWO = """
import pytest
from agent import ask


@pytest.mark.token_budget
def test_parcel():
    assert ask("One") == "You said One"


@pytest.mark.token_budget
def test_letter():
    assert ask("Two") == "You said Two"
"""
"""A suite of two scenarios of one call each."""
INI = "[pytest]\npythonpath = .\n"


def echo(body: Mapping[str, Any]) -> str:
    return f"You said {body['messages'][-1]['content']}"


def settings(project: Project, lines: str) -> None:
    """Write the settings of a suite."""
    (project.path / "pyproject.toml").write_text(f"[tool.tokenbudget]\n{lines}\n", "utf-8")


def make(folder: Path, pytester: pytest.Pytester, text: str, **files: str) -> Project:
    """Write the files of a suite."""
    folder.mkdir()
    for name, content in {"agent": AGENT, "test_it": text, **files}.items():
        (folder / f"{name}.py").write_text(content, "utf-8")
    (folder / "pytest.ini").write_text(INI, "utf-8")
    return Project(folder, pytester)


def record(project: Project, api: MessagesApi, calls: int) -> None:
    """Record a suite, which makes so many calls, and write its baselines."""
    recorded = project.run("--token-budget-record=all", url=api.url)
    assert recorded.status == 0, recorded.output
    assert len(api.charges) == calls
    updated = project.judge("--token-budget-update")
    assert updated.status == 0, updated.output
