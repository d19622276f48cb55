"""Judge one scenario: compare it with its baseline, say why it costs what it costs, and what is forged.

Knows no pytest, and keeps nothing between scenarios but what is loaded once.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pytest_tokenbudget.advice import advise
from pytest_tokenbudget.advice.layout import LaidOut, lay_out
from pytest_tokenbudget.budget.baselines import UPDATE, Baseline
from pytest_tokenbudget.budget.verdict import Judgement, Starts, judge
from pytest_tokenbudget.diagnosis import diagnose
from pytest_tokenbudget.diagnosis.prompt_parts import text_of
from pytest_tokenbudget.diagnosis.turns import bounds, difference_of, other_start, recorded_anew
from pytest_tokenbudget.diagnosis.volatile import Suspect, clocked, suspects
from pytest_tokenbudget.metering.cache_split import ForeignReads, as_written, same_start
from pytest_tokenbudget.metering.meter import Meter, Run, Turn
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import BY_HAND, Finding, FindingKind, Paired, Source, Usage, Verdict
from pytest_tokenbudget.replay.redaction import Redactor
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.build import Place, mean_usage
from pytest_tokenbudget.reports.document import ScenarioEntry
from pytest_tokenbudget.reports.scenario_view import MISBILLED
from pytest_tokenbudget.repository.baseline_history import Committed, MeasuredOn
from pytest_tokenbudget.repository.source_files import read_source_tree
from pytest_tokenbudget.run.accepting import accepted_usage, recounted
from pytest_tokenbudget.run.scenario import Scenario
from pytest_tokenbudget.run.stability import Suspicion, suspicion
from pytest_tokenbudget.settings import Options, ScenarioSettings, SettingsFiles
from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.sources.words import Names
from pytest_tokenbudget.wire.exchange import Pair
from pytest_tokenbudget.wire.prompt import Block, Prompt


@dataclass
class Judge:
    """Judges the scenarios of one run against what is committed."""

    root: Path
    options: Options
    files: SettingsFiles
    committed: Committed
    meter: Meter
    prices: Prices
    redactor: Redactor
    """Hides secrets in every text that leaves the run."""

    @cached_property
    def _sources(self) -> SourceTree:
        """The files that prompts may come from, read when something changed."""
        return read_source_tree(self.root)

    def examine(
        self, place: Place, settings: ScenarioSettings, run: Run, *, stays: bool = False
    ) -> ScenarioEntry:
        """Judge one scenario and say why. Raises BaselineError if its baseline cannot be read.

        `stays` says that an update leaves its baseline as it is.
        """
        committed, cost = self.committed.of(place), self.prices.cost
        compare = self.against_baseline if stays else self._compared
        judgement, run, baseline, starts = compare(committed, run, settings)
        between = [] if judgement.verdict.is_measured else bounds(run, baseline, cost)
        anew = other_start(starts)
        if undecided := [*_undecided(judgement, run)]:  # the bounds explain it, before what is known
            anew, between = [*anew, *undecided, *between], []
        is_own_baseline = self.options.update and baseline == run.usage
        if baseline and not self.options.live and not is_own_baseline:
            names_recording = committed is not None and committed.recording is not None
            anew += recorded_anew(run, baseline, cost, starts, names_recording=names_recording)
        self._learn_secrets(run)
        runs = settings.runs_per_month
        laid_out = lay_out(run, cost, runs_per_month=runs)
        findings = self.without_secrets(self._findings(run, settings, laid_out, anew, between))
        foreign = self._start(committed, run) if runs and run.is_measured else None
        return build.scenario(
            place,
            judgement,
            baseline,
            run,
            findings,
            cost,
            runs_per_month=runs,
            foreign=foreign,
            laid_out=laid_out,
        )

    def _start(self, committed: Baseline | None, run: Run) -> ForeignReads:
        """Return the foreign reads of a run: those of its baseline where both are the same."""
        if committed is not None and committed.recording is not None and run.usage == committed.usage:
            return committed.foreign_reads
        return self.meter.foreign_reads(run)

    def examine_live(self, place: Place, settings: ScenarioSettings, run: Run) -> ScenarioEntry:
        """Judge one live run by its caps, and show it beside the mean of the live runs of its baseline.

        What it read from a cache that others had filled is taken as written: samples warm it for each other.
        """
        cost, committed = self.prices.cost, self.committed.of(place)
        cold = as_written(run.usage, self.meter.foreign_reads(run)) if run.is_measured else run.usage
        baseline = mean_usage(committed.live) if committed and committed.live else None
        by_caps = self._judge(None, run, settings)
        beside = judge(baseline, cold, settings, cost).limits if baseline and run.is_measured else ()
        metrics = tuple(limit for limit in beside if limit.metric in settings.tolerances)
        verdict = Verdict.WITHIN if by_caps.verdict == Verdict.NEW else by_caps.verdict
        judgement = Judgement(verdict, (*metrics, *by_caps.limits))
        self._learn_secrets(run)
        runs = settings.runs_per_month
        laid_out = lay_out(run, cost, runs_per_month=runs)
        findings = self.without_secrets(self._findings(run, settings, laid_out))
        entry = build.scenario(
            place, judgement, baseline, run, findings, cost, runs_per_month=runs, laid_out=laid_out
        )
        return entry if entry["measured"] is None else {**entry, "measured": build.tokens(cold, cost)}

    def _compared(
        self, committed: Baseline | None, run: Run, settings: ScenarioSettings
    ) -> tuple[Judgement, Run, Usage | None, Starts | None]:
        """Compare a run as `against_baseline` does; in an update with itself, which is accepted.

        What cannot be judged, or is past a cap, keeps its baseline.
        """
        if not self.options.update:
            return self.against_baseline(committed, run, settings)
        judgement = self._judge(run.best or run.usage, run, settings)
        if run.is_measured and judgement.verdict.is_measured:
            own = self._judge(run.usage, run, settings)
            if own.verdict == Verdict.OVER:
                return self.against_baseline(committed, run, settings)
            return own, run, run.usage, None
        return judgement, run, None if committed is None else committed.usage, None

    def against_baseline(
        self, committed: Baseline | None, run: Run, settings: ScenarioSettings
    ) -> tuple[Judgement, Run, Usage | None, Starts | None]:
        """Compare a run with its baseline.

        Return the judgement, the run and the usage of the baseline that were compared, and the starts of both
        if they differ.
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
        """Return the foreign reads of both sides, or None if the baseline's recording began as this one did.

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
        laid_out: LaidOut,
        anew: Iterable[Finding] = (),
        between: Iterable[Finding] = (),
    ) -> tuple[Finding, ...]:
        """Return what is wrong with the run, why it costs what it costs, and what would be cheaper.

        `anew` comes before the causes, and `between`, the bounds of the run, after them.
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
            sources=self._sources if run.misses or any(map(_is_changed, run.turns)) else None,
            minimums=self.files.minimum_cacheable_tokens,
        )
        levers = advise(
            laid_out,
            cheaper=self.prices.cheaper_models,
            batchable=settings.batchable,
            minimums=self.files.minimum_cacheable_tokens,
            locate=self._locate,
        )
        return (*problems, *unpriced, *anew, *causes, *between, *levers)

    def _locate(self, block: Block) -> Source | None:
        """Return the lines that hold the text of a block.

        None if no place, or more than one, holds it, and in a run without a report, where no lever is told.
        """
        return self._sources.locate("", text_of(block)).source if self.options.reports else None

    def _learn_secrets(self, run: Run) -> None:
        """Look for secrets in what differs, on both sides: findings quote and cut it."""
        pairs = [turn.pair for turn in run.turns if _is_changed(turn)]
        for request in (*run.misses, *(side for pair in pairs for side in (pair.request, pair.recorded))):
            self.redactor.learn(request.body)

    def without_secrets(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return the findings with secrets hidden, so that they may leave the run."""
        hidden = self.redactor.text
        return [replace(one, where=hidden(one.where), text=hidden(one.text)) for one in findings]

    def misbilled(self, scenario: Scenario, run: Run, baseline: Baseline | None) -> Iterator[str]:
        """Yield a sentence if recorded usage cannot be that of its prompt.

        What stands in the baseline was checked when it was written; so it is again until it is merged.
        """
        accepted = baseline and baseline.usage.tokens.prompt_tokens == run.usage.tokens.prompt_tokens
        is_known = accepted and self.committed.is_in_base(scenario.place, scenario.cassette)
        if self.options.live or is_known:
            return
        trusted = scenario.suite.trusted_usage
        checked = (turn for turn in run.turns if turn.pair.recorded.host not in trusted)
        wrong = [*self.meter.misbilled(checked)]
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

    def forged(self, scenario: Scenario, committed: Baseline | None) -> Iterator[str]:
        """Yield a sentence where what was accepted cannot be what its files say.

        Sums are held against each other in every run. Prompts are counted where the baseline is not as it was
        reviewed: what was merged once was counted then.
        """
        if self.options.calls or committed is None or committed.accepted is None:
            return
        if edited := self._edited(scenario, committed.usage):
            yield edited
        elif not self.committed.is_in_base(scenario.place):
            yield from itertools.islice(self._forged_turns(scenario), 1)

    def _edited(self, scenario: Scenario, baseline: Usage) -> str | None:
        """Return a sentence where a baseline is not what its recording and acceptance come to, else None."""
        own = scenario.own
        if self.options.update or own is None or scenario.adopted or not own.recording.accepted:
            return None
        stands = accepted_usage(self.meter, own.recording)
        was, now = (
            f"{usage.turns} turns with {usage.tokens.prompt_tokens:,} prompt and "
            f"{usage.tokens.output_tokens:,} output tokens"
            for usage in (baseline, stands)
        )
        if was == now:
            return None
        return (
            f"its baseline says {was}, where its recording and its accepted requests come to {now}: a file "
            f"was edited. Restore it from git, or run `{UPDATE}` for this test"
        )

    def _forged_turns(self, scenario: Scenario) -> Iterator[str]:
        """Yield a sentence for each turn that cannot have the tokens, or the model, it was accepted with."""
        for ledger in scenario.ledgers:
            if not ledger.recording.accepted:
                continue
            for accepted, turn in recounted(self.meter, ledger.recording):
                trusted = turn.pair.recorded.host in scenario.suite.trusted_usage
                if not trusted and (why := self.meter.forged(turn, accepted)):
                    yield (
                        "its accepted requests do not recount to their numbers: turn "
                        f"{turn.pair.index + 1} {why}. Restore its baseline and its accepted requests from "
                        "git, and update it"
                    )

    def suspicion(
        self, scenario: Scenario, run: Run, accept: Callable[[Run], MeasuredOn | None]
    ) -> Suspicion | None:
        """Return what a second replay must tell of a scenario that passes, or None if nothing depends on it.

        Something does if it would fail in case a changed prefix, which looks so, differs in every process.
        What an update takes in that case is what `accept` returns of the run.
        """
        options, place, settings = self.options, scenario.place, scenario.settings
        judges = options.judge and settings.exclude is None
        if options.is_second_replay or options.calls or not judges:
            return None
        found, lost, timed = self._hanging(scenario, run)
        if not (lost or timed) or self._as_judged(scenario, run).verdict.fails:
            return None
        entries = [
            (numbers, self.examine(place, settings, as_lost), accept(as_lost)) for numbers, as_lost in lost
        ]
        return suspicion(place.id, found, entries, timed)

    def _as_judged(self, scenario: Scenario, run: Run) -> Judgement:
        """Return the judgement of a run against its baseline, in an update too."""
        return self.against_baseline(self.committed.of(scenario.place), run, scenario.settings)[0]

    def loses_cache(self, scenario: Scenario, run: Run) -> bool:
        """Return whether a run is over by what the cache serves, and by no more."""
        judgement = self._as_judged(scenario, run)
        over = {limit.metric for limit in judgement.limits if limit.over}
        return judgement.verdict == Verdict.OVER and over <= _BY_CACHE

    def with_clocks(self, run: Run) -> Run:
        """Return a run in which time goes by with the turns marked whose cached prefix has gained a clock."""
        found = clocked([turn.pair for turn in run.turns])
        return _marked(run, _keys(run, [one.now for one in found]))

    def _hanging(
        self, scenario: Scenario, run: Run
    ) -> tuple[list[Suspect], list[tuple[list[int], Run]], list[Suspect]]:
        """Return the suspected turns of a scenario, and what of them would fail it.

        That is (numbers of turns, the run if each process has another prefix there), all together first, and
        the turns with a clock, if it would fail were each of them alone.
        """
        pairs = [turn.pair for turn in run.turns]
        found, timed = suspects(pairs), clocked(pairs)
        groups: dict[object, list[int]] = defaultdict(list)
        for number, suspect in enumerate(found):
            groups[suspect.places].append(number)
        together = [[*range(len(found))]] if len(groups) > 1 else []
        lost = []
        for numbers in (*together, *groups.values()):
            as_lost = self._as_lost(scenario, _keys(run, [found[number].now for number in numbers]))
            if self._as_judged(scenario, as_lost).verdict.fails:
                lost.append((numbers, as_lost))
        if timed:
            alone = _without_reads(run, _keys(run, [one.now for one in timed]))
            timed = timed if self._as_judged(scenario, alone).verdict.fails else []
        return found, lost, timed

    def _as_lost(self, scenario: Scenario, keys: Collection[_Key]) -> Run:
        """Measure a scenario as if each process had another cached prefix on these turns, and mark them."""

        def volatile(pairs: Sequence[Pair]) -> set[int]:
            return {pair.index for pair in pairs if _key(pair) in keys}.union(self.meter.volatile(pairs))

        return _marked(scenario.run(replace(self.meter, volatile=volatile, shared={}), self.options), keys)

    def lasts(self, names: Names) -> bool:
        """Return whether names come in this order in every process, as far as that can be known."""
        return list(names) == sorted(names) or self._sources.lists(names)


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
    changed = (turn.pair for turn in run.turns if turn.pair.request.digest != turn.pair.recorded.digest)
    if pair := next(changed, None):
        text += f"; {difference_of(pair.recorded, pair.request)}"
    yield Finding(FindingKind.UNKNOWN, "cache", text)


_BY_CACHE = frozenset({"cost_usd", "max_cost_usd", "cache_share"})
"""What may pass its limit by what the cache serves."""

_Key = tuple[int, str]
"""Which turn a pair is, and what it asks, however often it is measured."""


def _key(pair: Pair) -> _Key:
    return pair.index, pair.request.digest


def _keys(run: Run, prompts: Sequence[Prompt]) -> set[_Key]:
    """Return the keys of the turns of a run that ask these very prompts."""
    asked = set(map(id, prompts))
    return {_key(turn.pair) for turn in run.turns if id(turn.pair.request.prompt) in asked}


def _marked(run: Run, keys: Collection[_Key]) -> Run:
    """Return a run with these turns marked as volatile, beside those that are."""
    turns = (replace(turn, volatile=turn.volatile or _key(turn.pair) in keys) for turn in run.turns)
    return replace(run, turns=tuple(turns))


def _without_reads(run: Run, keys: Collection[_Key]) -> Run:
    """Return a run of which these turns read nothing: what was read is written."""

    def alone(turn: Turn) -> Turn:
        if _key(turn.pair) not in keys:
            return turn
        usage = turn.usage
        read = {rate: {"5m": tokens.cache_read_input_tokens} for rate, tokens in usage.by_rate.items()}
        return replace(turn, usage=as_written(usage, read))

    return replace(run, turns=tuple(map(alone, run.turns)))


def _is_changed(turn: Turn) -> bool:
    """Return whether a turn asks something else than what it is compared with."""
    return turn.pair.how is not Paired.EXACT or turn.pair.request.digest != turn.pair.recorded.digest
