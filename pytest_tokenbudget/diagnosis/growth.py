"""Find which parts of the prompts grew: by how much, on how many turns, from which line of which file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from pytest_tokenbudget.diagnosis.block_changes import excerpt
from pytest_tokenbudget.diagnosis.costs import TurnCosts
from pytest_tokenbudget.diagnosis.prompt_parts import (
    TOOL_RESULT,
    CountOf,
    Place,
    edit_of,
    place,
    prose,
    said_as,
    text_of,
    to_json,
    tool_names,
)
from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.meter import Run, Turn
from pytest_tokenbudget.metering.rendering import SCHEMA_IN_A_LOOP
from pytest_tokenbudget.model import Basis, Finding, FindingKind, Source
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.sources import Location, SourceTree
from pytest_tokenbudget.wire.prompt import Block
from pytest_tokenbudget.wording import listed, plural, signed_count, signed_percent

_TOOLS = 3
"""How many tools that came or went at once are told one by one."""
_MOST = 20
"""How many places are told one by one; the rest is one finding, so that the sum still holds."""
_OF_MCP = re.compile(r"\bmcp__(.+?)__")
"""The server in the names that Claude Code and the Agent SDK give MCP tools: `mcp__SERVER__TOOL`."""
_LABELS = {
    "framing": "framing around the blocks",
    "model": "another tokenizer reads the same text",
    "tools": "the tool-use prompt that the API adds",
    "defer_loading": "what the API adds where tools are deferred",
    SCHEMA_IN_A_LOOP: "what the API may add to a schema there",
}


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one part of one turn adds to one place."""

    place: Place
    change: str
    tokens: int
    cost: Decimal | None
    was: str = ""
    now: str = ""


@dataclass(frozen=True, slots=True)
class _Grown:
    """What grew or shrank at one place of the request, over all turns."""

    pieces: tuple[tuple[int, _Piece], ...]
    """Each with its turn."""

    @property
    def where(self) -> list[str]:
        """Return its places, each once."""
        return list(dict.fromkeys(piece.place.where for _, piece in self.pieces))

    @property
    def changes(self) -> list[str]:
        """Return `added`, `removed` and `changed`, as far as they occur."""
        return list(dict.fromkeys(piece.change for _, piece in self.pieces))

    @property
    def by_turn(self) -> dict[int, int]:
        """Return the tokens that each turn has more."""
        tokens: dict[int, int] = {}
        for turn, piece in self.pieces:
            tokens[turn] = tokens.get(turn, 0) + piece.tokens
        return tokens

    @property
    def tokens(self) -> int:
        """Return the tokens that a run has more."""
        return sum(piece.tokens for _, piece in self.pieces)

    @property
    def cost(self) -> Decimal | None:
        """Return the dollars of a run, or None if a price is missing."""
        costs = [piece.cost for _, piece in self.pieces]
        return None if None in costs else sum(filter(None, costs), Decimal(0))

    @property
    def texts(self) -> dict[tuple[str, str], int]:
        """Return the tokens of each different piece of text, by what it was and what it is."""
        texts: dict[tuple[str, str], int] = {}
        for _, piece in self.pieces:
            texts.setdefault((piece.was, piece.now), piece.tokens)
        return texts

    @property
    def sizes(self) -> list[int]:
        """Return the tokens of each piece of text at each of its places; one that is re-sent counts once."""
        sizes: dict[tuple[str, str, str], int] = {}
        for _, piece in self.pieces:
            sizes.setdefault((piece.place.where, piece.was, piece.now), piece.tokens)
        return [*sizes.values()]

    @property
    def is_option(self) -> bool:
        """Whether it is what an option of the request adds, such as `tool_choice`."""
        places = {piece.place.where for _, piece in self.pieces}
        return len(places) == 1 and not places & {*_LABELS, "request"} and not any(map(any, self.texts))

    def locate(self, sources: SourceTree | None) -> Location | None:
        """Return where the text that grew most stands in the repository, or None if nothing grew."""
        (was, now), tokens = max(self.texts.items(), key=lambda text: text[1])
        return sources.locate(was, now) if sources and now and tokens > 0 else None

    def by_sign(self) -> list[_Grown]:
        """Split what grew from what shrank at one place, where these are different texts: two prompts."""
        grew = {text: tokens > 0 for text, tokens in self.texts.items()}
        if len(self.where) > 1 or len({*grew.values()}) < 2:
            return [self]
        halves: dict[bool, list[tuple[int, _Piece]]] = {True: [], False: []}
        for turn, piece in self.pieces:
            halves[grew[piece.was, piece.now]].append((turn, piece))
        return [_Grown(tuple(pieces)) for pieces in halves.values()]

    def by_source(self, sources: SourceTree | None) -> list[_Grown]:
        """Split growth by the lines of the repository that it comes from.

        A text that no line holds goes with the largest. Two prompts that stand at the same place of two
        requests are thus two changes.
        """
        texts = sorted(self.texts.items(), key=lambda text: -text[1])[:_MOST]
        sides = [text for text, tokens in texts if text[1] and tokens > 0]
        if sources is None or len(sides) < 2:
            return [self]
        found = {side: source for side in sides if (source := sources.locate(*side).source)}
        lines: list[Source] = []
        for source in found.values():
            if not any(source.overlaps(other) for other in lines):
                lines.append(source)
        if len(lines) < 2:
            return [self]
        split: dict[Source, list[tuple[int, _Piece]]] = {line: [] for line in lines}
        for turn, piece in self.pieces:
            source = found.get((piece.was, piece.now), lines[0])
            split[next(line for line in lines if source.overlaps(line))].append((turn, piece))
        return [_Grown(tuple(pieces)) for pieces in split.values()]


