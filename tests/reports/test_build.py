"""Measured runs as entries of the document."""

from __future__ import annotations

import ast
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytest_tokenbudget
from pytest_tokenbudget.budget.verdict import Judgement
from pytest_tokenbudget.metering.counting import BuiltinCounter
from pytest_tokenbudget.metering.meter import Meter
from pytest_tokenbudget.model import COUNTS, Rate, Tokens, Usage, Verdict
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.document import add, usage_of
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Request
from pytest_tokenbudget.wire.prompt import parse_prompt


def test_a_turn_is_of_the_model_that_answered_the_request_itself() -> None:
    """An advisor of a name that comes first in the alphabet is billed beside it."""
    own, advisor = Rate("claude-sonnet-4-6"), Rate("claude-opus-4-8")
    usage = Usage.of(own, Tokens(input_tokens=80)) + Usage.of(advisor, Tokens(input_tokens=7872), turns=0)
    request = Request(Endpoint("messages"), parse_prompt({"model": own.model, "messages": []}), "")
    run = Meter(BuiltinCounter()).called([Exchange(request, Answer(200, {"content": []}, usage))])
    place = build.Place("tests/test_a.py::test_b", "tests/test_a.py", 7)
    entry = build.scenario(place, Judgement(Verdict.NEW), None, run, [], lambda _: Decimal(0))
    (turn,) = entry["turns"]
    assert turn["model"] == "claude-sonnet-4-6"
    assert turn["tokens"] is not None
    assert list(turn["tokens"]["models"]) == ["claude-opus-4-8", "claude-sonnet-4-6"]


RATES = st.sampled_from(
    [Rate("claude-sonnet-4-6"), Rate("claude-opus-4-8", ("batch", "us")), Rate("a (odd) one")]
)
USED = st.builds(
    lambda parts, turns: sum((Usage.of(*part, turns=0) for part in parts), Usage(turns)),
    st.lists(st.tuples(RATES, st.builds(Tokens, *(st.integers(0, 10**9) for _ in COUNTS))), max_size=4),
    st.integers(0, 9),
)


def cents(usage: Usage) -> Decimal:
    return Decimal(usage.tokens.total) / 100


@given(USED)
def test_a_usage_comes_back_out_of_its_entry(usage: Usage) -> None:
    assert usage_of(build.tokens(usage, cents)) == usage


@given(st.lists(USED, max_size=4))
def test_entries_add_up_as_usages_do(usages: list[Usage]) -> None:
    added, total = add([build.tokens(usage, cents) for usage in usages]), sum(usages, Usage())
    assert usage_of(added) == total
    expected = build.tokens(total, cents)
    assert added["cost_usd"] == pytest.approx(expected["cost_usd"])
    assert added["models"].keys() == expected["models"].keys()


def test_a_sum_has_no_cost_where_a_part_has_none() -> None:
    known, unknown = Usage.of(Rate("known"), Tokens(7)), Usage.of(Rate("unknown"), Tokens(8))
    total = add([build.tokens(known, cents), build.tokens(unknown, lambda _: None)])
    assert (total["prompt_tokens"], total["cost_usd"]) == (15, None)
    assert [total["models"][name]["cost_usd"] for name in ("known", "unknown")] == [0.07, None]


def test_counts_are_added_in_one_module() -> None:
    """`Tokens.__add__` and `Usage.__add__`: nobody else adds up what the API names so."""
    package = Path(pytest_tokenbudget.__file__).parent
    adders = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("sum", "fields")
        and any(
            name in ast.unparse(node)
            for name in ("ephemeral_5m", "cache_creation", "in _COUNTS", "fields(tokens)")
        )
    }
    assert adders == set()
