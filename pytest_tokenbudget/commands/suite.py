"""Run pytest in a process of its own, by this very Python: for `update`, `advise` and `blame`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from pytest_tokenbudget.commands import output
from pytest_tokenbudget.reports import advice_report
from pytest_tokenbudget.reports.document import Document, load
from pytest_tokenbudget.settings import load_settings

_LINES = 15
"""Of what pytest said last, where it could not run."""
_FAILED = {"failure": "failed", "error": "failed", "skipped": "skipped"}

TestName = tuple[str, str]
"""Class and name of a test, as JUnit files have them."""


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """What one run of the suite came to."""

    status: int
    document: Document | None
    """None where pytest ended before it could write one."""
    outcomes: Mapping[TestName, str]
    """`passed`, `failed` or `skipped`, of every test that ran."""
    said: str
    """The last lines of pytest's own output."""


def pytest(arguments: Sequence[str], folder: Path) -> int:
    """Run pytest in `folder`, its output where ours goes; its exit status."""
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=folder, check=False).returncode  # noqa: S603  # what the user asked for


def measure(arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> SuiteRun:
    """Run the suite in `folder` under --token-budget, quietly. Raises ReportError for a broken document."""
    with tempfile.TemporaryDirectory(prefix="tokenbudget-") as temporary:
        document, junit = Path(temporary) / "document.json", Path(temporary) / "junit.xml"
        given = ["--token-budget", f"--token-budget-report=json:{document}", "--maxfail=0"]
        given += [f"--junitxml={junit}", "--junitprefix=", *arguments]
        done = subprocess.run(  # noqa: S603  # the user's own tests, as the user asked for
            [sys.executable, "-m", "pytest", *given],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return SuiteRun(
            done.returncode,
            load(document) if document.is_file() else None,
            _outcomes(junit) if junit.is_file() else {},
            "\n".join(done.stdout.rstrip().splitlines()[-_LINES:]),
        )


def _outcomes(junit: Path) -> dict[TestName, str]:
    found: dict[TestName, str] = {}
    for case in ElementTree.parse(junit).iter("testcase"):  # noqa: S314  # the pytest above wrote it
        outcome = next((_FAILED[part.tag] for part in case if part.tag in _FAILED), "passed")
        found[case.get("classname", ""), case.get("name", "")] = outcome
    return found


def junit_name(node_id: str) -> TestName:
    """A test in JUnit files: `("tests.test_a.TestB", "test_c")`, of `tests/test_a.py::TestB::test_c`."""
    address, bracket, parameters = node_id.partition("[")
    file, *names = address.split("::")
    module = re.sub(r"\.py$", "", file.replace("/", "."))
    *classes, name = [module, *names]
    return ".".join(classes), name + bracket + parameters


def update_baselines(folder: Path, arguments: Sequence[str]) -> int:
    """pytest's exit status."""
    return pytest(["--token-budget", "--token-budget-update", *arguments], folder)


def write_advice(folder: Path, arguments: Sequence[str], form: str = "terminal") -> int:
    """0 where there is advice; pytest's own status, with what it said, where it measured nothing."""
    runs = load_settings(folder).scenario.runs_per_month
    done = measure(arguments, folder)
    if done.document is None or not done.document["scenarios"]:
        output.tell(f"{done.said}\nNo scenario was measured, so there is nothing to advise on.")
        return done.status or 1
    found = advice_report.advice(done.document, runs)
    lines, markdown = advice_report.advice_lines, advice_report.advice_markdown
    output.write_form(form, found, None, lines=lines, markdown=markdown)
    return 0