def growth(run: Run, costs: Sequence[TurnCosts], count: CountOf, sources: SourceTree | None) -> list[Finding]:
    """Return one finding for each place that grew or shrank; their tokens add up to the measured difference.

    `costs` holds one entry a turn (`Ledger.split`). Turns that cannot be counted are left out of both sums.
    """
    pieces: dict[str, list[tuple[int, _Piece]]] = defaultdict(list)
    recorded = 0
    for index, turn in enumerate(run.turns):
        if turn.basis == Basis.UNKNOWN or turn.recorded is None:
            continue
        recorded += turn.recorded.tokens.prompt_tokens
        for piece in _pieces(turn, costs[index], count):
            pieces[piece.place.group].append((index, piece))
    grown = _with_tools_joined({group: _Grown(tuple(several)) for group, several in pieces.items()})
    halves = [(group, half) for group, several in grown.items() for half in several.by_sign()]
    found = [(group, one) for group, half in halves for one in half.by_source(sources)]
    found = [(group, one) for group, one in found if any(one.by_turn.values())]
    found.sort(key=lambda entry: -abs(entry[1].tokens))
    if len(found) > _MOST:
        rest = _joined(one for _, one in found[_MOST:])
        found = [*found[:_MOST], (f"{len(found) - _MOST:,} other places", rest)]
    return [_finding(group, one, recorded, sources) for group, one in found]


def _pieces(turn: Turn, costs: TurnCosts, count: CountOf) -> Iterator[_Piece]:
    parts = turn.estimate.parts
    tools: Mapping[str, str] = {}
    if any(block.kind == TOOL_RESULT for part in parts for block in (part.was, part.now) if block):
        tools = tool_names(turn.pair.recorded.prompt) | tool_names(turn.pair.request.prompt)
    for part, cost in zip(parts, costs.parts, strict=True):
        block = part.now or part.was
        if block is None:
            yield _Piece(Place(part.where, part.where), part.change, part.tokens, cost)
        elif part.was and part.now and part.was.kind == part.now.kind == "tool":
            yield from _fields(part, part.was, part.now, cost, count)
        else:
            was, now = (text_of(side) if side else "" for side in (part.was, part.now))
            yield _Piece(place(block, tools), part.change, part.tokens, cost, was, now)


