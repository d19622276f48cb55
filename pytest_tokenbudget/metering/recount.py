"""Changed requests counted by somebody who knows: two exact counts, their difference on the recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pytest_tokenbudget.metering.estimate import Estimate, Part
from pytest_tokenbudget.model import Basis
from pytest_tokenbudget.wire.prompt import Prompt

CountPrompts = Callable[[Sequence[Prompt]], Sequence[int | None]]
"""Prompt tokens of each prompt; None where it could not be counted."""


def recounted(
    estimates: Sequence[Estimate],
    prompts: Sequence[tuple[Prompt, Prompt]],
    recorded: Sequence[int],
    count: CountPrompts,
) -> list[Estimate]:
    """The estimates, those of changed requests by exact counts; as they were where one is missing.

    `prompts` holds the recorded and the new prompt of each, `recorded` its recorded prompt tokens. Both
    prompts are counted, so that what a count leaves out or adds cancels.
    """
    changed = [n for n, one in enumerate(estimates) if one.basis != Basis.RECORDED]
    if not changed:
        return list(estimates)
    counts = count([prompt for n in changed for prompt in prompts[n]])
    found = list(estimates)
    for place, n in enumerate(changed):
        was, now = counts[2 * place], counts[2 * place + 1]
        if was is not None and now is not None:
            found[n] = _exact(estimates[n], recorded[n] + now - was, recorded[n])
    return found


def _exact(estimate: Estimate, total: int, recorded: int) -> Estimate:
    """With parts that add up: what they are off by goes to the largest of them."""
    parts = list(estimate.parts)
    rest = total - recorded - sum(part.tokens for part in parts)
    if rest and parts:
        largest = max(range(len(parts)), key=lambda n: abs(parts[n].tokens))
        parts[largest] = replace(parts[largest], tokens=parts[largest].tokens + rest)
    elif rest:
        parts = [Part("request", "changed", rest)]
    return Estimate(total, Basis.COUNTED, total, total, tuple(parts))
