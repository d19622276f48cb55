"""Hold one run's state: measure and judge scenarios, collect them, update baselines, write reports.

Knows no pytest. Under several processes, each has a session that examines; the controller's collects.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TypedDict

from pytest_tokenbudget.advice import advise
from pytest_tokenbudget.budget.baselines import Baseline
from pytest_tokenbudget.budget.verdict import (
    Judgement,
    LiveRuns,
    LiveVerdict,
    Starts,
    judge,
    judge_live,
    may_stop,
)
from pytest_tokenbudget.diagnosis.diagnose import diagnose
from pytest_tokenbudget.diagnosis.turns import bounds, other_start, recorded_anew
from pytest_tokenbudget.diagnosis.volatile import proved_volatile, suspects
from pytest_tokenbudget.errors import GitError, RecordingError, ReportError, TokenBudgetError
from pytest_tokenbudget.files import append_line, encoded, write_atomically
from pytest_tokenbudget.metering.cache_split import as_written, same_start
from pytest_tokenbudget.metering.counting import Store, best_counter
from pytest_tokenbudget.metering.meter import Meter, Run, Turn
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import BY_HAND, Basis, Finding, FindingKind, Paired, ScenarioId, Usage, Verdict
from pytest_tokenbudget.replay.credentials import without_stand_ins
from pytest_tokenbudget.replay.playback import AcceptedIn
from pytest_tokenbudget.replay.redaction import Redactor, Secrets, secrets_of
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.build import Place, mean_usage, merge_samples
from pytest_tokenbudget.reports.change_view import SECOND_REPLAY
from pytest_tokenbudget.reports.document import (
    Document,
    ExcludedEntry,
    ScenarioEntry,
    UnmeasuredEntry,
    is_measured,
    usage_of,
)
from pytest_tokenbudget.reports.history import History, log_entry
from pytest_tokenbudget.reports.scenario_view import MISBILLED
from pytest_tokenbudget.reports.terminal import RecordedEntry, Recordings, acceptances, failure_text, kept
from pytest_tokenbudget.repository.baseline_history import Committed, MeasuredOn, Updated, read_history
from pytest_tokenbudget.repository.git import Repository, head_of, project_of
from pytest_tokenbudget.repository.source_files import read_source_tree
from pytest_tokenbudget.run.accepting import Acceptance, accepted_in, without_gone_turns
from pytest_tokenbudget.run.count_api import ApiCounter
from pytest_tokenbudget.run.scenario import Scenario
from pytest_tokenbudget.run.spending import Planned, Spending
from pytest_tokenbudget.run.stability import (
    Suspicion,
    asked_elsewhere,
    clock_problem,
    differences,
    keep_prompts,
    kept_prompts,
    resolved,
    suspicion,
    unstable_text,
)
from pytest_tokenbudget.settings import Options, RecordMode, ReportTarget, ScenarioSettings, SettingsFiles
from pytest_tokenbudget.sources.tree import SourceTree
from pytest_tokenbudget.sources.words import Names
from pytest_tokenbudget.wire.exchange import Accepted, Exchange, Pair
from pytest_tokenbudget.wire.prompt import Prompt, body_of
from pytest_tokenbudget.wording import plural, signed_percent


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    document: Document
    written: list[Path] = field(default_factory=list)
    """Baseline files and reports."""
    accepted: list[str] = field(default_factory=list)
    """Each baseline that an update has changed, in sentences."""
    problems: list[str] = field(default_factory=list)
    """What could not be written, in sentences; any of them fails the run."""
    told: list[str] = field(default_factory=list)
    """What a second replay has shown and cost, in sentences."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What one scenario came to."""

    entry: ScenarioEntry | None = None
    """Its entry of the document, where it was judged."""
    failure: str | None = None
    """Why its test fails."""
    warnings: tuple[str, ...] = ()
    """What is not metered, or not as exactly as was asked."""
    measured_on: MeasuredOn | None = None
    """What its baseline is to say beside its usage, where baselines are updated."""
    recorded: RecordedEntry | None = None
    """Its new cassette, where one was written."""
    suspicion: Suspicion | None = None
    """What a second replay is to tell, where its verdict hangs on it."""


