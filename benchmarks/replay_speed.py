"""What replaying and judging cost beside pytest-recording: `replay_speed.py [--scenarios N] ...`.

One suite, in whole processes of pytest, in turn: each test is a conversation through the SDK, its system
prompt of 30 KB (`--system`), its cassette as vcrpy writes it. Prints the median CPU seconds and the largest
peak of memory (resident, MB) of each way, and their ratios to those of pytest-recording.
"""

from __future__ import annotations

import argparse
import json
import os
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

SYSTEM = open("system.txt").read()
if "LONGER" in os.environ:
    SYSTEM += " Be kind." * (len(SYSTEM) // 75)
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
        {"LONGER": "by an eighth"},
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


def write_suites(folder: Path, scenarios: int, turns: int, system_size: int) -> None:
    """One suite for each marker, and one of a test that asks nothing."""
    system = prose(system_size, 0)
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


def run(
    suite: Path, arguments: Sequence[str], environment: dict[str, str], status: int
) -> tuple[float, float]:
    """CPU seconds and peak memory (MB) of one process of pytest; SystemExit where its status is another."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=suite, env={**os.environ, **environment}, stdout=output, stderr=output
        )
        _, ended, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(ended)
        if process.returncode != status:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output.read()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / _MEGABYTE


_MEGABYTE = 1024 * (1024 if sys.platform == "darwin" else 1)
"""How many units of `ru_maxrss` are a MB: bytes on macOS, else KB (`man getrusage`)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=40)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--system", type=int, default=30_000, help="characters of the system prompt")
    options = parser.parse_args()
    runs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write_suites(Path(folder), options.scenarios, options.turns, options.system)
        for _ in range(options.rounds):
            for way, (suite, arguments, environment) in WAYS.items():
                used = run(Path(folder, suite), arguments, environment, EXPECTED.get(way, 0))
                runs[way].append(used)
    medians = {way: statistics.median(seconds for seconds, _ in of) for way, of in runs.items()}
    peaks = {way: max(peak for _, peak in of) for way, of in runs.items()}
    rival = "pytest-recording: replays, judges nothing"
    print(f"{options.scenarios} scenarios of {options.turns} turns, median of {options.rounds} rounds\n")
    rows = [
        (
            way,
            f"{medians[way]:.2f}",
            f"{medians[way] / medians[rival]:.2f}",
            f"{peaks[way]:.0f}",
            f"{peaks[way] / peaks[rival]:.2f}",
        )
        for way in WAYS
    ]
    print(table(("way", "CPU seconds", "to pytest-recording", "peak MB", "to pytest-recording"), rows))


if __name__ == "__main__":
    main()
