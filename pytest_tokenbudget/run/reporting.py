"""Turn scenario outcomes into pytest failures, warnings, user properties and the summary.

Under several processes the one that collects takes in what was examined, writes it, and tells it at the end.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pytest

from pytest_tokenbudget.budget.baselines import UPDATE
from pytest_tokenbudget.errors import ReplayMiss, TokenBudgetError, TokenBudgetWarning
from pytest_tokenbudget.model import ScenarioId, Verdict
from pytest_tokenbudget.reports import scenario_view
from pytest_tokenbudget.reports.change_view import cause_of, causes
from pytest_tokenbudget.reports.document import Document, ScenarioEntry, is_lost
from pytest_tokenbudget.reports.exports import properties
from pytest_tokenbudget.reports.run_view import line
from pytest_tokenbudget.reports.scenario_view import fails
from pytest_tokenbudget.reports.terminal import failure_reason, failure_text, summary
from pytest_tokenbudget.reports.text import Paper, crop, message, message_lines, to_ascii, width, wrap
from pytest_tokenbudget.run.results import Collected, Outcome, Results, asked_for, unmeasured
from pytest_tokenbudget.run.scenario import Scenario
from pytest_tokenbudget.run.session import Session
from pytest_tokenbudget.wording import listed, next_step, plural

Node = pytest.Item | pytest.Collector

_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
_OF_KEYS = re.compile(r"api_key|auth_token|authentication|credentials|API_KEY|AUTH_TOKEN")
"""Words of an error of a client that has no key."""
_SET_ONE = (
    f"neither {' nor '.join(_KEYS)} is set. Set one (export {_KEYS[0]}=...), or give the client of the test "
    "its key."
)
_NO_KEY = f"No real call was made, and there is no key: {_SET_ONE}"
_PERHAPS_NO_KEY = f"No model call was made. Where one failed for want of a key: {_SET_ONE}"


class Cache:
    """Stores counts in pytest's cache; if that cannot be written, pytest says so once, not for each text."""

    def __init__(self, cache: pytest.Cache) -> None:
        self._cache = cache

    def get(self, key: str, default: Any) -> Any:
        """Return what was set under `key`, else `default`."""
        return self._cache.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Keep `value` under `key`, if the cache can be written."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pytest.PytestCacheWarning)
            self._cache.set(key, value)


class BudgetFailure(pytest.fail.Exception):  # type: ignore[misc, name-defined]  # set on a function
    """The failure of a scenario: told without a traceback, and never hidden by xfail."""


@dataclass(frozen=True, slots=True)
class _Crash:
    """The part of a failure that pytest's short summary and JUnit repeat, with the place of its test.

    It has what pytest's own has, for plugins that read it.
    """

    message: str
    path: str
    lineno: int

    def __str__(self) -> str:
        return self.message


class FailureText:
    """The text of a failure, for JUnit files, for pytest's section of failures and for its short summary.

    JUnit files have all of it. In the terminal our section says the amounts, and the commands that resolve
    it, once for all tests; with -q it has no amounts of a single test, so that the short summary says them.
    """

    def __init__(self, text: str, entries: Sequence[ScenarioEntry] = (), verbosity: int = 0) -> None:
        """Take the text of what fails, the scenarios that it is about, and the verbosity of the run."""
        self._text = text
        self._reason = text.partition("\n")[0]
        self.alike = 0
        """How many tests more fail of the same cause, and are told in our section alone."""
        short = self._reason
        told = next((one for one in entries if short == printable(failure_reason(one))), None)
        if told is not None:
            self._reason = printable(failure_reason(told, amounts=False))
            is_over = told["verdict"] == Verdict.OVER
            if not is_over:
                short = self._reason.partition(":")[0]
            elif verbosity >= 0:
                short = self._reason
        file, line = (entries[0]["file"], entries[0]["line"]) if entries else ("", 1)
        self.reprcrash = _Crash(short, file, line)
        ways_out = (str(way_out) for entry in entries for way_out in scenario_view.ways_out([entry]))
        self._elsewhere = {printable(line) for way_out in ways_out for line in way_out.splitlines()}

    def __str__(self) -> str:
        return self._text

    def toterminal(self, writer: Any) -> None:
        """Write the text to a writer of pytest's: what is indented as wide as the terminal is."""
        more = f" ({plural(self.alike, 'more test')} of the same cause, below)"
        for piece in wrap(self._reason + (more if self.alike else ""), writer.fullwidth, "", "  "):
            writer.line(piece)
        for text in self._text.splitlines()[1:]:
            if printable(text) in self._elsewhere:
                continue
            indent = next((indent for indent in ("  * ", "  ") if text.startswith(indent)), "")
            pieces = wrap(text.strip().removeprefix("* "), writer.fullwidth, indent, " " * len(indent))
            for piece in pieces if indent else [text]:
                writer.line(piece)


