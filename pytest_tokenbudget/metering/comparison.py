"""Counts what differs between a recorded request and a new one, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain

from pytest_tokenbudget.metering.builtin_counter import guessed
from pytest_tokenbudget.metering.calibration import Known, calibration, drift
from pytest_tokenbudget.metering.counting import Counter
from pytest_tokenbudget.metering.difference import Change, Difference, Item, differences
from pytest_tokenbudget.metering.edits import kept
from pytest_tokenbudget.metering.history import assistant_messages
from pytest_tokenbudget.metering.models import STAND_IN, model_name, model_row
from pytest_tokenbudget.metering.places import envelope
from pytest_tokenbudget.metering.prompt_options import render_options
from pytest_tokenbudget.metering.rendering import Rendered
from pytest_tokenbudget.wire.prompt import THINKING, Block, Prompt


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the difference, before it is rounded."""

    where: str
    tokens: float
    edited: float = 0.0
    """Counted tokens of text that were taken out, and put in: what a counter may be wrong about."""
    guessed: float = 0.0
    """Of these, the ones that the counter tells by the length and script of words alone."""
    doubt: int = 0
    """By how much constants may be wrong."""
    unknown: str | None = None
    was: Block | None = None
    now: Block | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """What one block or option counts."""

    tokens: float = 0.0
    """Beside its text."""
    text: str = ""
    counted: int = 0
    """Tokens of the text, as the counter has them."""
    doubt: int = 0
    unknown: str | None = None


_NOTHING = Size()


@dataclass(frozen=True, slots=True)
class _Counted:
    """A change, both sides counted."""

    change: Change
    was: Size
    now: Size
    edited: float
    """Of the counted tokens, those that were taken out, or put in if more."""
    guessed: float
    """Of these, the ones that are told by the length and script of words alone."""

    @property
    def where(self) -> str:
        item = self.change.now or self.change.was
        assert item is not None
        return item.block.where


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
        heads, messages = differences(self._was, self._now)
        for counted in (
            *_heads_counted(heads, self._counter),
            *_counted(messages, self._counter, self._answers),
        ):
            yield self._piece(counted.where, counted)
        yield from self._options()
        same = (*heads.same, *messages.same)
        framing = sum(now.place.framing - was.place.framing for was, now in same)
        framing += envelope(self._now) - envelope(self._was)
        if framing:
            yield Piece("framing", framing)
        if model_name(self._was.model) != model_name(self._now.model):
            yield self._model(same)

    def _options(self) -> Iterator[Piece]:
        old, new = render_options(self._was), render_options(self._now)
        for name in sorted(old.keys() | new.keys()):
            was, now = old.get(name, Rendered()), new.get(name, Rendered())
            if was != now:
                before = _size(was, self._was.model, self._counter)
                after = _size(now, self._now.model, self._counter)
                piece = self._piece(name, _both(Change(None, None), before, after, self._counter.exact))
                if name in ("tools", "tool_choice"):
                    piece = replace(piece, doubt=piece.doubt + drift(self._known, self._counter))
                yield piece

    def _model(self, same: Iterable[tuple[Item, Item]]) -> Piece:
        """What another model makes of unchanged blocks: another tokenizer reads every one anew, and what
        cannot be counted (a PDF, what MCP servers bring) is of another size whatever the tokenizer.
        """
        same = tuple(same)
        alike = _reads_alike(self._was.model, self._now.model)
        unknown = self._uncountable(now for _, now in same if not (alike and now.block.kind in THINKING))
        if alike:
            return Piece("model", 0, doubt=2, unknown=unknown)
        sizes = [
            (_size(was.rendered(), was.model, self._counter), _size(now.rendered(), now.model, self._counter))
            for was, now in same
        ]
        return Piece(
            "model",
            tokens=sum(
                now.tokens - was.tokens + self._scaled(now.counted - was.counted) for was, now in sizes
            ),
            edited=self._scaled(sum(max(was.counted, now.counted) for was, now in sizes)),
            guessed=0.0 if self._counter.exact else sum(now.counted * guessed(now.text) for _, now in sizes),
            doubt=sum(now.doubt for _, now in sizes) + 5,
            unknown=unknown,
        )

    def _uncountable(self, kept: Iterable[Item]) -> str | None:
        """Return why one of the blocks that both prompts hold, or an option, cannot be counted, or None."""
        rendered = chain((item.rendered() for item in kept), render_options(self._now).values())
        return next((shown.unknown for shown in rendered if shown.unknown), None)

    def _piece(self, where: str, counted: _Counted) -> Piece:
        was, now, change = counted.was, counted.now, counted.change
        return Piece(
            where,
            tokens=now.tokens - was.tokens + self._scaled(now.counted - was.counted),
            edited=self._scaled(counted.edited),
            guessed=self._scaled(counted.guessed),
            doubt=was.doubt + now.doubt,
            unknown=now.unknown or was.unknown,
            was=None if change.was is None else change.was.block,
            now=None if change.now is None else change.now.block,
        )

    def _scaled(self, counted: float) -> float:
        return counted * self._scale if counted else 0.0

    @cached_property
    def _scale(self) -> float:
        return calibration(self._known, self._counter)


