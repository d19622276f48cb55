"""Answers that `max_tokens` or a stop sequence would end elsewhere now."""

from __future__ import annotations

import pytest

from pytest_tokenbudget.metering.meter import cut_off
from pytest_tokenbudget.model import Paired, Rate, Tokens, Usage
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.exchange import Answer, Pair, Request
from pytest_tokenbudget.wire.prompt import parse_prompt


def request(max_tokens: int, *stops: str) -> Request:
    body = {
        "stop_sequences": list(stops),
        "model": "claude-haiku-4-5",
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    return Request(Endpoint("messages"), parse_prompt(body), "")


@pytest.mark.parametrize(
    ("was", "now", "output", "stopped", "why"),
    [
        (50, 50, 50, "max_tokens", None),
        (50, 8000, 50, "max_tokens", "was cut off at 50 max_tokens, and 8,000 are asked for"),
        (50, 8000, 30, "end_turn", None),
        (50, 8000, 30, "tool_use", None),
        (8000, 50, 30, "end_turn", None),
        (8000, 30, 30, "end_turn", None),
        (8000, 29, 30, "end_turn", "has 30 tokens, and at most 29 are asked for"),
    ],
)
def test_an_answer_that_would_end_elsewhere(
    was: int, now: int, output: int, stopped: str, why: str | None
) -> None:
    usage = Usage(1, {Rate("claude-haiku-4-5"): Tokens(input_tokens=8, output_tokens=output)})
    answer = Answer(200, {"stop_reason": stopped}, usage)
    found = cut_off(Pair(0, request(now), request(was), answer, Paired.LINEAGE))
    assert (found is None) if why is None else (found is not None and why in found)


@pytest.mark.parametrize(
    ("was", "now", "ended", "why"),
    [
        ((), ("END",), None, None),
        ((), ("Yes",), None, "goes on after 'Yes', which is a stop sequence now"),
        (("Yes",), ("Yes", "END"), None, None),
        ((), ("",), None, None),
        (("END",), (), "END", "ended at the stop sequence 'END', which is none now"),
        (("END",), ("END", "STOP"), "END", None),
        (("END",), (), None, None),
    ],
)
def test_an_answer_that_would_stop_elsewhere(
    was: tuple[str, ...], now: tuple[str, ...], ended: str | None, why: str | None
) -> None:
    message = {
        "content": [{"type": "text", "text": "Oh. Yes, it is."}],
        "stop_reason": "stop_sequence" if ended else "end_turn",
        "stop_sequence": ended,
    }
    answer = Answer(200, message, Usage(1, {Rate("claude-haiku-4-5"): Tokens(8, output_tokens=5)}))
    found = cut_off(Pair(0, request(50, *now), request(50, *was), answer, Paired.LINEAGE))
    assert (found is None) if why is None else (found is not None and why in found)


def test_max_tokens_is_no_limit_of_an_advisor() -> None:
    usage = Usage.of(Rate("claude-haiku-4-5"), Tokens(input_tokens=8, output_tokens=30)) + Usage.of(
        Rate("claude-opus-4-8"), Tokens(input_tokens=900, output_tokens=70), turns=0
    )
    answer = Answer(200, {"stop_reason": "end_turn"}, usage)
    assert cut_off(Pair(0, request(50), request(8000), answer, Paired.LINEAGE)) is None
