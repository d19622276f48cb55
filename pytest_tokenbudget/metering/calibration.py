"""How far a count may be trusted: its scale by a recorded total, and its interval."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_tokenbudget.metering.counting import Counter
from pytest_tokenbudget.metering.difference import items
from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.metering.places import envelope
from pytest_tokenbudget.metering.prompt_options import render_options
from pytest_tokenbudget.wire.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Known:
    """A recorded request, and the prompt tokens that its answer tells."""

    prompt: Prompt
    prompt_tokens: int
    worked: str | None = None
    """What the API did by itself, so that these are the tokens of another prompt (`history.worked`)."""


# Text tokens that the counter's own scale is worth: a short recording says little about a long edit.
_PRIOR = 500
_LARGEST = 1.2


def calibration(known: Known, counter: Counter) -> float:
    """What a counter's tokens of text are to be multiplied with, to agree with the recorded total.

    1 for an exact counter, and where the recorded prompt holds what cannot be counted.
    """
    total = None if counter.exact else _total(known, counter)
    if total is None:
        return 1.0
    scale = (known.prompt_tokens - total.constants + _PRIOR) / (total.counted + _PRIOR)
    return min(_LARGEST, max(1 / _LARGEST, scale))


def drift(known: Known, counter: Counter) -> int:
    """How far the constants of a recorded request seem to be off: what its texts do not explain of its total.

    The tool-use prompt changes on the server; this tells by how much at most, where an option changes.
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


def _total(known: Known, counter: Counter) -> _Total | None:
    """Of a whole prompt; None where it holds what cannot be counted."""
    family = model_row(known.prompt.model).family
    placed = items(known.prompt)
    rendered = [item.rendered() for item in placed] + list(render_options(known.prompt).values())
    if known.worked or any(one.unknown for one in rendered):
        return None
    constants = sum(item.place.framing for item in placed) + sum(one.tokens for one in rendered)
    constants += envelope(known.prompt)
    return _Total(constants, sum(counter.count(text, family) for one in rendered for text in one.texts))


def doubt(edited: float, guessed: float, constants: int, counter: Counter, *, known: bool) -> float:
    """Half the width of the interval of a difference: at least nine of ten truths lie within.

    `edited` is in tokens of text that was taken out or put in, `guessed` those of them that the counter tells
    by the length and script of words alone; `constants` is what they may be off, and `known` says that the
    tokenizer is the model's own. The rates are from `benchmarks/accuracy.py`, that of what is guessed from
    sentences in fifteen languages (`tests/metering/test_intervals.py`).
    """
    rate = 0.08 if not counter.exact else 0.01 if known else 0.12
    return 1 + constants + rate * edited + 0.4 * guessed
