"""How long offline counting takes when everything changed: `speed_counting.py [--builtin]`.

200 scenarios of 10 turns over one system prompt of 30 KB and tools of 10 KB: the system prompt, every tool
and the task of every scenario changed; the answers come back verbatim. Prints CPU seconds, by function.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import re
import time

from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter
from pytest_tokenbudget.metering.calibration import Known
from pytest_tokenbudget.metering.counting import Counter, Memo, best_counter
from pytest_tokenbudget.metering.estimate import estimate
from pytest_tokenbudget.metering.history import fed_back_tokens
from pytest_tokenbudget.wire.prompt import Prompt, parse_prompt

SCENARIOS, TURNS = 200, 10
_WORDS = re.findall(
    r"\w+",
    "the order of a customer should be checked before any refund is given and then you must answer in short "
    "sentences with the result of each tool call while keeping every number as the database returned it",
)


def prose(size: int, seed: int) -> str:
    """About `size` characters of sentences."""
    chosen = random.Random(seed)
    words: list[str] = []
    length = 0
    while length < size:
        word = chosen.choice(_WORDS) + chosen.choice(("", "", "", "", ",", ".", ".\n"))
        words.append(word)
        length += len(word) + 1
    return " ".join(words)


def bodies(version: int) -> list[list[dict[str, object]]]:
    """The request bodies of every scenario, turn by turn."""
    system = prose(15_000, 0) + f" Version {version}. " + prose(15_000, 1)
    tools = [
        {
            "name": f"tool_{number}",
            "description": prose(700, number) + f" Version {version}.",
            "input_schema": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
        }
        for number in range(12)
    ]
    scenarios = []
    for scenario in range(SCENARIOS):
        messages: list[dict[str, object]] = [
            {"role": "user", "content": prose(200, 1000 + scenario) + f" Version {version}."}
        ]
        turns = []
        for turn in range(TURNS):
            body = {"model": "claude-opus-4-8", "system": system, "tools": tools, "messages": list(messages)}
            turns.append(body)
            messages += answer(scenario, turn), {"role": "user", "content": prose(300, 7 * scenario + turn)}
        scenarios.append(turns)
    return scenarios


def answer(scenario: int, turn: int) -> dict[str, object]:
    """What the model said: the same in both versions."""
    text = prose(400, 50_000 + 100 * scenario + turn)
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def measure(counter: Counter, before: list[list[Prompt]], after: list[list[Prompt]]) -> int:
    """Estimate every turn; returns how many prompt tokens there are."""
    total = 0
    for scenario, (recorded, now) in enumerate(zip(before, after, strict=True)):
        answers: dict[str, int] = {}
        for turn, (was, new) in enumerate(zip(recorded, now, strict=True)):
            made = estimate(Known(was, 20_000), new, counter, answers=answers)
            assert made.prompt_tokens is not None
            total += made.prompt_tokens
            answers |= fed_back_tokens(was, answer(scenario, turn) | {"stop_reason": "end_turn"}, 100)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--builtin", action="store_true", help="the built-in counter instead of ctok")
    builtin = parser.parse_args().builtin
    before, after = (
        [[parse_prompt(body) for body in turns] for turns in bodies(version)] for version in (1, 2)
    )
    for same in (True, False):
        counter = Memo(BuiltinCounter()) if builtin else best_counter()
        profile = cProfile.Profile()
        start = time.process_time()
        tokens = measure(counter, before, before if same else after)
        seconds = time.process_time() - start
        what = "nothing changed" if same else "everything changed"
        print(f"{counter.name}, {what}: {SCENARIOS * TURNS} turns, {tokens:,} tokens, {seconds:.2f} s of CPU")
    profile.runcall(measure, Memo(BuiltinCounter()) if builtin else best_counter(), before, after)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(22)


if __name__ == "__main__":
    main()
