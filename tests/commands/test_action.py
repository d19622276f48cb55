"""The steps of the composite action, run by a shell as GitHub runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_tokenbudget.commands.documents import checked
from pytest_tokenbudget.repository.git import Repository
from support.agent_suite import PROMPT, RULE
from support.scratch import Scratch

ACTION = Path(__file__).parents[2] / ".github/actions/token-budget/action.yml"
STEPS = yaml.safe_load(ACTION.read_text("utf-8"))["runs"]["steps"]


@dataclass
class Job:
    """What a job that uses the action came to."""

    statuses: list[int] = field(default_factory=list)
    log: str = ""
    summary: str = ""
    files: dict[str, Any] = field(default_factory=dict)


def use(repo: Scratch, temporary: Path, folder: str = ".", base: str = "", arguments: str = "") -> Job:
    """Run every step that has a script; a failing one does not keep the others from running."""
    inputs = {
        "python": f"{sys.executable} -B",
        "pytest-args": arguments,
        "base": base,
        "working-directory": folder,
    }
    job = Job()
    summary = temporary / "summary.md"
    for step in (step for step in STEPS if "run" in step):
        if "inputs.base != ''" in step.get("if", "") and not base:
            continue
        given = {
            name: inputs[value.removeprefix("${{ inputs.").removesuffix(" }}")]
            for name, value in step["env"].items()
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=repo.top / folder,
            env=os.environ | given | {"RUNNER_TEMP": str(temporary), "GITHUB_STEP_SUMMARY": str(summary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        job.statuses.append(done.returncode)
        job.log += done.stdout
    job.summary = summary.read_text("utf-8") if summary.exists() else ""
    artifact = temporary / "token-budget"
    job.files = {path.name: json.loads(path.read_text("utf-8")) for path in artifact.iterdir()}
    return job


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    (tmp_path / "runner").mkdir()
    return tmp_path / "runner"


def test_within_budget(repo: Scratch, temporary: Path) -> None:
    job = use(repo, temporary)
    assert job.statuses == [0, 0, 0]
    assert "2 scenarios are within budget, nothing changed" in job.summary
    assert "::error" not in job.log
    assert set(job.files) == {"token-budget.json", "token-budget-check.json"}
    assert job.files["token-budget-check.json"] == {"problems": [], "notices": [], "decisions": []}


def test_over_budget_in_a_part_of_the_repository(
    recorded: Path, tmp_path: Path, temporary: Path, quick: None
) -> None:
    """The status is pytest's; summary, annotations and document are there all the same."""
    shutil.copytree(recorded, tmp_path / "repo/part")
    repo = Scratch.create(tmp_path / "repo")
    repo.commit("Begin")
    repo.git("update-ref", "refs/remotes/origin/main", "HEAD")
    repo.write("part/src/agent/prompt.md", PROMPT + RULE)
    job = use(repo, temporary, folder="part", base="main", arguments="-k 'first or nothing'")
    assert job.statuses == [1, 0, 1, 0]
    assert "1 of 1 scenario is over budget" in job.summary
    (annotation,) = [line for line in job.log.splitlines() if line.startswith("::error")]
    assert "file=part/src/agent/prompt.md,line=1," in annotation
    assert set(job.files) == {"token-budget.json", "token-budget-diff.json", "token-budget-check.json"}
    assert job.files["token-budget-diff.json"]["scenarios"] == []


def test_an_update_is_shown_beside_the_verdict(repo: Scratch, temporary: Path) -> None:
    repo.git("update-ref", "refs/remotes/origin/main", "HEAD")
    repo.write("src/agent/prompt.md", PROMPT + RULE)
    assert repo.run("update", "-q").returncode == 0
    repo.commit("Accept it")
    job = use(repo, temporary, base="main")
    assert job.statuses == [0, 0, 0, 0]
    assert "Baselines since origin/main" in job.summary
    assert "2 raised" in job.summary
    heading = job.summary.split("\n\n")[1]
    assert heading.startswith("### Accepts +")
    assert heading.endswith(", in 2 scenarios, for changes of the system prompt (`src/agent/prompt.md:1`)")
    assert "2 scenarios are within budget." in job.summary


