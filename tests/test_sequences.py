"""What two sequences share: one rule, for texts, words, blocks and messages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytest_tokenbudget
from pytest_tokenbudget.sequences import common_ends, common_prefix

PAIRS = [
    ("", "", 0, 0),
    ("", "a", 0, 0),
    ("abc", "abc", 3, 0),
    ("abc", "abd", 2, 0),
    ("abc", "xbc", 0, 2),
    ("abc", "ab", 2, 0),
    ("ab", "abc", 2, 0),
    ("aaa", "aa", 2, 0),
    ("one two", "one, two", 3, 4),
    ("x" * 5000 + "a", "x" * 5000 + "b", 5000, 0),
    ("a" * 1000 + "x" + "b" * 1000, "a" * 1000 + "yz" + "b" * 1000, 1000, 1000),
]


@pytest.mark.parametrize(("one", "other", "begin", "end"), PAIRS)
def test_what_two_texts_share(one: str, other: str, begin: int, end: int) -> None:
    assert common_prefix(one, other) == common_prefix(other, one) == begin
    assert common_ends(one, other) == common_ends(other, one) == (begin, end)
    assert common_ends(list(one), list(other)) == (begin, end)


@given(st.text("ab", max_size=9), st.text("ab", max_size=9))
def test_the_shared_ends_are_the_longest_and_do_not_overlap(one: str, other: str) -> None:
    begin, end = common_ends(one, other)
    assert begin + end <= min(len(one), len(other))
    assert one[:begin] == other[:begin]
    assert one[len(one) - end :] == other[len(other) - end :]
    assert one[begin : begin + 1] != other[begin : begin + 1] or begin == len(one) == len(other)
    left, right = one[begin : len(one) - end], other[begin : len(other) - end]
    assert not left or not right or left[-1] != right[-1]


def test_no_other_module_finds_a_common_prefix_by_itself() -> None:
    """Of two sequences: a loop or `takewhile` over both that ends at the first pair that differs."""
    package = Path(pytest_tokenbudget.__file__).parent
    found = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        if path.name != "sequences.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _walks_to_the_first_difference(node)
    ]
    assert found == []


def _walks_to_the_first_difference(node: ast.AST) -> bool:
    if isinstance(node, ast.For) and "zip(" in ast.unparse(node.iter):
        return any(
            isinstance(inner, ast.If)
            and isinstance(inner.test, ast.Compare)
            and isinstance(inner.test.ops[0], ast.NotEq)
            and isinstance(inner.body[0], ast.Break | ast.Return)
            for inner in node.body
        )
    if isinstance(node, ast.While) and isinstance(node.test, ast.BoolOp):
        return any("min(len(" in ast.unparse(value) for value in node.test.values)
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("takewhile")
