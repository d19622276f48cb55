"""Plays the suite of the matrix: recorded, replayed as it was and changed, and the changed one charged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from support.apart import PATIENCE, run_pytest
from support.blocks import text
from support.budgeted import Done, Judged
from support.messages_api import ApiError, MessagesApi, tool_use

SUITE = Path(__file__).parents[1] / "matrix" / "suite"
NOWHERE = "http://127.0.0.1:9"


def script(body: Mapping[str, Any]) -> Any:
    """Looks an order up where it may, and repeats what is said to it otherwise."""
    last = body["messages"][-1]["content"]
    if not isinstance(last, str):
        return "It left on Monday."
    if body.get("tools"):
        return [text("Let me see."), tool_use("look_up", order=17)]
    if last in ("fail", "expire"):
        raise ApiError(400, "expired" if last == "expire" else "")
    return f"You said: {last}"


@dataclass(frozen=True)
class Charge:
    """What the server charged a row: prompt tokens uncached, written, read, and output tokens."""

    turns: int
    tokens: tuple[int, int, int, int]

    @classmethod
    def told(cls, entry: Mapping[str, Any]) -> Charge:
        """What an entry of the document measured."""
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        measured = entry["measured"]
        return cls(measured["turns"], tuple(measured[name] for name in names))  # type: ignore[arg-type]

    @classmethod
    def of(cls, servers: Sequence[MessagesApi], name: str) -> Charge:
        """All charges of requests that name the row."""
        found = [c.usage for server in servers for c in server.charges if name in str(c.body["system"])]
        columns = [
            (u.input_tokens, u.cache_creation_input_tokens, u.cache_read_input_tokens, u.output_tokens)
            for u in found
        ]
        return cls(len(found), tuple(map(sum, zip(*columns, strict=True))) if found else (0, 0, 0, 0))  # type: ignore[arg-type]

    @property
    def prompt_tokens(self) -> int:
        return sum(self.tokens[:3])


@dataclass(frozen=True)
class Played:
    """What became of the suite."""

    skipped: Mapping[str, str]
    """By test: why it did not run."""
    recorded: Mapping[str, Charge]
    replayed: Judged
    """As it was recorded."""
    changed: Judged
    """With a longer prompt."""
    charged: Mapping[str, Charge]
    """With the longer prompt, really called."""
    connections: str
    """All that touched the network in both replays."""

    @property
    def ran(self) -> list[str]:
        """The tests that were not skipped."""
        return [entry["id"].partition("::")[2] for entry in self.replayed.document["scenarios"]]


def scenario(judged: Judged, test: str) -> Mapping[str, Any]:
    """By the name of its test; an entry is missing where the test broke off."""
    found = [entry for entry in judged.document["scenarios"] if entry["id"].endswith(f"::{test}")]
    assert len(found) == 1, judged.output
    return found[0]


def play(
    folder: Path,
    names: Sequence[str],
    files: Sequence[str] = (),
    python: str = sys.executable,
    plugin: Path | None = None,
) -> Played:
    """Play these files, or all, in a copy of the suite; `names` are those of all its tests.

    `plugin` is where the plugin is, for a `python` that has it not installed.
    """
    shutil.copytree(SUITE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n", "utf-8")
    pytest_ = Pytest(folder, python, files, plugin)
    recorded = _called(pytest_, names, "--token-budget-record=all", "--junitxml=junit.xml")
    skipped = _skipped(folder / "junit.xml")
    replayed, quiet = _replayed(pytest_, "--token-budget-update")
    changed, still_quiet = _replayed(pytest_, MATRIX_CHANGED="1")
    charged = _called(pytest_, names, "--token-budget-disable", MATRIX_CHANGED="1")
    return Played(skipped, recorded, replayed, changed, charged, quiet + still_quiet)


@dataclass(frozen=True)
class Pytest:
    """Runs the suite in a process of its own."""

    folder: Path
    python: str
    files: Sequence[str]
    plugin: Path | None

    def run(self, *arguments: str, **more: str) -> Done:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ANTHROPIC_", "AWS_", "MATRIX_", "PYTEST_"))
        }
        environment = {**inherited, "COLUMNS": "120", **more}
        arguments = ("-q", "-rfEs", *arguments, *self.files)
        if self.python == sys.executable:
            return Done(*run_pytest(self.folder, arguments, environment))
        if self.plugin is not None:
            environment["PYTHONPATH"] = str(self.plugin)
            arguments = ("-p", "pytest_tokenbudget.plugin", *arguments)
        command = [self.python, "-B", "-m", "pytest", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        return Done(done.returncode, done.stdout + done.stderr)


def _called(pytest_: Pytest, names: Sequence[str], *options: str, **more: str) -> dict[str, Charge]:
    """Run the suite against servers; what they charged each test."""
    with MessagesApi(script) as plain, MessagesApi(script, gzip=True) as compressing:
        urls = {"MATRIX_URL": plain.url, "MATRIX_COMPRESSING_URL": compressing.url, "MATRIX_CALLING": "1"}
        done = pytest_.run(*options, **urls, **more)
    assert done.status == 0, done.output
    return {name: Charge.of((plain, compressing), f"Scenario: {name}.") for name in names}


def _replayed(pytest_: Pytest, *options: str, **more: str) -> tuple[Judged, str]:
    """Run the suite without servers; what was judged, and what touched the network."""
    report, network = pytest_.folder / "report.json", pytest_.folder / "network.txt"
    report.unlink(missing_ok=True)
    network.unlink(missing_ok=True)
    urls = {"MATRIX_URL": NOWHERE, "MATRIX_COMPRESSING_URL": NOWHERE, "MATRIX_NETWORK": str(network)}
    judging = ("--token-budget", f"--token-budget-report=json:{report}")
    done = pytest_.run(*judging, *options, **urls, **more)
    assert report.exists(), done.output
    return Judged(done.status, done.output, json.loads(report.read_text("utf-8"))), network.read_text()


def _skipped(junit: Path) -> dict[str, str]:
    cases = ElementTree.parse(junit).iter("testcase")
    return {
        str(case.get("name")): str(skip.get("message"))
        for case in cases
        if (skip := case.find("skipped")) is not None
    }
