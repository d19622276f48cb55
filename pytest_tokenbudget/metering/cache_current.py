"""Tokens of every prefix of a changed run: recorded where they still hold, else by the counted difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_tokenbudget.metering.cache_chain import Chain, chain, same_prompt
from pytest_tokenbudget.metering.cache_rules import not_simulated, tool_prompt
from pytest_tokenbudget.metering.counting import Counter
from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.models import Family, model_row
from pytest_tokenbudget.metering.prefix_sizes import (
    Unsized,
    Weight,
    cheap_weights,
    first_message,
    prefix_sizes,
)
from pytest_tokenbudget.metering.prompt_cache import CacheTurn
from pytest_tokenbudget.wire.prompt import Prompt

_BlockSizes = Mapping[tuple[Family, str], int]


@dataclass(frozen=True, slots=True)
class CurrentTurn:
    """The request that a recorded turn answers now."""

    prompt: Prompt
    prompt_tokens: int | None
    """Of the whole prompt; None where they cannot be counted."""
    parts: tuple[Part, ...] = ()
    """Of the difference to what was recorded, by block."""


def measure_current(
    recorded: Sequence[CacheTurn], current: Sequence[CurrentTurn | None], counter: Counter
) -> tuple[CacheTurn | None, ...]:
    """The turns as asked now, each beside the recorded one that answers it; None where it is not asked.

    An unchanged turn is the recorded one. A turn whose prompt tokens are unknown is measured by its weights,
    so that it can stand in its place.
    """
    prefixes: dict[str, int] = {}
    blocks: dict[tuple[Family, str], int] = {}
    for turn in recorded:
        family, begin = model_row(turn.chain.prompt.model).family, 0
        for link, size in zip(turn.chain.links, turn.sizes, strict=True):
            prefixes.setdefault(link.key, size)
            blocks.setdefault((family, link.digest), size - begin)
            begin = size
    turns: list[CacheTurn | None] = [None] * len(current)
    asked: dict[int, Unsized] = {}
    for index, (was, now) in enumerate(zip(recorded, current, strict=True)):
        if now is None:
            continue
        if same_prompt(now.prompt, was.chain.prompt):
            turns[index] = was
            continue
        its = chain(now.prompt)
        total = now.prompt_tokens if not_simulated(now.prompt) is None else None
        if its.links and was.sizes and total is not None:
            after = was.total - was.sizes[-1]
            prefixes.setdefault(its.links[-1].key, max(total - after, 0))
        asked[index] = Unsized(its, total, _weights(its, was.chain, now.parts, blocks, counter))
    measured = prefix_sizes(list(asked.values()), prefixes)
    for (index, unsized), sizes in zip(asked.items(), measured, strict=True):
        total = unsized.whole(sizes)
        turns[index] = replace(recorded[index], chain=unsized.chain, sizes=sizes, total=total)
    return tuple(turns)


def _weights(
    its: Chain, was: Chain, parts: Sequence[Part], blocks: _BlockSizes, counter: Counter
) -> tuple[Weight, ...]:
    """By position: the size of a block that was recorded, else what was counted, else a cheap weight."""
    family = model_row(its.prompt.model).family
    counted = {part.now.where: part for part in parts if part.now is not None}
    # What tools and a forced choice add after the system prompt is counted to the first message.
    first, more = first_message(its), tool_prompt(its.prompt)[1] - tool_prompt(was.prompt)[1]
    weights: list[Weight | None] = []
    for position, link in enumerate(its.links):
        added = more if position == first else 0
        part = counted.get(link.block.where)
        size = blocks.get((family, link.digest))
        before = blocks.get((family, part.was.digest)) if part and part.was else 0
        if size is not None:
            weights.append(Weight(fixed=max(size + added, 0)))
        elif part is not None and before is not None:
            weights.append(Weight(fixed=max(added, 0), share=max(before + part.tokens, 0)))
        else:
            weights.append(None)
    if None not in weights:
        return tuple(weight for weight in weights if weight)
    cheap = cheap_weights(its, counter)
    return tuple(weight or cheap[position] for position, weight in enumerate(weights))
