"""Answers that cannot be what a request gets now: those that its own limit would end elsewhere."""

from __future__ import annotations

from pytest_tokenbudget.wire.exchange import Pair


def cut_off(pair: Pair) -> str | None:
    """Why the recorded answer is too short, or too long, for `max_tokens` as it is now; None where it is not.

    The limit holds for thinking and text together, as `output_tokens` does. What the answer would be instead,
    no recording tells.
    """
    was, now = pair.recorded.prompt.max_tokens, pair.request.prompt.max_tokens
    if was is None or now is None or pair.answer.usage is None:
        return None
    stopped = (pair.answer.message or {}).get("stop_reason")
    output = pair.answer.usage.tokens.output_tokens
    if now > was and stopped == "max_tokens":
        return f"the recorded answer was cut off at {was:,} max_tokens, and {now:,} are asked for now"
    if now < was and now < output:
        return f"the recorded answer has {output:,} tokens, and at most {now:,} are asked for now"
    return None
