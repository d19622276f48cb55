"""Which block of a prompt is which block of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_tokenbudget.metering.difference import difference
from pytest_tokenbudget.wire.prompt import Block, Prompt, parse_prompt
from support.blocks import call, text, tool

Told = list[tuple[str | None, str | None]]


def prompt(*messages: list[dict[str, Any]], **body: Any) -> Prompt:
    """A prompt whose messages are the user's and the model's in turn."""
    roles = ("user", "assistant")
    told = [{"role": roles[n % 2], "content": content} for n, content in enumerate(messages)]
    return parse_prompt({"model": "claude-sonnet-4-6", "messages": told, **body})


def changes(was: Prompt, now: Prompt) -> Told:
    """Places of what changed, then and now; None where it is on one side only."""
    found = difference(was, now).changes
    return [
        (change.was and change.was.block.where, change.now and change.now.block.where) for change in found
    ]


def same(was: Prompt, now: Prompt) -> Told:
    return [(a.block.where, b.block.where) for a, b in difference(was, now).same]


def tools(*given: tuple[str, str]) -> Prompt:
    return prompt([text("a")], tools=[tool(name, description=words) for name, words in given])


@pytest.mark.parametrize(
    ("was", "now", "changed"),
    [
        ([("add", "one"), ("sub", "two")], [("add", "ONE"), ("sub", "TWO")], [(0, 0), (1, 1)]),
        ([("add", "one"), ("sub", "two")], [("sub", "TWO"), ("add", "ONE")], [(1, 0), (0, 1)]),
        ([("add", "one"), ("sub", "two")], [("new", "0"), ("sub", "TWO")], [(0, 0), (1, 1)]),
        ([("add", "one")], [("new", "0"), ("add", "ONE")], [(None, 0), (0, 1)]),
        ([("add", "one"), ("sub", "two")], [("sub", "TWO")], [(0, None), (1, 0)]),
    ],
    ids=["in place", "in another order", "another one renamed", "behind a new one", "one removed"],
)
def test_a_tool_is_paired_by_its_name(
    was: list[tuple[str, str]], now: list[tuple[str, str]], changed: list[tuple[int | None, int | None]]
) -> None:
    """Whatever its place; only what has no namesake is paired by its place."""

    def where(index: int | None) -> str | None:
        return None if index is None else f"tools[{index}]"

    assert sorted(changes(tools(*was), tools(*now)), key=str) == sorted(
        [(where(a), where(b)) for a, b in changed], key=str
    )


def test_calls_are_not_paired_by_the_name_of_their_tool() -> None:
    """A conversation calls one tool again and again: a call is paired by what stands around it."""
    was = prompt([text("a")], [text("b"), call("f", x="1"), text("c"), call("g", x="2")])
    now = prompt([text("a")], [text("b"), call("g", x="3"), text("c"), call("f", x="4")])
    assert changes(was, now) == [
        ("messages[1].content[1]", "messages[1].content[1]"),
        ("messages[1].content[3]", "messages[1].content[3]"),
    ]


def test_what_moved_is_the_same_block() -> None:
    was, now = tools(("add", "one"), ("sub", "two")), tools(("sub", "two"), ("add", "one"))
    assert changes(was, now) == []
    assert same(was, now)[:2] == [("tools[1]", "tools[0]"), ("tools[0]", "tools[1]")]


def test_equal_blocks_are_paired_in_their_order() -> None:
    was = prompt([text("a")], [text("yes")], [text("a")], [text("yes")])
    now = prompt([text("a")], [text("yes")], [text("a")])
    assert same(was, now) == [(f"messages[{n}].content[0]",) * 2 for n in range(3)]
    assert changes(was, now) == [("messages[3].content[0]", None)]


def test_a_block_that_nobody_can_count_is_the_same_where_it_was_sent_again() -> None:
    unread = {"type": "container_upload", "file_id": "f"}
    assert changes(prompt([text("a"), unread]), prompt([text("new"), unread])) == [
        ("messages[0].content[0]", "messages[0].content[0]")
    ]


def test_what_the_model_is_not_shown_makes_no_other_block() -> None:
    one, other = call("f", "t1"), call("f", "t2")
    assert changes(prompt([text("a")], [one]), prompt([text("a")], [other])) == []


def test_a_changed_block_is_paired_between_the_same_neighbours() -> None:
    was = prompt([text("a"), text("b"), text("c")])
    now = prompt([text("a"), text("new"), text("c"), text("more")])
    assert changes(was, now) == [
        ("messages[0].content[1]", "messages[0].content[1]"),
        (None, "messages[0].content[3]"),
    ]


def in_one(*words: str) -> Prompt:
    return prompt([text(each) for each in words])


@pytest.mark.parametrize(
    ("was", "now", "changed"),
    [
        (("x", "same", "y"), ("same", "z"), [(0, None), (2, 1)]),
        (("same", "old"), ("new", "same"), [(None, 0), (1, None)]),
        (("same", "x", "y"), ("new", "same", "X"), [(None, 0), (1, 2), (2, None)]),
        (("same", "x", "y"), ("same", "X", "Y"), [(1, 1), (2, 2)]),
    ],
    ids=["behind", "not before and behind", "two behind one", "in their order"],
)
def test_the_neighbour_before_decides(
    was: Sequence[str], now: Sequence[str], changed: list[tuple[int | None, int | None]]
) -> None:
    def where(index: int | None) -> str | None:
        return None if index is None else f"messages[0].content[{index}]"

    found = sorted(changes(in_one(*was), in_one(*now)), key=str)
    assert found == sorted([(where(a), where(b)) for a, b in changed], key=str)


def test_another_roles_block_in_the_same_place_is_another_block() -> None:
    was = prompt([text("a")], [text("b")])
    now = parse_prompt({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "B"}]})
    assert changes(was, now) == [("messages[1].content[0]", None), (None, "messages[1].content[0]")]
    same_words = parse_prompt(
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    )
    assert len(changes(was, same_words)) == 2


def test_a_block_of_another_kind_is_another_block() -> None:
    was, now = prompt([text("a")], [text("b")]), prompt([text("a")], [call("f")])
    assert changes(was, now) == [("messages[1].content[0]", None), (None, "messages[1].content[0]")]


def test_what_was_removed_stands_where_it_was() -> None:
    was = prompt([text("a")], [text("b"), call("f")], [text("c")])
    now = prompt([text("a")], [text("B")], [text("c"), text("d")])
    assert [old for old, _ in changes(was, now)] == ["messages[1].content[0]", "messages[1].content[1]", None]


@pytest.mark.parametrize(
    ("was", "now", "changed"),
    [
        ([text("one two")], [text("one "), text("two")], 0),
        ([text("one "), text("two")], [text("one two")], 0),
        ([text("one two")], [text("one "), text("TWO")], 2),
    ],
)
def test_the_same_text_in_other_blocks_is_no_change(
    was: list[dict[str, Any]], now: list[dict[str, Any]], changed: int
) -> None:
    assert len(changes(prompt(was), prompt(now))) == changed
    assert len(changes(prompt([text("a")], system=was), prompt([text("a")], system=now))) == changed


def test_the_same_text_said_by_another_role_is_a_change() -> None:
    was, now = prompt([text("a"), text("b")]), prompt([text("a")], [text("b")])
    assert changes(was, now) != []


def test_every_block_is_told_once() -> None:
    was = prompt(
        [text("a"), text("b")],
        [call("f")],
        tools=[tool("add", description="one"), tool("add", description="two")],
    )
    now = prompt([text("c")], [text("b"), call("f")], tools=[tool("add", description="three")])
    found = difference(was, now)
    pairs: list[tuple[Block | None, Block | None]] = [(a.block, b.block) for a, b in found.same]
    pairs += [(c.was and c.was.block, c.now and c.now.block) for c in found.changes]
    for side, blocks in ((0, was.blocks), (1, now.blocks)):
        assert sorted(pair[side].where for pair in pairs if pair[side]) == sorted(b.where for b in blocks)  # type: ignore[union-attr]
