"""Runs a scratch suite with pytest in a process of its own, as users run theirs, and reads what it said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """What a judged run said: exit status, text, and the document by scenario."""

    status: int
    output: str
    document: Mapping[str, Any]

    @property
    def scenarios(self) -> Mapping[str, Mapping[str, Any]]:
        """By node id without its file."""
        return {entry["id"].partition("::")[2]: entry for entry in self.document["scenarios"]}

    @property
    def verdicts(self) -> set[str]:
        return {entry["verdict"] for entry in self.document["scenarios"]}

    def over(self, scenario: str) -> set[str]:
        """The metrics that are past their limit."""
        return {limit["metric"] for limit in self.scenarios[scenario]["limits"] if limit["over"]}


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`pytest ARGUMENTS` in `project`, without the caller's key or server unless given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=180,
    )


def judged(project: Path, *arguments: str) -> Run:
    """`pytest --token-budget`, offline, with its JSON document."""
    report = project / "report.json"
    report.unlink(missing_ok=True)
    done = run(project, "--token-budget", f"--token-budget-report=json:{report}", *arguments)
    assert report.exists(), done.stdout + done.stderr
    return Run(done.returncode, done.stdout, json.loads(report.read_text("utf-8")))


def against(url: str) -> dict[str, str]:
    """The environment for real calls against a server."""
    return {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "sk-ant-api03-test-key"}
