"""Price turns elsewhere: on smaller models, in a message batch, or side by side.

These are prices, not judgements of quality. Consecutive calls that do not depend on each other could run side
by side, or in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from pytest_tokenbudget.advice.layout import Asked, LaidOut
from pytest_tokenbudget.diagnosis.prompt_parts import strings, text_of
from pytest_tokenbudget.model import Finding, FindingKind, Rate, Tokens, Usage
from pytest_tokenbudget.sources.words import words_of
from pytest_tokenbudget.wording import dollars, listed, plural, turns

CheaperModels = Callable[[str], Sequence[str]]
"""Returns the models that cost less than a model, dearest first."""

_SHORT = 200
"""Output tokens up to which an answer is short."""
_MODELS = 2
"""How many smaller models are priced."""


def routing(run: LaidOut, cheaper: CheaperModels) -> Iterator[Finding]:
    """Yield by model its turns with short answers and no tool use, priced on the next smaller models.

    A turn within a loop of tools does not count: whoever sends it does not know yet that it is the last. A
    model reads nothing that another has cached, so a turn that uses the cache is priced without it.
    """
    simple: dict[str, list[Asked]] = {}
    for one in run.asked:
        if one.tokens.output_tokens <= _SHORT and not _uses_tools(one):
            simple.setdefault(one.rate.model, []).append(one)
    for model, asked in simple.items():
        now = run.cost_of(sum((one.turn.usage for one in asked), Usage()))
        prices = [(name, price) for name in cheaper(model) if (price := _on(run, asked, name)) is not None]
        lower = [(name, price) for name, price in prices if now is not None and price < now][:_MODELS]
        if now is None or not lower:
            continue
        where = turns(one.index for one in asked)
        longest = max(one.tokens.output_tokens for one in asked)
        others = listed([f"{dollars(price)} on {name}" for name, price in lower])
        verb = "costs" if len(asked) == 1 else "cost"
        text = (
            f"{where} on {model} {verb} {dollars(now)} a run, with no tool use and at most {longest:,} "
            f"output tokens; the same counts cost {others}, without its cache: up to "
            f"{run.saving(now - lower[-1][1])} less. A price, not a judgement of quality"
        )
        yield Finding(FindingKind.LEVER_ROUTING, where, text, None, lower[0][1] - now)


def batching(run: LaidOut) -> Iterator[Finding]:
    """Yield what the run costs through the Message Batches API, at half price, if that is cheaper.

    This is for scenarios that nobody waits for.
    """
    usage = sum((one.turn.usage for one in run.asked), Usage())
    if run.cost is None or any("batch" in rate.modifiers for rate in usage.by_rate):
        return
    batched = run.cost_of(_at_batch_rate(usage))
    cold = run.cost_of(_at_batch_rate(sum((_uncached(one, one.rate) for one in run.asked), Usage())))
    if batched is None or cold is None or batched >= run.cost:
        return
    rounds = max(map(len, run.conversations.values()), default=0)
    text = (
        f"as message batches the run costs {dollars(batched)} instead of {dollars(run.cost)}: "
        f"saves {run.saving(run.cost - batched)}"
    )
    if usage.tokens.cache_read_input_tokens:
        text += f"; cache hits are best effort in a batch, without any it costs {dollars(cold)}"
    if rounds > 1:
        text += f"; its longest conversation takes {plural(rounds, 'round')}, each of up to 24 hours"
    yield Finding(FindingKind.LEVER_BATCHING, "run", text, None, batched - run.cost)


def _uses_tools(one: Asked) -> bool:
    message = one.turn.pair.answer.message or {}
    content = message.get("content")
    answered = [block.get("type") for block in content or () if isinstance(block, dict)]
    sent = [block.kind for block in one.prompt.level("messages")]
    return any(str(kind).endswith("tool_use") for kind in (*answered, *sent))


def _on(run: LaidOut, asked: Sequence[Asked], model: str) -> Decimal | None:
    usages = []
    for one in asked:
        kept = tuple(word for word in one.rate.modifiers if word not in ("long", "fast"))
        usages.append(_uncached(one, replace(one.rate, model=model, modifiers=kept)))
    return run.cost_of(sum(usages, Usage()))


def _uncached(one: Asked, rate: Rate) -> Usage:
    """Return what a turn bills at `rate` if its own prompt is neither read from nor put in the cache."""
    tokens = Tokens(
        input_tokens=one.tokens.prompt_tokens,
        output_tokens=one.tokens.output_tokens,
        web_search_requests=one.tokens.web_search_requests,
    )
    return one.turn.usage.with_main(rate, tokens)


def _at_batch_rate(usage: Usage) -> Usage:
    batched = (
        Usage.of(
            replace(rate, modifiers=(*(m for m in rate.modifiers if m != "fast"), "batch")), tokens, turns=0
        )
        for rate, tokens in usage.by_rate.items()
    )
    return sum(batched, Usage(usage.turns))


_LABEL = 20
"""Output tokens up to which an answer decides something rather than says it."""


def parallelism(run: LaidOut) -> Iterator[Finding]:
    """Yield stretches of turns of which none holds what an earlier one of the stretch answered.

    Only turns that open a conversation count: what continues one depends on the turn before.
    """
    stretch: list[Asked] = []
    for one in run.asked:
        opens = not _continues(one)
        if not opens or any(_decides(before) or _holds(one, _said(before)) for before in stretch):
            yield from _told(stretch)
            stretch = []
        if opens:
            stretch.append(one)
    yield from _told(stretch)


def _decides(one: Asked) -> bool:
    """Return whether an answer is a label rather than a text: the next call may well depend on it."""
    return one.tokens.output_tokens <= _LABEL


def _told(stretch: list[Asked]) -> Iterator[Finding]:
    if len(stretch) < 2:
        return
    where = turns(one.index for one in stretch)
    text = (
        f"{where}: {plural(len(stretch), 'call')}, none of which holds an earlier one's answer; if they wait "
        "for each other, they could run side by side or in one batch (the others once the first has begun to "
        "answer, so that they read what it caches)"
    )
    yield Finding(FindingKind.LEVER_PARALLELISM, where, text)


def _continues(one: Asked) -> bool:
    return any(block.role == "assistant" for block in one.prompt.blocks)


def _said(one: Asked) -> tuple[str, ...]:
    """Return the texts of an answer, tool arguments included."""
    message: Mapping[str, Any] = one.turn.pair.answer.message or {}
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    texts = (
        value
        for block in blocks
        if isinstance(block, Mapping)
        for value in (
            [str(block.get("text", ""))] if block.get("type") == "text" else strings(block.get("input", {}))
        )
    )
    return tuple(text.strip() for text in texts if text.strip())


def _holds(one: Asked, answer: tuple[str, ...]) -> bool:
    """Return whether a request holds a line of an answer word for word."""
    asked = (
        f" {' '.join(word for block in one.prompt.level('messages') for word in words_of(text_of(block)))} "
    )
    lines = (line for text in answer for line in text.splitlines())
    return any(f" {line} " in asked for words in map(words_of, lines) if (line := " ".join(words)))
