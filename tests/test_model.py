"""Usage: the rate of the request itself, and how tokens add up."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.model import COUNTS, Rate, Tokens, Usage

OWN, OTHER = Rate("claude-sonnet-4-6"), Rate("claude-opus-4-8")
SHORT, LONG = Tokens(input_tokens=80, output_tokens=4), Tokens(input_tokens=7872, output_tokens=90)


def advised() -> Usage:
    """A short request that asked an advisor, whose prompt is a hundred times as long."""
    return Usage.of(OWN, SHORT) + Usage.of(OTHER, LONG, turns=0)


def test_the_main_rate_is_the_first_however_long_the_other_prompts_are() -> None:
    assert (advised().main_rate, advised().main_tokens) == (OWN, SHORT)


def test_a_usage_of_nothing_has_a_main_rate_that_is_unknown() -> None:
    assert (Usage(1).main_rate, Usage(1).main_tokens) == (Rate("unknown"), Tokens())


def test_the_main_rate_is_replaced_and_what_else_is_billed_stays() -> None:
    batch = Rate("claude-sonnet-4-6", ("batch",))
    changed = advised().with_main(batch, LONG)
    assert list(changed.by_rate.items()) == [(batch, LONG), (OTHER, LONG)]
    assert changed.turns == 1


def test_a_main_rate_that_becomes_the_other_one_loses_no_token() -> None:
    changed = advised().with_main(OTHER, SHORT)
    assert list(changed.by_rate.items()) == [(OTHER, SHORT + LONG)]


@pytest.mark.parametrize("name", COUNTS)
def test_every_count_adds_up(name: str) -> None:
    one, other = Tokens(**{name: 3}), Tokens(**{name: 4})
    assert one + other == Tokens(**{name: 7})
    assert sum([one, other]) == one + other


def test_the_counts_are_all_fields_of_tokens() -> None:
    assert tuple(field.name for field in fields(Tokens)) == COUNTS


TOKENS = st.builds(Tokens, *(st.integers(0, 10**9) for _ in COUNTS))
RATES = st.sampled_from([OWN, OTHER, Rate("claude-haiku-4-5", ("batch",))])
USAGES = st.builds(
    lambda parts, turns: sum((Usage.of(*part, turns=0) for part in parts), Usage(turns)),
    st.lists(st.tuples(RATES, TOKENS), max_size=4),
    st.integers(0, 9),
)


@given(st.lists(USAGES, max_size=4))
def test_usages_add_up_rate_by_rate(usages: list[Usage]) -> None:
    total = sum(usages, Usage())
    assert total.turns == sum(usage.turns for usage in usages)
    for name in COUNTS:
        for rate in total.by_rate:
            parts = (getattr(usage.by_rate.get(rate, Tokens()), name) for usage in usages)
            assert getattr(total.by_rate[rate], name) == sum(parts)
        assert getattr(total.tokens, name) == sum(getattr(usage.tokens, name) for usage in usages)
