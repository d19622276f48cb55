"""The recorded split of a run's prompts, corrected by what the simulated cache does differently now.

Both sides are simulated: the recorded turns, with what the recording shows of its cache, and the turns as
they are asked now, with the same. Only the difference is applied, so that what the simulation gets wrong on
both sides cancels, and an unchanged run keeps its recorded numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter
from pytest_tokenbudget.metering.cache_chain import Chain, same_prompt
from pytest_tokenbudget.metering.cache_current import CurrentTurn, measure_current
from pytest_tokenbudget.metering.cache_rules import minimum, not_simulated
from pytest_tokenbudget.metering.cache_split import RecordedTurn, study
from pytest_tokenbudget.metering.counting import Counter, Memo
from pytest_tokenbudget.metering.prompt_cache import CacheTurn, Outcome, Shown, simulate
from pytest_tokenbudget.metering.refusals import refused
from pytest_tokenbudget.model import Tokens
from pytest_tokenbudget.wire.prompt import breakpoints


@dataclass(frozen=True, slots=True)
class Split:
    """One turn's tokens now, split by the cache."""

    tokens: Tokens | None
    """They add up to the current prompt tokens; as recorded where those are unknown; None where nothing was
    recorded, or where nothing is asked now."""
    note: str | None = None
    """Why the split is unknown; what the prompt grew by is then counted as uncached."""
    before: Outcome | None = None
    """Simulated, as recorded; None where nothing in the run changed, so that nothing had to be simulated."""
    now: Outcome | None = None
    """Simulated, as asked now."""


def resplit(
    recorded: Sequence[RecordedTurn],
    current: Sequence[CurrentTurn | None],
    *,
    minimums: Mapping[str, int] | None = None,
    counter: Counter | None = None,
    lasting: Callable[[int], bool] = lambda _: True,
) -> tuple[Split, ...]:
    """Split each current prompt into read, written and uncached tokens.

    Both sequences hold the same turns, in recorded order: `current` has None where a recorded turn is not
    asked for any more. The recorded order serves for both sides, since that in which concurrent requests are
    asked is chance. `minimums` overrides the shortest cacheable prefix by model. Of `counter` proportions are
    taken only, so no tokenizer is needed: hand in one `Memo(BuiltinCounter())` for many runs.

    What was in the cache before the recording, an earlier run had written. Earlier runs of the changed agent
    will have written its changed prefix just so, unless it is another one in every process: `lasting` says of
    a turn whether its prefix is the same in all of them.
    """
    same = [
        now is not None and same_prompt(now.prompt, was.prompt)
        for was, now in zip(recorded, current, strict=True)
    ]
    if all(same):
        return tuple(Split(turn.tokens) for turn in recorded)
    if not any(map(_touches_cache, recorded, current)):
        return tuple(map(_uncached, recorded, current))
    changed = same.index(False)
    counter = counter or Memo(BuiltinCounter())
    recording = study(recorded, minimums or {}, counter)
    turns = measure_current(recording.turns, current, counter)
    before = simulate(recording.turns, shown=recording.shown, minimums=recording.minimums)
    shown = {
        index: _carried_over(known, turns[index], recording.minimums)
        if known.warm and lasting(index)
        else known
        for index, known in recording.shown.items()
    }
    after = simulate(turns, shown=shown, minimums=recording.minimums)
    splits = []
    for index, (was, now) in enumerate(zip(recorded, current, strict=True)):
        turn = turns[index]
        tokens, note = was.tokens, None
        if now is None or turn is None:
            tokens = None
        elif tokens is not None and now.prompt_tokens is not None and index >= changed:
            note = _why_unknown(was, recording.turns[index].chain, turn.chain)
            tokens = _shifted(tokens, before[index], after[index], now.prompt_tokens, known=note is None)
        splits.append(Split(tokens, note, before[index], after[index]))
    return tuple(splits)


def _touches_cache(was: RecordedTurn, now: CurrentTurn | None) -> bool:
    """Whether a turn reads or writes the cache, or asks for it, as recorded or now."""
    return bool(was.cached or breakpoints(was.prompt) or (now is not None and breakpoints(now.prompt)))


def _uncached(was: RecordedTurn, now: CurrentTurn | None) -> Split:
    """Of a run without any cache: all of a prompt is uncached."""
    if now is None or was.tokens is None or now.prompt_tokens is None:
        return Split(was.tokens if now is not None else None)
    return Split(replace(was.tokens, input_tokens=now.prompt_tokens))


def _carried_over(shown: Shown, now: CacheTurn | None, minimums: Mapping[str, int]) -> Shown:
    """With the current turn's prefixes in the cache where the recorded turn's were, if long enough."""
    if shown.warm is None or now is None:
        return shown
    chain, positions = shown.warm
    counterparts = {_counterpart(chain, position, now.chain) for position in positions}
    shortest = minimum(now.chain.model, minimums)
    found = sorted(p for p in counterparts if p is not None and now.sizes[p] >= shortest)
    return replace(shown, warm=(now.chain, tuple(found))) if found else shown


def _counterpart(was: Chain, position: int, now: Chain) -> int | None:
    """The position on `now` of what ends at `position` on `was`: the end of a level, else the same place.

    A breakpoint has a breakpoint for its counterpart: nobody writes a prefix whose mark is gone.
    """
    block = was.links[position].block
    level = [p for p, link in enumerate(now.links) if link.block.level == block.level]
    ends_level = position + 1 == len(was.links) or was.links[position + 1].block.level != block.level
    if not ends_level:
        level = [p for p in level if now.links[p].block.where == block.where]
    if not level or (position in was.breakpoints and level[-1] not in now.breakpoints):
        return None
    return level[-1]


def _why_unknown(was: RecordedTurn, before: Chain, now: Chain) -> str | None:
    """Why a turn's split cannot be told; None where it can, as of a turn that the cache does not touch."""
    if was.cached and not before.breakpoints:
        return "the recorded answer reports a cache that the request does not ask for"
    if not was.cached and not now.breakpoints:
        return None
    return not_simulated(before.prompt) or not_simulated(now.prompt) or refused(now.prompt)


def _shifted(tokens: Tokens, was: Outcome, now: Outcome, total: int, *, known: bool) -> Tokens:
    """The recorded split of a prompt of `total` tokens, each boundary moved by the simulated difference.

    The boundaries are the ends of what is read, then written for an hour, then for five minutes. What is no
    longer read or written is 0, whatever the recorded side was off by. Where the difference is not known, the
    boundaries stay.
    """
    read = tokens.cache_read_input_tokens
    hour = read + tokens.ephemeral_1h_input_tokens
    last = hour + tokens.ephemeral_5m_input_tokens
    if known:
        read = 0 if was.read and not now.read else read + now.read - was.read
        hour = read if was.written_1h and not now.written_1h else hour + now.through_1h - was.through_1h
        last = hour if was.written_5m and not now.written_5m else last + now.through_5m - was.through_5m
    read = min(max(read, 0), total)
    hour = min(max(hour, read), total)
    last = min(max(last, hour), total)
    return replace(
        tokens,
        input_tokens=total - last,
        ephemeral_5m_input_tokens=last - hour,
        ephemeral_1h_input_tokens=hour - read,
        cache_read_input_tokens=read,
    )
