"""Estimate the tokens of a changed request: what was recorded, plus the counted difference.

The difference is counted piece by piece and scaled by the recorded total, which also gives its interval.
An assistant turn that comes back in a later prompt has the size that its answer was billed. Where somebody
can count exactly, two exact counts replace the estimate, and their difference is applied to the recording.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, groupby
from types import MappingProxyType
from typing import Any, Literal

from pytest_tokenbudget.metering.counting import Counter, guessed
from pytest_tokenbudget.metering.difference import Change, Difference, Item, differences, items, kept
from pytest_tokenbudget.metering.models import STAND_IN, model_name, model_row
from pytest_tokenbudget.metering.rendering import Rendered, envelope, render_options
from pytest_tokenbudget.model import Basis
from pytest_tokenbudget.wire.prompt import THINKING, Block, Prompt, as_mapping, digest, mappings, same_options
from pytest_tokenbudget.wire.requests import sorted_keys


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of the difference between a recorded prompt and the one sent now."""

    where: str
    """Its place in the new body, or in the recorded one where it was removed: `system[0]`, `tools[2]`,
    `messages[4].content[1]`; or an option (`tool_choice`, `thinking`, ...), `tools` for the tool-use prompt,
    `model`, or `framing`."""
    change: Literal["added", "removed", "changed"]
    tokens: int
    """Tokens that the prompt grew by; negative where it shrank."""
    was: Block | None = None
    now: Block | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Prompt tokens of one request, with their basis and, where they are estimated, their interval."""

    prompt_tokens: int | None
    """The tokens of the whole prompt; None where they cannot be counted offline."""
    basis: Basis
    low: int | None = None
    high: int | None = None
    """`low` to `high` holds the truth in at least nine of ten cases; both are `prompt_tokens` if recorded."""
    parts: tuple[Part, ...] = ()
    """They add up to `prompt_tokens` minus the recorded prompt tokens."""
    reason: str | None = None
    """Where something cannot be counted, and what; or why even an exact counter only estimates."""


_NOTHING: Mapping[str, int] = MappingProxyType({})
_WELL_ENOUGH = 0.01  # half width of the interval, as a part of the recorded prompt


def estimate(
    recorded: Known,
    new: Prompt,
    counter: Counter,
    *,
    near: Sequence[Known] = (),
    answers: Mapping[str, int] = _NOTHING,
) -> Estimate:
    """Return the prompt tokens of `new`: those of the request it is paired with, plus the difference.

    `near` holds a few other recorded requests of the scenario (the turns before and after this one). Where
    the paired request gives a wide interval, the one that gives the narrowest is counted from. `answers`
    holds what earlier answers of the scenario add to a prompt (`fed_back_tokens`), so that no assistant turn
    that comes back verbatim is counted.
    """
    best = _Measured.of(recorded, new, counter, answers)
    # If the first estimate is within 1 %, the neighbouring turns gain nothing.
    for other in near if best.half_width > _WELL_ENOUGH * recorded.prompt_tokens else ():
        measured = _Measured.of(other, new, counter, answers)
        if measured.half_width < best.half_width:
            best = measured
    return best.estimate(recorded.prompt_tokens)


def assumed(*models: str, told: str = "what changed is estimated as the newest models read it") -> str | None:
    """Return a sentence that names those of `models` that have no row of their own, or None if all have.

    `told` is what that means.
    """
    names = list(dict.fromkeys(model for model in models if model_row(model) is STAND_IN))
    if not names:
        return None
    verb = "is not a known model" if len(names) == 1 else "are not known models"
    return f"{' and '.join(names)} {verb}: {told}"


@dataclass(frozen=True, slots=True)
class _Measured:
    """The difference of a new prompt to one that is known."""

    base: Known
    pieces: tuple[Piece, ...]
    half_width: float
    """Half the width of the interval, in tokens: 0 if nothing changed, infinite if it cannot be counted."""
    basis: Basis
    reason: str | None = None

    @classmethod
    def of(cls, base: Known, new: Prompt, counter: Counter, answers: Mapping[str, int]) -> _Measured:
        pieces = compare(base, new, counter, answers)
        if not pieces:
            return cls(base, (), 0.0, Basis.RECORDED)
        reasons = [f"{piece.where}: {piece.unknown}" for piece in pieces if piece.unknown]
        if base.worked:
            reasons.insert(0, base.worked)
        if reasons:
            unknown = cls(base, pieces, math.inf, Basis.UNKNOWN, "; ".join(reasons))
            return unknown._as_what_is_left(new, counter) or unknown
        constants = sum(piece.doubt for piece in pieces)
        reason = assumed(base.prompt.model, new.model)
        edited, guessed = sum(piece.edited for piece in pieces), sum(piece.guessed for piece in pieces)
        half_width = doubt(edited, guessed, constants, counter, known=reason is None)
        certain = counter.exact and reason is None and not constants
        basis = Basis.COUNTED if certain else Basis.ESTIMATED
        return cls(base, pieces, half_width, basis, reason)

    def _as_what_is_left(self, new: Prompt, counter: Counter) -> _Measured | None:
        """Return the difference if one thing that cannot be counted is gone, and all that is left can be.

        It had what was billed beside all else. None if several are gone, so that nobody knows how much each
        of them was, and if no more was billed than the rest counts.
        """
        hidden = [piece for piece in self.pieces if piece.unknown]
        is_known = not (self.base.worked or assumed(self.base.prompt.model, new.model))
        total = _total(Known(new, 0), counter) if is_known and len(hidden) == 1 else None
        if total is None or hidden[0].was is None:
            return None
        others = sum(piece.tokens for piece in self.pieces if piece is not hidden[0])
        tokens = total.whole - self.base.prompt_tokens - others
        if tokens >= 0:
            return None
        gone = replace(hidden[0], tokens=tokens, unknown=None)
        pieces = tuple(gone if piece is hidden[0] else piece for piece in self.pieces)
        return _Measured(self.base, pieces, total.half_width(counter), Basis.ESTIMATED)

    def estimate(self, recorded_prompt_tokens: int) -> Estimate:
        if self.basis is Basis.UNKNOWN:
            return Estimate(None, self.basis, reason=self.reason)
        parts = _parts(self.pieces, self.base.prompt_tokens - recorded_prompt_tokens)
        total = recorded_prompt_tokens + sum(part.tokens for part in parts)
        if total <= 0:
            told = f"the recorded answer reports {self.base.prompt_tokens} prompt tokens"
            reason = f"{told}, no more than were taken out of its prompt"
            return Estimate(None, Basis.UNKNOWN, reason=reason)
        half = math.ceil(self.half_width)
        return Estimate(total, self.basis, max(0, total - half), total + half, parts, self.reason)


def _parts(pieces: tuple[Piece, ...], apart: int) -> tuple[Part, ...]:
    """Return the pieces as parts, rounded so that they add up to the rounded sum.

    `apart` is by how many tokens the request that was counted from differs from the paired one.
    """
    if apart:
        pieces = (*pieces, Piece("framing", apart))
    parts, exact, rounded = [], 0.0, 0
    for piece in pieces:
        exact += piece.tokens
        tokens = round(exact) - rounded
        rounded += tokens
        parts.append(Part(piece.where, _change(piece), tokens, piece.was, piece.now))
    return tuple(parts)


def _change(piece: Piece) -> Literal["added", "removed", "changed"]:
    if (piece.was is None) == (piece.now is None):
        return "changed"
    return "added" if piece.was is None else "removed"


@dataclass(frozen=True, slots=True)
class Known:
    """A recorded request, and the prompt tokens that its answer tells."""

    prompt: Prompt
    prompt_tokens: int
    worked: str | None = None
    """What the API did by itself, so that these are the tokens of another prompt (`worked`)."""


# Text tokens that the counter's own scale weighs: a short recording says little about a long edit.
_PRIOR = 500
_LARGEST = 1.2  # the factor stays between 1 / 1.2 and 1.2


def calibration(known: Known, counter: Counter) -> float:
    """Return the factor by which a counter's tokens of text are multiplied to agree with the recorded total.

    It is 1 for an exact counter, and where the recorded prompt holds what cannot be counted.
    """
    total = None if counter.exact else _total(known, counter)
    if total is None:
        return 1.0
    scale = (known.prompt_tokens - total.constants + _PRIOR) / (total.counted + _PRIOR)
    return min(_LARGEST, max(1 / _LARGEST, scale))


def drift(known: Known, counter: Counter) -> int:
    """Return the tokens of a recorded total that neither its texts nor the known constants explain.

    The tool-use prompt changes on the server. This bounds by how much, where an option changes.
    """
    total = _total(known, counter)
    if total is None:
        return 0
    apart = abs(known.prompt_tokens - total.constants - total.counted)
    return max(0, round(apart - (2 if counter.exact else 2 + 0.1 * total.counted)))


@dataclass(frozen=True, slots=True)
class _Total:
    constants: int
    counted: int
    doubt: int
    """By how many tokens the constants may be wrong; the tool-use prompt by all of it: servers change it."""
    text: str

    @property
    def whole(self) -> int:
        """Return the tokens of the whole prompt."""
        return self.constants + self.counted

    def half_width(self, counter: Counter) -> float:
        """Return half the width of its interval, in tokens, on a model that has a row."""
        rough = 0.0 if counter.exact else self.counted * guessed(self.text)
        return doubt(self.counted, rough, self.doubt, counter, known=True)


def _total(known: Known, counter: Counter) -> _Total | None:
    """Count a whole recorded prompt; return None if it holds what cannot be counted."""
    family = model_row(known.prompt.model).family
    placed = items(known.prompt)
    options = render_options(known.prompt)
    rendered = [item.rendered() for item in placed] + list(options.values())
    if known.worked or any(one.unknown for one in rendered):
        return None
    constants = sum(item.place.framing for item in placed) + sum(one.tokens for one in rendered)
    constants += envelope(known.prompt)
    texts = [text for one in rendered for text in one.texts]
    counted = sum(counter.count(text, family) for text in texts)
    tool_prompt = sum(options[name].tokens for name in ("tools", "tool_choice") if name in options)
    return _Total(constants, counted, tool_prompt + sum(one.doubt for one in rendered), "".join(texts))


_APART, _LEAST = 0.2, 200  # a part of what a prompt counts, and tokens


def misbilled(known: Known, counter: Counter) -> int | None:
    """Return what a recorded prompt counts, if the tokens that its answer tells cannot be its own; else None.

    They cannot be where they are more than 20 % and 200 tokens off, and outside the interval of the count.
    None also where the prompt holds what cannot be counted, and for a model that has no row.
    """
    total = None if assumed(known.prompt.model) else _total(known, counter)
    if total is None:
        return None
    is_outside = abs(known.prompt_tokens - total.whole) > total.half_width(counter)
    return total.whole if is_outside and are_apart(known.prompt_tokens, total.whole) else None


def are_apart(tokens: float, counted: float, edited: float | None = None) -> bool:
    """Return whether tokens are off what is counted by more than 200, and 20 % of it or of the `edited`."""
    return abs(tokens - counted) > max(_APART * (counted if edited is None else edited), _LEAST)


def doubt(edited: float, guessed: float, constants: int, counter: Counter, *, known: bool) -> float:
    """Return half the width of the interval of a difference, which holds at least nine of ten truths.

    All sizes are in tokens. `edited` is text that was taken out or put in; `guessed` is the part of it that
    the counter knows by the length and script of its words alone. `constants` is by how much these may be
    wrong. `known` says that the tokenizer is the model's own. The rates are from `benchmarks/accuracy.py`,
    that of guessed text from sentences in fifteen languages (`tests/metering/test_intervals.py`). A counter
    that is not exact rounds both sides.
    """
    rounding = 1 if counter.exact else 2
    rate = 0.08 if not counter.exact else 0.01 if known else 0.12
    return rounding + constants + rate * edited + 0.4 * guessed


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the difference, before it is rounded."""

    where: str
    tokens: float
    edited: float = 0.0
    """Counted tokens of text that was taken out or put in: what a counter may be wrong about."""
    guessed: float = 0.0
    """Those of the edited tokens that the counter knows by the length and script of words alone."""
    doubt: int = 0
    """By how many tokens constants may be wrong."""
    unknown: str | None = None
    was: Block | None = None
    now: Block | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """What one block or option counts."""

    tokens: float = 0.0
    """Tokens beside its text."""
    text: str = ""
    counted: int = 0
    """Tokens of the text, as the counter has them."""
    doubt: int = 0
    unknown: str | None = None


