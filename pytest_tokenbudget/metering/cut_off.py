"""Answers that cannot be what a request gets now: those that its own limits would end elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_tokenbudget.wire.exchange import Pair
from pytest_tokenbudget.wire.prompt import mappings


def cut_off(pair: Pair) -> str | None:
    """Why the recorded answer is too short, or too long, for `max_tokens` and `stop_sequences` as they are
    now; None where it is not. What the answer would be instead, no recording tells.
    """
    if pair.answer.usage is None or pair.answer.message is None:
        return None
    message, output = pair.answer.message, pair.answer.usage.main_tokens.output_tokens
    return _by_limit(pair, message, output) or _by_stop(pair, message)


def _by_limit(pair: Pair, message: Mapping[str, Any], output: int) -> str | None:
    """The limit holds for thinking and text together, as `output_tokens` does."""
    was, now = pair.recorded.prompt.max_tokens, pair.request.prompt.max_tokens
    if was is None or now is None:
        return None
    if now > was and message.get("stop_reason") == "max_tokens":
        return f"the recorded answer was cut off at {was:,} max_tokens, and {now:,} are asked for now"
    if now < was and now < output:
        return f"the recorded answer has {output:,} tokens, and at most {now:,} are asked for now"
    return None


def _by_stop(pair: Pair, message: Mapping[str, Any]) -> str | None:
    was, now = pair.recorded.prompt.stop_sequences, pair.request.prompt.stop_sequences
    ended = message.get("stop_sequence")
    if message.get("stop_reason") == "stop_sequence" and ended in was and ended not in now:
        return f"the recorded answer ended at the stop sequence {ended!r}, which is none now"
    contents = mappings(message.get("content"))
    texts = [str(content.get("text", "")) for content in contents if content.get("type") == "text"]
    for stop in now:
        if stop and stop not in was and any(stop in text for text in texts):
            return f"the recorded answer goes on after {stop!r}, which is a stop sequence now"
    return None
