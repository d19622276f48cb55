"""What replaying and judging cost beside pytest-recording: `replay_speed.py [--scenarios N] ...`.

One suite, in whole processes of pytest, in turn: each test is a conversation through the SDK, its system
prompt 30 KB, its cassette as vcrpy writes it. Prints the median CPU seconds of each way, and
their ratio to those of pytest-recording.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from speed_counting import prose
from tables import table

SUITE = """
import os
import anthropic, pytest

SYSTEM = open("system.txt").read() + os.environ.get("MORE", "")
CLIENT = anthropic.Anthropic(api_key="none", max_retries=0)

@pytest.mark.{marker}
@pytest.mark.parametrize("number", range({scenarios}))
def test_conversation(number):
    messages = [{{"role": "user", "content": f"Question 0 of {{number}}"}}]
    for turn in range(1, {turns} + 1):
        answer = CLIENT.messages.create(
            model="claude-haiku-4-5", max_tokens=100, system=SYSTEM, messages=messages
        )
        said = [block.model_dump(include={{"type", "text"}}) for block in answer.content]
        messages.append({{"role": "assistant", "content": said}})
        messages.append({{"role": "user", "content": f"Question {{turn}} of {{number}}"}})
"""
VCR = ("--block-network", "-p", "no:tokenbudget")
"""What pytest-recording does by itself."""
WAYS = {
    "no test at all, without the plugin": ("nothing", ("-p", "no:tokenbudget"), {}),
    "no test at all, with it": ("nothing", (), {}),
    "pytest-recording: replays, judges nothing": ("vcr", VCR, {}),
    "pytest: replays, judges nothing": ("ours", (), {}),
    "pytest --token-budget, nothing changed": ("ours", ("--token-budget",), {}),
    "pytest --token-budget, the prompt changed": (
        "ours",
        ("--token-budget",),
        {"MORE": " Be kind." * 400},
    ),
    "the suite of pytest-recording --token-budget": ("vcr", ("--token-budget",), {}),
}
EXPECTED = {"pytest --token-budget, the prompt changed": 1}
"""The exit status, where it is not 0: the change is over budget."""


def cassette(system: str, number: int, turns: int) -> str:
    """What vcrpy would have recorded of one test."""
    interactions = []
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Question 0 of {number}"}]
    for turn in range(1, turns + 1):
        body = {
            "model": "claude-haiku-4-5",
            "max_tokens": 100,
            "messages": list(messages),
            "system": system,
        }
        said = [{"type": "text", "text": prose(400, 100 * number + turn)}]
        prompt_tokens = (len(json.dumps(body)) + 3) // 4
        answer = {
            "id": f"msg_{number}_{turn}",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5-20251001",
            "content": said,
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": prompt_tokens, "output_tokens": 100},
        }
        interactions.append(interaction(json.dumps(body), json.dumps(answer)))
        messages.append({"role": "assistant", "content": said})
        messages.append({"role": "user", "content": f"Question {turn} of {number}"})
    return yaml.dump({"interactions": interactions, "version": 1}, Dumper=yaml.CSafeDumper)


def interaction(body: str, answer: str) -> dict[str, Any]:
    return {
        "request": {
            "method": "POST",
            "uri": "https://api.anthropic.com/v1/messages",
            "body": body,
            "headers": {"content-type": ["application/json"]},
        },
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": {"content-type": ["application/json"]},
            "body": {"string": answer},
        },
    }


def write_suites(folder: Path, scenarios: int, turns: int) -> None:
    """One suite for each marker, and one of a test that asks nothing."""
    system = prose(30_000, 0)
    for name, marker in (("ours", "token_budget"), ("vcr", "vcr"), ("nothing", "")):
        suite = folder / name
        suite.mkdir()
        (suite / "pytest.ini").write_text("[pytest]\n", "utf-8")
        (suite / "system.txt").write_text(system, "utf-8")
        text = (
            SUITE.format(marker=marker, scenarios=scenarios, turns=turns) if marker else "def test(): pass\n"
        )
        (suite / "test_speed.py").write_text(text, "utf-8")
    cassettes = folder / "ours/cassettes/test_speed"
    cassettes.mkdir(parents=True)
    for number in range(scenarios):
        (cassettes / f"test_conversation[{number}].yaml").write_text(cassette(system, number, turns), "utf-8")
    shutil.copytree(folder / "ours/cassettes", folder / "vcr/cassettes")
    for name in ("ours", "vcr"):
        run(folder / name, ("--token-budget", "--token-budget-update"), {}, 0)


def run(suite: Path, arguments: Sequence[str], environment: dict[str, str], status: int) -> float:
    """CPU seconds of one process of pytest; raises SystemExit with its output where the status is another."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    start = cpu_of_children()
    done = subprocess.run(
        command, cwd=suite, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    seconds = cpu_of_children() - start
    if done.returncode != status:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return seconds


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=40)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write_suites(Path(folder), options.scenarios, options.turns)
        for _ in range(options.rounds):
            for way, (suite, arguments, environment) in WAYS.items():
                seconds = run(Path(folder, suite), arguments, environment, EXPECTED.get(way, 0))
                times[way].append(seconds)
    medians = {way: statistics.median(of) for way, of in times.items()}
    reference = medians["pytest-recording: replays, judges nothing"]
    print(f"{options.scenarios} scenarios of {options.turns} turns, median of {options.rounds} rounds\n")
    rows = [(way, f"{seconds:.2f}", f"{seconds / reference:.2f}") for way, seconds in medians.items()]
    print(table(("way", "CPU seconds", "to pytest-recording"), rows))


if __name__ == "__main__":
    main()
