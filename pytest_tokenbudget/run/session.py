"""Conclude each scenario of one process: measure it, keep its recording, judge it, say what to accept.

Knows no pytest. The results of all processes are gathered by `run.results`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path

from pytest_tokenbudget.diagnosis.volatile import proved_volatile, timed_as_recorded
from pytest_tokenbudget.errors import RecordingError, ReportError, TokenBudgetError
from pytest_tokenbudget.files import append_line
from pytest_tokenbudget.metering.counting import Store, best_counter
from pytest_tokenbudget.metering.meter import Meter, Run
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Basis, Finding, FindingKind, Verdict
from pytest_tokenbudget.replay.credentials import without_stand_ins
from pytest_tokenbudget.replay.playback import AcceptedIn
from pytest_tokenbudget.replay.redaction import Redactor, Secrets, secrets_of
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.build import Place
from pytest_tokenbudget.reports.document import ScenarioEntry
from pytest_tokenbudget.reports.history import log_entry
from pytest_tokenbudget.reports.scenario_view import MATCH_ON
from pytest_tokenbudget.reports.terminal import RecordedEntry, failure_text
from pytest_tokenbudget.repository.baseline_history import Committed, MeasuredOn, is_due, not_replayed
from pytest_tokenbudget.repository.git import checked_out
from pytest_tokenbudget.run.accepting import Acceptance, accepted_in, without_gone_turns
from pytest_tokenbudget.run.count_api import ApiCounter
from pytest_tokenbudget.run.judging import Judge
from pytest_tokenbudget.run.scenario import Scenario
from pytest_tokenbudget.run.spending import Planned, Spending
from pytest_tokenbudget.run.stability import Replayed, Suspicion, keep_replay
from pytest_tokenbudget.settings import Options, RecordMode, SettingsFiles
from pytest_tokenbudget.wire.exchange import Accepted, Exchange


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The results of one scenario."""

    entry: ScenarioEntry | None = None
    """Its entry of the document, if it was judged."""
    failure: str | None = None
    """Why its test fails; None if it does not."""
    warnings: tuple[str, ...] = ()
    """Sentences on what is not metered, or not as exactly as was asked."""
    measured_on: MeasuredOn | None = None
    """What its baseline will say beside its usage, if baselines are updated."""
    recorded: RecordedEntry | None = None
    """Its new cassette, if one was written."""
    suspicion: Suspicion | None = None
    """What a second replay must tell, if the verdict depends on it."""


