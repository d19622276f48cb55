"""What a text gained, as a reader would mark it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.sources.words import added_spans, words_of

TABLE = [
    ("", "one two", ["one two"]),
    ("one two", "one two", []),
    ("one two", "", []),
    ("a\nb\nc", "a\nx\nb\nc", ["x"]),
    ("a\nb", "a\nb\nc d\ne", ["c d e"]),
    ("Be kind.\nNever lie.", "Be kind.\nBe quick.\nNever lie.", ["Be quick ."]),
    ("Be kind. Never lie.", "Be quick. Be kind. Never lie.", ["Be quick ."]),
    ("Be kind. Never lie.", "Be kind. Be quick. Never lie.", ["Be quick ."]),
    ("at most 5 words", "at most 7 words", ["7"]),
    ("a\n\n\nb", "a\nb", []),
    ("same  words", "same\n   words", []),
    ("first\nmiddle\nlast", "new first\nmiddle\nlast and more", ["new", "and more"]),
]


@pytest.mark.parametrize(("was", "now", "added"), TABLE)
def test_added(was: str, now: str, added: list[str]) -> None:
    words = words_of(now)
    assert [" ".join(words[start:end]) for start, end in added_spans(was, now)] == added


@given(
    st.lists(st.sampled_from(["a", "b", "c", "\n", ". "])),
    st.lists(st.sampled_from(["a", "b", "c", "\n", ". "])),
)
def test_spans_are_in_order_and_inside_the_text(was: list[str], now: list[str]) -> None:
    old, new = " ".join(was), " ".join(now)
    spans = added_spans(old, new)
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert all(start < end <= len(words_of(new)) for start, end in spans)
    if words_of(old) == words_of(new):
        assert not spans


def test_long_texts_with_nothing_in_common_are_not_compared_word_by_word() -> None:
    old, new = "\n".join(f"a{i}" for i in range(2000)), "\n".join(f"b{i}" for i in range(2000))
    assert added_spans(old, new) == [(0, 2000)]