def test_a_shallow_clone_says_so_and_goes_on(repo: Scratch, tmp_path: Path, temporary: Path) -> None:
    repo.commit("Second")
    clone = repo.shallow(tmp_path / "clone")
    job = use(clone, temporary, base="elsewhere")
    assert job.statuses == [0, 0, 0, 0]
    assert "fetch-depth: 0" in job.log
    assert "::notice title=Token budget::The baselines were not compared" in job.log


def test_a_suite_that_cannot_run(repo: Scratch, temporary: Path) -> None:
    repo.write("tests/test_agent.py", "def (:\n")
    job = use(repo, temporary)
    assert job.statuses[0] == 2
    assert job.statuses[2] == 0


def problems(job: Job) -> str:
    return " ".join(job.files["token-budget-check.json"]["problems"])


def test_a_run_that_is_switched_off_has_no_document(repo: Scratch, temporary: Path) -> None:
    """Nobody looks at a status alone: pytest may well have ended with 0."""
    job = use(repo, temporary, arguments="--token-budget-disable")
    assert job.statuses[1] == 1
    assert "There is no document" in problems(job)
    assert job.summary.startswith("> **Not judged as committed:** There is no document")
    assert "::error title=Token budget::There is no document" in job.log


def test_what_a_run_does_not_speak_of_fails_it(repo: Scratch, temporary: Path) -> None:
    repo.git("update-ref", "refs/remotes/origin/main", "HEAD")
    repo.write("elsewhere/test_other.py", "def test_nothing():\n    pass\n")
    repo.write("pytest.ini", "[pytest]\naddopts = -p tokenbudget\npythonpath = src\ntestpaths = elsewhere\n")
    repo.write("pyproject.toml", "[tool.tokenbudget]\nmax_turns = 99\n")
    repo.commit("Other tests")
    job = use(repo, temporary, base="main")
    assert job.statuses == [0, 0, 1, 0]
    assert "2 baselines of which this run says nothing: tests/test_agent.py::" in problems(job)
    limits, options = job.files["token-budget-check.json"]["notices"]
    assert limits == "Limits changed since origin/main: pyproject.toml: max_turns not set -> 99"
    chosen = 'pytest.ini: testpaths not set -> "elsewhere"'
    assert options == f"Settings of pytest changed since origin/main: {chosen}"
    assert job.files["token-budget-check.json"]["decisions"] == [
        "changes settings in 1 place",
        "changes what pytest runs in 1 place",
    ]
    assert job.summary.startswith("> **Not judged as committed:** 2 baselines of which this run")
    assert "- **look at**: Limits changed since origin/main: pyproject.toml: max" in job.summary


def test_limits_that_changed_in_markers_are_named(tmp_path: Path) -> None:
    """Not what a marker keeps, nor a cap that is new, nor a file that is no Python."""
    repo = Scratch.create(tmp_path / "repo")
    kept = "@pytest.mark.token_budget(max_turns=2)\ndef test_kept(): pass\n"
    was = {"test_a.py": "@pytest.mark.token_budget(tolerance='5%')\ndef test(): pass\n", "test_b.py": kept}
    now = {"test_a.py": was["test_a.py"].replace("5%", "90%"), "test_b.py": f"\n{kept}", "bad.py": "def ("}
    for path, text in was.items():
        repo.write(path, text)
    repo.commit("Begin")
    repo.git("branch", "base")
    for path, text in now.items():
        repo.write(path, text)
    repo.write("test_c.py", "@pytest.mark.token_budget(exclude='slow', max_cost_usd=9)\ndef test(): pass\n")
    repo.commit("Raise")
    check = checked(Repository.open(repo.top), None, "base", partial=False)
    looser = 'test_a.py::test: tolerance "5%" -> "90%"; test_c.py::test: exclude not set -> "slow"'
    assert check["notices"] == [f"Limits changed since base: {looser}"]


