"""Find where one chain of blocks leaves another, and how: the first block, the first character, the kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_tokenbudget.diagnosis.prompt_parts import place, text_of, to_json, wording_of
from pytest_tokenbudget.diagnosis.values import (
    Kind,
    is_reordered,
    kind_of_code,
    kind_of_difference,
    kind_of_value,
    values_in,
)
from pytest_tokenbudget.model import Source
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.sources import Location
from pytest_tokenbudget.sources.words import Names, moved, other_order
from pytest_tokenbudget.wire.prompt import LEVELS, Block, Level

Change = Literal["changed", "added", "removed", "reordered"]
_BEFORE, _AFTER = 24, 40
"""Characters shown on either side of the first that differs."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How two chains part."""

    level: Level
    """The first level that is touched: all that follows is lost to the cache with it."""
    change: Change
    where: str
    """The place in the new chain, or in the old one if it was removed."""
    kind: Kind
    char: int = 0
    """Index of the first character that differs, in the text of `where`."""
    was: str = ""
    now: str = ""
    """Short excerpts around that character, untrusted."""
    old: Block | None = None
    new: Block | None = None
    order: Names | None = None
    """Names of the tools or keys that moved, in their new order; None if nothing moved."""
    is_sorted: bool = False
    """Whether the tools are in alphabetical order now, and so many that this is no chance."""


def first_differing(was: Sequence[Block], now: Sequence[Block]) -> int | None:
    """Return the index of the first block that differs, or None if `now` begins with all of `was`."""
    at = common_prefix([block.digest for block in was], [block.digest for block in now])
    return at if at < len(was) else None


_SEVERAL = 3
"""From how many values on what they have in common is no chance."""
_SORTED = 4
"""From how many names on an alphabetical order is no chance: it is one of 24 for four."""


def compare(
    was: Sequence[Block], now: Sequence[Block], at: int, tools: Mapping[str, str] | None = None
) -> Difference:
    """Return how `now` leaves `was` at block `at`, the first that differs; `tools` is from `tool_names`."""
    names = tools or {}
    old = was[at] if at < len(was) else None
    new = now[at] if at < len(now) else None
    level = min((b.level for b in (old, new) if b), key=LEVELS.index)
    change = _change(was[at:], now[at:], level)
    if change == "reordered":
        where = "tools" if level == "tools" else place(now[at], names).where
        if level != "tools":
            before, after = (_start(side[at]) for side in (was, now))
            return Difference(level, change, where, Kind.ORDER, 0, before, after, old, new)
        names_of = [[_identity(block) for block in side if block.level == level] for side in (was, now)]
        before, after = map(first_of, names_of)
        order = moved(*names_of) if len(names_of[0]) == len(names_of[1]) else None
        is_sorted = len(names_of[1]) >= _SORTED and names_of[1] == sorted(names_of[1])
        return Difference(level, change, where, Kind.ORDER, 0, before, after, old, new, order, is_sorted)
    if change == "added" and new:
        return Difference(level, change, place(new, names).where, Kind.TEXT, 0, "", _start(new), None, new)
    if change == "removed" and old:
        return Difference(level, change, place(old, names).where, Kind.TEXT, 0, _start(old), "", old, None)
    assert old is not None
    assert new is not None
    return compare_blocks(old, new, names)


def _change(was: Sequence[Block], now: Sequence[Block], level: Level) -> Change:
    old = [block for block in was if block.level == level]
    new = [block for block in now if block.level == level]
    if not old or not new:
        return "added" if new else "removed"
    if (old[0].message or 0) < (new[0].message or 0):
        return "removed"  # its message ends without it, wherever the same text comes again
    before, after = [_identity(block) for block in old], [_identity(block) for block in new]
    if before != after and sorted(before) == sorted(after):
        return "reordered"
    if before[0] == after[0]:
        return "changed"
    if old[0].message != new[0].message:  # all before is alike: one side's message ends here
        return "removed" if (old[0].message or 0) < (new[0].message or 0) else "added"
    if _begin_alike(before, after):
        return "reordered"
    # How far off each side's next block stands on the other: what comes in between was added, or removed.
    gone = before.index(after[0]) if after[0] in before else None
    come = after.index(before[0]) if before[0] in after else None
    if gone is None and come is None:
        return _replaced(before, after) if level == "tools" else "changed"
    return "added" if gone is None or (come is not None and come <= gone) else "removed"


def _begin_alike(before: Sequence[str], after: Sequence[str]) -> bool:
    """Return whether both begin with the same names in another order, whatever follows on either side."""
    surplus: Counter[str] = Counter()
    for old, new in zip(before, after, strict=False):
        surplus[old] += 1
        surplus[new] -= 1
        for name in (old, new):
            if not surplus[name]:
                del surplus[name]
        if not surplus:
            return True
    return False


def _replaced(before: Sequence[str], after: Sequence[str]) -> Change:
    """Return whether tools that got other names became fewer (`removed`) or not (`added`)."""
    return "removed" if len(after) < len(before) else "added"


def _identity(block: Block) -> str:
    """Return what makes a block the same in another place: the name of a tool, else the content's digest."""
    return str(block.content.get("name", block.digest)) if block.kind == "tool" else block.digest