_NO_SIZE = Size()


@dataclass(frozen=True, slots=True)
class _Counted:
    """A change, both sides counted."""

    change: Change
    was: Size
    now: Size
    edited: float
    """Counted tokens that were taken out, or put in, whichever are more."""
    guessed: float
    """Those of the edited tokens that are known by the length and script of words alone."""

    @property
    def where(self) -> str:
        item = self.change.now or self.change.was
        assert item is not None
        return item.block.where


def compare(known: Known, new: Prompt, counter: Counter, answers: Mapping[str, int]) -> tuple[Piece, ...]:
    """Return the pieces of `new` minus `known`; none, and nothing is counted, where both ask the same."""
    if _asks(known.prompt) == _asks(new) and same_options(known.prompt, new):
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
        """Return the piece that another model adds to the blocks that did not change.

        Another tokenizer reads every block anew. What cannot be counted (a PDF, what MCP servers bring) has
        another size on another model whatever the tokenizer.
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


@lru_cache(maxsize=16)
def _heads_counted(apart: Difference, counter: Counter) -> tuple[_Counted, ...]:
    return _counted(apart, counter, {})


def _counted(apart: Difference, counter: Counter, answers: Mapping[str, int]) -> tuple[_Counted, ...]:
    """Return every change with the sizes of both its sides."""
    sizes = _sizes((change.was for change in apart.changes), counter, answers)
    sizes |= _sizes((change.now for change in apart.changes), counter, answers)
    return tuple(
        _both(
            change,
            _NO_SIZE if change.was is None else sizes[id(change.was)],
            _NO_SIZE if change.now is None else sizes[id(change.now)],
            counter.exact,
        )
        for change in apart.changes
    )


def _both(change: Change, was: Size, now: Size, exact: bool) -> _Counted:
    """Join a change and the sizes of its sides; edited is what both texts do not begin or end with."""
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
    """Return the size of each item by its `id()`; whole assistant turns have what their answers billed."""
    items = {id(item.block): item for item in changed if item is not None}
    sizes: dict[int, Size] = {}
    for said, blocks in assistant_messages(item.block for item in items.values()):
        message = [items[id(block)] for block in blocks]
        if said in answers and not any(item.place.surroundings.dropped for item in message):
            sizes |= _billed(message, answers[said])
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
    """Share an answer's billed tokens out among its blocks, by the length of their content."""
    doubt = 2 if any(item.block.kind in THINKING for item in message) else 0
    lengths = [len(str(item.block.content)) for item in message]
    return {
        id(item): Size(output_tokens * length / sum(lengths), doubt=doubt)
        for item, length in zip(message, lengths, strict=True)
    }


