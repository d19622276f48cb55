"""`tokenbudget blame` in scratch repositories, with a suite that really replays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.reports.blame_report import blame_lines
from support.agent_suite import PROMPT, RULE, TESTS
from support.apart import COLD
from support.scratch import Scratch, follow_deepening

SLOW = """
import pathlib
import time


def test_slow():
    pathlib.Path({started!r}).touch()
    time.sleep(600)
"""
FIRST, SECOND = "tests/test_agent.py::test_first", "tests/test_agent.py::test_second"


def moves(found: Any) -> list[dict[str, tuple[str, int | None, int | None]]]:
    """By commit after the first: what happened to each scenario, its prompt tokens before and now."""

    def prompt(tokens: Any) -> int | None:
        return None if tokens is None else tokens["prompt_tokens"]

    return [
        {one["id"]: (one["what"], prompt(one["before"]), prompt(one["now"])) for one in commit["moves"]}
        for commit in found["commits"][1:]
    ]


def test_names_the_commit_that_moved_a_scenario(repo: Scratch) -> None:
    repo.write("README", "x")
    repo.commit("Something else")
    repo.write("src/agent/prompt.md", PROMPT + RULE)
    guilty = repo.commit("Add a rule")
    repo.git("commit", "--quiet", "--allow-empty", "-m", "Nothing")
    before = repo.git("status", "--porcelain"), repo.git("worktree", "list"), repo.git("rev-parse", "HEAD")
    done = repo.run("blame", "--format", "json", "HEAD~3..HEAD", "--documents", "kept", "--", "-k", "first")
    assert [line[:5] for line in done.stderr.splitlines() if line[0] == "["] == [
        f"[{n}/4]" for n in range(1, 5)
    ]
    found = json.loads(done.stdout)
    nothing, grown, same = moves(found)
    assert (nothing, same) == ({}, {})
    assert [one["state"] for one in found["commits"]] == ["measured", "measured", "measured", "same"]
    assert set(grown) == {FIRST}
    what, was, now = grown[FIRST]
    assert what == "moved"
    assert 90 < (now or 0) - (was or 0) < 200
    assert (repo.top / "kept" / f"{guilty}.json").is_file()
    shutil.rmtree(repo.top / "kept")
    after = repo.git("status", "--porcelain"), repo.git("worktree", "list"), repo.git("rev-parse", "HEAD")
    assert after == before


def test_what_fails_for_another_reason_is_said(repo: Scratch) -> None:
    repo.write("tests/test_agent.py", TESTS + "\n\ndef test_unrelated():\n    assert False\n")
    repo.commit("Break a test")
    repo.write("tests/test_agent.py", TESTS.replace("def test_first():", "def test_first(nothing):"))
    repo.commit("Break a scenario before it asks")
    repo.write("tests/test_agent.py", "def (:\n")
    repo.commit("Break the file")
    repo.write("tests/test_agent.py", TESTS)
    repo.write("src/agent/prompt.md", PROMPT + RULE)
    repo.commit("Mend, and grow")
    found = repo.json("blame", "HEAD~4..HEAD")
    _, unrelated, scenario, file, mended = found["commits"]
    assert (unrelated["moves"], unrelated["note"]) == (
        [],
        "1 test fails for another reason: tests.test_agent::test_unrelated.",
    )
    assert [(one["id"], one["what"]) for one in scenario["moves"]] == [(FIRST, "failed")]
    assert (file["state"], file["moves"]) == ("failed", [])
    assert file["note"] == "Could not be measured: pytest ended with 2: SyntaxError: invalid syntax"
    assert [one["what"] for one in mended["moves"]] == ["moved", "moved"]
    told = repo.run("blame", "HEAD~1..HEAD").stdout
    assert "moved nothing" not in told
    assert "The first that could be measured: the next are held against it." in told


def test_a_merge_is_one_step_and_says_where_to_look(repo: Scratch) -> None:
    repo.git("switch", "--quiet", "--create", "side")
    for place in (1, 2):
        repo.write("src/agent/prompt.md", PROMPT + RULE * place)
        repo.commit(f"Rule {place}")
    repo.git("switch", "--quiet", "main")
    repo.write("README", "x")
    repo.commit("Meanwhile")
    repo.git("merge", "--quiet", "--no-ff", "-m", "Merge side", "side")
    found = repo.json("blame", "HEAD~2..HEAD")
    assert [one["merge"] for one in found["commits"]] == [False, False, True]
    assert [set(one) for one in moves(found)] == [set(), {FIRST, SECOND}]
    short = repo.git("rev-parse", "--short=7", "HEAD")
    assert any(
        f"tokenbudget blame {short}^1..{short}^2" in line.text for line in blame_lines(found, columns=100)
    )
    part = repo.json("blame", f"{short}^1..{short}^2", "--", "-k", "no test at all")
    assert [one["subject"] for one in part["commits"]] == ["Begin", "Rule 1", "Rule 2"]


def test_of_a_part_of_the_repository(recorded: Path, tmp_path: Path, quick: None) -> None:
    """The folder that it runs in is where pytest runs, in every commit; a commit without it is said."""
    scratch = Scratch.create(tmp_path / "repo")
    scratch.commit("Before there was a part")
    shutil.copytree(recorded, scratch.top / "part")
    scratch.commit("Add it")
    scratch.write("part/src/agent/prompt.md", PROMPT + RULE)
    scratch.commit("Grow")
    found = scratch.json("blame", "HEAD~2..HEAD", folder="part")
    assert found["commits"][0]["note"] == "Could not be measured: it has no folder part."
    assert moves(found)[0] == {}
    assert set(moves(found)[1]) == {FIRST, SECOND}


def test_imports_come_from_the_commit_even_where_an_editable_install_names_the_repository(
    repo: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.write("pytest.ini", "[pytest]\naddopts = -p tokenbudget\n")
    repo.git("mv", "src", "library")
    repo.commit("Another layout, which only an installation knows")
    repo.write("library/agent/prompt.md", PROMPT + RULE)
    repo.commit("Grow")
    monkeypatch.syspath_prepend(str(repo.top / "library"))  # as an editable install does
    monkeypatch.setenv("PYTHONPATH", str(repo.top / "library"))
    (grown,) = moves(repo.json("blame", "HEAD~1..HEAD"))
    assert set(grown) == {FIRST, SECOND}


def test_ranges(repo: Scratch, tmp_path: Path) -> None:
    repo.commit("Second")
    assert "'HEAD~1...HEAD' is no range" in repo.refused("blame", "HEAD~1...HEAD")
    assert "'..HEAD' is no range" in repo.refused("blame", "..HEAD")
    assert "'nowhere' names no commit" in repo.refused("blame", "nowhere..HEAD")
    assert "HEAD..HEAD~1 holds no commit" in repo.refused("blame", "HEAD..HEAD~1")
    clone = repo.shallow(tmp_path / "clone")
    follow_deepening(clone, clone.refused("blame", "HEAD~1..HEAD"))
    assert clone.git("rev-list", "--count", "HEAD~1..HEAD") == "1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing_behind(repo: Scratch, tmp_path: Path, number: int) -> None:
    started = tmp_path / "started"
    repo.write("tests/test_agent.py", SLOW.format(started=str(started)))
    repo.commit("Take long")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    python = COLD if number == signal.SIGINT else sys.executable
    process = subprocess.Popen(
        [python, "-m", "pytest_tokenbudget", "blame", "HEAD~1..HEAD"],
        cwd=repo.top,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Where the tests run in the background of a script, signals are ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    while not started.exists():
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
        assert process.returncode is None, process.communicate()
    process.send_signal(number)
    process.communicate(timeout=600)
    assert process.returncode == 130
    assert list(temporary.iterdir()) == []
    assert len(repo.git("worktree", "list").splitlines()) == 1
