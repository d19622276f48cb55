"""What a context is made of, and what conversations drag along: blocks that are re-sent turn after turn."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate, pairwise

from pytest_tokenbudget.advice.layout import READ_TO_UNCACHED, Asked, LaidOut
from pytest_tokenbudget.diagnosis.prompt_parts import opening_of, place, tool_names
from pytest_tokenbudget.metering.cache_split import beside_blocks
from pytest_tokenbudget.model import Finding, FindingKind, Rate
from pytest_tokenbudget.wire.prompt import Block
from pytest_tokenbudget.wording import plural, unsigned_percent

PARTS = ("system", "tools", "conversation", "tool results", "thinking", "images", "answers")
"""What a bill is made of: parts of the prompt, about as they are sent, then what is answered."""
ADDED_FOR_TOOLS = "added by the API"
"""Stands for the name of a tool: the prompt that the API adds to the definitions of all tools."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What one part of the prompt, or the answer, takes of one turn."""

    turn: int
    """Among the run's turns."""
    conversation: int
    """From 0, in the order in which they begin."""
    part: str
    """One of PARTS."""
    tool: str
    """The name of a tool whose definition it is, or ADDED_FOR_TOOLS; else empty."""
    tokens: int
    cost: Decimal | None
    """Dollars; None where a price is missing."""


def portions(run: LaidOut) -> Iterator[Portion]:
    """Yield every block and answer of a run with its share of the bill: what was read, written or neither.

    The portions of a turn add up to what the request itself bills, to the token.
    """
    for number, turns in enumerate(run.conversations.values()):
        for one in turns:
            edges = [0, *accumulate(getattr(one.tokens, name) for name in READ_TO_UNCACHED)]
            ends, added = [0, *one.cached.sizes], beside_blocks(one.chain)
            if ends[1:]:
                ends[-1] = edges[-1]
            for index, (link, (begin, end)) in enumerate(zip(one.chain.links, pairwise(ends), strict=True)):
                own = min(begin + added.get(index, 0), end)
                spans = [("tools", ADDED_FOR_TOOLS, begin, own)] if own > begin else []
                for part, tool, low, high in (*spans, (*_part(link.block), own, end)):
                    cost = _billed(run, one, edges, low, high)
                    yield Portion(one.index, number, part, tool, high - low, cost)
            output = one.tokens.output_tokens
            unit = run.unit(one, "output_tokens")
            yield Portion(one.index, number, "answers", "", output, None if unit is None else unit * output)


def _billed(run: LaidOut, one: Asked, edges: Sequence[int], begin: int, end: int) -> Decimal | None:
    """Return the dollars of the tokens from `begin` to `end` of a prompt; None where a price is missing."""
    total = Decimal(0)
    for name, (low, high) in zip(READ_TO_UNCACHED, pairwise(edges), strict=True):
        tokens = min(end, high) - max(begin, low)
        if tokens > 0:
            unit = run.unit(one, name)
            if unit is None:
                return None
            total += unit * tokens
    return total


def _part(block: Block) -> tuple[str, str]:
    """Return the part of PARTS that a block belongs to, and the tool that it defines."""
    if block.level == "tools":
        return "tools", str(block.content.get("name", block.content.get("type", "")))
    if block.level == "system":
        return "system", ""
    if block.kind in ("image", "document"):
        return "images", ""
    if block.kind.endswith("thinking"):
        return "thinking", ""
    return ("tool results" if block.kind.endswith("tool_result") else "conversation"), ""


_TOLD = 3
"""How many blocks are told one by one."""
_LEAST_TOKENS = 500
"""The least number of tokens of a run that are worth a change of the agent."""
_LEAST_TURNS = 4
"""The least number of turns by which a conversation's growth has a shape."""
_FASTER = 1.5
"""How much more a conversation may add in its second half than in its first and still be linear."""
_SUMMARY = Fraction(1, 10)
"""The part of the history that a compaction is taken to leave."""

_Key = tuple[str, str, str]
"""What identifies a block: its conversation, its place there, the digest of its content."""


@dataclass(frozen=True, slots=True)
class _Dragged:
    """One block of a conversation that several turns send."""

    key: _Key
    size: int
    turns: int

    @property
    def again(self) -> int:
        """Tokens of the block on every turn but the first."""
        return self.size * (self.turns - 1)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A block as one turn sends it; `price` is in dollars, None where unknown."""

    asked: Asked
    position: int
    price: Decimal | None


def context(run: LaidOut, share: Fraction) -> Iterator[Finding]:
    """Yield what to leave out of the history, if that is at least `share` of the run's prompt tokens."""
    limit = max(share * run.prompt_tokens, Fraction(_LEAST_TOKENS))
    for block in heapq.nlargest(_TOLD, _dragged(run), key=lambda block: block.again):
        if block.again >= limit:
            yield _dropped(run, block, _sent(run, block))
    for turns in run.conversations.values():
        if len(turns) >= _LEAST_TURNS and (finding := _compaction(run, turns, limit)):
            yield finding


def _dragged(run: LaidOut) -> Iterator[_Dragged]:
    turns: Counter[_Key] = Counter()
    sizes: dict[_Key, int] = {}
    for one in run.asked:
        opening = opening_of(one.prompt)
        for link, size in zip(one.chain.links, one.sizes, strict=True):
            if link.block.level == "messages" and not _is_task(link.block):
                key = (opening, link.block.where, link.digest)
                turns[key] += 1
                sizes.setdefault(key, size)
    return (_Dragged(key, size, turns[key]) for key, size in sizes.items())