def ascii_only() -> bool:
    """Return whether the terminal can show only ASCII, by the encoding that it was opened with."""
    encoding = getattr(sys.__stdout__, "encoding", None) or "utf-8"
    return not encoding.lower().replace("-", "").startswith("utf")


def printable(text: str) -> str:
    """Return a text as the terminal can show it."""
    return to_ascii(text) if ascii_only() else text


def of_credentials(error: BaseException | None, scenario: Scenario | None) -> str | None:
    """Return a sentence if a real call failed for its credentials, else None."""
    if error is None or scenario is None:
        return None
    if status := scenario.denied:
        return (
            f"{scenario.place.id}: the API answered {status}, so the key was not accepted. Set {_KEYS[0]} to "
            "a key that may call this model, and run it again. Nothing is recorded."
        )
    if scenario.called or any(map(os.environ.get, _KEYS)) or not _OF_KEYS.search(str(error)):
        return None
    return f"{scenario.place.id}: {_NO_KEY}"


def of_real_calls(
    report: pytest.TestReport, scenario: Scenario | None, *, live: bool
) -> Iterator[tuple[str, str]]:
    """Yield (title, text) sections for a test that failed in a run that makes real calls.

    They say that it asked nothing, as a client without a key sends nothing, or that its calls, which were
    paid for, are not recorded.
    """
    if not report.failed or report.when != "call" or scenario is None:
        return
    is_told = _NO_KEY in str(report.longrepr)
    if not is_told and not scenario.touched and not any(map(os.environ.get, _KEYS)):
        yield "token budgets", _PERHAPS_NO_KEY
    if not live and scenario.own and scenario.own.calls and scenario.written is None:
        yield "token budgets", "The test failed: nothing of what it called is recorded."


@contextlib.contextmanager
def told_plainly() -> Iterator[None]:
    """Turn an error of the catalogue, which the user can mend, into a failure without a traceback."""
    try:
        yield
    except TokenBudgetError as error:
        raise BudgetFailure(f"{error}\n{error.more}", pytrace=False) from None


def warn(node: Node, text: str) -> None:
    """Warn of something in a test; fail it only if a filter for TokenBudgetWarning makes it an error.

    If every warning is an error, this one is still only shown: the test itself is not at fault.
    """
    warning = TokenBudgetWarning(text)
    try:
        node.warn(warning)
    except TokenBudgetWarning:
        if any(
            kind == "error" and category is TokenBudgetWarning for kind, _, category, *_ in warnings.filters
        ):
            raise BudgetFailure(text, pytrace=False) from None
        message = warnings.WarningMessage(warning, TokenBudgetWarning, str(node.path), 1)
        told = {"warning_message": message, "when": "runtest", "nodeid": node.nodeid, "location": None}
        node.ihook.pytest_warning_recorded.call_historic(kwargs=told)


