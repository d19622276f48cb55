"""What the rule for live runs finds, and how often it is wrong: simulated costs, the product's own functions.

    python benchmarks/live_statistics.py [--times 2000]

A run's cost varies in size (a log-normal factor) or in turns (each of which sends again what was before it).
The tables of docs/live.md are written by this; seeds are fixed.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Mapping

from pytest_tokenbudget.budget.verdict import LiveRuns, judge_live, looks, may_stop

ALLOWED = 1.05
"""The default tolerance of cost."""
Draw = Callable[[random.Random, float], float]
"""A run's cost, given by how much the agent has grown (1.0: not at all)."""


def of_size(variation: float) -> Draw:
    """Costs that vary as answers do, by this coefficient of variation."""
    sigma = math.sqrt(math.log1p(variation**2))
    return lambda draw, factor: factor * math.exp(draw.gauss(0, sigma))


def of_turns(variation: float) -> Draw:
    """Costs that vary because the agent takes more or fewer turns: the cost is about quadratic in them."""
    mean = 12

    def cost(draw: random.Random, factor: float) -> float:
        turns = max(round(draw.gauss(mean, mean * variation / 2)), 1)
        return factor * turns * (turns + 1)

    return cost


VARIED: Mapping[str, Callable[[float], Draw]] = {"size": of_size, "turns": of_turns}


def seeded(cost: Draw, *given: float) -> random.Random:
    """Return a source of numbers that is another one for each row of the tables."""
    return random.Random(f"{given} {cost(random.Random(1), 1.0)}")


def drawn(draw: random.Random, cost: Draw, before: int, now: int, factor: float, scenarios: int) -> LiveRuns:
    """One of `scenarios`: its baseline, and its runs of now, which looks before their end may stop.

    With no `scenarios` all runs are made.
    """
    baseline = tuple(cost(draw, 1.0) for _ in range(before))
    runs = tuple(cost(draw, factor) for _ in range(now))
    for number in looks(now) if scenarios else ():
        first = LiveRuns(baseline, runs[:number], ALLOWED, is_stopped=True)
        if may_stop(first, now, scenarios):
            return first
    return LiveRuns(baseline, runs, ALLOWED)


def suites(cost: Draw, size: int, before: int, now: int, factor: float, times: int) -> tuple[float, float]:
    """How often a suite fails at all, and how often by its own test."""
    draw, failed, whole = seeded(cost, size, before, now, factor), 0, 0
    for _ in range(times):
        found = judge_live({str(n): drawn(draw, cost, before, now, factor, size) for n in range(size)})
        whole += found.suite_is_over
        failed += found.suite_is_over or bool(found.over)
    return failed / times, whole / times


def alone(cost: Draw, before: int, now: int, factor: float, times: int) -> float:
    """How often one scenario by itself is over, when all its runs are made."""
    draw = seeded(cost, before, now, factor)
    found = (judge_live({"": drawn(draw, cost, before, now, factor, scenarios=0)}) for _ in range(times))
    return sum(bool(one.over) for one in found) / times


def stopping(cost: Draw, before: int, planned: int, factor: float, times: int) -> tuple[float, float]:
    """Which share of the calls is saved, and how often one scenario is over, with looks before the end."""
    draw, calls, found = seeded(cost, before, planned, factor), 0, 0
    for _ in range(times):
        runs = drawn(draw, cost, before, planned, factor, scenarios=1)
        calls += len(runs.now)
        found += bool(judge_live({"": runs}).over)
    return 1 - calls / (times * planned), found / times


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2000, metavar="N", help="simulations of each row")
    times = parser.parse_args().times
    print("| varies | baseline | runs | false alarms, one scenario | with early stop | a suite of 50 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind, make in VARIED.items():
        for variation in (0.10, 0.15):
            for before in (5, 10):
                for now in (3, 5, 10):
                    cost = make(variation)
                    one = alone(cost, before, now, 1.0, 20 * times)
                    stopped = stopping(cost, before, now, 1.0, 20 * times)[1]
                    suite = suites(cost, 50, before, now, 1.0, times)[0]
                    label = f"{kind}, {variation:.0%}"
                    row = f"| {label} | {before} | {now} | {one:.1%} | {stopped:.1%} | {suite:.1%} |"
                    print(row, flush=True)
    print()
    size = of_size
    print("| change | finds |")
    print("| --- | ---: |")
    print(f"| +20 %, 10 + 10 runs, 15 % | {alone(size(0.15), 10, 10, 1.2, 20 * times):.1%} |")
    print(f"| +20 %, 5 + 5 runs, 10 % | {alone(size(0.10), 5, 5, 1.2, 20 * times):.1%} |")
    for variation in (0.10, 0.15):
        found = suites(size(variation), 20, 5, 5, 1.1, times)[1]
        print(f"| +10 % of 20 scenarios by the suite's test, 5 + 5 runs, {variation:.0%} | {found:.1%} |")
        none = suites(size(variation), 20, 5, 5, 1.0, times)[1]
        print(f"| no change of 20 scenarios, by the suite's test, {variation:.0%} | {none:.1%} |")
    for before, planned, variation in ((10, 10, 0.15), (10, 10, 0.10), (5, 5, 0.10), (10, 20, 0.15)):
        saved, found = stopping(size(variation), before, planned, 1.3, times)
        print(
            f"| +30 %, {before} + {planned} runs, {variation:.0%}: "
            f"early stop saves {saved:.0%} of the calls | {found:.1%} |"
        )


if __name__ == "__main__":
    main()
