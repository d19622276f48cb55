"""Pairs of recorded requests whose totals are both known, and what was edited between the two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from corpus import Recorded

from pytest_tokenbudget.metering.counting import BuiltinCounter, Memo
from pytest_tokenbudget.metering.estimate import Piece, fed_back_tokens, worked
from pytest_tokenbudget.metering.rendering import SCHEMA_IN_A_LOOP, block_weights
from pytest_tokenbudget.wire.prompt import Block

EARLIER = 3
"""How many requests before one in its cassette it is paired with."""
ALIKE = 5
"""And how many of other cassettes: those that share most with it, and at least a third."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A recorded request, another one as if it were asked now, and what the recording knows of answers."""

    recorded: Recorded
    now: Recorded
    answers: dict[str, int]

    @property
    def comparable(self) -> bool:
        """Whether `now` was billed one prompt: not several, for the API's own tools."""
        return worked(self.now.message) is None


def pairs(recorded: Sequence[Recorded]) -> Iterator[Pair]:
    """Pairs within a project: of one model, each two prompts once; and one prompt asked of two models."""
    yield from _other_model(recorded)
    groups: defaultdict[tuple[str, str], list[Recorded]] = defaultdict(list)
    answers: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for one in recorded:
        groups[one.project, one.model].append(one)
        answers[one.project, one.file] |= fed_back_tokens(one.prompt, one.message, one.output_tokens)
    for group in groups.values():
        seen: set[frozenset[str]] = set()
        sizes = [_sizes(one) for one in group]
        for place, now in enumerate(group):
            for other in (*_earlier(group, now), *_alike(group, sizes, place)):
                both = frozenset((other.content, now.content))
                if len(both) == 2 and both not in seen:
                    seen.add(both)
                    yield Pair(other, now, answers[other.project, other.file])


def _other_model(recorded: Iterable[Recorded]) -> Iterator[Pair]:
    same: defaultdict[tuple[str, str], dict[str, Recorded]] = defaultdict(dict)
    for one in recorded:
        same[one.project, one.content].setdefault(one.model, one)
    for models in same.values():
        ordered = list(models.values())
        yield from (Pair(was, now, {}) for was, now in pairwise(ordered))


def _earlier(group: Sequence[Recorded], now: Recorded) -> list[Recorded]:
    same = [one for one in group if one.file == now.file and one.index < now.index]
    return sorted(same, key=lambda one: one.index)[-EARLIER:]


def _alike(group: Sequence[Recorded], sizes: Sequence[dict[str, float]], place: int) -> list[Recorded]:
    mine = sizes[place]
    shares = []
    for index, theirs in enumerate(sizes):
        if group[index].file != group[place].file:
            shared = sum(size for key, size in mine.items() if key in theirs)
            share = shared / max(1, sum(mine.values()), sum(theirs.values()))
            if share >= 1 / 3:
                shares.append((share, -index))
    return [group[-index] for _, index in sorted(shares, reverse=True)[:ALIKE]]


def _sizes(one: Recorded) -> dict[str, float]:
    weights = zip(one.prompt.blocks, block_weights(one.prompt, _COUNTER), strict=True)
    return {block.digest: weight for block, weight in weights}


_COUNTER = Memo(BuiltinCounter())


TEXT_OR_TOOL = (
    "text turn",
    "tool turn",
    "message text edited",
    "system prompt changed",
    "tool schema edited",
    "tool added or removed",
)
"""Single edits that are all text."""


def kind_of_edit(pieces: Sequence[Piece]) -> str:
    """One name for what was edited; `several` where it was more than one kind of thing."""
    if any(piece.where == "model" for piece in pieces):
        return "model changed"
    kinds = {_kind(piece) for piece in pieces} - {None}
    if "tool turn" in kinds:
        kinds -= {"text turn"}  # what the model said before a call
    for first in ("server tool, PDF, URL", "thinking"):
        if first in kinds:
            return first
    if not kinds:
        return "nothing that counts"
    return kinds.pop() or "" if len(kinds) == 1 else "several"


def _kind(piece: Piece) -> str | None:
    block = piece.now or piece.was
    if block is None:
        return None if piece.where in ("framing", "tools", SCHEMA_IN_A_LOOP) else "option changed"
    if piece.unknown and block.kind not in ("thinking", "redacted_thinking"):
        return "server tool, PDF, URL"
    if block.level == "tools":
        return "tool schema edited" if piece.was and piece.now else "tool added or removed"
    if block.level == "system":
        return "system prompt changed"
    return _kind_of_block(block, both=piece.was is not None and piece.now is not None)


def _kind_of_block(block: Block, *, both: bool) -> str:
    if block.kind in ("image", "document"):
        return "image or document changed"
    if block.kind in ("thinking", "redacted_thinking"):
        return "thinking"
    if block.kind in ("tool_use", "tool_result"):
        return "tool turn"
    return "message text edited" if both else "text turn"