def _sent(run: LaidOut, block: _Dragged) -> list[_Sent]:
    opening, *place_and_digest = block.key
    found = []
    for one in run.conversations[opening]:
        for position, link in enumerate(one.chain.links):
            if [link.block.where, link.digest] == place_and_digest:
                unit = run.unit(one, one.counts[position])
                found.append(_Sent(one, position, None if unit is None else unit * block.size))
    return found


def _is_task(block: Block) -> bool:
    """Return whether a block is what the conversation is about, so that it cannot be left out."""
    return block.message == 0 and block.kind == "text"


def _dropped(run: LaidOut, block: _Dragged, sent: Sequence[_Sent]) -> Finding:
    first = sent[0]
    where = place(first.asked.chain.links[first.position].block, tool_names(first.asked.prompt)).where
    text = (
        f"{where}: {block.size:,} tokens of turn {first.asked.index + 1}, re-sent on "
        f"{plural(block.turns - 1, 'turn')}: {block.again:,} tokens, "
        f"{unsigned_percent(Fraction(block.again, run.prompt_tokens))} of the run"
    )
    best, amount = _best_cut(run, sent)
    if amount is None:
        return Finding(
            FindingKind.LEVER_CONTEXT, where, f"{text}; drop or shorten it once it is read", -block.again
        )
    if amount <= 0:
        text += "; it is read from the cache, and dropping it would cost more than it saves"
        return Finding(FindingKind.LEVER_CONTEXT, where, text, -block.again, Decimal(0))
    cut = sent[best].asked.index + 1
    text += f"; dropping it from turn {cut} on saves {run.saving(amount)}, the cache's rewrite included"
    return Finding(FindingKind.LEVER_CONTEXT, where, text, -block.size * (len(sent) - best), -amount)


def _best_cut(run: LaidOut, sent: Sequence[_Sent]) -> tuple[int, Decimal | None]:
    """Return from which of its turns on dropping a block saves most, and how many dollars.

    What stands behind the block was read from the cache on that turn, and has to be written anew, once. The
    dollars are None if a price is unknown.
    """
    best: tuple[int, Decimal | None] = (1, None)
    rest = Decimal(0)
    for index in range(len(sent) - 1, 0, -1):
        one, price = sent[index].asked, sent[index].price
        read, write = (
            run.unit(one, name) for name in ("cache_read_input_tokens", "ephemeral_5m_input_tokens")
        )
        if price is None or read is None or write is None:
            return 1, None
        rest += price
        behind = one.tokens.cache_read_input_tokens - one.cached.sizes[sent[index].position]
        amount = rest - max(behind, 0) * (write - read)
        if best[1] is None or amount > best[1]:
            best = index, amount
    return best


def _compaction(run: LaidOut, turns: Sequence[Asked], limit: Fraction) -> Finding | None:
    """Return how a conversation grows, and after which turn a summary saves most; None if it saves little."""
    totals = [one.tokens.prompt_tokens for one in turns]
    steps = [after - before for before, after in pairwise(totals)]
    saved, amount, after = max(_compactions(run, turns), key=lambda option: option[1])
    if amount <= 0 or saved < limit:
        return None
    half = len(steps) // 2
    early, late = sum(steps[:half]) / half, sum(steps[half:]) / (len(steps) - half)
    shape = "faster and faster" if late > _FASTER * max(early, 1) else "steadily"
    text = (
        f"the conversation of turns {turns[0].index + 1} to {turns[-1].index + 1} grows {shape}, by about "
        f"{sum(steps) // len(steps):,} tokens a turn, from {totals[0]:,} to {totals[-1]:,}; compacting it "
        f"to a tenth after turn {turns[after].index + 1} would save {saved:,} tokens, {run.saving(amount)}, "
        "the summary's own cost included"
    )
    return Finding(FindingKind.LEVER_CONTEXT, "messages", text, -saved, -amount)


def _compactions(run: LaidOut, turns: Sequence[Asked]) -> Iterator[tuple[int, Decimal, int]]:
    """Yield (tokens saved, dollars saved, turn) for each turn after which the history may be replaced.

    The first is (0, 0, 0): no compaction. Ends early where a price is unknown.
    """
    yield 0, Decimal(0), 0
    for after in range(1, len(turns) - 1):
        one = turns[after]
        caches = one.counts[-1] != "input_tokens"
        reading, uncached = (run.unit(one, name) for name in ("cache_read_input_tokens", "input_tokens"))
        writing = run.unit(one, "ephemeral_5m_input_tokens") if caches else Decimal(0)
        output = run.unit(one, "output_tokens")
        later = _prices_of_history(run, one, turns[after + 1 :])
        if reading is None or uncached is None or writing is None or output is None or later is None:
            return
        cached = one.tokens.prompt_tokens - one.tokens.input_tokens
        history = one.tokens.prompt_tokens - one.head
        summary = round(history * _SUMMARY)
        spent = cached * reading + one.tokens.input_tokens * uncached + summary * (output + writing)
        yield (history - summary) * (len(turns) - after - 1), (history - summary) * later - spent, after


def _prices_of_history(run: LaidOut, one: Asked, later: Sequence[Asked]) -> Decimal | None:
    """Return the dollars of one token of a turn's history over the `later` turns.

    Each turn bills it as the last block of `one`. None if a price is unknown.
    """
    last, counts = len(one.chain.links) - 1, Counter[tuple[Rate, str]]()
    for other in later:
        counts[other.rate, other.counts[min(last, len(other.counts) - 1)]] += 1
    units = [(run.ledger.unit(rate, count), times) for (rate, count), times in counts.items()]
    known = [unit * times for unit, times in units if unit is not None]
    return sum(known, Decimal(0)) if len(known) == len(units) else None
