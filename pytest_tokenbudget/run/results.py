"""Gather the results of a run: judge live runs and lost tests, update baselines, write reports.

Knows no pytest. Under several processes, the controller gathers what the session of each worker has judged.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypedDict

from pytest_tokenbudget.budget.verdict import LiveRuns, LiveVerdict, judge_live, may_stop
from pytest_tokenbudget.errors import GitError, RecordingError, ReportError, TokenBudgetError
from pytest_tokenbudget.files import encoded, seen_from, write_atomically
from pytest_tokenbudget.model import Finding, FindingKind, ScenarioId, Verdict
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.build import Place, merge_samples
from pytest_tokenbudget.reports.change_view import SECOND_REPLAY, UNCHARGED, is_suspicion
from pytest_tokenbudget.reports.document import (
    Document,
    ExcludedEntry,
    ScenarioEntry,
    UnmeasuredEntry,
    is_measured,
    usage_of,
)
from pytest_tokenbudget.reports.history import History
from pytest_tokenbudget.reports.terminal import Recordings, acceptances, failure_text, kept
from pytest_tokenbudget.repository.baseline_history import MeasuredOn, Updated, read_history
from pytest_tokenbudget.repository.git import Repository, checked_out
from pytest_tokenbudget.run.session import Session
from pytest_tokenbudget.run.stability import (
    Replayed,
    Suspicion,
    asked_elsewhere,
    clock_problem,
    differences,
    kept_replays,
    resolved,
    unstable_text,
)
from pytest_tokenbudget.settings import ReportTarget
from pytest_tokenbudget.wire.prompt import body_of
from pytest_tokenbudget.wording import plural, signed_percent


@dataclass(slots=True)
class Outcome:
    """The results of a run that is over."""

    document: Document
    written: list[Path] = field(default_factory=list)
    """Baseline files and reports."""
    accepted: list[str] = field(default_factory=list)
    """Each baseline that an update has changed, in sentences."""
    problems: list[str] = field(default_factory=list)
    """What could not be written, in sentences; any of them fails the run."""
    told: list[str] = field(default_factory=list)
    """What a second replay has shown and cost, in sentences."""


class Unjudged(TypedDict):
    """A test that ended before it was measured; builtins only, so that it crosses processes."""

    id: str
    outcome: str | None
    """`failed`, `not_run` (for the spend limit), `skipped` or `xfailed`; None where it was not collected."""
    text: str | None
    """What failed it, in one line."""


class Collected(TypedDict):
    """What one process has collected, in builtins, so that it crosses processes. Paths are from the root."""

    root: str
    """pytest's root: an absolute path."""
    tests: Sequence[str]
    """Ids of all tests, whether they are to run or not."""
    selected: Sequence[str]
    """Ids of those that are to run."""
    fixtures: Sequence[str]
    """Names of the fixtures that the tests ask for."""
    cassettes: Sequence[str]
    """Cassettes of the tests and of their teardowns, whether they exist or not."""
    modules: Sequence[str]
    """Test files that were collected."""
    folders: Sequence[str]
    """Folders that were looked through."""
    asked: Sequence[str]
    """Files and folders that pytest was given, for some of their tests, too."""
    partly: Sequence[str]
    """Modules of which only some tests are to run."""
    unfinished: Sequence[str]
    """Modules that cannot be collected."""
    skipped: Sequence[str]
    """Modules, or classes, that are skipped as a whole."""
    is_named: bool
    """Whether pytest was told what to run, by arguments or by the folder that it was started in."""
    is_partial: bool
    """Whether an option leaves out whole modules without a word."""


