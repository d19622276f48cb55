"""Counts what differs between a recorded request and a new one, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from pytest_tokenbudget.metering.calibration import Known, calibration, drift
from pytest_tokenbudget.metering.counting import Counter, family, short_name
from pytest_tokenbudget.metering.difference import Item, difference
from pytest_tokenbudget.metering.history import assistant_messages
from pytest_tokenbudget.metering.overheads import overhead
from pytest_tokenbudget.metering.places import THINKING, envelope
from pytest_tokenbudget.metering.prompt_options import render_options
from pytest_tokenbudget.metering.rendering import Rendered
from pytest_tokenbudget.wire.prompt import Block, Prompt


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the difference, before it is rounded."""

    where: str
    tokens: float
    edited: float = 0.0
    """Counted tokens of text that were taken out, and put in: what a counter may be wrong about."""
    doubt: int = 0
    """By how much constants may be wrong."""
    unknown: str | None = None
    was: Block | None = None
    now: Block | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """What one block or option counts."""

    tokens: float = 0.0
    text: str = ""
    counted: float = 0.0
    """Tokens of the text."""
    doubt: int = 0
    unknown: str | None = None


def compare(known: Known, new: Prompt, counter: Counter, answers: Mapping[str, int]) -> tuple[Piece, ...]:
    """The pieces of `new` minus `known`; none where both ask the same, which counts nothing."""
    if _asks(known.prompt) == _asks(new):
        return ()
    return tuple(_Comparison(known, new, counter, answers).pieces())


def _asks(prompt: Prompt) -> object:
    return prompt.model, [block.digest for block in prompt.blocks], prompt.options, prompt.betas


class _Comparison:
    def __init__(self, known: Known, new: Prompt, counter: Counter, answers: Mapping[str, int]) -> None:
        self._known = known
        self._was = known.prompt
        self._now = new
        self._counter = counter
        self._answers = answers

    def pieces(self) -> Iterator[Piece]:
        apart = difference(self._was, self._now)
        sizes = self._sizes(change.was for change in apart.changes) | self._sizes(
            change.now for change in apart.changes
        )
        for change in apart.changes:
            was, now = (Size() if item is None else sizes[id(item)] for item in (change.was, change.now))
            item = change.now or change.was
            assert item is not None
            yield _piece(item.block.where, was, now, change.was, change.now)
        yield from self._options()
        framing = sum(now.place.framing - was.place.framing for was, now in apart.same)
        framing += envelope(self._now) - envelope(self._was)
        if framing:
            yield Piece("framing", framing)
        if _name(self._was.model) != _name(self._now.model):
            yield self._model(apart.same)

    def _options(self) -> Iterator[Piece]:
        old, new = render_options(self._was), render_options(self._now)
        for name in sorted(old.keys() | new.keys()):
            was, now = old.get(name, Rendered()), new.get(name, Rendered())
            if was != now:
                piece = _piece(name, self._size(was, self._was.model), self._size(now, self._now.model))
                if name in ("tools", "tool_choice"):
                    piece = replace(piece, doubt=piece.doubt + drift(self._known, self._counter))
                yield piece

    def _model(self, same: Iterable[tuple[Item, Item]]) -> Piece:
        """What another model makes of unchanged blocks: another tokenizer reads every one anew."""
        if _reads_alike(self._was.model, self._now.model):
            return Piece("model", 0, doubt=2)
        sizes = [
            (self._size(was.rendered(), was.model), self._size(now.rendered(), now.model))
            for was, now in same
        ]
        return Piece(
            "model",
            tokens=sum(now.tokens - was.tokens for was, now in sizes),
            edited=sum(max(was.counted, now.counted) for was, now in sizes),
            doubt=sum(now.doubt for _, now in sizes) + 5,
            unknown=next((now.unknown for _, now in sizes if now.unknown), None),
        )

    def _sizes(self, changed: Iterable[Item | None]) -> dict[int, Size]:
        """What each item counts, by its id; whole assistant turns by what their answers were billed."""
        items = {id(item.block): item for item in changed if item is not None}
        sizes: dict[int, Size] = {}
        for digest, blocks in assistant_messages(item.block for item in items.values()):
            message = [items[id(block)] for block in blocks]
            if digest in self._answers and not any(item.place.surroundings.dropped for item in message):
                sizes |= _billed(message, self._answers[digest])
        for item in items.values():
            if id(item) not in sizes:
                size = self._size(item.rendered(), item.model)
                sizes[id(item)] = replace(size, tokens=size.tokens + item.place.framing)
        return sizes

    def _size(self, rendered: Rendered, model: str) -> Size:
        counts = [self._counter.count(text, family(model)) for text in rendered.texts]
        counted = sum(counts) * self._scale if any(counts) else 0.0
        text = "".join(rendered.texts)
        return Size(rendered.tokens + counted, text, counted, rendered.doubt, rendered.unknown)

    @cached_property
    def _scale(self) -> float:
        return calibration(self._known, self._counter)


def _billed(message: list[Item], output_tokens: int) -> dict[int, Size]:
    """An answer's tokens, shared out among its blocks by their length."""
    doubt = 2 if any(item.block.kind in THINKING for item in message) else 0
    lengths = [len(str(item.block.content)) for item in message]
    return {
        id(item): Size(output_tokens * length / sum(lengths), doubt=doubt)
        for item, length in zip(message, lengths, strict=True)
    }


def _piece(where: str, was: Size, now: Size, before: Item | None = None, after: Item | None = None) -> Piece:
    return Piece(
        where,
        tokens=now.tokens - was.tokens,
        edited=_edited(was, now),
        doubt=was.doubt + now.doubt,
        unknown=now.unknown or was.unknown,
        was=None if before is None else before.block,
        now=None if after is None else after.block,
    )


def _edited(was: Size, now: Size) -> float:
    """Tokens between what both texts begin and end with: those taken out, or those put in if more."""
    same = _same(was.text, now.text)
    return max(
        (size.counted * (1 - same / len(size.text)) for size in (was, now) if size.text),
        default=0.0,
    )


@lru_cache(maxsize=256)  # the same edit comes back on every turn
def _same(was: str, now: str) -> int:
    """How many characters both texts begin and end with."""
    shorter = min(len(was), len(now))
    begin = _common(was, now, shorter)
    return begin + _common(was[begin:][::-1], now[begin:][::-1], shorter - begin)


def _common(a: str, b: str, most: int) -> int:
    """How many characters both begin with, at most `most`; by halving, so that long texts cost little."""
    low = 0
    while low < most:
        middle = (low + most + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            most = middle - 1
    return low


def _name(model: str) -> str:
    return short_name(model) or model


def _reads_alike(was: str, now: str) -> bool:
    """Whether two models render and tokenise a block alike."""
    return family(was) == family(now) and overhead(was).escapes == overhead(now).escapes
