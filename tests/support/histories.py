"""Histories that lead to the documents: baselines that grew, commit by commit, to what they are today."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any

from pytest_tokenbudget.reports.document import Document, RateEntry, TokensEntry, add
from pytest_tokenbudget.reports.history import CommitEntry, History, PointEntry
from support.documents import NEW_MODEL, SONNET, loop

SUBJECTS = [
    "Say in the prompt how to greet",
    "Give the agent a tool for parcels",
    "Shorten the house rules",
    "Move to the new model",
    "Cache the tools",
    "Ask for sources | and <quote> them",
    "Retry once when the shop does not answer",
    "Write baselines",
    "Tell refunds from returns, in the prompt and in the tools, for every country that we ship to",
]

INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def history_of(document: Document, number: int = 40, share: float = 0.15, seed: int = 7) -> History:
    """`number` commits, each of which changed about `share` of the baselines of `document`."""
    dice = random.Random(seed)
    start = datetime(2026, 1, 12, 9, 30, tzinfo=timezone(timedelta(hours=1)))
    commits: list[CommitEntry] = []
    for index in range(number):
        start += timedelta(hours=dice.randrange(5, 150))
        commits.append(
            {
                "commit": f"{dice.getrandbits(160):040x}",
                "date": start.isoformat(),
                "subject": dice.choice(SUBJECTS) if index else "Write the first baselines",
            }
        )
    scenarios = {
        one["id"]: _points(one["baseline"], number, share, dice)
        for one in document["scenarios"]
        if one["baseline"] is not None
    }
    return {
        "version": 1,
        "prices": dict(document["prices"]),
        "commits": commits,
        "scenarios": dict(sorted(scenarios.items())),
    }


def _points(newest: TokensEntry, number: int, share: float, dice: random.Random) -> list[PointEntry]:
    born = 0 if dice.random() < 0.8 else dice.randrange(number)
    places = [born, *(place for place in range(born + 1, number) if dice.random() < share)]
    tokens, points = newest, []
    for place in reversed(places):
        points.append(PointEntry(commit=place, tokens=tokens))
        tokens = scaled(tokens, dice.choice([0.8, 0.93, 0.97, 0.985, 0.99, 1.01, 1.03]))
    return points[::-1]


def scaled(tokens: TokensEntry, factor: float) -> TokensEntry:
    """TOKENS with a prompt `factor` times as long; their cost follows the tokens."""
    models: dict[str, RateEntry] = {}
    for name, rate in tokens["models"].items():
        changed: Any = {**rate, **{count: int(rate[count] * factor) for count in INPUT}}  # type: ignore[literal-required]
        written = changed["cache_creation_input_tokens"]
        changed["cache_creation"] = {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0}
        changed["prompt_tokens"] = sum(changed[count] for count in INPUT)
        if rate["cost_usd"] is not None:
            was, now = (one["prompt_tokens"] + one["output_tokens"] for one in (rate, changed))
            changed["cost_usd"] = round(rate["cost_usd"] * now / max(was, 1), 10)
        models[name] = changed
    sums: Any = {count: sum(rate[count] for rate in models.values()) for count in (*INPUT, "prompt_tokens")}  # type: ignore[literal-required]
    costs = [rate["cost_usd"] for rate in models.values()]
    cost = None if None in costs else round(sum(one or 0 for one in costs), 10)
    return {**tokens, **sums, "models": models, "cost_usd": cost}


def with_gaps() -> History:
    """Few commits with everything that can happen to a baseline: born late, gone, back, without a price."""
    first, second = add(loop(SONNET, 1000, [50, 60])), add(loop(SONNET, 1200, [50, 60]))
    unpriced = add(loop(NEW_MODEL, 900, [40]))
    commits: list[CommitEntry] = [
        {"commit": f"{index:040x}", "date": f"2026-0{index + 1}-03T10:00:00+00:00", "subject": subject}
        for index, subject in enumerate(SUBJECTS[:6])
    ]
    return {
        "version": 1,
        "prices": {"source": "genai-prices", "version": "0.2.3"},
        "commits": commits,
        "scenarios": {
            "tests/test_a.py::test_always": [
                {"commit": 0, "tokens": first},
                {"commit": 3, "tokens": second},
            ],
            "tests/test_a.py::test_born_late": [{"commit": 4, "tokens": second}],
            "tests/test_a.py::test_gone": [{"commit": 0, "tokens": first}, {"commit": 2, "tokens": None}],
            "tests/test_a.py::test_gone_and_back": [
                {"commit": 0, "tokens": first},
                {"commit": 1, "tokens": None},
                {"commit": 4, "tokens": second},
            ],
            "tests/test_b.py::test_unpriced": [{"commit": 2, "tokens": unpriced}],
        },
    }