class Session:
    """Concludes the scenarios of one process."""

    def __init__(
        self, root: Path, options: Options, files: SettingsFiles, store: Store | None = None
    ) -> None:
        """Prepare what all scenarios share. Raises SettingsError for the settings of `root`."""
        self.root = root
        self.options = options
        self.files = files
        self.settings = files.of(root)
        self.redactor = Redactor(without_stand_ins(os.environ), self.settings.redact)
        """Hides secrets in every text that leaves the run."""
        self.prices = Prices()
        self.api = ApiCounter(without_stand_ins(os.environ), store) if options.count == "api" else None
        self._store = store
        self.committed = Committed(root, resolves=options.update)
        self._amiss: dict[str, TokenBudgetError] = {}

    @cached_property
    def meter(self) -> Meter:
        """The meter of this process; nothing heavy is loaded before the first count."""
        goes_by = self.options.is_second_replay
        return Meter(
            best_counter(self._store),
            self.prices.tiered,
            self.files.minimum_cacheable_tokens,
            volatile=partial(proved_volatile, time_goes_by=goes_by),
            timed=partial(timed_as_recorded, time_goes_by=goes_by),
            recount=self.api.count if self.api else None,
        )

    @cached_property
    def judge(self) -> Judge:
        """The judge of this process; it loads nothing before the first change."""
        return Judge(
            self.root, self.options, self.files, self.committed, self.meter, self.prices, self.redactor
        )

    @cached_property
    def spending(self) -> Spending | None:
        """Return the account of the real calls of all processes, or None where none are made."""
        limit, purse = self.options.max_spend, self.options.purse
        if purse is None:
            return None
        return Spending(limit, self.prices, purse, allow_unbounded=self.settings.max_spend_unbounded)

    @cached_property
    def _planned(self) -> Planned | None:
        """Return what adds up the calls of a recording, or None where none is planned."""
        plan = self.options.plan
        return Planned(plan.mode, self.meter, self.prices) if plan else None

    def _plan(self, scenario: Scenario, run: Run) -> None:
        if self._planned:
            committed = self.committed.of(scenario.place)
            is_recorded = scenario.cassette is None or scenario.cassette.exists()
            baseline = None if committed is None else committed.usage
            self._planned.add(scenario.place.id, run, baseline, is_recorded=is_recorded)

    @cached_property
    def _commit(self) -> str | None:
        return checked_out(self.root)[0]

    def log(self, scenario: Scenario) -> None:
        """Add the line of a scenario that is over to the log, if there is one.

        Raises ReportError if it cannot be written.
        """
        if self.options.log is None or not scenario.touched:
            return
        run = scenario.measured or _measured(scenario, self.meter, self.options)
        stopped = ("not_run" if scenario.not_run else "stopped") if scenario.stop else None
        paid = scenario.allowance
        entry = log_entry(
            scenario.place.id,
            run,
            self.prices.cost,
            time=datetime.now(UTC),
            commit=self._commit,
            mode=self.options.mode,
            outcome=stopped or scenario.outcome or "passed",
            paid=paid.paid if paid else Decimal(0),
            unknown=paid.unknown if paid else 0,
        )
        try:
            append_line(self.options.log, json.dumps(entry, ensure_ascii=False))
        except OSError as error:
            reason = error.strerror or error
            raise ReportError(
                f"{self.options.log}: the log cannot be written: {reason}. Name another file."
            ) from error

    def write_plan(self) -> None:
        """Write what a recording of all that this process has replayed would call, if that is asked for."""
        if self.options.plan and self._planned:
            append_line(self.options.plan.path, json.dumps(self._planned.entry()))

    def conclude(self, scenario: Scenario) -> Conclusion:
        """Measure a scenario that is over, keep its new recording, and judge it if that is asked for.

        No text of the result holds a secret. Raises an error of the catalogue for a baseline or a cassette
        that cannot be read or written.
        """
        if scenario.allowance is not None:
            scenario.allowance.close()
        concluded, hidden = self._concluded(scenario), self.redactor.text
        failure = None if concluded.failure is None else hidden(concluded.failure)
        return replace(concluded, failure=failure, warnings=tuple(map(hidden, concluded.warnings)))

    def _concluded(self, scenario: Scenario) -> Conclusion:
        if refusal := scenario.stop or next(iter(scenario.unmetered), None):
            return Conclusion(failure=refusal, warnings=self._warnings(scenario))
        if not scenario.touched and self.committed.of(scenario.place) is None:
            return Conclusion(warnings=self._warnings(scenario))
        judge = self.options.judge and scenario.settings.exclude is None
        run = scenario.run(self.meter, self.options)
        if amiss := self._amiss.pop(scenario.place.id, None):
            raise amiss
        as_asked = run
        if self.options.update:
            run = without_gone_turns(run)
        self._plan(scenario, run)
        scenario.measured = run
        if not scenario.touched:
            run += Run(edits=(scenario.silence,))
        recorded = None if run.problems or run.edits or run.misses else self.keep(scenario)
        if recorded or judge:
            committed = self.committed.of(scenario.place)
            wrong = self.judge.misbilled(scenario, run, committed)
            run += Run(misbilled=(*wrong, *self.judge.forged(scenario, committed)))
        warnings = self._warnings(scenario)
        broken = run.problems or run.edits or run.misses or run.misbilled or scenario.mismatches
        if not (judge or broken):
            return Conclusion(warnings=warnings, recorded=recorded)
        in_time = self.judge.with_clocks(run) if self.options.is_second_replay else run
        measured_on = self._to_accept(scenario, in_time, as_asked) if judge else None
        entry = self._examined(scenario, run, measured_on)
        scenario.outcome = entry["verdict"]
        # Of live runs, the controller judges all samples together.
        verdict = Verdict(entry["verdict"])
        failed = verdict.fails and not (verdict.is_measured and self.options.live)
        told = entry if judge else None
        mismatches = scenario.mismatches
        beside = self.judge.without_secrets(_beside(scenario, verdict))
        entry["findings"] += map(build.finding, beside)
        if self.options.prompts:
            prompts = [turn.pair.request.prompt for turn in run.turns]
            lost = self.judge.loses_cache(scenario, as_asked)
            replay = Replayed(prompts, scenario.asked, entry, measured_on, loses_cache=lost)
            keep_replay(self.options.prompts, scenario.place.id, replay)
        if failed or mismatches:
            failures = [*([failure_text(entry)] if failed else []), *mismatches]
            return Conclusion(told, "\n".join(failures), warnings, measured_on, recorded)
        suspicion = self.judge.suspicion(
            scenario, as_asked, lambda as_lost: self._to_accept(scenario, as_lost, as_lost)
        )
        return Conclusion(told, None, warnings, measured_on, recorded, suspicion)

    def accepted(self, place: Place, is_shared: Callable[[], bool]) -> AcceptedIn:
        """Return a function that finds the accepted requests of a scenario for its recording.

        If the recording `is_shared`, those of the other scenarios of its file are found as well. What is
        wrong with them is raised when the scenario is over: an agent might swallow it.
        """

        def find(exchanges: Sequence[Exchange]) -> Mapping[int, Accepted]:
            try:
                known = self.committed.accepted(place, lenient=self.options.update)
                beside = self.committed.accepted_beside(place) if is_shared() else ()
                return accepted_in((*beside, *known), exchanges)
            except TokenBudgetError as error:
                self._amiss[place.id] = error
                return {}

        return find if self.options.judge and not self.options.live else lambda _: {}

    def _is_due(self, scenario: Scenario, run: Run) -> bool:
        """Return whether a scenario fails or improves on what is committed, or was recorded anew.

        One that a second replay fails is due as well: that tells it.
        """
        if scenario.written is not None or run.departure or self.committed.is_contested(scenario.place):
            return True
        committed = self.committed.of(scenario.place)
        if committed is None or (committed.accepted and not self._accepted_as_committed(scenario.place)):
            return True
        return self.judge.against_baseline(committed, run, scenario.settings)[0].verdict != Verdict.WITHIN

    def _examined(self, scenario: Scenario, run: Run, measured_on: MeasuredOn | None) -> ScenarioEntry:
        if self.options.live:
            return self.judge.examine_live(scenario.place, scenario.settings, run)
        stays = self._stays(scenario.place, measured_on)
        entry = self.judge.examine(scenario.place, scenario.settings, run, stays=stays)
        if scenario.renamed:
            entry["formerly"] = {**scenario.renamed, "text": self.redactor.text(scenario.renamed["text"])}
        return entry

    def _stays(self, place: Place, measured_on: MeasuredOn | None) -> bool:
        """Return whether an update leaves a baseline as it is: what changed is within its tolerance."""
        before = self.committed.of(place)
        if before is None or measured_on is None or self.options.taken != "due":
            return False
        return not is_due(before, measured_on)

    def _accepted_as_committed(self, place: Place) -> bool:
        return bool(self.committed.accepted(place, lenient=True))

    def _to_accept(self, scenario: Scenario, run: Run, as_asked: Run) -> MeasuredOn | None:
        """Return what the baseline of `run` says beside its usage, with the requests that it accepts.

        None if no baseline is written of it. `as_asked` is the run with the turns that are gone.
        """
        if self.options.live or not (self.options.update or self.options.migrate) or not run.is_measured:
            return None
        counter = "count_tokens" if self.api else self.meter.counter.name
        secrets = Secrets(secrets_of(without_stand_ins(os.environ)), self.files.redact)
        return Acceptance(self.meter, counter, secrets).of(
            scenario.place,
            run,
            {ledger: ledger is scenario.own for ledger in scenario.ledgers},
            scenario.written,
            self.committed.of(scenario.place),
            self.committed.accepted(scenario.place, lenient=True),
            due=self._is_due(scenario, as_asked),
        )

    def keep(self, scenario: Scenario) -> RecordedEntry | None:
        """Write the new recording of a scenario; return None if this run records nothing, or nothing new.

        Raises CassetteError or RecordingError and leaves the old one.
        """
        saved = None
        if self.options.record != RecordMode.NONE:
            saved = scenario.save(self.files.redact)
        if saved is None:
            return None
        written, called = scenario.recorded(self.meter)
        cost = None if called.basis == Basis.UNKNOWN else self.prices.cost(called.usage)
        return {
            "cassette": str(scenario.cassette),
            "turns": written.usage.turns,
            "called": called.usage.turns,
            "cost_usd": None if cost is None else float(cost),
            "turns_before": saved.turns_before,
            "is_rewritten": saved.is_rewritten,
        }

    def _warnings(self, scenario: Scenario) -> tuple[str, ...]:
        """Return the warnings of a scenario, each once.

        They are those of its ledgers, and of the counting endpoint since the last scenario.
        """
        told = [warning for ledger in scenario.ledgers for warning in ledger.warnings]
        told += () if self.options.live else (*scenario.failed_calls, *scenario.now_at_once)
        if self.api:
            told += self.api.warnings
            self.api.warnings.clear()
        return tuple(dict.fromkeys(told))

    def has_baseline(self, place: Place) -> bool:
        """Return whether a baseline is committed, or may be because its file cannot be read."""
        try:
            return self.committed.of(place) is not None
        except TokenBudgetError:
            return True

    def check_live(self, place: Place) -> None:
        """Raise RecordingError, before a call is paid for, if live runs of a test could not be kept."""
        if self.options.live and self.options.update and not self.has_baseline(place):
            raise RecordingError(not_replayed(place.name))


def _measured(scenario: Scenario, meter: Meter, options: Options) -> Run | None:
    """Measure a scenario that ended before it was measured; return None if it cannot be read."""
    try:
        return scenario.run(meter, options)
    except TokenBudgetError:
        return None


def _beside(scenario: Scenario, verdict: Verdict) -> Iterator[Finding]:
    """Yield what is amiss beside the numbers: names that moved, and what `match_on` refuses."""
    if scenario.renamed and verdict == Verdict.NEW:
        yield Finding(FindingKind.PROBLEM, "baseline", scenario.renamed["text"])
    for text in scenario.mismatches:
        yield Finding(FindingKind.PROBLEM, MATCH_ON, text)
