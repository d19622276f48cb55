"""`tokenbudget history` in scratch repositories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.budget.baselines import Baseline, format_baselines
from pytest_tokenbudget.model import Tokens, Usage
from pytest_tokenbudget.reports.history import states, suite
from pytest_tokenbudget.repository.baseline_history import read_history
from pytest_tokenbudget.repository.git import Repository
from support.scratch import SONNET, Scratch, follow_deepening, use

FILE = "tests/token_budgets/test_agent.yaml"
ID = "tests/test_agent.py::"


@pytest.fixture
def repo(tmp_path: Path) -> Scratch:
    return Scratch.create(tmp_path / "repo")


def trend(found: Any, name: str) -> list[int | None]:
    """Prompt tokens of a scenario after each commit."""
    values = states(found["scenarios"][name], len(found["commits"]))
    return [None if value is None else value["prompt_tokens"] for value in values]


def subjects(found: Any) -> list[str]:
    return [one["subject"] for one in found["commits"]]


def test_every_commit_that_changed_a_baseline(repo: Scratch) -> None:
    repo.baselines(FILE, {"test_a": use(100), "test_b": use(200)})
    first = repo.commit("First", GIT_COMMITTER_DATE="2026-01-02T03:04:05+01:00")
    repo.write("README", "x")
    repo.commit("Something else")
    repo.baselines(FILE, {"test_a": use(150), "test_b": use(200)})
    repo.commit("Grow | `it` \u2028")
    repo.baselines(FILE, {"test_a": use(150), "test_c": use(7)})
    repo.commit("Replace")
    found = repo.json("history")
    assert subjects(found) == ["First", "Grow | `it`", "Replace"]
    assert found["commits"][0] == {"commit": first, "date": "2026-01-02T03:04:05+01:00", "subject": "First"}
    assert trend(found, f"{ID}test_a") == [100, 150, 150]
    assert trend(found, f"{ID}test_b") == [200, 200, None]
    assert trend(found, f"{ID}test_c") == [None, None, 7]
    assert [len(points) for points in found["scenarios"].values()] == [2, 2, 1]
    assert [one["prompt_tokens"] for one in suite(found)] == [300, 350, 157]


def test_follows_renamed_tests_and_moved_files(repo: Scratch) -> None:
    repo.baselines(FILE, {"test_a": use(100), "test_b": use(200), "test_c": use(300)})
    repo.commit("First")
    repo.baselines(FILE, {"test_z": use(100), "test_b": use(200), "test_c": use(300)})
    repo.commit("Rename a test")
    repo.baselines(FILE, {"test_z": use(110), "test_b": use(200), "test_c": use(300)})
    repo.commit("Grow")
    (repo.top / "agents/token_budgets").mkdir(parents=True)
    repo.git("mv", FILE, "agents/token_budgets/test_moved.yaml")
    repo.commit("Move the file")
    repo.baselines("agents/token_budgets/test_moved.yaml", {"test_z": use(120), "test_b": use(200)})
    repo.commit("Grow again, and drop one")
    found = repo.json("history")
    assert list(found["scenarios"]) == [f"agents/test_moved.py::test_{name}" for name in "bcz"]
    assert trend(found, "agents/test_moved.py::test_z") == [100, 100, 110, 110, 120]
    assert trend(found, "agents/test_moved.py::test_c") == [300, 300, 300, 300, None]


def test_a_merge_counts_once_and_as_a_whole(repo: Scratch) -> None:
    repo.baselines(FILE, {"test_a": use(100), "test_b": use(200)})
    repo.commit("First")
    repo.git("switch", "--quiet", "--create", "side")
    for prompt in (110, 120, 130):
        repo.baselines(FILE, {"test_a": use(prompt), "test_b": use(200)})
        repo.commit(f"To {prompt}")
    repo.git("switch", "--quiet", "main")
    repo.write("README", "x")
    repo.commit("Meanwhile")
    repo.git("merge", "--quiet", "--no-ff", "-m", "Merge side", "side")
    found = repo.json("history")
    assert subjects(found) == ["First", "Merge side"]
    assert trend(found, f"{ID}test_a") == [100, 130]


def test_no_more_than_it_is_asked_for(repo: Scratch) -> None:
    for prompt in range(100, 110):
        repo.baselines(FILE, {"test_a": use(prompt), "test_b": use(1)})
        repo.commit(f"To {prompt}")
    found = repo.json("history", "--commits", "3")
    assert trend(found, f"{ID}test_a") == [107, 108, 109]
    assert trend(found, f"{ID}test_b") == [1, 1, 1]


def test_a_file_that_was_broken_once_is_told_and_left_as_it_was(repo: Scratch) -> None:
    repo.baselines(FILE, {"test_a": use(100)})
    repo.commit("First")
    repo.write(FILE, "<<<<<<< conflict\n")
    broken = repo.commit("Broken")
    repo.baselines(FILE, {"test_a": use(120)})
    repo.commit("Mended")
    done = repo.run("history", "--format", "json")
    assert done.returncode == 0
    assert f"{FILE} at {broken[:7]}: holds conflict marks" in done.stderr
    assert trend(repo.json("history"), f"{ID}test_a") == [100, 100, 120]


def test_below_a_folder(repo: Scratch) -> None:
    repo.baselines("part/tests/token_budgets/test_x.yaml", {"test_x": use(5)})
    repo.baselines(FILE, {"test_a": use(100)})
    repo.commit("First")
    repo.baselines(FILE, {"test_a": use(101)})
    repo.commit("Elsewhere")
    found = repo.json("history", folder="part")
    assert (subjects(found), list(found["scenarios"])) == (["First"], ["tests/test_x.py::test_x"])


def test_in_the_terminal(repo: Scratch) -> None:
    for prompt in (100, 300, 200, 800):
        repo.baselines(FILE, {"test_a": use(prompt), "test_b": use(100)})
        repo.commit(f"To {prompt}")
    lines = repo.run("history").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("test_a")]
    assert line.split()[1:4] == ["100", "800", "+700.0%"]
    assert line.endswith("▂▄▃█")
    assert "4 commits from" in lines[-2]
    assert "1 scenario never changed" in lines[-2]
    assert [line.split()[2:4] for line in lines if line.startswith("20")] == [
        ["To", "800"],
        ["To", "200"],
        ["To", "300"],
    ]


def test_a_recording_from_another_start_is_no_step(repo: Scratch) -> None:
    """Warm, then anew on an empty cache, then grown: dollars move once, and a sentence says why."""
    warm = Baseline(use(4000, read=3000), {SONNET: {"5m": 3000}}, "a" * 12)
    cold = Tokens(1000, ephemeral_5m_input_tokens=3000, output_tokens=100)
    for number, tokens in ((0, None), (1, cold), (2, replace(cold, input_tokens=1500))):
        again = warm if tokens is None else Baseline(Usage.of(SONNET, tokens, 2), {}, f"{number}" * 12)
        repo.write(FILE, format_baselines({"test_a": again, "test_b": Baseline(use(50))}))
        repo.commit(f"Commit {number}")
    found = repo.json("history")
    assert found["other_start"] == [f"{ID}test_a"]
    assert [point["commit"] for point in found["scenarios"][f"{ID}test_a"]] == [0, 2]
    dollars = [one["cost_usd"] for one in suite(found)]
    assert dollars[0] == dollars[1] < dollars[2]
    told = repo.run("history").stdout
    assert "recorded anew from another start: 1 scenario." in " ".join(told.split())
    assert ("Commit 2" in told, "Commit 1" in told) == (True, False)
    assert "recorded anew from another start: 1 scenario." in repo.run("history", "--format", "html").stdout


def test_no_history(repo: Scratch, tmp_path: Path) -> None:
    assert "has no commit yet" in repo.refused("history")
    repo.commit("Nothing")
    assert "No commit holds a baseline yet" in repo.run("history").stdout
    repo.baselines(FILE, {"test_a": use(1)})
    repo.commit("First")
    clone = repo.shallow(tmp_path / "clone")
    follow_deepening(clone, clone.refused("history"))
    assert clone.json("history") == repo.json("history")


def test_five_hundred_scenarios_and_a_hundred_commits(repo: Scratch) -> None:
    """Every baseline changes in every commit: a git process for all of them, no YAML for what we wrote."""
    names = [f"test_{place:02}" for place in range(25)]
    stream = []
    for commit in range(100):
        text = format_baselines({name: Baseline(use(100 + commit)) for name in names})
        head = (
            f"commit refs/heads/main\ncommitter D <d@example.com> {1_760_000_000 + commit} +0000\ndata 1\nx\n"
        )
        files = [f"M 644 inline tests/token_budgets/test_{file}.yaml\n" for file in range(20)]
        stream.append(head + "".join(f"{file}data {len(text)}\n{text}\n" for file in files))
    repo.git("fast-import", "--quiet", given="".join(stream))
    found, _ = read_history(Repository.open(repo.top))
    assert (len(found["commits"]), len(found["scenarios"])) == (100, 500)
    assert {len(points) for points in found["scenarios"].values()} == {100}