def _reads_alike(was: str, now: str) -> bool:
    """Return whether two models are known to render and tokenise a block alike."""
    before, after = model_row(was), model_row(now)
    if STAND_IN in (before, after):
        return False
    return (before.family, before.escapes) == (after.family, after.escapes)


_SAID = {
    "text": ("text",),
    "tool_use": ("name", "input"),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
}


def message_digest(contents: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the digest of what an assistant message says, however a client writes it.

    Ids, citations and cache markers do not count, nor do white space around text, empty blocks, or the order
    of keys in the input of a tool. Returns None for an empty message, and where a server tool had a part in
    it.
    """
    said: list[object] = []
    for content in contents:
        kind = str(content.get("type", "text"))
        if kind not in _SAID:
            return None
        values = [content.get(name) for name in _SAID[kind]]
        if kind == "text":
            values = [str(values[0] or "").strip()]
        if any(values):
            said.append([kind, *values])
    return digest(sorted_keys(said)) if said else None


def fed_back_tokens(prompt: Prompt, message: Mapping[str, Any], output_tokens: int) -> dict[str, int]:
    """Return the tokens that the answer `message` adds to a later prompt that holds it, by its digest.

    `prompt` is the one it answers. Empty where its output tokens do not tell: the API wrote the beginning of
    a forced tool call itself, the results of server tools come on top, and nested tool input is written anew,
    with white space of its own.
    """
    contents = list(mappings(message.get("content")))
    key = message_digest(contents)
    choice = prompt.options.get("tool_choice")
    forced = isinstance(choice, Mapping) and choice.get("type") in ("any", "tool")
    if key is None or forced or any(map(_nested, contents)):
        return {}
    # An answer that ran its course is billed for ending its turn; one that was cut short gets that end later.
    ended = message.get("stop_reason") in ("end_turn", "tool_use")
    framing = model_row(prompt.model).framing
    calls = any(content.get("type") == "tool_use" for content in contents)
    added = (0 if ended else framing.message) + (framing.calls_fed_back if calls else 0)
    return {key: max(output_tokens + added, 0)}


def worked(message: Mapping[str, Any]) -> str | None:
    """Return what the API did by itself for an answer, so that it billed another prompt than the one sent.

    It may also have billed several. Returns None if it did nothing by itself.
    """
    kinds = {str(content.get("type")) for content in mappings(message.get("content"))}
    if kinds & {"server_tool_use", "mcp_tool_use"}:
        return "the API ran tools of its own for the recorded answer, and billed several prompts"
    if len(as_mapping(message.get("usage")).get("iterations") or ()) > 1:
        return "the recorded answer took several prompts (usage.iterations), and the API billed each"
    if as_mapping(message.get("context_management")).get("applied_edits"):
        return "the API left a part of the recorded prompt out (context_management)"
    return None


def _nested(content: Mapping[str, Any]) -> bool:
    given = content.get("input")
    return isinstance(given, Mapping) and any(isinstance(value, dict | list) for value in given.values())


def assistant_messages(blocks: Iterable[Block]) -> Iterator[tuple[str, tuple[Block, ...]]]:
    """Yield (digest, blocks) of each assistant message that may be an answer fed back."""
    for (role, _), grouped in groupby(blocks, lambda block: (block.role, block.message)):
        message = tuple(grouped)
        if role == "assistant":
            key = message_digest(block.content for block in message)
            if key is not None:
                yield key, message


CountPrompts = Callable[[Sequence[Prompt]], Sequence[int | None]]
"""Prompt tokens of each prompt; None where it could not be counted."""


def recounted(
    estimates: Sequence[Estimate],
    prompts: Sequence[tuple[Prompt, Prompt]],
    recorded: Sequence[int],
    count: CountPrompts,
) -> list[Estimate]:
    """Return the estimates, those of changed requests replaced by exact counts where there are any.

    `prompts` holds the recorded and the new prompt of each estimate, `recorded` its recorded prompt tokens.
    Both prompts are counted, so that what a count leaves out or adds cancels. An estimate stays where a count
    is missing.
    """
    changed = [n for n, one in enumerate(estimates) if one.basis != Basis.RECORDED]
    if not changed:
        return list(estimates)
    counts = count([prompt for n in changed for prompt in prompts[n]])
    found = list(estimates)
    for place, n in enumerate(changed):
        was, now = counts[2 * place], counts[2 * place + 1]
        if was is not None and now is not None:
            found[n] = exactly(estimates[n], recorded[n] + now - was, recorded[n])
    return found


def exactly(estimate: Estimate, total: int, recorded: int) -> Estimate:
    """Return an exact estimate of `total` tokens with the parts of `estimate`.

    What the parts do not add up to goes to the largest of them, or to a part of its own.
    """
    parts = list(estimate.parts)
    rest = total - recorded - sum(part.tokens for part in parts)
    if rest and parts:
        largest = max(range(len(parts)), key=lambda n: abs(parts[n].tokens))
        parts[largest] = replace(parts[largest], tokens=parts[largest].tokens + rest)
    elif rest:
        parts = [Part("request", "changed", rest)]
    return Estimate(total, Basis.COUNTED, total, total, tuple(parts))