class Results:
    """The results of a run while it goes on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._options = session.options
        self._prices = session.prices
        self._committed = session.committed
        self.recordings = Recordings()
        self.measured_on: dict[str, MeasuredOn] = {}
        """What each scenario's baseline will say beside its usage, by id."""
        self.unmetered: Counter[str] = Counter()
        """How many model calls that nothing meters were let pass, by who made them."""
        self.unmeasured: Sequence[UnmeasuredEntry] = ()
        self.committed_ids: Sequence[str] = ()
        """Ids of all baselines in the folders that were run."""
        self.excluded: dict[str, ExcludedEntry] = {}
        """The tests that are not judged because the suite says so, by id."""
        self._problems: list[str] = []
        self._told: list[str] = []
        self._suspicions: dict[str, Suspicion] = {}
        self._entries: dict[str, list[ScenarioEntry]] = defaultdict(list)
        self._unjudged: dict[str, Unjudged] = {}
        self._stopped: set[str] = set()
        """Scenarios whose live runs were ended early, since they are proved to be over."""

    def baselines(self, folders: Iterable[str]) -> list[str]:
        """Return the ids of all scenarios with a baseline whose test files are in `folders`."""
        return [each for folder in folders for each in self._committed.ids(folder)]

    def collect(self, entry: ScenarioEntry) -> None:
        """Take in an entry: one more sample of a live run, else the replacement of an earlier try."""
        if not self._options.live:
            self._entries[entry["id"]].clear()
            self._suspicions.pop(entry["id"], None)
        self._entries[entry["id"]].append(entry)

    def collect_unjudged(self, test: Unjudged) -> None:
        """Take in a test that ended without a verdict, or cannot be collected; the last try of one counts."""
        self._unjudged[test["id"]] = test

    def suspect(self, suspicion: Suspicion) -> None:
        """Take in a suspicion of a scenario whose entry is collected."""
        self._suspicions[suspicion["id"]] = suspicion

    def tell_problem(self, problem: str) -> None:
        """Keep a problem that fails the run although no test is at fault."""
        self._problems.append(problem)

    @property
    def entries(self) -> list[ScenarioEntry]:
        """One entry for each scenario so far."""
        cost = self._prices.cost
        if not self._options.live:
            return [merge_samples(samples, cost) for samples in self._entries.values()]
        runs, judged = self._live, self._judged_live()
        return [
            merge_samples(samples, cost, runs.get(name), is_over=name in judged.over)
            for name, samples in self._entries.items()
        ]

    @property
    def known(self) -> frozenset[str]:
        """Return the ids that have a verdict, or that are told of otherwise."""
        return frozenset((*self._entries, *self._unjudged, *self.excluded))

    def is_whole(self, tests: Iterable[str]) -> bool:
        """Return whether all `tests` with a baseline were measured: none was left out or failed otherwise."""
        left = {name for name in tests if name in self.committed_ids and name not in self._entries}
        return not (left or self._unjudged or self.excluded)

    @property
    def _live(self) -> dict[str, LiveRuns]:
        """Return the costs of the live runs that have a baseline of such, by scenario."""
        found: dict[str, LiveRuns] = {}
        for name, samples in self._entries.items():
            costs = [one["measured"]["cost_usd"] if one["measured"] else None for one in samples]
            known = tuple(cost for cost in costs if cost is not None)
            limits = {limit["metric"]: limit for limit in samples[0]["limits"]}
            limit = limits.get("cost_usd")
            committed = self._committed.of(_place(samples[0]))
            if limit is None or not limit["baseline"] or len(known) < len(samples) or committed is None:
                continue
            before = tuple(
                float(cost) for run in committed.live if (cost := self._prices.cost(run)) is not None
            )
            allowed = limit["limit"] / limit["baseline"]
            found[name] = LiveRuns(before, known, allowed, is_stopped=name in self._stopped)
        return found

    def _judged_live(self) -> LiveVerdict:
        """Judge the live runs so far; nothing is judged if they become the baseline."""
        return judge_live({} if self._options.update else self._live)

    def _suite_is_over(self) -> Iterator[str]:
        """Yield a sentence if it is proved that all live runs together cost more."""
        judged = self._judged_live()
        if judged.suite_is_over and judged.suite:
            grown = signed_percent(judged.suite.ratio - 1)
            yield (
                f"over: {plural(len(self._live), 'scenario')} together cost {grown} on average against their "
                "baselines of live runs, which is proved (95 %) even where it is not of any one of them"
            )

    def decided_after(self, name: str, scenarios: int) -> int | None:
        """Return after how many live runs a scenario is proved to be over, or None if more are to be made.

        `scenarios` is how many are run live.
        """
        runs = self._live.get(name)
        if runs is None or self._options.update:
            return None
        if may_stop(runs, self._options.samples, scenarios):
            self._stopped.add(name)
        return len(runs.now) if name in self._stopped else None

    def replay_again(self, arguments: Sequence[str], invoked_in: Path) -> list[tuple[ScenarioEntry, str]]:
        """Replay once more elsewhere, if a verdict depends on it or it is asked for, and say what it cost.

        Returns the entries that fail by it, each with the reason; what it shows is added to them, and an
        update takes it. What keeps it from being made is told, and fails the run if it was asked for.
        """
        names = [ScenarioId(name).argument for name in self._suspicions]
        if self._options.stability:
            names = sorted({one[0]["file"] for one in self._entries.values() if one})
        if not names:
            return []
        problems, began = self._problems if self._options.stability else self._told, time.monotonic()
        tests = [str(self._session.root / name) for name in dict.fromkeys(names)]
        try:
            update, root = self._options.update, self._session.root
            second = asked_elsewhere(tests, arguments, invoked_in, root, update=update)
        except RecordingError as error:
            problems.append(str(error))
            return []
        number, seconds = plural(len(second), "scenario"), time.monotonic() - began
        self._told.append(f"replayed {number} once more in another process: {seconds:.1f} s, no call")
        if problem := clock_problem():
            problems.append(problem)
        return [*self._proved(second), *(self._unstable(second) if self._options.stability else ())]

    def _proved(self, second: Mapping[str, Replayed]) -> Iterator[tuple[ScenarioEntry, str]]:
        """Yield the scenarios that fail since their changed prefix is proved to differ in every process."""
        for name, suspected in self._suspicions.items():
            (entry,) = self._entries[name]
            if name not in second:
                self._told.append(f"{name}: its second replay measured nothing, so that nothing is proved.")
                continue
            for prompt in second[name].prompts:
                self._session.redactor.learn(body_of(prompt))
            finished = resolved(suspected, second[name], self._session.judge.lasts)
            if finished.entry is not None:
                text = self._session.redactor.text(finished.proof)
                entry = finished.entry
                if finished.ticks:
                    entry["findings"] = [one for one in entry["findings"] if not is_suspicion(one)]
                entry["findings"].append(build.finding(Finding(FindingKind.VOLATILE, SECOND_REPLAY, text)))
                self._entries[name] = [entry]
                if finished.measured_on is not None:
                    self.measured_on[name] = finished.measured_on
                if Verdict(entry["verdict"]).fails:
                    yield entry, failure_text(entry)
                continue
            kept = [one for one in entry["findings"] if one["where"] not in finished.edits]
            entry["findings"] = [
                one for one in entry["findings"] if one in kept or one["kind"] != FindingKind.VOLATILE
            ]
            if finished.differs:
                differs = self._session.redactor.text("; ".join(finished.differs))
                if finished.on_both_sides:
                    text = f"{differs}; what was accepted has the like there, so that nothing is charged"
                else:
                    text = f"{differs}; no limit is passed by what that loses, and it is not charged"
                entry["findings"].append(build.finding(Finding(FindingKind.VOLATILE, UNCHARGED, text)))

    def _unstable(self, second: Mapping[str, Replayed]) -> list[tuple[ScenarioEntry, str]]:
        """Return all entries whose prompts differ in the second process, with what differs."""
        assert self._options.prompts is not None
        told = []
        first = kept_replays(self._options.prompts)
        for prompt in itertools.chain.from_iterable(replay.prompts for replay in first.values()):
            self._session.redactor.learn(body_of(prompt))
        for name, found in differences(first, second).items():
            findings = self._session.judge.without_secrets(found)
            for entry in self._entries[name]:  # what was suspected is decided
                left = [one for one in entry["findings"] if not is_suspicion(one)]
                shown = (replace(one, where=UNCHARGED) for one in findings)
                entry["findings"] = [*left, *map(build.finding, shown)]
            told.append((self._entries[name][-1], unstable_text(findings)))
        return told

    def _update(self, scenarios: Iterable[ScenarioEntry]) -> Updated:
        """Write the baselines of what was replayed or recorded, or those of live runs."""
        if not self._options.live:
            return self._committed.update(scenarios, self.measured_on, self._options.taken)
        measured = {
            _place(samples[0]): [usage_of(one["measured"]) for one in samples if one["measured"] is not None]
            for samples in self._entries.values()
            if all(is_measured(one) and one["verdict"] != "over" for one in samples)
        }
        return self._committed.update_live({place: runs for place, runs in measured.items() if runs})

    def finish(self) -> Outcome:
        """Write baselines and reports, and return the outcome of the run."""
        outcome = Outcome(self.document(), problems=list(self._problems), told=self._told)
        if self._session.spending and (refused := self._session.spending.closing()):
            outcome.problems.append(refused)
        outcome.problems += self._suite_is_over() if self._options.live else ()
        if (self._options.update or self._options.migrate) and not self._options.is_second_replay:
            updated = self._update(outcome.document["scenarios"])
            outcome.written += updated.written
            outcome.problems += updated.problems
            outcome.accepted += acceptances(
                outcome.document, updated.before, updated.anew, updated.counters, self._prices.cost
            )
            outcome.accepted += kept(updated.kept, migrating=self._options.migrate)
        told = map(self._session.redactor.text, outcome.problems)
        outcome.problems = [seen_from(Path.cwd(), problem) for problem in told]
        outcome.document["errors"] += [{"id": None, "text": problem} for problem in outcome.problems]
        runs_per_month = self._session.settings.scenario.runs_per_month
        for target in self._options.reports:
            try:
                write_report(target, outcome.document, self._session.root, runs_per_month)
                outcome.written.append(target.path)
            except TokenBudgetError as error:
                outcome.problems.append(self._session.redactor.text(str(error)))
        return outcome

    def document(self) -> Document:
        """Return the JSON document of all that was collected."""
        left = sorted((test for test in self._unjudged.values() if test["id"] not in self._entries), key=_id)
        commit, project = checked_out(self._session.root)
        return build.document(
            self.entries,
            mode=self._options.mode,
            prices=(self._prices.source, self._prices.version),
            commit=commit,
            errors=[{"id": test["id"], "text": test["text"]} for test in left if test["text"]],
            not_judged=[{"id": test["id"], "outcome": test["outcome"]} for test in left if test["outcome"]],
            excluded=list(self.excluded.values()),
            unmeasured=self.unmeasured,
            committed=self.committed_ids,
            unmetered=[{"id": name, "calls": calls} for name, calls in self.unmetered.items()],
            project=project,
        )


