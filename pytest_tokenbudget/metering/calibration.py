"""How far a count may be trusted: its scale by a recorded total, and its interval."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_tokenbudget.metering.counting import Counter, family
from pytest_tokenbudget.metering.difference import items
from pytest_tokenbudget.metering.rendering import render_options
from pytest_tokenbudget.wire.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Known:
    """A recorded request, and the prompt tokens that its answer tells."""

    prompt: Prompt
    prompt_tokens: int
    looped: bool = False
    """Whether the API ran tools of its own within the request, so that its tokens are of several prompts
    (`history.looped`)."""


# Text tokens that the counter's own scale is worth: a short recording says little about a long edit.
_PRIOR = 500
_LARGEST = 1.2


def calibration(known: Known, counter: Counter) -> float:
    """What a counter's tokens of text are to be multiplied with, to agree with the recorded total.

    1 for an exact counter, and where the recorded prompt holds what cannot be counted.
    """
    if counter.exact:
        return 1.0
    kin = family(known.prompt.model)
    rendered = [item.rendered() for item in items(known.prompt)]
    constants = sum(item.place.framing for item in items(known.prompt))
    rendered += render_options(known.prompt).values()
    if any(one.unknown for one in rendered):
        return 1.0
    constants += sum(one.tokens for one in rendered)
    counted = sum(counter.count(text, kin) for one in rendered for text in one.texts)
    scale = (known.prompt_tokens - constants + _PRIOR) / (counted + _PRIOR)
    return min(_LARGEST, max(1 / _LARGEST, scale))


def doubt(edited: float, constants: int, *, exact: bool) -> float:
    """Half the width of the interval of a difference: at least nine of ten truths lie within."""
    rate = 0.02 if exact else 0.12
    return 1 + constants + rate * edited
