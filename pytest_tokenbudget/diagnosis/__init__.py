"""Find why a scenario costs what it costs now: every cause, worst first.

A replay has the answers that were recorded. Changed options that decide how much a model answers are
therefore named, without a number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.diagnosis.cache_breaks import cache_breaks
from pytest_tokenbudget.diagnosis.costs import Ledger, TurnCosts
from pytest_tokenbudget.diagnosis.growth import growth
from pytest_tokenbudget.diagnosis.prompt_parts import CountOf, edit_of, said_as, with_own_parts
from pytest_tokenbudget.diagnosis.turns import turn_changes
from pytest_tokenbudget.diagnosis.volatile import volatile
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.metering.rendering import counted_betas
from pytest_tokenbudget.model import Finding, FindingKind
from pytest_tokenbudget.sources import SourceTree
from pytest_tokenbudget.wire.prompt import Prompt
from pytest_tokenbudget.wording import plural, turns

_FIRST = ("turns_changed", "unknown", "assumed_model")
"""Kinds that are told first, because they make every number below them doubtful."""


def diagnose(
    run: Run,
    *,
    cost: CostOf,
    count: CountOf,
    sources: SourceTree | None = None,
    minimums: Mapping[str, int] | None = None,
) -> tuple[Finding, ...]:
    """Return the causes of a run's difference to its recording, worst first; none where nothing differs.

    `cost` prices a usage in dollars, or returns None. `count` counts a text roughly: it is asked only to
    share out a known difference, between the fields of a tool, or where a turn was counted from another turn.
    Without `sources`, no lines are named, and no text is called volatile. `minimums` overrides the shortest
    cacheable prefix by model (tokens).

    The tokens of all `growth` findings add up to the measured difference in prompt tokens. The dollars of
    `growth`, `cache_break`, `cache_change`, `model_changed` and `rate_changed` add up to the difference in
    cost.
    """
    run = replace(run, turns=tuple(with_own_parts(turn, count) for turn in run.turns))
    ledger = Ledger(cost)
    costs = [ledger.split(turn) for turn in run.turns]
    breaks, broken = cache_breaks(run, costs, sources, minimums)
    costs, changed = _settled(run, costs, broken)
    told = [finding.where for finding in breaks]
    findings = [
        *turn_changes(run, costs, cost, sources),
        *growth(run, costs, count, sources),
        *breaks,
        *changed,
        *volatile(run, sources, told),
        *answer_options(run, sources),
    ]
    return tuple(sorted(findings, key=_rank))


def _settled(
    run: Run, costs: Sequence[TurnCosts], broken: frozenset[int]
) -> tuple[list[TurnCosts], list[Finding]]:
    """Give what the cache costs on turns without a break to a finding of its own, or to what grew there.

    Return the costs by turn, corrected, and these findings. A turn that reads as much as before has such a
    rest only because sizes inside a prompt are estimated: it belongs to the largest part.
    """
    settled, moved, bounded = list(costs), [], []
    for index, (turn, split) in enumerate(zip(run.turns, costs, strict=True)):
        if index in broken or not split.cache or turn.recorded is None:
            continue
        if turn.best is not None:
            bounded.append(index)
            continue
        sizes = [abs(part.tokens) for part in turn.estimate.parts]
        was, now = turn.recorded.main_tokens, turn.usage.main_tokens
        slack = sum(sizes) + max(16, was.prompt_tokens // 50)
        if any(sizes) and abs(now.cache_read_input_tokens - was.cache_read_input_tokens) <= slack:
            largest = sizes.index(max(sizes))
            parts = list(split.parts)
            parts[largest] = (parts[largest] or Decimal(0)) + split.cache
            settled[index] = replace(split, parts=tuple(parts), cache=Decimal(0))
        else:
            moved.append(index)
    findings = [_moved(run, costs, moved)] if moved else []
    return settled, findings + ([_bounded(run, costs, bounded)] if bounded else [])


def _moved(run: Run, costs: Sequence[TurnCosts], indexes: Sequence[int]) -> Finding:
    """Tell of tokens that another category of the cache holds, for no cause that would be a break."""
    reads, total = _more_reads(run, indexes), sum((costs[i].cache or Decimal(0) for i in indexes), Decimal(0))
    more = f"{plural(abs(reads), 'token')} {'more' if reads > 0 else 'fewer'} are read from the cache"
    what = more if reads else "other tokens are written to the cache"
    return Finding(
        FindingKind.CACHE_CHANGE, turns(indexes), f"{turns(indexes)}: {what} than when recorded", reads, total
    )


def _bounded(run: Run, costs: Sequence[TurnCosts], indexes: Sequence[int]) -> Finding:
    """Tell what the cache loses in the worst case on turns whose split is known within bounds, and why."""
    reads, total = _more_reads(run, indexes), sum((costs[i].cache or Decimal(0) for i in indexes), Decimal(0))
    notes = dict.fromkeys(note for i in indexes if (note := run.turns[i].cache_note))
    text = (
        f"{turns(indexes)}: up to {plural(max(-reads, 0), 'token')} fewer are read from the cache than when "
        f"recorded, and nobody can say how many: {'; '.join(notes)}"
    )
    return Finding(FindingKind.CACHE_CHANGE, turns(indexes), text, reads, total)


def _more_reads(run: Run, indexes: Sequence[int]) -> int:
    """Return by how many tokens turns read more from the cache than when recorded; negative for fewer."""
    return sum(
        run.turns[i].usage.tokens.cache_read_input_tokens - recorded.tokens.cache_read_input_tokens
        for i in indexes
        if (recorded := run.turns[i].recorded)
    )


def _rank(finding: Finding) -> tuple[bool, bool, Decimal, int]:
    cost = finding.cost_usd or Decimal(0)
    amount = cost or Decimal(finding.tokens or 0)
    return finding.kind not in _FIRST, amount < 0, -abs(cost), -abs(finding.tokens or 0)


_UNSET = "not set"
_BETAS = "anthropic-beta"
_OUTPUT = "Their output tokens are those of then, and may be others now"
_BOTH = "Their output tokens are those of then, and what a beta does to prompt and output is not known"


def answer_options(run: Run, sources: SourceTree | None = None) -> Iterator[Finding]:
    """Yield a finding for effort, thinking and betas that differ from the recorded ones.

    What they do to the output is not known.
    """
    changed: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, turn in enumerate(run.turns):
        was, now = _ruling(turn.pair.recorded.prompt), _ruling(turn.pair.request.prompt)
        for name in now:
            if was[name] != now[name]:
                changed[name, was[name], now[name]].append(index)
    for (name, before, after), indexes in changed.items():
        source, edit = edit_of(sources, *said_as(name))
        text = (
            f"{turns(indexes)}: {name} is {after}, and was {before} when the answers were recorded"
            f"{edit}. {_BOTH if name == _BETAS else _OUTPUT}"
        )
        yield Finding(FindingKind.ANSWER_OPTIONS, name, text, source=source)


def _ruling(prompt: Prompt) -> dict[str, str]:
    output, thinking = prompt.options.get("output_config"), prompt.options.get("thinking")
    effort = output.get("effort") if isinstance(output, Mapping) else None
    betas = ", ".join(sorted(counted_betas(prompt)))
    return {"effort": str(effort or _UNSET), "thinking": _thinking(thinking), _BETAS: betas or _UNSET}


def _thinking(option: object) -> str:
    if not isinstance(option, Mapping):
        return _UNSET
    budget = option.get("budget_tokens")
    told = f" with {budget:,} tokens" if isinstance(budget, int) else ""
    return f"{option.get('type', _UNSET)}{told}"