def _place(entry: ScenarioEntry) -> Place:
    return Place(entry["id"], entry["file"], entry["line"])


def _id(test: Unjudged) -> str:
    return test["id"]


def unmeasured(
    committed: Iterable[str],
    collected: Collected,
    known: Collection[str],
    ran: Collection[str] | None,
    *,
    whole: bool = False,
) -> Iterator[UnmeasuredEntry]:
    """Yield which of the `committed` scenarios were not measured, and why.

    `known` are those with a verdict, or told of otherwise. `ran` are the tests that pytest began; None where
    a run was stopped on purpose, so that the others claim nothing. Fixtures and teardowns call where tests
    do: they are gone where the `whole` suite was measured without them.
    """
    tests, selected = set(collected["tests"]), set(collected["selected"])
    for name in committed:
        scenario = ScenarioId(name)
        if name in known or not _was_run(scenario.file, collected):
            continue
        if scenario.kind != "test" and (scenario.kind == "fixture" or scenario.argument in tests):
            if whole:
                yield {"id": name, "why": "gone"}
            continue
        if any(_is_of(name, skipped) for skipped in collected["skipped"]):
            yield {"id": name, "why": "skipped"}
        elif scenario.argument in tests:
            if name in selected and ran is not None and name not in ran:
                yield {"id": name, "why": "not_run"}
        else:
            yield {"id": name, "why": "gone"}


