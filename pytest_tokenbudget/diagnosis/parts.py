"""The parts of a turn's difference, told against the turn's own recording."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from pytest_tokenbudget.diagnosis.places import text_of
from pytest_tokenbudget.metering.difference import difference
from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.run import Turn
from pytest_tokenbudget.wire.prompt import Block

CountOf = Callable[[str], int]
"""Tokens of a text, about: only to share a known difference out."""


def with_own_parts(turn: Turn, count: CountOf) -> Turn:
    """The turn with parts that tell what differs from its own recorded request; their sum stays what it is.

    An estimate may be counted from a neighbouring turn's request, whose parts tell other differences: these
    are found anew, and sized by `count`. Text that was only split into other blocks is no difference. What is
    left over is `framing`.
    """
    parts = turn.estimate.parts
    if not parts:
        return turn
    total = sum(part.tokens for part in parts)
    if not _are_own(turn):
        parts = tuple(_counted(turn, count))
    own = list(_without_resplit(part for part in parts if part.where != "framing"))
    if rest := total - sum(part.tokens for part in own):
        own.append(Part("framing", "changed", rest))
    return replace(turn, estimate=replace(turn.estimate, parts=tuple(own)))


def _are_own(turn: Turn) -> bool:
    """Whether every block among the parts is new to the recorded request, or gone from it."""
    was = Counter(block.digest for block in turn.pair.recorded.prompt.blocks)
    now = Counter(block.digest for block in turn.pair.request.prompt.blocks)
    return all(
        (part.was is None or was[part.was.digest] > now[part.was.digest])
        and (part.now is None or now[part.now.digest] > was[part.now.digest])
        for part in turn.estimate.parts
    )


def _counted(turn: Turn, count: CountOf) -> Iterator[Part]:
    for one in difference(turn.pair.recorded.prompt, turn.pair.request.prompt).changes:
        was, now = (item.block if item else None for item in (one.was, one.now))
        tokens = _tokens(now, count) - _tokens(was, count)
        if was and now:
            yield Part(now.where, "changed", tokens, was, now)
        elif now:
            yield Part(now.where, "added", tokens, None, now)
        elif was:
            yield Part(was.where, "removed", tokens, was, None)
    yield from (part for part in turn.estimate.parts if part.was is None and part.now is None)


def _tokens(block: Block | None, count: CountOf) -> int:
    return count(text_of(block)) if block else 0


def _without_resplit(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts without those of one level or message whose text is the same, in other blocks."""
    groups: dict[object, list[Part]] = defaultdict(list)
    for part in parts:
        block = part.now or part.was
        groups[(block.level, block.role, block.message) if block else part.where].append(part)
    for group in groups.values():
        if len(group) == 1 or not _is_resplit(group):
            yield from group


def _is_resplit(group: list[Part]) -> bool:
    was, now = [part.was for part in group if part.was], [part.now for part in group if part.now]
    if not all(block.kind == "text" for block in (*was, *now)):
        return False
    return "".join(map(text_of, was)) == "".join(map(text_of, now))
