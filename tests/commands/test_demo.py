"""`tokenbudget demo`: green, red with its cause, accepted, red for the next change alone; a folder stays."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pytest_tokenbudget.cli import main
from pytest_tokenbudget.commands import suite
from support.apart import warm_python

pytestmark = pytest.mark.whole_run

WATCHER = """
def pytest_collect_directory(path):
    with open({!r}, "a", encoding="utf-8") as visited:
        visited.write(f"{{path}}\\n")
"""
GREEN, GROWN, ACCEPTED, GROWN_AGAIN = range(1, 5)


def parts(output: str) -> list[str]:
    """What stands before each step, and after the last."""
    lines = output.splitlines()
    starts = [number for number, line in enumerate(lines) if line[:3] in ("1. ", "2. ", "3. ", "4. ")]
    edges = [0, *starts, len(lines)]
    return [" ".join(" ".join(lines[a:b]).split()) for a, b in itertools.pairwise(edges)]


def of_git(folder: Path, *arguments: str) -> list[str]:
    """What git says of a folder, by line."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_from_green_to_red_for_the_second_change_alone(tmp_path: Path) -> None:
    """As `make demo` runs it from nothing."""
    command = [warm_python(), "-m", "pytest_tokenbudget", "demo", "shop"]
    visited = tmp_path / "visited.txt"
    (tmp_path / "watcher.py").write_text(WATCHER.format(str(visited)), "utf-8")
    environment = {
        **os.environ,
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
        "COLUMNS": "80",
        "PYTHONPATH": str(tmp_path),
        "PYTEST_PLUGINS": "watcher",
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = parts(done.stdout)
    assert "token budgets: 2 within" in told[GREEN]
    folders = {Path(line) for line in visited.read_text("utf-8").splitlines()}
    assert tmp_path / "shop" / "tests" in folders
    assert not folders & {tmp_path, *tmp_path.parents, Path(tempfile.gettempdir())}, "only what is its own"
    assert "prompts/support.md:16: the system prompt (system[0])" in told[GROWN]
    assert "prompts/support.md:16-24" in told[GROWN]
    assert " a month, in 2 scenarios together" in told[GROWN]
    assert told[ACCEPTED].count("accepted tests/test_support.py::") == 2
    assert "agent.py:17: the description of a tool (tools[look_up_order].description)" in told[GROWN_AGAIN]
    assert "support.md" not in told[GROWN_AGAIN]
    assert done.stdout.rstrip().endswith("cd shop && pytest --token-budget")
    assert of_git(tmp_path / "shop", "log", "--format=%s %an") == [
        "Examples in the prompt Demo",
        "A support agent Demo",
    ]
    assert of_git(tmp_path / "shop", "status", "--short") == [" M agent.py"], "what step 4 changed"
    assert {"agent.py", "prompts", "pyproject.toml", "tests"} <= {
        path.name for path in (tmp_path / "shop").iterdir()
    }


def test_where_a_process_cannot_be_forked_each_run_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[Sequence[str], Path]] = []

    def start(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
        assert not {"ANTHROPIC_API_KEY", "PYTEST_ADDOPTS", "CI"} & environment.keys()
        started.append((arguments, folder))
        return int(len(started) in (GROWN, GROWN_AGAIN))

    for name in ("ANTHROPIC_API_KEY", "PYTEST_ADDOPTS", "CI"):
        monkeypatch.setenv(name, "set")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(suite, "pytest", start)
    assert main(["demo", str(tmp_path / "shop")]) == 0
    assert "cd " in capsys.readouterr().out
    judge, accept = ("--token-budget", "-q"), ("--token-budget", "--token-budget-update", "-q")
    assert started == [(arguments, tmp_path / "shop") for arguments in (judge, judge, accept, judge)]


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    assert main(["demo", str(tmp_path)]) == 2
    assert "holds something already. Name a new folder: tokenbudget demo FOLDER." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