def is_of_fixture(stem: str, fixtures: Iterable[str]) -> bool:
    """Return whether `fixture_NAME`, with parameters and an owner or without, is of one of `fixtures`."""
    names = (f"fixture_{name}" for name in fixtures)
    return any(stem == name or stem.startswith((f"{name}[", f"{name}_of_")) for name in names)


def _was_run(file: str, collected: Collected) -> bool:
    """Return whether all tests of a module were to be collected and run."""
    return not (collected["is_partial"] or file in collected["partly"] or file in collected["unfinished"])


def asked_for(committed: Iterable[str], collected: Collected) -> list[str]:
    """Return the `committed` scenarios whose modules pytest was given, alone or in a folder."""
    return [
        each
        for each in committed
        if any(PurePosixPath(ScenarioId(each).file).is_relative_to(path) for path in collected["asked"])
    ]


def _is_of(name: str, node: str) -> bool:
    return name == node or name.startswith(f"{node}::")


def write_report(
    target: ReportTarget, document: Document, root: Path, runs_per_month: float | None = None
) -> None:
    """Write one report of a run in `root`. Raises ReportError that names the file and the fix."""
    try:
        write_atomically(target.path, encoded(render(target.type, document, root, runs_per_month)))
    except OSError as error:
        raise ReportError(
            f"{target.path}: the report cannot be written: {error.strerror or error}. "
            "Name a place that can be written to."
        ) from error


def render(kind: str, document: Document, root: Path, runs_per_month: float | None) -> str:
    """Return the text of a report: `json`, `markdown`, or `html` with trends if git has them."""
    if kind == "markdown":
        from pytest_tokenbudget.reports.markdown import markdown

        return markdown(document, full=True, runs_per_month=runs_per_month)
    if kind == "html":
        from pytest_tokenbudget.reports.dashboard import dashboard

        return dashboard(document, _history(root), runs_per_month=runs_per_month)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _history(root: Path) -> History | None:
    try:
        return read_history(Repository.open(root))[0]
    except GitError:  # no repository, or a shallow clone: the page does without
        return None
