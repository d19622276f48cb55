"""How long the diagnosis takes, by the number of turns of one growing conversation: it must stay linear.

Each turn adds 2 KB of tool results to a cached conversation, under a system prompt and tools of 18 KB. Three
changes: a system prompt that grew, a time in front of it that differs on every turn, and a tool result that
grew. Measured is what `diagnose` and `advise` take, not the metering before them. Prints a table, and writes
JSON where told to:

    python benchmarks/diagnosis_speed.py [--turns 25 50 100 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from pytest_tokenbudget.advice import advise  # noqa: E402
from pytest_tokenbudget.advice.layout import lay_out  # noqa: E402
from pytest_tokenbudget.diagnosis import diagnose  # noqa: E402
from pytest_tokenbudget.sources import SourceTree  # noqa: E402
from support.changes import Case, before_system, each, every_result, system  # noqa: E402
from support.seeded import Agent, Step, cost, count, text, tool  # noqa: E402

HANDBOOK = "\n".join(f"{i}. What to do about topic {i}, and where the handbook says so." for i in range(130))
TOOLS = [tool(f"tool_{i}", "Does one thing, and does it well. " * 20, what="What to do.") for i in range(13)]


def agent(turns: int) -> Agent:
    steps = [
        Step(
            "",
            [("tool_1", {"what": str(i)})],
            [" ".join(f"row {i}.{j} of what was found" for j in range(80))],
        )
        for i in range(turns)
    ]
    return Agent([text(HANDBOOK, marked=True)], TOOLS, "Do it all.", steps)


def times(turn: int) -> str:
    return f"2026-11-21T{turn // 60:02}:{turn % 60:02}:00Z"


CHANGES: dict[str, Callable[[int], Any]] = {
    "system prompt grew": lambda _: each(
        system(lambda _, words: words + "\nBe brief, and be kind to everybody.")
    ),
    "a time on every turn": lambda turns: each(before_system("Now: {}", *map(times, range(turns)))),
    "a tool result grew": lambda _: each(every_result(lambda _, words: words + " and more" * 20, "toolu_1_")),
}


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(turns: int, change: Any) -> dict[str, float]:
    """CPU seconds of one run of so many turns; indexing a repository of the size of this one is in them."""
    run = Case("", change, agent=lambda: agent(turns)).run()
    files = {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for path in ROOT.glob("pytest_tokenbudget/**/*.py")
    }
    files["prompts/handbook.md"] = HANDBOOK + "\nBe brief, and be kind to everybody.\n"
    return {
        "diagnose": seconds(lambda: diagnose(run, cost=cost, count=count, sources=SourceTree(files))),
        "advise": seconds(lambda: advise(lay_out(run, cost), cheaper=lambda _: ["claude-haiku-4-5"])),
    }


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print(f"{'change':24}{'turns':>7}{'diagnose, s':>13}{'advise, s':>11}")
    for name, change in CHANGES.items():
        for turns in arguments.turns:
            found = measure(turns, change(turns))
            rows.append({"change": name, "turns": turns, **found})
            print(f"{name:24}{turns:7}{found['diagnose']:13.2f}{found['advise']:11.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
