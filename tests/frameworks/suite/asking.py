"""What every scenario of the suite asks, and how it tells what its framework says it used."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

MODEL = "claude-sonnet-4-5"
QUESTION = "Where is order 17?"
ANSWER = "It left on Monday."
TOKENS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


def system(framework: str) -> str:
    """A system prompt, long enough for the cache; longer where the scenario is changed."""
    times = 200 if os.environ.get("FRAMEWORKS_CHANGED") else 150
    return f"Scenario: {framework}. " + "You answer what customers ask about their orders. " * times


def look_up(order: int) -> str:
    """Look an order up.

    Args:
        order: The number of the order.
    """
    assert order == 17
    return ANSWER


def reports(framework: str, *used: int | None) -> None:
    """Keep what a framework says that it used, by the counts of the API; None where it says nothing.

    A test that is to be slow then goes on for a while: what a framework sends from a thread comes meanwhile.
    """
    folder = Path(os.environ["FRAMEWORKS_REPORTED"])
    folder.mkdir(exist_ok=True)
    (folder / f"{framework}.json").write_text(json.dumps(dict(zip(TOKENS, used, strict=True))), "utf-8")
    time.sleep(float(os.environ.get("FRAMEWORKS_LINGER", "0")))