@lru_cache(maxsize=64)
def _heads_counted(apart: Difference, counter: Counter) -> tuple[_Counted, ...]:
    return _counted(apart, counter, {})


def _counted(apart: Difference, counter: Counter, answers: Mapping[str, int]) -> tuple[_Counted, ...]:
    """Every change with what both sides count."""
    sizes = _sizes((change.was for change in apart.changes), counter, answers)
    sizes |= _sizes((change.now for change in apart.changes), counter, answers)
    return tuple(
        _both(
            change,
            _NOTHING if change.was is None else sizes[id(change.was)],
            _NOTHING if change.now is None else sizes[id(change.now)],
            counter.exact,
        )
        for change in apart.changes
    )


def _both(change: Change, was: Size, now: Size, exact: bool) -> _Counted:
    """What is edited lies between what both texts begin and end with."""
    begin, end = kept(was.text, now.text)
    edited, text = max(
        (
            (size.counted * (1 - (begin + end) / len(size.text)), size.text[begin : len(size.text) - end])
            for size in (was, now)
            if size.text
        ),
        default=(0.0, ""),
    )
    return _Counted(change, was, now, edited, 0.0 if exact else edited * guessed(text))


def _sizes(changed: Iterable[Item | None], counter: Counter, answers: Mapping[str, int]) -> dict[int, Size]:
    """What each item counts, by its id; whole assistant turns by what their answers were billed."""
    items = {id(item.block): item for item in changed if item is not None}
    sizes: dict[int, Size] = {}
    for digest, blocks in assistant_messages(item.block for item in items.values()):
        message = [items[id(block)] for block in blocks]
        if digest in answers and not any(item.place.surroundings.dropped for item in message):
            sizes |= _billed(message, answers[digest])
    for item in items.values():
        if id(item) not in sizes:
            sizes[id(item)] = _size(item.rendered(), item.model, counter, item.place.framing)
    return sizes


def _size(rendered: Rendered, model: str, counter: Counter, framing: int = 0) -> Size:
    family = model_row(model).family
    counted = sum(counter.count(text, family) for text in rendered.texts)
    text = "".join(rendered.texts)
    return Size(rendered.tokens + framing, text, counted, rendered.doubt, rendered.unknown)


def _billed(message: list[Item], output_tokens: int) -> dict[int, Size]:
    """An answer's tokens, shared out among its blocks by their length."""
    doubt = 2 if any(item.block.kind in THINKING for item in message) else 0
    lengths = [len(str(item.block.content)) for item in message]
    return {
        id(item): Size(output_tokens * length / sum(lengths), doubt=doubt)
        for item, length in zip(message, lengths, strict=True)
    }


def _reads_alike(was: str, now: str) -> bool:
    """Whether two models are known to render and tokenise a block alike."""
    before, after = model_row(was), model_row(now)
    if STAND_IN in (before, after):
        return False
    return (before.family, before.escapes) == (after.family, after.escapes)
