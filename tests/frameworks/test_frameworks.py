"""Agent frameworks as users run them: recorded, replayed without a server, and changed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from support.framework_runs import TOKENS, Played, play

TURNS = {
    "agno": 2,
    "crewai": 2,
    "dspy": 1,
    "inspect_ai": 2,
    "instructor": 1,
    "langgraph": 2,
    "litellm": 2,
    "litellm_async": 2,
    "openai_agents": 2,
    "pydantic_ai": 2,
    "smolagents": 2,
    "strands": 2,
}
"""Each scenario, and how many turns it takes."""

pytestmark = pytest.mark.frameworks


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    if not any(find_spec(name.removesuffix("_async")) for name in TURNS):
        pytest.skip("no agent framework is installed: make test-frameworks")
    return play(tmp_path_factory.mktemp("frameworks"), list(TURNS))


@pytest.fixture(params=TURNS)
def name(request: pytest.FixtureRequest, played: Played) -> str:
    name: str = request.param
    if reason := played.skipped.get(name.removesuffix("_async")):
        pytest.skip(reason)
    return name


def measured(tokens: dict[str, int]) -> dict[str, int]:
    return {kind: tokens[kind] for kind in TOKENS}


def test_the_recording_replays_without_a_server(name: str, played: Played) -> None:
    charge, entry = played.recorded[name], played.replayed.scenarios[f"test_{name}"]
    assert charge.turns == TURNS[name]
    assert (entry["verdict"], entry["basis"]) == ("within", "recorded"), played.replayed.output
    assert entry["measured"]["turns"] == charge.turns
    assert measured(entry["measured"]) == charge.tokens


def test_slow_in_another_folder_with_another_hash_seed_it_is_the_same(name: str, played: Played) -> None:
    """And with another home, without a key, with whatever the framework sends beside its model calls."""
    entry = played.elsewhere.scenarios[f"test_{name}"]
    assert (entry["verdict"], entry["basis"]) == ("within", "recorded"), played.elsewhere.output
    assert entry["measured"] == played.replayed.scenarios[f"test_{name}"]["measured"]


def test_what_the_framework_says_it_used_agrees(name: str, played: Played) -> None:
    entry = played.replayed.scenarios[f"test_{name}"]["measured"]
    said = {kind: tokens for kind, tokens in played.reported[name].items() if tokens is not None}
    assert {"input_tokens", "output_tokens"} <= said.keys()
    assert said == {kind: entry[kind] for kind in said}


def test_a_longer_prompt_is_what_the_server_charges_for_it(name: str, played: Played) -> None:
    charge, entry = played.charged[name], played.changed.scenarios[f"test_{name}"]
    assert (entry["verdict"], entry["basis"]) == ("over", "counted"), played.changed.output
    assert measured(entry["measured"]) == charge.tokens
    assert sum(charge.tokens.values()) > sum(played.recorded[name].tokens.values())


@pytest.mark.parametrize("name", TURNS)
def test_it_is_in_the_docs(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs/frameworks.md").read_text("utf-8")
    assert f"`{name}`" in text