def miss_behind(error: BaseException) -> ReplayMiss | None:
    """Return the miss that an exception is or holds, as a cause or in an exception group, or None."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, ReplayMiss):
            return one
        seen.add(id(one))
        queue += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            queue += one.exceptions
    return None


def is_unfinished(error: BaseException, *, missed: bool) -> bool:
    """Return whether a test that ends in an error is not judged: its own failure, a skip, an interruption.

    It is judged if something that it asked was `missed`: the error may come of that.
    """
    if isinstance(error, KeyboardInterrupt | pytest.exit.Exception):
        return True
    return not missed and miss_behind(error) is None


def outcome_of(report: pytest.TestReport, *, is_budgets: bool) -> str | None:
    """Return `failed`, `skipped` or `xfailed`; None if it passed, and for a teardown.

    A failure by its budget (`is_budgets`) is no expected failure.
    """
    if report.when == "teardown":
        return None
    if report.failed or is_budgets:
        return "failed"
    if report.skipped:
        return "xfailed" if hasattr(report, "wasxfail") else "skipped"
    return None


def why(error: BaseException | None) -> str:
    """Return what ended a test: a text of ours, or the name alone of any other error.

    Another error may hold a prompt or a key.
    """
    if isinstance(error, BudgetFailure | ReplayMiss):
        lines = message_lines(str(error))
        return "\n".join(f"{'  ' * line.startswith('  ')}{' '.join(line.split())}" for line in lines)
    return f"ended before it was measured: {type(error).__name__}"


def updated(before: Sequence[tuple[str, object]], new: Sequence[tuple[str, str]]) -> list[tuple[str, object]]:
    """Return the properties of a test with `new` ones in place of those of the same names."""
    names = {name for name, _ in new}
    return [*(one for one in before if one[0] not in names), *new]


ENTRIES = "token_budget"
"""Attribute of a test report that carries entries of the document from where they were examined."""


UNJUDGED = "token_budget_unjudged"
"""Attribute of a test report that carries what ended before it was measured."""


UNMETERED = "token_budget_unmetered"
"""Key of what a worker of pytest-xdist says at its end: model calls that nothing meters."""


COLLECTED = "token_budget_collected"
"""Key of what a worker of pytest-xdist says at its end: what it has collected."""


LEFT_OUT = "token_budget_excluded"
"""Attribute of a test report that carries what is excluded."""


MEASURED_ON = "token_budget_measured_on"
"""Attribute of a test report that carries what baselines say beside their usage."""


SUSPICIONS = "token_budget_suspicions"
"""Attribute of a test report that carries what a second replay is to tell."""


RECORDED = "token_budget_recorded"
"""Attribute of a test report that carries what was recorded."""


def _told_by(entry: ScenarioEntry) -> tuple[object, ...]:
    """Return a key that is equal for failures that say the same.

    Scenarios that cannot be judged ask different things each, so that their texts belong to it.
    """
    texts = () if entry["verdict"] == "over" else (finding["text"] for finding in causes(entry))
    return (*cause_of(entry), *texts)


def _by_parts(text: str, columns: int) -> Iterator[str]:
    """Yield the lines of a text that `; ` divides, each of as many whole parts as fit."""
    first, *parts = text.split("; ")
    for part in parts:
        if width(f"{first}; {part};") <= columns:
            first += f"; {part}"
        else:
            yield f"{first};"
            first = f"  {part}"
    yield first


class LiveLine:
    """One line below those that pytest writes, written anew again and again; for terminals."""

    def __init__(self, writer: Any, file: TextIO) -> None:
        """Take pytest's `writer`, which knows where the cursor is; the line goes past it, to `file`."""
        self._writer = writer
        self._file = file
        self._text = ""

    def show(self, text: str) -> None:
        """Write `text` in place of what is shown, as much of it as fits; nothing takes the line away."""
        if text or self._text:
            self._below(crop(printable(text), self._writer.fullwidth - 1, "..."))
        self._text = text

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Make room for what pytest writes meanwhile."""
        text = self._text
        self.show("")
        yield
        self.show(text)

    def _below(self, text: str) -> None:
        column = self._writer.width_of_current_line % self._writer.fullwidth
        right = f"\x1b[{column}C" if column else ""
        self._file.write(f"\n\r\x1b[K{text}\x1b[A\r{right}")
        self._file.flush()


def live_line(writer: Any) -> LiveLine | None:
    """Return a live line where the run is watched in a terminal; None elsewhere, as in CI."""
    file = sys.__stdout__
    return LiveLine(writer, file) if file is not None and file.isatty() and writer.hasmarkup else None


@dataclass(slots=True)
class Held:
    """The reports of a test that a second replay may still fail, as they came."""

    id: str
    """The id of its scenario."""
    reports: list[pytest.TestReport]
    """That of the call first."""

    def take(self, report: pytest.TestReport) -> None:
        """Keep a report, and leave one in its place that says nothing: it passes, and is of no call."""
        kept = copy.copy(report)
        for name in (ENTRIES, UNJUDGED, LEFT_OUT, MEASURED_ON, SUSPICIONS, RECORDED):
            vars(kept).pop(name, None)  # it is taken in
        self.reports.append(kept)
        report.when, report.outcome, report.longrepr = "setup", "passed", None
        report.duration, report.sections = 0.0, []

    def fail(self, entry: ScenarioEntry, text: FailureText) -> None:
        """Let the test fail, with the properties of how it is judged now."""
        call = self.reports[0]
        call.outcome, call.longrepr = "failed", text  # type: ignore[assignment]
        vars(call)[ENTRIES] = [entry]
        for report in self.reports:
            report.user_properties = updated(report.user_properties, properties(entry))


class Summary:
    """The part of the plugin that runs in the controller: it collects, writes and tells."""

    def __init__(self, config: pytest.Config, session: Session, results: Results) -> None:
        self._config = config
        self._session = session
        self._results = results
        self._outcome: Outcome | None = None
        self._ran: set[str] = set()
        self._collected: Collected | None = None
        self._limit_told = False
        self._paid_calls = 0
        self._live_line: LiveLine | None = None
        self._told: dict[tuple[object, ...], FailureText] = {}
        """The first failure of each cause."""
        self._errors = set[str | None]()
        """The errors of ours that ended a test."""
        self._told_by_us: list[pytest.TestReport] = []
        """Failures that stand in our section, and not in pytest's."""
        self._failed: dict[str, list[Any]] = {}
        """All that failed, by pytest's word for it, while pytest writes what failed."""
        self._held: dict[object, Held] = {}
        """What is reported after the second replay, by test and worker."""

    def pytest_sessionstart(self) -> None:
        """Begin a live line, where calls are real and somebody watches."""
        if self._session.options.calls and self._config.pluginmanager.has_plugin("terminalreporter"):
            self._live_line = live_line(self._config.get_terminal_writer())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logstart(self, nodeid: str) -> Generator[None, object, object]:
        """Show in a terminal what the real calls came to so far, while a test runs."""
        with self._aside():
            result = yield
        self._tell_paid(nodeid)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Collect; what fails without a failing test of its own (a fixture) is reported later.

        So is a test that passes and that a second replay may fail: whoever reports tests is told once.
        """
        with self._aside():
            self._take_in(report)
            self._hold(report)
            return (yield)

    def _aside(self) -> contextlib.AbstractContextManager[None]:
        return self._live_line.aside() if self._live_line else contextlib.nullcontext()

    def _take_in(self, report: pytest.TestReport) -> None:
        self._tell_limit()
        if report.when == "call" or not report.passed:  # --setup-only sets up and tears down
            self._ran.add(report.nodeid)
        self._tell_once(report)
        for entry in getattr(report, ENTRIES, ()):
            self._results.collect(entry)
        for suspicion in getattr(report, SUSPICIONS, ()):
            self._results.suspect(suspicion)
        for test in getattr(report, UNJUDGED, ()):
            self._results.collect_unjudged(test)
        for test in getattr(report, LEFT_OUT, ()):
            self._results.excluded[test["id"]] = test
        for measured_on in getattr(report, MEASURED_ON, ()):
            self._results.measured_on[measured_on["id"]] = measured_on
        for recorded in getattr(report, RECORDED, ()):
            self._results.recordings.add(recorded)

    def _hold(self, report: pytest.TestReport) -> None:
        """Keep back what a test reports from the call on that may still fail."""
        key = report.nodeid, getattr(report, "node", None)
        if report.when == "setup" and key in self._held:  # it runs once more
            self._report(self._held.pop(key))
        if report.when == "call" and report.passed and (name := self._may_fail_later(report)):
            self._held[key] = Held(name, [])
        if key in self._held:
            self._held[key].take(report)

    def _may_fail_later(self, report: pytest.TestReport) -> str | None:
        """Return the id of the scenario of a test if a second replay may fail it, else None."""
        told: list[Any] = [*getattr(report, SUSPICIONS, ())]
        told += getattr(report, ENTRIES, ()) if self._session.options.stability else ()
        return next((one["id"] for one in told if ScenarioId(one["id"]).kind == "test"), None)

    def _report(self, held: Held) -> None:
        for report in held.reports:
            self._config.hook.pytest_runtest_logreport(report=report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note the files whose tests cannot be collected."""
        if report.failed:
            ours = report.longrepr if isinstance(report.longrepr, str) else None
            text = ours or "its tests cannot be collected"
            self._results.collect_unjudged({"id": report.nodeid, "outcome": None, "text": text})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Report what fails without a test of its own: fixtures, teardowns, live runs, unstable prompts."""
        try:
            result = yield
        except BaseException:  # no second replay is made
            self._report_held()
            raise
        if self._live_line is not None:
            self._live_line.show("")
        live = self._session.options.live
        for entry in self._results.entries:
            if Verdict(entry["verdict"]).fails and (live or ScenarioId(entry["id"]).kind != "test"):
                self._fail(entry, failure_text(entry))
        invoked = self._config.invocation_params
        failing = {
            entry["id"]: (entry, text)
            for entry, text in self._results.replay_again(invoked.args, invoked.dir)
        }
        for held in self._held.values():
            if held.id in failing:
                entry, text = failing.pop(held.id)
                held.fail(entry, self._failure(entry, text))
        self._report_held()
        for entry, text in failing.values():
            self._fail(entry, text)
        return result

    def _report_held(self) -> None:
        """Report what was kept back, in the order in which the tests ended."""
        while self._held:
            self._report(self._held.pop(next(iter(self._held))))

    def _tell_once(self, report: pytest.TestReport) -> None:
        """Leave a failure to our section with -q, or if another test has failed of the same cause."""
        verbosity = self._config.get_verbosity()
        if errors := {test["text"] for test in getattr(report, UNJUDGED, ())} & {str(report.longrepr)}:
            if verbosity < 0 or (verbosity == 0 and errors <= self._errors):
                self._told_by_us.append(report)
            self._errors |= errors
        failing = [entry for entry in getattr(report, ENTRIES, ()) if Verdict(entry["verdict"]).fails]
        if not failing or not report.failed or not isinstance(report.longrepr, str | FailureText):
            return
        text = FailureText(str(report.longrepr), failing, verbosity)
        first = [self._told.setdefault(_told_by(entry), text) for entry in failing]
        if verbosity < 0 or (verbosity == 0 and text not in first):
            self._told_by_us.append(report)
            first[0].alike += 1
        report.longrepr = text  # type: ignore[assignment]

    def _tell_limit(self) -> None:
        """Say once what one call can cost under the spend limit, after the first call was bounded."""
        spending = self._session.spending
        if not self._limit_told and spending is not None and (opening := spending.opening()):
            self._limit_told = True
            self._write_between(opening)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Say what the real calls came to, after each test that made some: in a terminal on one line."""
        self._tell_paid(nodeid, is_over=True)

    def _tell_paid(self, nodeid: str, *, is_over: bool = False) -> None:
        spending = self._session.spending
        if spending is None or self._config.get_verbosity() < 0:
            return
        paid = spending.paid()
        if self._live_line is not None:
            self._live_line.show(f"{nodeid}: {paid} so far")
        elif is_over and paid.calls != self._paid_calls:
            self._paid_calls = paid.calls
            self._write_between(f"{nodeid}: {paid} so far")

    def _write_between(self, text: str) -> None:
        """Write a line of its own between those of the tests."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.ensure_newline()
            if self._config.get_terminal_writer().width_of_current_line:
                terminal.write_line("")
            terminal.write_line(text)

    def _fail(self, entry: ScenarioEntry, text: str) -> None:
        report = pytest.TestReport(
            nodeid=entry["id"],
            location=(entry["file"], entry["line"] - 1, entry["id"].partition("::")[2]),
            keywords={},
            outcome="failed",
            longrepr=self._failure(entry, text),  # type: ignore[arg-type]
            when="call",
        )
        self._config.hook.pytest_runtest_logreport(report=report)

    def _failure(self, entry: ScenarioEntry, text: str) -> FailureText:
        return FailureText(printable(text), [entry], self._config.get_verbosity())

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take in what a worker has collected; all collect the same."""
        said = getattr(node, "workeroutput", {})
        self._collected = said.get(COLLECTED, self._collected)
        self._results.unmetered.update(said.get(UNMETERED, {}))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Write baselines and reports; fail the run if something cannot be written, or was lost.

        Fail it also for what failed, if somebody resets the exit status.
        """
        self._find_unmeasured(session)
        scenarios: Any = self._config.pluginmanager.get_plugin("tokenbudget-scenarios")
        self._results.unmetered.update(scenarios.unmetered)
        self._outcome = self._results.finish()
        is_red = bool(self._outcome.problems) or self._is_red(self._outcome.document)
        if is_red and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self._set_aside()
        try:
            yield
        finally:
            self._put_back()
        if is_red and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _is_red(self, document: Document) -> bool:
        """Return whether a verdict fails, or a baseline was lost; an update only tells the latter."""
        options = self._session.options
        lost = not options.update and any(map(is_lost, document["unmeasured"]))
        return options.judge and (lost or any(map(fails, document["scenarios"])))

    def _find_unmeasured(self, session: pytest.Session) -> None:
        """Find the baselines in the folders that were run that nothing has measured."""
        scenarios: Any = self._config.pluginmanager.get_plugin("tokenbudget-scenarios")
        collected: Collected | None = self._collected or scenarios.collected
        if not self._session.options.judge or self._config.getoption("collectonly"):
            return
        if collected is None:
            if session.exitstatus == pytest.ExitCode.OK:
                self._results.tell_problem(
                    "The run ended before its tests were collected: nothing is judged."
                )
            return
        ran = self._ran if session.exitstatus == pytest.ExitCode.OK else None
        committed = asked_for(self._results.baselines(collected["folders"]), collected)
        self._results.committed_ids = committed
        known = self._results.known
        whole = ran is not None and self._results.is_whole(collected["tests"])
        self._results.unmeasured = list(unmeasured(committed, collected, known, ran, whole=whole))

    def _set_aside(self) -> None:
        """Take what our section tells out of what pytest's section of failures is made of."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            return
        told = set(map(id, self._told_by_us))
        for word in {"failed", "error"} & reporter.stats.keys():
            self._failed[word] = reporter.stats[word]
            reporter.stats[word] = [report for report in reporter.stats[word] if id(report) not in told]

    def _put_back(self) -> None:
        """Give pytest's short summary and its counts all that failed."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.stats.update(self._failed)
            self._failed = {}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write one section, if there is anything to say, and in every judging run what was judged.

        pytest has written its section of failures when this is called, and not its short summary.
        """
        self._put_back()
        if self._outcome is None:
            return

        columns = self._config.get_terminal_writer().fullwidth

        def write_line(text: str, /, **markup: bool) -> None:
            terminalreporter.write_line(text, **markup)

        summary(
            self._outcome.document,
            write_line,
            columns=columns,
            verbosity=self._config.get_verbosity(),
            ascii_only=ascii_only(),
        )
        for text, markup in self._closing(self._outcome):
            for piece in message(text, Paper(columns, ascii_only=False)):
                write_line(piece.text, **markup)

    def _closing(self, outcome: Outcome) -> Iterator[tuple[str, dict[str, bool]]]:
        """Yield what stands below our section, with its colours; what was judged comes last."""
        recorded = [*self._results.recordings.lines(self._shown, self._config.get_verbosity())]
        for cassette in recorded:
            yield cassette, {}
        if self._session.spending and (paid := self._session.spending.paid()).calls:
            yield f"paid: {paid}", {}
        for accepted in outcome.accepted:
            yield accepted, {}
        for path in outcome.written:
            yield f"wrote {self._shown(path)}", {}
        for told in outcome.told:
            yield printable(told), {}
        for problem in outcome.problems:
            yield problem, {"red": True}
        if recorded and not self._session.options.judge:
            folders = sorted({self._shown(path) for path in self._results.recordings.folders()})
            named = [f"{folder / name}/" for folder in folders for name in ("cassettes", "token_budgets")]
            commit = listed(named) if len(folders) == 1 else "cassettes/ and token_budgets/ beside the tests"
            yield next_step(f"Next, write what it costs; then commit {commit}", UPDATE), {}
        if self._session.options.judge:
            yield from ((piece, {}) for piece in self._judged(outcome.document))

    def _judged(self, document: Document) -> Iterator[str]:
        """Yield what was judged, in as many lines as it takes."""
        columns = self._config.get_terminal_writer().fullwidth
        for part in _by_parts(printable(line(document)), columns):
            yield from wrap(part, columns, "  " if part.startswith("  ") else "", "  ")

    def _shown(self, path: Path) -> Path:
        """Return a path as it is named from where pytest was called; whole if it lies elsewhere."""
        here = self._config.invocation_params.dir
        return path.relative_to(here) if path.is_relative_to(here) else path
