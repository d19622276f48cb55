"""Consecutive calls that do not depend on each other: they could run side by side, or in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_tokenbudget.advice.layout import Asked, LaidOut
from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.diagnosis.places import strings, text_of
from pytest_tokenbudget.diagnosis.wording import plural, turns
from pytest_tokenbudget.sources.words import words_of

_LABEL = 20
"""Output tokens up to which an answer decides something rather than says it."""


def parallelism(run: LaidOut) -> Iterator[Finding]:
    """Stretches of turns of which none holds anything that an earlier one of the stretch answered.

    Only turns that open a conversation are looked at: what continues one depends on the turn before.
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
    """Whether an answer is a label rather than a text: what is called next may well depend on it."""
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
    yield Finding("lever_parallelism", where, text)


def _continues(one: Asked) -> bool:
    return any(block.role == "assistant" for block in one.prompt.blocks)


def _said(one: Asked) -> tuple[str, ...]:
    """The texts of an answer, tool arguments included."""
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
    """Whether what is asked holds a line of an answer, or the whole of a short one, word for word."""
    asked = (
        f" {' '.join(word for block in one.prompt.level('messages') for word in words_of(text_of(block)))} "
    )
    lines = (line for text in answer for line in text.splitlines())
    return any(f" {line} " in asked for words in map(words_of, lines) if (line := " ".join(words)))
