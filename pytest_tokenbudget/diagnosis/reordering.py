"""Turns that ask what was recorded, in another order: of their messages, or of the turns themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_tokenbudget.diagnosis.block_changes import excerpt
from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.diagnosis.places import text_of
from pytest_tokenbudget.diagnosis.wording import listed, plural, turns
from pytest_tokenbudget.metering.run import Run
from pytest_tokenbudget.wire.exchange import Request
from pytest_tokenbudget.wire.prompt import Prompt

_NAMED = 3
"""Turns described one by one."""


def reordered(run: Run) -> tuple[list[Finding], Run]:
    """What is told by its order, and the run without it.

    Requests without an answer that send the messages of a recorded turn in another order; turns that ask what
    other turns asked when they were recorded.
    """
    swapped, run = _other_messages(run)
    moved = dict(_moved(run))
    told = [run.turns[index].pair for index in moved]
    reshaped = tuple(pair for pair in run.reshaped if not any(pair is one for one in told))
    return [*_of_messages(swapped), *_of_turns(moved)], replace(run, reshaped=reshaped)


def _other_messages(run: Run) -> tuple[list[Request], Run]:
    """The misses that an unplayed turn answers but for the order of its messages; the run without both."""
    unplayed = list(run.unplayed)
    swapped: list[Request] = []
    for request in run.misses:
        wanted = _unordered(request.prompt)
        at = next((i for i, one in enumerate(unplayed) if _unordered(one.request.prompt) == wanted), None)
        if at is not None:
            del unplayed[at]
            swapped.append(request)
    misses = tuple(request for request in run.misses if not any(request is one for one in swapped))
    return swapped, replace(run, misses=misses, unplayed=tuple(unplayed))


def _unordered(prompt: Prompt) -> list[str]:
    return sorted(block.digest for block in prompt.level("messages"))


def _of_messages(swapped: Sequence[Request]) -> Iterator[Finding]:
    if swapped:
        verb = "sends its" if len(swapped) == 1 else "send their"
        text = f"{plural(len(swapped), 'turn')} {verb} messages in another order than recorded"
        yield Finding("turns_changed", "reordered", f"{text}: {asking(swapped)}")


def _moved(run: Run) -> Iterator[tuple[int, int]]:
    """Turns that end as another turn did, which now ends otherwise, and that turn."""
    ends = [(_end(turn.pair.recorded.prompt), _end(turn.pair.request.prompt)) for turn in run.turns]
    others = {was: index for index, (was, now) in enumerate(ends) if was != now}
    for index, (was, now) in enumerate(ends):
        if was != now and now in others:
            yield index, others[now]


def _end(prompt: Prompt) -> tuple[str, ...]:
    """The last message."""
    last = prompt.message_count - 1
    return tuple(block.digest for block in prompt.blocks if block.message == last)


def _of_turns(moved: dict[int, int]) -> Iterator[Finding]:
    if moved:
        verb, noun = ("asks", "turn") if len(moved) == 1 else ("ask", "turns")
        were = listed([str(other + 1) for other in moved.values()])
        where = turns(moved)
        text = f"{where} {verb} in another order than recorded: what {noun} {were} asked"
        yield Finding("turns_changed", where, text)


def asking(requests: Sequence[Request]) -> str:
    """What turns ask, in short."""
    said = "; ".join(asked(request.prompt) for request in requests[:_NAMED])
    return f"{said} and {len(requests) - _NAMED:,} more" if len(requests) > _NAMED else said


def asked(prompt: Prompt) -> str:
    """What a turn asks, in short: its last message."""
    last = next((block for block in reversed(prompt.blocks) if block.level == "messages"), None)
    if last is None:
        return "an empty conversation"
    return f"{last.role} {last.kind} {excerpt(text_of(last), 0)!r}"
