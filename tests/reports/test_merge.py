"""Shards: order-free, whole or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.reports.document import merge, validate
from support.documents import HAIKU, document, loop, many, scenario

WHOLE = many(40)
SMALL, LARGE = loop(HAIKU, 500, [10]), loop(HAIKU, 900, [10])


@given(st.lists(st.integers(0, 3), min_size=40, max_size=40), st.permutations("abcd"))
def test_any_split_in_any_order_merges_to_the_whole(shards: list[int], names: list[str]) -> None:
    parts = {
        name: document([one for one, its in zip(WHOLE["scenarios"], shards, strict=True) if its == shard])
        for shard, name in enumerate(names)
    }
    merged = merge(parts, shards=4)
    assert merged.document == WHOLE
    validate(merged.document)
    empty = [name for shard, name in enumerate(names) if shard not in shards]
    assert merged.notes == tuple(f"{name} holds no scenario." for name in sorted(empty))


def test_one_document_is_itself() -> None:
    assert merge({"a.json": WHOLE}).document == WHOLE


def test_equal_doubles_are_taken_once() -> None:
    merged = merge({"a.json": WHOLE, "b.json": copy.deepcopy(WHOLE)})
    assert merged.document == WHOLE
    assert merged.notes == ("40 scenarios were in more than one file, and the same in each.",)


def other(**changes: Any) -> Any:
    return {**document([scenario("b.py::test", "within", SMALL, SMALL)]), **changes}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (document([scenario("a.py::test", "over", SMALL, LARGE)]),
         "a.json and b.json disagree about a.py::test"),
        (other(commit="abc"), "a.json and b.json are not of one run: commit 9f2c41d"),
        (other(commit=None), "are not of one run: commit 9f2c41d07b8e5a63c1d0f4b7a92e86d3510c7ea4 and None"),
        (other(mode="live"), "are not of one run: mode replay and live"),
        (other(prices={"source": "genai-prices", "version": "0.3"}),
         "are not of one run: prices genai-prices 0.2.3 and genai-prices 0.3"),
        (other(tool={"name": "pytest-tokenbudget", "version": "9"}), "are not of one run: tool"),
    ],
)  # fmt: skip
def test_refuses_what_does_not_belong_together(second: Any, said: str) -> None:
    first = document([scenario("a.py::test", "within", SMALL, SMALL)])
    with pytest.raises(ReportError) as caught:
        merge({"b.json": second, "a.json": first})
    assert said in str(caught.value)


def test_projects_of_one_repository_merge_from_its_top() -> None:
    wide = scenario("conftest.py::fixture agent of test_a.py::TestA", "within", SMALL, SMALL)
    test = scenario("test_a.py::test", "within", SMALL, SMALL)
    left = [{"id": "test_a.py::test_left", "why": "no key"}]
    parts = {name: document([test, wide], excluded=left) for name in "ab"}
    parts["a"]["project"], parts["b"]["project"] = "packages/a", ""
    merged = merge(parts).document
    assert [(one["id"], one["file"]) for one in merged["scenarios"]] == [
        ("conftest.py::fixture agent of test_a.py::TestA", "conftest.py"),
        ("packages/a/conftest.py::fixture agent of packages/a/test_a.py::TestA", "packages/a/conftest.py"),
        ("packages/a/test_a.py::test", "packages/a/test_a.py"),
        ("test_a.py::test", "test_a.py"),
    ]
    assert [one["id"] for one in merged["excluded"]] == [
        "packages/a/test_a.py::test_left",
        "test_a.py::test_left",
    ]
    assert (merged["project"], merged["totals"]["verdicts"]["within"]) == ("", 4)
    assert merge(dict(reversed(parts.items()))).document == merged
    parts["b"]["project"] = "packages/a"
    assert merge(parts).document["project"] == "packages/a"  # shards of one project keep its names


def test_says_what_is_missing() -> None:
    with pytest.raises(ReportError, match=r"2 of 3 shards are here: a\.json, b\.json\."):
        merge({"b.json": WHOLE, "a.json": WHOLE}, shards=3)
    with pytest.raises(ReportError, match="There is no document to merge"):
        merge({})


def test_what_was_not_judged_is_of_all_shards_and_measured_once_is_measured() -> None:
    first, second = WHOLE["scenarios"][:2]
    failed: Any = {"id": second["id"], "outcome": "failed"}
    skipped: Any = {"id": "tests/test_z.py::test_z", "outcome": "skipped"}
    ended: Any = {"id": second["id"], "text": "ended before it was measured: OSError"}
    broken: Any = {"id": None, "text": "report.md: the report cannot be written"}
    one = document([first], errors=[ended, broken], not_judged=[failed])
    two = document([], errors=[broken], not_judged=[skipped])
    merged = merge({"1.json": one, "2.json": two}).document
    assert merged["errors"] == [broken, ended]
    assert merged["not_judged"] == [failed, skipped]
    again = merge({"1.json": one, "2.json": two, "3.json": document([second])}).document
    assert (again["errors"], again["not_judged"]) == ([broken], [skipped])
