"""Tokens of every prefix of a prompt: known totals, split over the blocks by their weights.

What is known exactly holds: the whole prompt of each turn, and each prefix that an answer reports as read or
written. Between two known prefixes the blocks share the difference by their weights. A prefix that two turns
share has one size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_tokenbudget.metering.cache_chain import Chain
from pytest_tokenbudget.metering.cache_rules import after_last_block, tool_prompt
from pytest_tokenbudget.metering.counting import Counter
from pytest_tokenbudget.metering.rendering import block_weights


@dataclass(frozen=True, slots=True)
class Weight:
    """What one block takes of a known total: a size that is kept, and a share of what the others leave."""

    fixed: float = 0.0
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Unsized:
    """One turn whose prefixes are to be measured."""

    chain: Chain
    total: int | None
    """Tokens of the whole prompt; None where they are not known: the weights are then taken as sizes."""
    weights: Sequence[Weight]
    """By position."""

    def whole(self, sizes: tuple[int, ...]) -> int:
        """Tokens of the whole prompt, whose prefixes have these `sizes`."""
        if self.total is not None:
            return self.total
        return (sizes[-1] if sizes else 0) + after_last_block(self.chain.prompt)


def cheap_weights(chain: Chain, counter: Counter) -> tuple[Weight, ...]:
    """By position, for sharing out a known total: no tokenizer is loaded.

    What tools add after the system prompt is counted to the first message.
    """
    shares = block_weights(chain.prompt, counter)
    weights = [Weight(share=shares[link.index]) for link in chain.links]
    whole, late = tool_prompt(chain.prompt)
    first = first_message(chain)
    if whole:
        weights[0] = Weight(whole - late, max(weights[0].share - whole, 0.0))
        if first is not None:
            weights[first] = replace(weights[first], fixed=late)
    return tuple(weights)


def first_message(chain: Chain) -> int | None:
    """Position of the first block of the messages."""
    return next((p for p, link in enumerate(chain.links) if link.block.level == "messages"), None)


def prefix_sizes(turns: Sequence[Unsized], exact: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
    """By turn and position: tokens of the prefix that ends there, never decreasing, never above the total.

    `exact` holds known sizes by key of the prefix. Linear in the blocks of all turns.
    """
    sizes = dict(exact)
    for turn in turns:
        if turn.chain.links and turn.total is not None:
            end = max(turn.total - after_last_block(turn.chain.prompt), 0)
            sizes.setdefault(turn.chain.links[-1].key, end)
    measured: dict[int, tuple[int, ...]] = {}
    for index in sorted(range(len(turns)), key=lambda index: turns[index].total is None):
        measured[index] = _between_known(turns[index], sizes)
        for link, size in zip(turns[index].chain.links, measured[index], strict=True):
            sizes.setdefault(link.key, size)
    return tuple(measured[index] for index in range(len(turns)))


def _between_known(turn: Unsized, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Sizes of one turn's prefixes; a known size that contradicts a later one is passed over."""
    known: list[tuple[int, int]] = []
    limit = turn.total
    for position in reversed(range(len(turn.chain.links))):
        size = sizes.get(turn.chain.links[position].key)
        if size is not None and (limit is None or size <= limit):
            known.append((position, size))
            limit = size
    measured: list[int] = []
    begin = 0
    for position, end in reversed(known):
        measured += _shared_out(begin, end, turn.weights[len(measured) : position + 1])
        begin = end
    rest = turn.weights[len(measured) :]
    end = turn.total if turn.total is not None else begin + round(sum(w.fixed + w.share for w in rest))
    return (*measured, *_shared_out(begin, end, rest))


def _shared_out(begin: int, end: int, weights: Sequence[Weight]) -> list[int]:
    """Prefix sizes after each of `weights`, from `begin` to `end`: fixed sizes are kept if that can be."""
    fixed = sum(weight.fixed for weight in weights)
    shares = sum(weight.share for weight in weights)
    room = end - begin
    if not weights:
        return []
    if shares > 0 and fixed <= room:
        parts = [weight.fixed + weight.share * (room - fixed) / shares for weight in weights]
    elif fixed + shares > 0:
        parts = [(weight.fixed + weight.share) * room / (fixed + shares) for weight in weights]
    else:
        parts = [room / len(weights)] * len(weights)
    sizes = []
    reached = float(begin)
    for part in parts:
        reached += part
        sizes.append(min(round(reached), end))
    sizes[-1] = end
    return sizes