def _fields(part: Part, was: Block, now: Block, cost: Decimal | None, count: CountOf) -> Iterator[_Piece]:
    """Yield the pieces of a changed tool, one for each field; the last takes what is left of the sum."""
    texts = {
        name: (_text(was.content.get(name)), _text(now.content.get(name)))
        for name in dict.fromkeys((*now.content, *was.content))
    }
    changed = {name: pair for name, pair in texts.items() if pair[0] != pair[1]} or {"": ("", "")}
    left = part.tokens
    last = "input_schema" if "input_schema" in changed else list(changed)[-1]
    for name in (*(name for name in changed if name != last), last):
        before, after = changed[name]
        tokens = left if name == last else count(after) - count(before)
        left -= tokens
        share = cost * tokens / part.tokens if cost and part.tokens else cost
        where = f"{now.name}.{name}" if name else now.name
        change = "changed" if bool(before) == bool(after) else "added" if after else "removed"
        words = (prose(block.content.get(name, "")) for block in (was, now))
        yield _Piece(Place(where, where), change, tokens, share, *words)


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else to_json(value)


def _with_tools_joined(grown: Mapping[str, _Grown]) -> dict[str, _Grown]:
    """Join many tools that came or went at once into one place."""
    places = dict(grown)
    for change in ("added", "removed"):
        tools = [
            group
            for group, one in places.items()
            if group.startswith("tools[") and group.endswith("]") and one.changes == [change]
        ]
        if len(tools) > _TOOLS:
            places[f"{len(tools)} tools"] = _joined([places.pop(group) for group in tools])
    return places


def _joined(several: Iterable[_Grown]) -> _Grown:
    return _Grown(tuple(piece for one in several for piece in one.pieces))


def _finding(group: str, grown: _Grown, recorded: int, sources: SourceTree | None) -> Finding:
    where = grown.where[0] if len(grown.where) == 1 else group
    location = grown.locate(sources)
    source = (location.source or location.filled) if location and len(location.sources) < 2 else None
    share = Fraction(grown.tokens, recorded or 1)
    origin = _origin(grown, location, sources, where)
    if sources and grown.is_option:
        source, origin = edit_of(sources, *said_as(where))
    text = f"{where}: {_label(grown)}{_amount(grown)} ({signed_percent(share)}){origin}"
    return Finding(FindingKind.GROWTH, where, text, grown.tokens, grown.cost, source)


def _label(grown: _Grown) -> str:
    """Return what the tokens are, with a comma after it; empty if the place alone says it."""
    if label := _LABELS.get(grown.where[0]):
        return f"{label}, "
    return "" if grown.changes == ["changed"] else f"{listed(grown.changes)}, "


def _amount(grown: _Grown) -> str:
    """Return how much grew, in words: `+312 tokens, re-sent on 6 turns = +1,872`."""
    on, each, total = len(grown.by_turn), set(grown.by_turn.values()), signed_count(grown.tokens)
    if on == 1:
        return f"{total} tokens on one turn"
    if len(each) == 1:
        return f"{signed_count(each.pop())} tokens, re-sent on {plural(on, 'turn')} = {total}"
    if len(grown.where) > 1:
        once = f"{signed_count(sum(grown.sizes))} tokens in {plural(len(grown.sizes), 'piece')}"
        return f"{once}, re-sent on up to {plural(on, 'turn')} = {total}"
    span = f"{signed_count(min(each))} to {signed_count(max(each))} tokens"
    return f"{span} on each of {plural(on, 'turn')} = {total}"


def _origin(grown: _Grown, location: Location | None, sources: SourceTree | None, where: str) -> str:
    """Return a clause that says where the added text stands, or that no file holds it.

    A tool of an MCP server names its server instead.
    """
    if location is None or sources is None:
        return ""
    if location.source:
        others = [str(source) for source in location.elsewhere[:2]]
        return f", from {location.source}" + (f", also {listed(others)}" if others else "")
    if location.sources:
        return f", its text stands in several places: {listed([str(source) for source in location.sources])}"
    if location.filled:
        return f", filled in at {location.filled}; the text itself is {sources.nowhere}"
    if server := _OF_MCP.search(where):
        return f", it comes from the MCP server {server[1]}"
    if location.missing and location.is_in_parts:
        return f", its text is in no one file, and in parts in several{_quoted(grown)}"
    return f", its text is {sources.nowhere}{_quoted(grown)}" if location.missing else ""


def _quoted(grown: _Grown) -> str:
    """Return what the largest piece of text was and is, around where they first differ."""
    (was, now), _ = max(grown.texts.items(), key=lambda text: text[1])
    at = common_prefix(was, now)
    sides = (("was", was), ("now", now))
    return ": " + ", ".join(f'{side} "{excerpt(text, at)}"' for side, text in sides if text)
