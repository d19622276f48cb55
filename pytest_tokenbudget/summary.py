"""What the process that collects does: take in what was examined, write it, and tell it at the end."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from pytest_tokenbudget.model import Verdict
from pytest_tokenbudget.reports.document import ScenarioEntry
from pytest_tokenbudget.reports.scenario_ids import is_beside_a_test
from pytest_tokenbudget.reports.terminal import failure_text, summary
from pytest_tokenbudget.run.reporting import ascii_only, printable
from pytest_tokenbudget.run.session import Outcome, Session

ENTRIES = "token_budget"
"""Attribute of a test report that carries entries of the document from where they were examined."""


RECORDED = "token_budget_recorded"
"""Attribute of a test report that carries what was recorded."""


class Summary:
    """The controller's part."""

    def __init__(self, config: pytest.Config, session: Session) -> None:
        self._config = config
        self._session = session
        self._outcome: Outcome | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect; what fails without a failing test of its own (a fixture) is reported later."""
        for entry in getattr(report, ENTRIES, ()):
            self._session.collect(entry)
        for recorded in getattr(report, RECORDED, ()):
            self._session.recordings.add(recorded)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Report what no test of its own has failed for: fixtures, teardowns, live runs, unstable prompts."""
        result = yield
        live = self._session.options.live
        for entry in self._session.entries:
            if Verdict(entry["verdict"]).fails and (live or is_beside_a_test(entry["id"])):
                self._fail(entry, failure_text(entry))
        if self._session.options.stability:
            invoked = self._config.invocation_params
            for entry, text in self._session.unstable(invoked.args, invoked.dir):
                self._fail(entry, text)
        return result

    def _fail(self, entry: ScenarioEntry, text: str) -> None:
        report = pytest.TestReport(
            nodeid=entry["id"],
            location=(entry["file"], entry["line"] - 1, entry["id"].partition("::")[2]),
            keywords={},
            outcome="failed",
            longrepr=printable(text),
            when="call",
        )
        self._config.hook.pytest_runtest_logreport(report=report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write baselines and reports; what cannot be written fails the run."""
        self._outcome = self._session.finish()
        if self._outcome.problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One section; nothing when there is nothing to say."""
        if self._outcome is None:
            return

        def write_line(text: str, /, **markup: bool) -> None:
            terminalreporter.write_line(text, **markup)

        summary(
            self._outcome.document,
            write_line,
            columns=self._config.get_terminal_writer().fullwidth,
            verbosity=self._config.get_verbosity(),
            ascii_only=ascii_only(),
        )
        for line in self._session.recordings.lines(self._shown, self._config.get_verbosity()):
            write_line(line)
        for path in self._outcome.written:
            terminalreporter.write_line(f"wrote {self._shown(path)}")
        for problem in self._outcome.problems:
            terminalreporter.write_line(problem, red=True)

    def _shown(self, path: Path) -> Path:
        """As it is named from where pytest was called; whole where it lies elsewhere."""
        here = self._config.invocation_params.dir
        return path.relative_to(here) if path.is_relative_to(here) else path