def test_settings_of_pytest_that_decide_what_is_judged_are_named(tmp_path: Path) -> None:
    """In every file that pytest reads: one that updates, disables or deselects is green without a word."""
    repo = Scratch.create(tmp_path / "repo")
    repo.write("pytest.ini", "[pytest]\naddopts = -ra\n")
    repo.write("setup.cfg", "[tool:pytest]\naddopts = --token-budget -q\n")
    repo.write("part/tox.ini", "[pytest]\naddopts = -k cart\n")
    repo.commit("Begin")
    repo.git("branch", "base")
    repo.write("pytest.ini", "[pytest]\naddopts = -ra --token-budget-update\n")
    repo.write("setup.cfg", "[tool:pytest]\naddopts = -v\n")
    repo.write("part/tox.ini", "[pytest]\naddopts = -v -k cart\n")
    repo.write("pyproject.toml", '[tool.pytest.ini_options]\naddopts = ["--deselect", "test_a.py"]\n')
    repo.commit("Hide")
    check = checked(Repository.open(repo.top), None, "base", partial=False)
    told = [
        'pyproject.toml: addopts not set -> "--deselect test_a.py"',
        'pytest.ini: addopts not set -> "--token-budget-update"',
        'setup.cfg: addopts "--token-budget" -> not set',
    ]
    assert check["notices"] == [f"Settings of pytest changed since base: {'; '.join(told)}"]
    assert check["decisions"] == ["changes what pytest runs in 3 places"]


SET_OUTSIDE = {
    ".github/workflows/ci.yml": (
        "env:\n  PYTEST_ADDOPTS: --color=yes\n",
        'env:\n  PYTEST_ADDOPTS: "--color=yes -k cart"\n',
        'PYTEST_ADDOPTS not set -> "-k cart"',
    ),
    ".github/workflows/folded.yaml": (
        "env:\n",
        "env:\n  PYTEST_ADDOPTS: >-\n    --token-budget-disable\n",
        'PYTEST_ADDOPTS not set -> "--token-budget-disable"',
    ),
    ".github/workflows/action.yml": (
        "with:\n  pytest-args: tests -n 2\n",
        "with:\n  pytest-args: tests -n 2 --lf\n",
        'pytest-args not set -> "--lf"',
    ),
    "tox.ini": (
        "[testenv]\nsetenv =\n    A = b\n",
        "[testenv]\nsetenv =\n    PYTEST_ADDOPTS = --deselect=test_a.py\n",
        'PYTEST_ADDOPTS not set -> "--deselect=test_a.py"',
    ),
    "Makefile": (
        "export PYTEST_ADDOPTS := -m slow\ntest:\n\tpython -m pytest --token-budget\n",
        "# PYTEST_ADDOPTS = -m fast\ntest:\n\tpython -m pytest -q\n",
        'PYTEST_ADDOPTS "-m slow" -> not set, pytest "--token-budget" -> not set',
    ),
    "noxfile.py": (
        "import os\n",
        'import os\n\nos.environ["PYTEST_ADDOPTS"] = "--token-budget-update"\n',
        'PYTEST_ADDOPTS not set -> "--token-budget-update"',
    ),
    "docker/Dockerfile": (
        "FROM x\n",
        "FROM x\nENV PYTEST_ADDOPTS -p no:tokenbudget\n",
        'PYTEST_ADDOPTS not set -> "-p no:tokenbudget"',
    ),
    "README.md": ("", "PYTEST_ADDOPTS=-k cart pytest -x\n", ""),
    "run.sh": ("pytest -q\n", "pytest -v --tb=short  # as pytest says\n", ""),
}


@pytest.mark.parametrize("path", SET_OUTSIDE)
def test_options_of_pytest_that_a_workflow_or_a_script_sets_are_named(path: str, tmp_path: Path) -> None:
    was, now, told = SET_OUTSIDE[path]
    repo = Scratch.create(tmp_path / "repo")
    repo.write(path, was)
    repo.commit("Begin")
    repo.git("branch", "base")
    repo.write(path, now)
    repo.commit("Hide")
    check = checked(Repository.open(repo.top), None, "base", partial=False)
    assert check["notices"] == ([f"Settings of pytest changed since base: {path}: {told}"] if told else [])


def test_a_run_that_updates_is_no_judgement(repo: Scratch, temporary: Path) -> None:
    repo.write("src/agent/prompt.md", PROMPT + RULE)
    job = use(repo, temporary, arguments="--token-budget-update")
    assert job.statuses[:2] == [0, 1]
    assert "The run has written baselines, as --token-budget-update does" in problems(job)


def test_a_document_of_another_commit_says_nothing(repo: Scratch, temporary: Path) -> None:
    job = use(repo, temporary)
    document = temporary / "token-budget" / "token-budget.json"
    repo.write("README.md", "More.")
    repo.commit("Another")
    assert repo.run("check", str(document)).returncode == 1
    assert job.statuses == [0, 0, 0]
