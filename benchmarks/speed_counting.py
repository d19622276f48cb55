"""How long offline counting takes when everything changed: `speed_counting.py [--builtin] [--model MODEL]`.

200 scenarios of 10 turns over one system prompt of 30 KB and tools of 10 KB: the system prompt, every tool
and the task of every scenario changed; the answers come back verbatim. Prints CPU seconds: loading the
vocabulary, the tokenizer over what is counted, the rest; then the profile of it, by function.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import re
import time
from dataclasses import dataclass

from pytest_tokenbudget.metering.counting import BuiltinCounter, Counter, CtokCounter, Memo
from pytest_tokenbudget.metering.estimate import Known, estimate, fed_back_tokens
from pytest_tokenbudget.metering.models import Family, model_row
from pytest_tokenbudget.wire.prompt import Prompt, parse_prompt

SCENARIOS, TURNS = 200, 10
PROMPT_TOKENS, OUTPUT_TOKENS = 20_000, 100
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


def bodies(version: int, model: str) -> list[list[dict[str, object]]]:
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
            body = {"model": model, "system": system, "tools": tools, "messages": list(messages)}
            turns.append(body)
            messages += answer(scenario, turn), {"role": "user", "content": prose(300, 7 * scenario + turn)}
        scenarios.append(turns)
    return scenarios


def answer(scenario: int, turn: int) -> dict[str, object]:
    """What the model said: the same in both versions."""
    text = prose(400, 50_000 + 100 * scenario + turn)
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


@dataclass
class Watched:
    """A counter, and the CPU seconds that it took."""

    counter: Counter
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.counter.name

    @property
    def exact(self) -> bool:
        return self.counter.exact

    __hash__ = object.__hash__

    def count(self, text: str, family: Family) -> int:
        start = time.process_time()
        counted = self.counter.count(text, family)
        self.seconds += time.process_time() - start
        return counted


def measure(
    counter: Counter,
    before: list[list[Prompt]],
    after: list[list[Prompt]],
    answered: list[list[dict[str, object]]],
) -> int:
    """Estimate every turn; returns how many prompt tokens there are."""
    total = 0
    for recorded, now, said in zip(before, after, answered, strict=True):
        answers: dict[str, int] = {}
        for was, new, message in zip(recorded, now, said, strict=True):
            made = estimate(Known(was, PROMPT_TOKENS), new, counter, answers=answers)
            assert made.prompt_tokens is not None
            total += made.prompt_tokens
            answers |= fed_back_tokens(was, message, OUTPUT_TOKENS)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--builtin", action="store_true", help="the built-in counter instead of ctok")
    parser.add_argument("--model", default="claude-opus-4-8", help="whose tokenizer is used")
    arguments = parser.parse_args()
    before, after = (
        [[parse_prompt(body) for body in turns] for turns in bodies(version, arguments.model)]
        for version in (1, 2)
    )
    answered = [
        [answer(scenario, turn) | {"stop_reason": "end_turn"} for turn in range(TURNS)]
        for scenario in range(SCENARIOS)
    ]
    one = Watched(BuiltinCounter() if arguments.builtin else CtokCounter())
    one.count("A word to load it.", model_row(arguments.model).family)
    loading, one.seconds = one.seconds, 0.0
    for what, now in (("nothing changed", before), ("everything changed", after)):
        start = time.process_time()
        tokens = measure(Memo(one), before, now, answered)
        seconds = time.process_time() - start
        print(f"{one.name}, {what}: {SCENARIOS * TURNS} turns, {tokens:,} tokens, {seconds:.2f} s of CPU")
    rest = seconds - one.seconds
    print(f"loading {loading:.2f} s, tokenizing {one.seconds:.2f} s, matching and the rest {rest:.2f} s")
    profile = cProfile.Profile()
    profile.runcall(measure, Memo(one), before, after, answered)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(22)


if __name__ == "__main__":
    main()