class Unjudged(TypedDict):
    """A test that ended before it was measured; builtins only, so that it crosses processes."""

    id: str
    outcome: str | None
    """`failed`, `not_run` (for the spend limit), `skipped` or `xfailed`; None where it was not collected."""
    text: str | None
    """What failed it, in one line."""


class Session:
    """One run."""

    def __init__(
        self, root: Path, options: Options, files: SettingsFiles, store: Store | None = None
    ) -> None:
        """Raises SettingsError for the settings of `root`."""
        self.root = root
        self.options = options
        self.files = files
        self.settings = files.of(root)
        self.redactor = Redactor(without_stand_ins(os.environ), self.settings.redact)
        """Hides secrets in every text that leaves the run."""
        self.prices = Prices()
        self.recordings = Recordings()
        self.api = ApiCounter(without_stand_ins(os.environ), store) if options.count == "api" else None
        self._store = store
        self._problems: list[str] = []
        self._told: list[str] = []
        self._suspicions: dict[str, Suspicion] = {}
        self._committed = Committed(root, resolves=options.update)
        self._amiss: dict[str, TokenBudgetError] = {}
        self.measured_on: dict[str, MeasuredOn] = {}
        """By scenario, what its baseline is to say beside its usage."""
        self._entries: dict[str, list[ScenarioEntry]] = defaultdict(list)
        self._unjudged: dict[str, Unjudged] = {}
        self.unmetered: Counter[str] = Counter()
        """By who made them, the model calls that nothing meters and that were let pass."""
        self.unmeasured: Sequence[UnmeasuredEntry] = ()
        self.committed: Sequence[str] = ()
        """Ids of all baselines in the folders that were run."""
        self.excluded: dict[str, ExcludedEntry] = {}
        """By id, the tests that are not judged because the suite says so."""
        self._stopped: set[str] = set()
        """Scenarios whose live runs were ended early, since they are proved to be over."""

    @cached_property
    def meter(self) -> Meter:
        """What measures; nothing heavy is loaded before the first count."""
        return Meter(
            best_counter(self._store),
            self.prices.tiered,
            self.files.minimum_cacheable_tokens,
            volatile=proved_volatile,
            recount=self.api.count if self.api else None,
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
            committed = self._committed.of(scenario.place)
            is_recorded = scenario.cassette is None or scenario.cassette.exists()
            baseline = None if committed is None else committed.usage
            self._planned.add(scenario.place.id, run, baseline, is_recorded=is_recorded)

    @cached_property
    def _commit(self) -> str | None:
        return head_of(self.root)

    def log(self, scenario: Scenario) -> None:
        """Add the line of a scenario that is over to the log, where there is one.

        Raises ReportError where it cannot be written.
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
        """Tell what a recording of what this process has replayed would call, where that is asked."""
        if self.options.plan and self._planned:
            append_line(self.options.plan.path, json.dumps(self._planned.entry()))

    @cached_property
    def _sources(self) -> SourceTree:
        """The files that prompts may come from, read when something changed."""
        return read_source_tree(self.root)

    def conclude(self, scenario: Scenario) -> Conclusion:
        """Measure a scenario that is over, keep its new recording, and judge it where that is asked.

        No text of it holds a secret. Raises an error of the catalogue for a baseline or a cassette that
        cannot be read or written.
        """
        concluded, hidden = self._concluded(scenario), self.redactor.text
        failure = None if concluded.failure is None else hidden(concluded.failure)
        return replace(concluded, failure=failure, warnings=tuple(map(hidden, concluded.warnings)))

    def _concluded(self, scenario: Scenario) -> Conclusion:
        if refusal := scenario.stop or next(iter(scenario.unmetered), None):
            return Conclusion(failure=refusal, warnings=self._warnings(scenario))
        if not scenario.touched and self._committed.of(scenario.place) is None:
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
            committed = self._committed.of(scenario.place)
            wrong = self._misbilled(scenario, run, committed)
            run += Run(misbilled=(*wrong, *self._forged(scenario, committed)))
        warnings = self._warnings(scenario)
        broken = run.problems or run.edits or run.misses or run.misbilled or scenario.mismatches
        if not (judge or broken):
            return Conclusion(warnings=warnings, recorded=recorded)
        if self.options.prompts:
            prompts = [turn.pair.request.prompt for turn in run.turns]
            keep_prompts(self.options.prompts, scenario.place.id, prompts)
        measured_on = self._to_accept(scenario, run, as_asked) if judge else None
        examine = self.examine_live if self.options.live else self.examine
        entry = examine(scenario.place, scenario.settings, run)
        scenario.outcome = entry["verdict"]
        # Of live runs, the controller judges all samples together.
        verdict = Verdict(entry["verdict"])
        failed = verdict.fails and not (verdict.is_measured and self.options.live)
        told = entry if judge else None
        mismatches = scenario.mismatches
        refused = (Finding(FindingKind.PROBLEM, "match_on", text) for text in mismatches)
        entry["findings"] += map(build.finding, self._without_secrets(refused))
        if failed or mismatches:
            failures = [*([failure_text(entry)] if failed else []), *mismatches]
            return Conclusion(told, "\n".join(failures), warnings, measured_on, recorded)
        return Conclusion(told, None, warnings, measured_on, recorded, self._suspicion(scenario, run))

    def _suspicion(self, scenario: Scenario, run: Run) -> Suspicion | None:
        """Return what a second replay is to tell of a scenario that passes; None where nothing hangs on it.

        That is: where it would fail if a changed prefix, which looks so, were another one in every process.
        """
        options, place = self.options, scenario.place
        is_second = options.prompts is not None and not options.stability
        judges = options.judge and scenario.settings.exclude is None
        if is_second or options.calls or options.update or not judges:
            return None
        found = suspects([turn.pair for turn in run.turns])
        if not found:
            return None
        groups: dict[object, list[int]] = defaultdict(list)
        for number, suspect in enumerate(found):
            groups[suspect.places].append(number)
        lost = []
        for numbers in ([*range(len(found))], *(groups.values() if len(groups) > 1 else ())):
            prompts = [found[number].now for number in numbers]
            entry = self.examine(place, scenario.settings, scenario.run(self._as_lost(prompts), options))
            if Verdict(entry["verdict"]).fails:
                lost.append((numbers, entry))
        return suspicion(place.id, found, lost) if lost else None

    def _as_lost(self, prompts: Sequence[Prompt]) -> Meter:
        """Return a meter that takes the cached prefixes of these prompts for others in every process."""

        def volatile(pairs: Sequence[Pair]) -> frozenset[int]:
            lost = {pair.index for pair in pairs if any(pair.request.prompt is prompt for prompt in prompts)}
            return proved_volatile(pairs) | lost

        return replace(self.meter, volatile=volatile)

    def accepted(self, place: Place, is_shared: Callable[[], bool]) -> AcceptedIn:
        """Return what finds the accepted requests of a scenario for its recording, when it is asked.

        Where the recording `is_shared`, those of the other scenarios of its file are found as well. What is
        amiss with them is raised when the scenario is over: an agent might swallow it.
        """

        def find(exchanges: Sequence[Exchange]) -> Mapping[int, Accepted]:
            try:
                known = self._committed.accepted(place, lenient=self.options.update)
                beside = self._committed.accepted_beside(place) if is_shared() else ()
                return accepted_in((*beside, *known), exchanges)
            except TokenBudgetError as error:
                self._amiss[place.id] = error
                return {}

        return find if self.options.judge and not self.options.live else lambda _: {}

    def _is_due(self, scenario: Scenario, run: Run) -> bool:
        """Return whether a scenario fails or improves on what is committed, or was recorded anew."""
        if scenario.written is not None or run.departure:
            return True
        committed = self._committed.of(scenario.place)
        if committed is None or (committed.accepted and not self._accepted_as_committed(scenario.place)):
            return True
        return self._judged(committed, run, scenario.settings)[0].verdict != Verdict.WITHIN

    def _accepted_as_committed(self, place: Place) -> bool:
        return bool(self._committed.accepted(place, lenient=True))

    def _to_accept(self, scenario: Scenario, run: Run, as_asked: Run) -> MeasuredOn | None:
        """Return what the baseline of `run` says beside its usage, with the requests that it accepts.

        None where no baseline is written of it. `as_asked` is the run with the turns that are gone.
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
            self._committed.of(scenario.place),
            self._committed.accepted(scenario.place, lenient=True),
            due=self._is_due(scenario, as_asked),
        )

    def _misbilled(self, scenario: Scenario, run: Run, baseline: Baseline | None) -> Iterator[str]:
        """Yield a sentence where recorded usage cannot be that of its prompt.

        What stands in the baseline was checked when it was written.
        """
        accepted = baseline and baseline.usage.tokens.prompt_tokens == run.usage.tokens.prompt_tokens
        if self.options.live or accepted:
            return
        trusted = scenario.suite.trusted_usage
        wrong = [found for found in self.meter.misbilled(run) if found[0].pair.recorded.host not in trusted]
        if not wrong:
            return
        turn, counted = wrong[0]
        told = turn.recorded.main_tokens.prompt_tokens if turn.recorded else 0
        host = turn.pair.recorded.host
        yield (
            f"the recorded usage does not fit its prompt on {len(wrong)} of {len(run.turns)} turns: "
            f"turn {run.turns.index(turn) + 1} was billed {told:,} prompt tokens, and its prompt counts "
            f"{counted:,}. If the cassette was edited, record it anew. If its gateway counts otherwise, set "
            f'trusted_usage = ["{host}"] in [tool.tokenbudget]'
        )

    def _forged(self, scenario: Scenario, committed: Baseline | None) -> Iterator[str]:
        """Yield a sentence where a prompt cannot have the tokens that it was accepted with."""
        if self.options.calls or committed is None or committed.accepted is None:
            return
        for ledger in scenario.ledgers:
            for index, accepted in ledger.recording.accepted.items():
                exchange = ledger.recording.exchanges[index]
                if exchange.request.host in self.settings.trusted_usage:
                    continue
                if (counted := self.meter.forged(exchange, accepted)) is not None:
                    told = accepted.usage.main_tokens.prompt_tokens
                    yield (
                        "its accepted requests do not recount to their numbers: turn "
                        f"{index + 1} was accepted with {told:,} prompt tokens, and its prompt counts "
                        f"{counted:,}. Restore its baseline and its accepted requests from git, and update it"
                    )
                    return

    def keep(self, scenario: Scenario) -> RecordedEntry | None:
        """Write its new recording; None where this run records nothing, or has nothing new.

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
        """Each once: by its ledgers, and by the counting endpoint since the last scenario."""
        told = [warning for ledger in scenario.ledgers for warning in ledger.warnings]
        told += () if self.options.live else (*scenario.failed_calls, *scenario.now_at_once)
        if self.api:
            told += self.api.warnings
            self.api.warnings.clear()
        return tuple(dict.fromkeys(told))

    def examine(self, place: Place, settings: ScenarioSettings, run: Run) -> ScenarioEntry:
        """Judge one scenario and say why. Raises BaselineError where its baseline cannot be read.

        When baselines are being updated, what was measured is its own baseline, unless it cannot be judged.
        """
        committed = self._committed.of(place)
        if self.options.update:
            baseline, starts = None if committed is None else committed.usage, None
            judgement = self._judge(run.best or run.usage, run, settings)
            if run.is_measured and judgement.verdict.is_measured:
                baseline = run.usage
                judgement = self._judge(baseline, run, settings)
        else:
            judgement, run, baseline, starts = self._judged(committed, run, settings)
        cost = self.prices.cost
        anew = [*other_start(starts), *_undecided(judgement, run)]
        if baseline and not self.options.live:
            names_recording = committed is not None and committed.recording is not None
            anew += recorded_anew(run, baseline, cost, starts, names_recording=names_recording)
        self._learn_secrets(run)
        findings = self._without_secrets(self._findings(run, settings, anew, bounds(run, baseline, cost)))
        runs = settings.runs_per_month
        return build.scenario(place, judgement, baseline, run, findings, cost, runs_per_month=runs)

    def examine_live(self, place: Place, settings: ScenarioSettings, run: Run) -> ScenarioEntry:
        """Hold one live run against its caps, and beside the mean of the live runs of its baseline.

        What it read from a cache that others had filled is taken as written: samples warm it for each other.
        """
        cost, committed = self.prices.cost, self._committed.of(place)
        cold = as_written(run.usage, self.meter.foreign_reads(run)) if run.is_measured else run.usage
        baseline = mean_usage(committed.live) if committed and committed.live else None
        by_caps = self._judge(None, run, settings)
        beside = judge(baseline, cold, settings, cost).limits if baseline and run.is_measured else ()
        metrics = tuple(limit for limit in beside if limit.metric in settings.tolerances)
        verdict = Verdict.WITHIN if by_caps.verdict == Verdict.NEW else by_caps.verdict
        judgement = Judgement(verdict, (*metrics, *by_caps.limits))
        self._learn_secrets(run)
        findings = self._without_secrets(self._findings(run, settings))
        runs = settings.runs_per_month
        entry = build.scenario(place, judgement, baseline, run, findings, cost, runs_per_month=runs)
        return entry if entry["measured"] is None else {**entry, "measured": build.tokens(cold, cost)}

    def _learn_secrets(self, run: Run) -> None:
        """Look for secrets in what differs, on both sides: findings quote it, and cut what they quote."""
        pairs = [turn.pair for turn in run.turns if _is_changed(turn)]
        for request in (*run.misses, *(side for pair in pairs for side in (pair.request, pair.recorded))):
            self.redactor.learn(request.body)

    def _without_secrets(self, findings: Iterable[Finding]) -> list[Finding]:
        hidden = self.redactor.text
        return [replace(one, where=hidden(one.where), text=hidden(one.text)) for one in findings]

    def _judged(
        self, committed: Baseline | None, run: Run, settings: ScenarioSettings
    ) -> tuple[Judgement, Run, Usage | None, Starts | None]:
        """Hold a run against its baseline.

        Return the judgement, the run and the usage of the baseline that were held against each other, and
        the starts of both where they differ.
        """
        baseline = None if committed is None else committed.usage + run.recounted
        run = run.against(baseline)
        starts = self._starts(committed, run)
        return self._judge(baseline, run, settings, starts), run, baseline, starts

    def _judge(
        self, baseline: Usage | None, run: Run, settings: ScenarioSettings, starts: Starts | None = None
    ) -> Judgement:
        return judge(
            baseline,
            run.usage,
            settings,
            self.prices.cost,
            departure=run.departure,
            best=run.best,
            unbounded=run.is_unbounded,
            starts=starts,
        )

    def _starts(self, committed: Baseline | None, run: Run) -> Starts | None:
        """Return the foreign reads of both sides; None where the baseline's recording began as this one did.

        A baseline that does not say what it was measured on is taken as measured on this recording. Only two
        recordings are compared so: a live run has none.
        """
        if committed is None or committed.recording is None or not run.is_measured:
            return None
        if self.options.live or run.usage == committed.usage:
            return None
        recorded = self.meter.recorded_foreign_reads(run)
        if same_start(committed.foreign_reads, recorded):
            return None
        starts = Starts(committed.foreign_reads, self.meter.foreign_reads(run))
        return None if same_start(starts.baseline, starts.measured) else starts

    def _findings(
        self,
        run: Run,
        settings: ScenarioSettings,
        anew: Iterable[Finding] = (),
        between: Iterable[Finding] = (),
    ) -> tuple[Finding, ...]:
        """Return what is wrong with the run, why it costs what it costs, and what would be cheaper.

        `anew` is told before the causes, and the bounds that the run lies `between` after them.
        """
        problems = (
            *(Finding(FindingKind.PROBLEM, "recording", reason) for reason in run.unrecorded),
            *(Finding(FindingKind.PROBLEM, BY_HAND, edit) for edit in run.edits),
            *(Finding(FindingKind.PROBLEM, "run", problem) for problem in run.problems),
            *(Finding(FindingKind.PROBLEM, MISBILLED, problem) for problem in run.misbilled),
        )
        unpriced = (
            Finding(FindingKind.UNPRICED_MODEL, str(rate), f"no price is known for {rate}")
            for rate in self.prices.unpriced(run.usage)
        )
        causes = diagnose(
            run,
            cost=self.prices.cost,
            count=lambda text: self.meter.counter.count(text, Family.V3),
            sources=self._sources if any(map(_is_changed, run.turns)) else None,
            minimums=self.files.minimum_cacheable_tokens,
        )
        levers = advise(
            run,
            cost=self.prices.cost,
            cheaper=self.prices.cheaper_models,
            runs_per_month=settings.runs_per_month,
            batchable=settings.batchable,
            minimums=self.files.minimum_cacheable_tokens,
        )
        return (*problems, *unpriced, *anew, *causes, *between, *levers)

    def tell_problem(self, problem: str) -> None:
        """Keep what fails the run although no test is at fault."""
        self._problems.append(problem)

    def is_whole(self, tests: Iterable[str]) -> bool:
        """Return whether all `tests` with a baseline were measured: none left out, none failed otherwise."""
        left = {name for name in tests if name in self.committed and name not in self._entries}
        return not (left or self._unjudged or self.excluded)

    @property
    def known(self) -> frozenset[str]:
        """Return the ids that have a verdict, or that are told of otherwise."""
        return frozenset((*self._entries, *self._unjudged, *self.excluded))

    def baselines(self, folders: Iterable[str]) -> list[str]:
        """Return the ids of all scenarios with a baseline whose test files are in `folders`."""
        return [each for folder in folders for each in self._committed.ids(folder)]

    def has_baseline(self, place: Place) -> bool:
        """Return whether a baseline is committed, or may be, where its file cannot be read."""
        try:
            return self._committed.of(place) is not None
        except TokenBudgetError:
            return True

    def collect_unjudged(self, test: Unjudged) -> None:
        """Take in a test that ended without a verdict, or cannot be collected; the last try of one counts."""
        self._unjudged[test["id"]] = test

    def collect(self, entry: ScenarioEntry) -> None:
        """Take in what was examined: one more sample of a live run, else what replaces an earlier try."""
        if not self.options.live:
            self._entries[entry["id"]].clear()
            self._suspicions.pop(entry["id"], None)
        self._entries[entry["id"]].append(entry)

    @property
    def entries(self) -> list[ScenarioEntry]:
        """One entry for each scenario so far."""
        cost = self.prices.cost
        if not self.options.live:
            return [merge_samples(samples, cost) for samples in self._entries.values()]
        runs, judged = self._live, self._judged_live()
        return [
            merge_samples(samples, cost, runs.get(name), is_over=name in judged.over)
            for name, samples in self._entries.items()
        ]

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
                float(cost) for run in committed.live if (cost := self.prices.cost(run)) is not None
            )
            allowed = limit["limit"] / limit["baseline"]
            found[name] = LiveRuns(before, known, allowed, is_stopped=name in self._stopped)
        return found

    def _judged_live(self) -> LiveVerdict:
        """Judge the live runs so far; nothing is judged where they become the baseline."""
        return judge_live({} if self.options.update else self._live)

    def _suite_is_over(self) -> Iterator[str]:
        """Yield that all live runs together cost more, where that is proved."""
        judged = self._judged_live()
        if judged.suite_is_over and judged.suite:
            grown = signed_percent(judged.suite.ratio - 1)
            yield (
                f"over: {plural(len(self._live), 'scenario')} together cost {grown} on average against their "
                "baselines of live runs, which is proved (95 %) even where it is not of any one of them"
            )

    def is_decided(self, name: str, scenarios: int) -> bool:
        """Return whether the live runs of one of `scenarios` are over before all of them are made."""
        runs = self._live.get(name)
        if runs is None or name in self._stopped or self.options.update:
            return name in self._stopped
        if may_stop(runs, self.options.samples, scenarios):
            self._stopped.add(name)
        return name in self._stopped

    def _update(self, scenarios: Iterable[ScenarioEntry]) -> Updated:
        """Write the baselines of what was replayed or recorded, or those of live runs."""
        if not self.options.live:
            return self._committed.update(scenarios, self.measured_on, self.options.taken)
        measured = {
            _place(samples[0]): [usage_of(one["measured"]) for one in samples if one["measured"] is not None]
            for samples in self._entries.values()
            if all(is_measured(one) and one["verdict"] != "over" for one in samples)
        }
        return self._committed.update_live({place: runs for place, runs in measured.items() if runs})

    def suspect(self, suspicion: Suspicion) -> None:
        """Take in a suspicion of a scenario whose entry is collected."""
        self._suspicions[suspicion["id"]] = suspicion

    def replay_again(self, arguments: Sequence[str], invoked_in: Path) -> list[tuple[ScenarioEntry, str]]:
        """Replay once more elsewhere, where a verdict hangs on it or it is asked for, and say what it cost.

        Returns the entries that fail by it, each with why; what it shows is added to them. What keeps it from
        being made is told, and fails the run where it was asked for.
        """
        names = [ScenarioId(name).argument for name in self._suspicions]
        if self.options.stability:
            names = sorted({one[0]["file"] for one in self._entries.values() if one})
        if not names:
            return []
        problems, began = self._problems if self.options.stability else self._told, time.monotonic()
        tests = [str(self.root / name) for name in dict.fromkeys(names)]
        try:
            second = asked_elsewhere(tests, arguments, invoked_in, self.root)
        except RecordingError as error:
            problems.append(str(error))
            return []
        number, seconds = plural(len(second), "scenario"), time.monotonic() - began
        self._told.append(f"replayed {number} once more in another process: {seconds:.1f} s, no call")
        if problem := clock_problem():
            problems.append(problem)
        return [*self._proved(second), *(self._unstable(second) if self.options.stability else ())]

    def _proved(self, second: Mapping[str, Sequence[Prompt]]) -> Iterator[tuple[ScenarioEntry, str]]:
        """Yield the scenarios whose changed prefix is proved to be another in every process, judged so."""
        for name, suspected in self._suspicions.items():
            finished = resolved(suspected, second.get(name, ()), self._lasts)
            for prompt in second.get(name, ()):
                self.redactor.learn(body_of(prompt))
            differs = self.redactor.text("; ".join(finished.differs))
            if finished.entry is not None:
                text = f"a second replay proves it: {differs}; every process caches its own prefix"
                entry = finished.entry
                entry["findings"].append(build.finding(Finding(FindingKind.VOLATILE, SECOND_REPLAY, text)))
                self._entries[name] = [entry]
                yield entry, failure_text(entry)
                continue
            (entry,) = self._entries[name]
            kept = [one for one in entry["findings"] if one["where"] not in finished.edits]
            entry["findings"] = [
                one for one in entry["findings"] if one in kept or one["kind"] != FindingKind.VOLATILE
            ]
            if finished.differs:
                text = f"{differs}; what was accepted has the like there, so that nothing is charged"
                entry["findings"].append(build.finding(Finding(FindingKind.VOLATILE, SECOND_REPLAY, text)))
            elif name not in second:
                self._told.append(f"{name}: its second replay measured nothing, so that nothing is proved.")

    def _lasts(self, names: Names) -> bool:
        """Return whether names in this order are in it in every process, as far as that can be known."""
        return list(names) == sorted(names) or self._sources.lists(names)

    def _unstable(self, second: Mapping[str, Sequence[Prompt]]) -> list[tuple[ScenarioEntry, str]]:
        """Return all entries whose prompts differ in the second process, with what differs."""
        assert self.options.prompts is not None
        told = []
        for prompt in itertools.chain.from_iterable(kept_prompts(self.options.prompts).values()):
            self.redactor.learn(body_of(prompt))
        for name, found in differences(kept_prompts(self.options.prompts), second).items():
            findings = self._without_secrets(found)
            for entry in self._entries[name]:
                entry["findings"] += [build.finding(one) for one in findings]
            told.append((self._entries[name][-1], unstable_text(findings)))
        return told

    def finish(self) -> Outcome:
        """Write what is to be written."""
        outcome = Outcome(self.document(), problems=list(self._problems), told=self._told)
        if self.spending and (refused := self.spending.closing()):
            outcome.problems.append(refused)
        outcome.problems += self._suite_is_over() if self.options.live else ()
        if self.options.update or self.options.migrate:
            updated = self._update(outcome.document["scenarios"])
            outcome.written += updated.written
            outcome.problems += updated.problems
            outcome.accepted += acceptances(outcome.document, updated.before, updated.anew, self.prices.cost)
            outcome.accepted += kept(updated.kept, migrating=self.options.migrate)
        outcome.problems = list(map(self.redactor.text, outcome.problems))
        outcome.document["errors"] += [{"id": None, "text": problem} for problem in outcome.problems]
        for target in self.options.reports:
            try:
                write_report(target, outcome.document, self.root, self.settings.scenario.runs_per_month)
                outcome.written.append(target.path)
            except TokenBudgetError as error:
                outcome.problems.append(self.redactor.text(str(error)))
        return outcome

    def document(self) -> Document:
        """The JSON document of all that was collected."""
        left = sorted((test for test in self._unjudged.values() if test["id"] not in self._entries), key=_id)
        return build.document(
            self.entries,
            mode=self.options.mode,
            prices=(self.prices.source, self.prices.version),
            commit=head_of(self.root),
            errors=[{"id": test["id"], "text": test["text"]} for test in left if test["text"]],
            not_judged=[{"id": test["id"], "outcome": test["outcome"]} for test in left if test["outcome"]],
            excluded=list(self.excluded.values()),
            unmeasured=self.unmeasured,
            committed=self.committed,
            unmetered=[{"id": name, "calls": calls} for name, calls in self.unmetered.items()],
            project=project_of(self.root),
        )


def _measured(scenario: Scenario, meter: Meter, options: Options) -> Run | None:
    """Return what a scenario did that ended before it was measured; None where that cannot be read."""
    try:
        return scenario.run(meter, options)
    except TokenBudgetError:
        return None


def _place(entry: ScenarioEntry) -> Place:
    return Place(entry["id"], entry["file"], entry["line"])


def _id(test: Unjudged) -> str:
    return test["id"]


def _undecided(judgement: Judgement, run: Run) -> Iterator[Finding]:
    """Yield why a limit lies between the best and the worst case of a run whose prompts are all known."""
    if judgement.verdict != Verdict.UNKNOWN or run.is_unbounded or run.best is None:
        return
    notes = sorted({turn.cache_note for turn in run.turns if turn.best and turn.cache_note})
    least, most = (usage.tokens.cache_read_input_tokens for usage in (run.usage, run.best))
    text = (
        f"whether it is within its budget cannot be told: between {least:,} and {most:,} tokens are read "
        f"from the cache, with a limit in between: {'; '.join(notes)}. Record it anew to know"
    )
    yield Finding(FindingKind.UNKNOWN, "cache", text)


def _is_changed(turn: Turn) -> bool:
    """Whether a turn asks something else than what it is compared with."""
    return turn.pair.how is not Paired.EXACT or turn.pair.request.digest != turn.pair.recorded.digest


def write_report(
    target: ReportTarget, document: Document, root: Path, runs_per_month: float | None = None
) -> None:
    """Write one report of a run in `root`. Raises ReportError naming the file and the fix."""
    try:
        write_atomically(target.path, encoded(render(target.type, document, root, runs_per_month)))
    except OSError as error:
        raise ReportError(
            f"{target.path}: the report cannot be written: {error.strerror or error}. "
            "Name a place that can be written to."
        ) from error


def render(kind: str, document: Document, root: Path, runs_per_month: float | None) -> str:
    """The text of a report: `json`, `markdown` or `html`, the last with trends where git has them."""
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