def compare_blocks(old: Block, new: Block, tools: Mapping[str, str]) -> Difference:
    """Return how one block became another; `tools` is from `tool_names`."""
    where = place(new, tools).where
    before, after = wording_of(old), wording_of(new)
    if old.kind == new.kind == "tool":
        field = _first_field(old, new)
        if field is None:
            before, after = to_json(old.content), to_json(new.content)
        else:
            where = f"{where}.{field}"
            before, after = (_text(block.content.get(field, "")) for block in (old, new))
    elif before == after:
        before, after = to_json(old.content), to_json(new.content)
    at = common_prefix(before, after)
    kind = kind_of_difference(before, after) if old.kind == new.kind else Kind.TEXT
    change: Change = "reordered" if kind == Kind.ORDER and is_reordered(before, after) else "changed"
    order = other_order(old.content, new.content) if change == "reordered" and new.kind == "tool" else None
    before, after = excerpt(before, at), excerpt(after, at)
    return Difference(new.level, change, where, kind, at, before, after, old, new, order)


def _first_field(old: Block, new: Block) -> str | None:
    """Return the first field of a tool whose value differs, or None if only the order of fields does."""
    fields = dict.fromkeys((*new.content, *old.content))
    return next((f for f in fields if to_json(old.content.get(f)) != to_json(new.content.get(f))), None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else to_json(value)


def excerpt(text: str, at: int) -> str:
    """Return a short piece of `text` around the character `at`, on one line."""
    start = max(at - _BEFORE, 0)
    end = min(at + _AFTER, len(text))
    piece = text[start:end].replace("\r", "").replace("\n", "\\n")
    return f"{'…' if start else ''}{piece}{'…' if end < len(text) else ''}"


def _start(block: Block) -> str:
    return excerpt(wording_of(block), 0)


def first_of(names: Sequence[str]) -> str:
    """Return the first names of a list in words, and that there are more."""
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def differences(was: Sequence[Block], now: Sequence[Block], tools: Mapping[str, str]) -> list[Difference]:
    """Return all that differs between two prefixes, in order.

    Blocks are matched by their place, or by name or content where a level is in another order.
    """
    found: list[Difference] = []
    for level in LEVELS:
        old = [block for block in was if block.level == level]
        new = [block for block in now if block.level == level]
        at = first_differing(old, new)
        if at is None and len(old) == len(new):
            continue
        at = len(old) if at is None else at
        reordered = _change(old[at:], new[at:], level) == "reordered"
        if reordered or len(old) != len(new):
            found.append(compare(old, new, at, tools))
        pairs = _by_identity(old, new) if reordered else list(zip(old, new, strict=False))
        if len(old) == len(new):
            found += [compare_blocks(a, b, tools) for a, b in pairs if a.digest != b.digest]
    return found


def _by_identity(old: Sequence[Block], new: Sequence[Block]) -> list[tuple[Block, Block]]:
    names = {_identity(block): block for block in old}
    return [(names[_identity(block)], block) for block in new if _identity(block) in names]


EARLIER = "prefix that an earlier turn cached"
RECORDED = "recorded prefix"
ELSEWHERE = "prefix of another process"


def describe(difference: Difference, since: str, source: Source | None = None) -> str:
    """Return one clause: where the prefix leaves `since`, how, what it was and what it is.

    `since` is one of `EARLIER`, `RECORDED` and `ELSEWHERE`.
    """
    what = difference.change if difference.change in ("added", "removed") else str(difference.kind)
    if difference.kind == Kind.ORDER and difference.was[:1] == difference.now[:1] == "{":
        what = f"keys in {what}"
    at = f", character {difference.char:,}" if difference.change == "changed" else ""
    excerpts = (("was", difference.was), ("now", difference.now))
    pieces = [f'{side} "{text}"' for side, text in excerpts if text]
    origin = f", from {source}" if source else ""
    return (
        f"cache prefix breaks at {difference.where}{at} ({api_word(difference)}, {what}), where it leaves "
        f"the {since}: {', '.join(pieces)}{origin}"
    )


def api_word(difference: Difference) -> str:
    """Return what the API's own cache diagnostics call the difference, such as `tools_changed`."""
    return f"{difference.level}_changed"


def refined(difference: Difference, location: Location, *, edited: bool) -> Difference:
    """Return the difference, its kind corrected by what the repository tells.

    A value that was put in where there was none gives its kind. Where two versions of the agent are compared
    (`edited`) and the repository holds the new text, a number in it is an edit.
    """
    made = kind_of_code(location.code)
    if made and difference.kind in (Kind.COUNTER, Kind.TEXT):
        return replace(difference, kind=made)
    if difference.kind.is_value:
        literal = edited and location.source is not None and location.filled is None
        return replace(difference, kind=Kind.TEXT) if literal else difference
    if difference.kind != Kind.TEXT or not difference.new:
        return difference
    values = [value for piece in location.missing for value in values_in(piece)]
    if values and not _is_series(values):
        return replace(difference, kind=values[0][0])
    if location.filled and not location.source:
        return replace(difference, kind=kind_of_value(text_of(difference.new), location.missing[0]))
    return difference


def _is_series(values: Sequence[tuple[Kind, str]]) -> bool:
    """Return whether several values begin mostly alike, as the names of a list do and random ids do not."""
    kinds, texts = {kind for kind, _ in values}, sorted({text for _, text in values})
    if kinds != {Kind.ID} or len(texts) < _SEVERAL:
        return False
    return 2 * common_prefix(texts[0], texts[-1]) >= min(map(len, texts))
