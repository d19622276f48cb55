"""Sizes of prefixes: known totals hold, unknown blocks share what they leave."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.metering.cache_split import (
    CurrentSizes,
    CurrentTurn,
    Unsized,
    Weight,
    cheap_weights,
    prefix_sizes,
)
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.metering.prompt_cache import CacheTurn, Chain, chain
from pytest_tokenbudget.wire.prompt import parse_prompt

ASKED = {"model": "claude-sonnet-4-5"}


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*content]}


def conversation(*texts: str, **body: Any) -> Chain:
    messages = [{"role": "user", "content": text} for text in texts]
    return chain(parse_prompt({"model": "claude-sonnet-4-5", "messages": messages, **body}))


class Quarters:
    name, exact = "a quarter of the characters", False

    def count(self, text: str, family: Family) -> int:
        return len(text) // 4


def shares(*values: float) -> list[Weight]:
    return [Weight(share=value) for value in values]


@pytest.mark.parametrize(
    ("weights", "known", "sizes"),
    [
        (shares(1, 1, 2), {}, (25, 50, 100)),
        (shares(1, 1, 2), {0: 40}, (40, 60, 100)),
        (shares(1, 1, 2), {1: 90}, (45, 90, 100)),
        ([Weight(fixed=10), *shares(1, 2)], {}, (10, 40, 100)),
        ([Weight(fixed=10, share=1), *shares(1, 1)], {}, (40, 70, 100)),
        ([Weight(fixed=150), Weight(fixed=50), *shares(0)], {}, (75, 100, 100)),
        (shares(0, 0, 0), {}, (33, 67, 100)),
        (shares(1, 1, 2), {0: 500}, (25, 50, 100)),
        (shares(1, 1, 2), {0: 80, 1: 30}, (15, 30, 100)),
    ],
    ids=[
        "shared out",
        "from a known prefix on",
        "up to a known prefix",
        "a fixed size is kept",
        "fixed and a share",
        "too much is fixed",
        "no weights",
        "a known size beyond the total is passed over",
        "of two that contradict, the later counts",
    ],
)
def test_shares(weights: list[Weight], known: dict[int, int], sizes: tuple[int, ...]) -> None:
    its = conversation("a", "b", "c")
    exact = {its.links[position].key: size for position, size in known.items()}
    assert prefix_sizes([Unsized(its, 103, weights)], exact) == (sizes,)


def test_the_end_of_an_earlier_turn_is_known_in_a_later_one() -> None:
    short, long = conversation("a", "b"), conversation("a", "b", "c", "d")
    turns = [Unsized(long, 1003, shares(9, 9, 1, 1)), Unsized(short, 203, shares(1, 3))]
    assert prefix_sizes(turns, {}) == ((100, 200, 600, 1000), (100, 200))


def test_what_tools_add_stands_around_the_system_prompt() -> None:
    tools = [{"name": "t", "description": "d" * 400, "input_schema": {"type": "object"}}]
    its = conversation("hello", system="s" * 4000, tools=tools)
    weights = cheap_weights(its, Quarters())
    assert [weight.fixed for weight in weights] == [180, 0, 316]
    ((first, system, last),) = prefix_sizes([Unsized(its, 1800, weights)], {})
    assert 280 < first < 340
    assert last == 1797
    assert last - system > 316


def test_what_tools_add_stays_around_a_system_prompt_that_moves_into_a_message() -> None:
    """It stands before the first block and before the messages, whichever blocks these are."""
    tools = [{"name": name, "description": "d", "input_schema": {"type": "object"}} for name in "ab"]
    system, question = ({"type": "text", "text": words} for words in ("s" * 4000, "hello"))
    was = chain(parse_prompt({**ASKED, "tools": tools, "system": [system], "messages": [user(question)]}))
    now = parse_prompt({**ASKED, "tools": tools[::-1], "messages": [user(system, question)]})
    sizes = (180 + 50, 280, 280 + 2000, 280 + 2000 + 316 + 20)
    (turn,) = CurrentSizes([CacheTurn(was, sizes, 2619)], Quarters()).add([CurrentTurn(now, 2619)])
    assert turn is not None
    assert turn.sizes == (180 + 50, 280, 280 + 316 + 2000, 280 + 316 + 2000 + 20)


def test_an_empty_prompt_has_no_prefixes() -> None:
    assert prefix_sizes([Unsized(conversation(), 7, [])], {}) == ((),)


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.integers(0, 5000)), max_size=5
    ),
    st.lists(st.floats(0, 1000), min_size=6, max_size=6),
    st.lists(st.floats(0, 1000), min_size=6, max_size=6),
)
def test_prefixes_never_shrink_and_stay_within_the_total(
    turns: list[tuple[list[str], int]], fixed: list[float], share: list[float]
) -> None:
    weights = [Weight(a, b) for a, b in zip(fixed, share, strict=True)]
    unsized = [Unsized(conversation(*texts), total, weights[: len(texts)]) for texts, total in turns]
    measured = prefix_sizes(unsized, {})
    for turn, sizes in zip(unsized, measured, strict=True):
        assert len(sizes) == len(turn.chain.links)
        assert list(sizes) == sorted(sizes)
        assert sizes[0] >= 0
        assert sizes[-1] <= turn.total
