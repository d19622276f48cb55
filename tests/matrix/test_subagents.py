"""Subagents that ask at the same time: each request gets the answer, and the number, that are its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.replay.cassette_file import read_cassette
from support.budgeted import Judged, run_apart
from support.messages_api import MessagesApi
from support.sample import tenth

pytestmark = [pytest.mark.whole_run, pytest.mark.newest]

SUITE = Path(__file__).with_name("subagents")
RECORDED = 0
"""The seed of the interleaving that is recorded."""
SEEDS = tenth(range(20), of="interleavings")
TURNS = 48
EXACT = find_spec("ctok") is not None
Place = tuple[int, int]
"""Agent and turn."""


def place(body: Mapping[str, Any]) -> Place:
    found = re.search(r"customer (\d)", body["messages"][0]["content"])
    assert found
    return int(found[1]), len(body["messages"]) // 2


def script(body: Mapping[str, Any]) -> str:
    number, turn = place(body)
    return f"Agent {number}, step {turn}: done."


def cassette(folder: Path) -> Path:
    """The recording."""
    return folder / f"cassettes/test_subagents/test_subagents[{RECORDED}].yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded once, in one interleaving; the same cassette for each of the others."""
    folder = tmp_path_factory.mktemp("subagents")
    shutil.copy(SUITE / "test_subagents.py", folder)
    with MessagesApi(script) as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBAGENTS_SEEDS", str(RECORDED))
        done = run_apart(folder, "--token-budget-record=all", url=api.url)
    assert done.status == 0, done.output
    recorded = cassette(folder)
    for seed in SEEDS:
        if seed != RECORDED:
            shutil.copy(recorded, recorded.with_name(f"test_subagents[{seed}].yaml"))
    return folder


@pytest.fixture(scope="module")
def replayed(folder: Path) -> Judged:
    """Other interleavings with another system prompt and other openings."""
    report = folder / "report.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBAGENTS_SEEDS", " ".join(map(str, SEEDS)))
        patch.setenv("SUBAGENTS_CHANGED", "1")
        done = run_apart(folder, "--token-budget-update", f"--token-budget-report=json:{report}")
    assert done.status == 0, done.output  # so each agent has got its own answers
    return Judged(done.status, done.output, json.loads(report.read_text("utf-8")))


@pytest.fixture(scope="module")
def charged(folder: Path) -> dict[Place, tuple[int, int]]:
    """Prompt and output tokens of each request when the changed agents really ask."""
    with MessagesApi(script) as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBAGENTS_SEEDS", str(RECORDED))
        patch.setenv("SUBAGENTS_CHANGED", "1")
        done = run_apart(folder, "--token-budget-disable", url=api.url)
    assert done.status == 0, done.output
    return {place(c.body): (c.usage.prompt_tokens, c.usage.output_tokens) for c in api.charges}


def test_each_request_has_its_own_number(
    folder: Path, replayed: Judged, charged: dict[Place, tuple[int, int]]
) -> None:
    places = [place(json.loads(request["body"])) for request, _ in read_cassette(cassette(folder))]
    assert len(set(places)) == len(charged) == TURNS
    assert len(replayed.document["scenarios"]) == len(SEEDS)
    for entry in replayed.document["scenarios"]:
        told = [(turn["tokens"]["prompt_tokens"], turn["tokens"]["output_tokens"]) for turn in entry["turns"]]
        if EXACT:
            assert told == [charged[place] for place in places]
        else:
            assert told == [pytest.approx(charged[place], rel=0.1) for place in places]


def test_each_request_is_paired_by_its_conversation(folder: Path, replayed: Judged) -> None:
    for entry in replayed.document["scenarios"]:
        hows = [turn["paired"] for turn in entry["turns"]]
        assert (hows.count("similar"), hows.count("lineage")) == (8, TURNS - 8)
