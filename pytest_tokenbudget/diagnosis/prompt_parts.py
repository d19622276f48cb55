"""The parts of a turn's difference, told against the turn's own recording."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from pytest_tokenbudget.diagnosis.places import text_of
from pytest_tokenbudget.metering.difference import difference
from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.metering.prompt_options import render_options
from pytest_tokenbudget.metering.rendering import Rendered
from pytest_tokenbudget.metering.run import Turn
from pytest_tokenbudget.sequences import common_ends
from pytest_tokenbudget.wire.prompt import Block, digest

CountOf = Callable[[str], int]
"""Tokens of a text, about: only to share a known difference out."""


def with_own_parts(turn: Turn, count: CountOf) -> Turn:
    """The turn with parts that tell what differs from its own recorded request; their sum stays what it is.

    An estimate may be counted from a neighbouring turn's request, whose parts tell other differences: these
    are found anew, and sized by `count`. A text that changed while it was put into other blocks is one part.
    What is left over is `framing`, or what another tokenizer makes of the same text.
    """
    parts = turn.estimate.parts
    if not parts:
        return turn
    was, now = turn.pair.recorded.prompt, turn.pair.request.prompt
    total = sum(part.tokens for part in parts)
    if not _are_own(turn):
        parts = tuple(_counted(turn, count))
    own = list(_rejoined(part for part in parts if part.where != "framing"))
    if rest := total - sum(part.tokens for part in own):
        alike = model_row(was.model).family == model_row(now.model).family
        own.append(Part("framing" if alike else "model", "changed", rest))
    return replace(turn, estimate=replace(turn.estimate, parts=tuple(own)))


def _are_own(turn: Turn) -> bool:
    """Whether the parts are those of the recorded request: blocks new to it or gone from it, its options."""
    recorded, request = turn.pair.recorded.prompt, turn.pair.request.prompt
    was, now = (Counter(block.digest for block in prompt.blocks) for prompt in (recorded, request))
    options = {part.where for part in turn.estimate.parts if part.was is None and part.now is None}
    return options - {"framing", "model"} <= _changed_options(turn).keys() and all(
        (part.was is None or was[part.was.digest] > now[part.was.digest])
        and (part.now is None or now[part.now.digest] > was[part.now.digest])
        for part in turn.estimate.parts
    )


def _changed_options(turn: Turn) -> dict[str, tuple[Rendered, Rendered]]:
    """What the options of the recorded request and of the new one add to the prompt, where that differs."""
    was, now = (render_options(one.prompt) for one in (turn.pair.recorded, turn.pair.request))
    sides = {name: (was.get(name, Rendered()), now.get(name, Rendered())) for name in {**was, **now}}
    return {name: pair for name, pair in sides.items() if pair[0] != pair[1]}


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
    for name, (before, after) in sorted(_changed_options(turn).items()):
        sizes = (side.tokens + sum(map(count, side.texts)) for side in (after, before))
        yield Part(name, "changed", round(next(sizes) - next(sizes)))


def _tokens(block: Block | None, count: CountOf) -> int:
    return count(text_of(block)) if block else 0


def _rejoined(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, those of a text that went from one block into several, or back, as one."""
    groups: dict[object, list[Part]] = defaultdict(list)
    for part in parts:
        block = part.now or part.was
        groups[(block.level, block.role, block.message) if block else part.where].append(part)
    for group in groups.values():
        was, now = [part.was for part in group if part.was], [part.now for part in group if part.now]
        if was and now and len(was) != len(now) and (whole := _whole(was, now)):
            yield Part(whole[1].where, "changed", sum(part.tokens for part in group), *whole)
        else:
            yield from group


def _whole(was: Sequence[Block], now: Sequence[Block]) -> tuple[Block, Block] | None:
    """Both sides as one block, at the place where they part; None where they do not share half their text."""
    if not all(block.kind == "text" for block in (*was, *now)):
        return None
    before, after = ("".join(map(text_of, side)) for side in (was, now))
    at, tail = common_ends(before, after)
    if (at + tail) * 2 < min(len(before), len(after)):
        return None
    ends = accumulate(len(text_of(block)) for block in now)
    there = next((block for block, end in zip(now, ends, strict=True) if at < end), now[-1])
    return _of(was[0], before), _of(there, after)


def _of(block: Block, text: str) -> Block:
    content = {"type": "text", "text": text}
    return replace(block, content=content, digest=digest(block.level, block.role, content))
