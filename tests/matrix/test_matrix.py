"""Every way to Claude: recorded, replayed without a network, and counted when the prompt has changed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from support.playing import Charge, Played, play, scenario
from support.rows import ROWS, Row

pytestmark = [pytest.mark.whole_run, pytest.mark.newest]

EXACT = find_spec("ctok") is not None
PRICES = {"haiku-4-5": (1, 5), "sonnet-4-5": (3, 15), "opus-4-8": (5, 25)}
"""Dollars of a million tokens in and out; writing to the cache costs 1.25 of it, reading 0.1."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def played(folder: Path) -> Played:
    """The suite with the SDK that is installed here."""
    return play(folder, list(ROWS))


def ran(played: Played, test: str) -> Row:
    if test in played.skipped:
        pytest.skip(played.skipped[test])
    return ROWS[test]


@pytest.mark.parametrize("test", ROWS)
def test_what_is_unchanged_is_what_the_server_charged(played: Played, test: str) -> None:
    row = ran(played, test)
    entry = scenario(played.replayed, test)
    assert (entry["verdict"], entry["basis"]) == ("within", "recorded")
    assert {turn["paired"] for turn in entry["turns"]} == {"exact"}
    assert Charge.told(entry) == played.recorded[test]
    assert list(entry["measured"]["models"]) == [row.rate]


@pytest.mark.parametrize("test", ROWS)
def test_what_has_changed_is_what_the_server_would_charge(played: Played, test: str) -> None:
    ran(played, test)
    entry = scenario(played.changed, test)
    charged, counted = played.charged[test], Charge.told(entry)
    assert charged.prompt_tokens > played.recorded[test].prompt_tokens
    if EXACT:
        assert entry["basis"] == "counted"
        assert counted == charged
    else:
        assert entry["basis"] == "estimated"
        assert (counted.turns, counted.tokens[3]) == (charged.turns, charged.tokens[3])
        assert counted.prompt_tokens == pytest.approx(charged.prompt_tokens, rel=0.1)


@pytest.mark.parametrize("test", ROWS)
def test_it_costs_what_the_platform_asks(played: Played, test: str) -> None:
    row = ran(played, test)
    new, written, read, output = played.recorded[test].tokens
    into, out = next(prices for model, prices in PRICES.items() if model in row.rate)
    dollars = row.price * (into * (new + 1.25 * written + 0.1 * read) + out * output) / 1e6
    assert scenario(played.replayed, test)["measured"]["cost_usd"] == pytest.approx(dollars)


def test_nothing_reaches_the_network_in_replay(played: Played) -> None:
    assert played.connections == ""


def test_every_test_of_the_suite_is_a_row(played: Played) -> None:
    tests = {entry["id"].partition("::")[2] for entry in played.replayed.document["scenarios"]}
    assert tests | played.skipped.keys() == ROWS.keys()


def test_the_cassettes_hold_no_key(folder: Path, played: Played) -> None:
    """Of any client or cloud."""
    cassettes = list(folder.rglob("cassettes/**/*.yaml"))
    assert len(cassettes) == len(ROWS) - len(played.skipped)
    text = "".join(cassette.read_text("utf-8") for cassette in cassettes)
    for secret in ("sk-ant-api03", "AKIAEXAMPLE", "a-made-up", "Signature="):
        assert secret not in text
