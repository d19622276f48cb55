"""Plays the suite of frameworks: recorded, replayed as it was, elsewhere and changed, and that one charged.

With the frameworks' own defaults: nothing is switched off, and no key is set but where the server is up.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from support.budgeted import KEY, Judged
from support.messages_api import MessagesApi, tool_use

SUITE = Path(__file__).parents[1] / "frameworks" / "suite"
NOWHERE = "http://127.0.0.1:9"
ANSWER = "It left on Monday."
LINGER = "8"
"""Seconds for which a slow test lasts longer: exporter threads of telemetry send every five."""
TOKENS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
_ID = "toolu_01A09q90qw90lq917835lq9"
"""The same on every run: smolagents writes it into its next prompt."""
_CLOSING = ("final_answer", "submit")
"""Tools by which some frameworks end a run."""
_FIELD = "[[ ## answer ## ]]"
"""How DSPy asks for a field."""
_AS_FIELD = f"{_FIELD}\n{ANSWER}\n\n[[ ## completed ## ]]"


def script(body: Mapping[str, Any]) -> Any:
    """Looks the order up, then answers: in words, or by the tool that the framework wants."""
    tools = [tool["name"] for tool in body.get("tools", [])]
    if "look_up" in tools and ANSWER not in str(body["messages"]):
        return [{**tool_use("look_up", order=17), "id": _ID}]
    if (forced := (body.get("tool_choice") or {}).get("name")) is not None:
        return [tool_use(forced, left_on="Monday")]
    closing = [name for name in tools if name in _CLOSING]
    if closing:
        return [tool_use(closing[0], answer=ANSWER)]
    return _AS_FIELD if _FIELD in str(body.get("system")) else ANSWER


@dataclass(frozen=True)
class Charge:
    """What the server charged a scenario."""

    turns: int
    tokens: Mapping[str, int]

    @classmethod
    def of(cls, api: MessagesApi, name: str) -> Charge:
        """All charges of requests that name the scenario."""
        found = [c.usage for c in api.charges if f"Scenario: {name}." in str(c.body["system"])]
        return cls(len(found), {kind: sum(getattr(usage, kind) for usage in found) for kind in TOKENS})


@dataclass(frozen=True)
class Played:
    """What became of the suite."""

    skipped: Mapping[str, str]
    """By scenario: why it did not run."""
    recorded: Mapping[str, Charge]
    replayed: Judged
    """As it was recorded."""
    reported: Mapping[str, Mapping[str, int | None]]
    """What the frameworks said that they used, in the replay."""
    elsewhere: Judged
    """As it was recorded, in another folder, with another home and hash seed, and with slow tests."""
    changed: Judged
    """With a longer prompt."""
    charged: Mapping[str, Charge]
    """With the longer prompt, really called."""


def play(folder: Path, names: list[str]) -> Played:
    """Play a copy of the suite in processes of its own; no server is up while it replays."""
    shutil.copytree(SUITE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    ini = "[pytest]\naddopts = --strict-markers\nasyncio_default_fixture_loop_scope = function\n"
    (folder / "pytest.ini").write_text(ini, "utf-8")
    recorded = _called(folder, names, "--token-budget-record=all", f"--junitxml={folder / 'junit.xml'}")
    replayed = _judged(folder, "--token-budget-update")
    reported = {path.stem: json.loads(path.read_text()) for path in (folder / "reported").iterdir()}
    other = folder.with_name(f"{folder.name}-elsewhere") / "deeper"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("reported", "home", "report.json"))
    elsewhere = _judged(other, PYTHONHASHSEED="4711", FRAMEWORKS_LINGER=LINGER)
    changed = _judged(folder, FRAMEWORKS_CHANGED="1")
    charged = _called(folder, names, "--token-budget-disable", FRAMEWORKS_CHANGED="1")
    return Played(_skipped(folder / "junit.xml"), recorded, replayed, reported, elsewhere, changed, charged)


def _called(folder: Path, names: list[str], *options: str, **more: str) -> dict[str, Charge]:
    with MessagesApi(script) as api:
        done = _run(folder, *options, ANTHROPIC_BASE_URL=api.url, ANTHROPIC_API_KEY=KEY, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: Charge.of(api, name) for name in names}


def _judged(folder: Path, *options: str, **more: str) -> Judged:
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    asked = ("--token-budget", f"--token-budget-report=json:{report}", *options)
    done = _run(folder, *asked, ANTHROPIC_BASE_URL=NOWHERE, **more)
    output = done.stdout + done.stderr
    assert report.exists(), output
    return Judged(done.returncode, output, json.loads(report.read_text("utf-8")))


def _run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("ANTHROPIC_", "PYTEST_"))}
    quiet = {"PYTHONDONTWRITEBYTECODE": "1"}
    own = {"FRAMEWORKS_REPORTED": str(folder / "reported"), "HOME": str(folder / "home")}
    (folder / "home").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**inherited, **quiet, **own, **more},
        capture_output=True,
        text=True,
        timeout=500,
    )


def _skipped(junit: Path) -> dict[str, str]:
    """Modules that could not be imported, by the scenario that they are named after."""
    cases = ElementTree.parse(junit).iter("testcase")
    found = {}
    for case in cases:
        if (skip := case.find("skipped")) is not None:
            found[f"{case.get('classname')}{case.get('name')}".removeprefix("test_")] = str(skip.text)
    return found
