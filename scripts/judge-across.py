"""Let one Python judge what another accepted, each with its own counter: nothing grows out of nothing.

Usage: scripts/judge-across.py PYTHON PYTHON, each of an environment with the project; needs git. In a copy of
the example, either accepts a longer prompt. The other measures the same, and sees a further line grow alike.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

EXAMPLE = Path(__file__).resolve().parent.parent / "example_project"
LINE = (
    "Never promise a date of delivery that the carrier has not confirmed, whatever the customer was told.\n"
)
UPDATE = "--token-budget-update-all"
APART = 0.25
"""Most that two counters differ by on one line, as a share of it (docs/accuracy.md: short additions)."""


def main(pythons: list[str]) -> None:
    """Check both directions. Raises AssertionError."""
    for accepts, judges in (pythons, pythons[::-1]):
        with TemporaryDirectory() as folder:
            project = Path(folder) / "example"
            shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
            git(project, "init", "--quiet")
            git(project, "add", "--all")
            lengthen(project, 25)
            accepted = {name: now for name, (_, now) in judge(accepts, project, UPDATE).items()}
            written = baselines(project)
            alike = {name: (now, now) for name, now in accepted.items()}
            assert judge(judges, project, UPDATE) == alike, "one prompt is measured as two"
            assert baselines(project) == written, "an update of what is the same has written"
            lengthen(project, 1)
            grown = [judge(python, project) for python in (accepts, judges)]
            for name, (baseline, measured) in grown[0].items():
                growth = [measured - baseline, grown[1][name][1] - grown[1][name][0]]
                assert abs(growth[0] - growth[1]) <= APART * min(growth), (name, growth)
            assert any(measured > baseline for baseline, measured in grown[1].values()), "nothing grew"
        sys.stdout.write(
            f"accepted by {version(accepts)}, judged by {version(judges)}: {len(alike)} scenarios alike\n"
        )


def baselines(project: Path) -> dict[str, str]:
    """Return the files of the baselines and of what is accepted, by path."""
    files = (project / "tests" / "token_budgets").rglob("*.yaml")
    return {str(path): path.read_text("utf-8") for path in files}


def lengthen(project: Path, lines: int) -> None:
    """Add lines to a prompt of the example."""
    with (project / "support_agent" / "prompts" / "triage.md").open("a", encoding="utf-8") as prompt:
        prompt.writelines(LINE for _ in range(lines))


def judge(python: str, project: Path, *options: str) -> dict[str, tuple[int, int]]:
    """Judge the example; return the prompt tokens of each scenario's baseline and of this run."""
    report = project / "report.json"
    report.unlink(missing_ok=True)
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "--token-budget",
        f"--token-budget-report=json:{report}",
        *options,
    ]
    done = subprocess.run(
        command,
        cwd=project,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
    )
    assert report.is_file(), done.stdout + done.stderr
    scenarios: list[dict[str, Any]] = json.loads(report.read_text("utf-8"))["scenarios"]
    return {
        one["id"]: (one["baseline"]["prompt_tokens"], one["measured"]["prompt_tokens"]) for one in scenarios
    }


def version(python: str) -> str:
    """Return the version of a Python, and of the counter that it has."""
    code = "import sys; from pytest_tokenbudget.metering.counting import best_counter as best"
    code += "; print(sys.version.split()[0], best().name)"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def git(project: Path, *arguments: str) -> None:
    """Run git in the copy of the example."""
    subprocess.run(["git", *arguments], cwd=project, check=True)


if __name__ == "__main__":
    main(sys.argv[1:3])
