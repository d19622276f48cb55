"""Accepted requests: their edits, their file, and what becomes of them when it was merged or edited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tokenbudget.budget.accepted import (
    AcceptedCassette,
    AcceptedTurn,
    Edit,
    accepted_digest,
    accepted_path,
    edited,
    edits_between,
    format_accepted,
    newly_accepted,
    newly_changed_tools,
    parse_accepted,
    read_accepted,
    write_accepted,
)
from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.model import Basis, Rate, Tokens, Usage
from pytest_tokenbudget.wire.exchange import Request
from pytest_tokenbudget.wire.requests import read_request
from support.sample import examples

USAGE = Usage.of(Rate("claude-haiku-4-5"), Tokens(12, 340, 0, 0, 5))
LINES = [f"Rule {number}: answer briefly, and name the source of what you say.\n" for number in range(400)]


def request(body: Mapping[str, Any], betas: str = "", url: str = "https://api/v1/messages") -> Request:
    headers = {"anthropic-version": "2023-06-01"} | ({"anthropic-beta": betas} if betas else {})
    read = read_request("POST", url, headers, json.dumps(body).encode())
    assert read is not None
    return read


def asked(system: str, **more: Any) -> Request:
    messages = [{"role": "user", "content": "Where is it?"}]
    body = {"model": "claude-haiku-4-5", "max_tokens": 9, "system": system, "messages": messages}
    return request(body | more)


TEXT = st.text(st.sampled_from('ab\n\\"n,[{é\U0001f600\ud83d\x7f'), max_size=12)
VALUE = st.recursive(
    TEXT | st.integers(0, 3) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
BODY = st.dictionaries(st.sampled_from(["system", "tools", "thinking", "temperature"]), VALUE, max_size=4)


@settings(max_examples=examples(100))
@given(BODY, BODY, st.sampled_from(["", "x", "x,y"]), st.sampled_from(["", "y"]))
def test_edits_make_the_accepted_request_of_the_recorded_one(
    was: dict[str, Any], now: dict[str, Any], betas_then: str, betas_now: str
) -> None:
    recorded = request(was | {"model": "a", "messages": []}, betas_then)
    accepted = request({"messages": [], "model": "b"} | now, betas_now)
    edits = edits_between(recorded, accepted)
    text = format_accepted(
        {"test_a": [AcceptedCassette("9f2c41d07a3b", (AcceptedTurn(0, USAGE, Basis.COUNTED, edits),))]}
    )
    (turn,) = parse_accepted(text, "test_a")[0].turns
    made = edited(recorded, turn.edits)
    assert (made.digest, made.prompt.betas) == (accepted.digest, accepted.prompt.betas)
    assert edits_between(made, accepted) == ()


def test_a_model_in_the_url_is_accepted_too() -> None:
    body = {"anthropic_version": "bedrock-2023-05-31", "messages": [{"role": "user", "content": "x"}]}
    host = "https://bedrock-runtime.us-east-1.amazonaws.com/model"
    was, now = (
        request(body, url=f"{host}/anthropic.claude-{name}-v1:0/invoke")
        for name in ("sonnet-4-5", "opus-4-5")
    )
    made = edited(was, edits_between(was, now))
    assert (made.digest, made.prompt.model) == (now.digest, now.prompt.model)


def test_a_line_more_is_an_edit_of_one_line() -> None:
    was, now = asked("".join(LINES)), asked("".join([*LINES[:22], "Be kind.\n", *LINES[22:]]))
    assert edits_between(was, now) == (Edit("system", 22, (), ("Be kind.\\n",)),)


def test_what_mostly_changed_is_one_edit() -> None:
    was, now = asked("One\nTwo\nThree\n"), asked("One\nSecond\nThird\nFourth\n")
    assert len(edits_between(was, now)) == 1


def test_each_edit_stands_once_in_a_file() -> None:
    was, now = asked("".join(LINES)), asked("".join([*LINES, "Be kind.\n"]))
    turn = AcceptedTurn(0, USAGE, Basis.COUNTED, edits_between(was, now))
    scenarios = {f"test_{n}": [AcceptedCassette("9f2c41d07a3b", (turn,))] for n in range(45)}
    text = format_accepted(scenarios)
    assert text.count("Be kind.") == 1
    assert len(text) / 45 < 400


def accepted_file(**scenarios: Request) -> str:
    """The accepted file of scenarios that were recorded with the plain prompt."""
    recorded = asked("".join(LINES), tools=[{"name": "look", "description": "Looks."}])
    made = {name: edits_between(recorded, accepted) for name, accepted in scenarios.items()}
    return format_accepted(
        {
            name: [AcceptedCassette("9f2c41d07a3b", (AcceptedTurn(0, USAGE, Basis.COUNTED, edits),))]
            for name, edits in made.items()
        }
    )


def test_what_is_newly_accepted_is_told_as_text() -> None:
    tools = [{"name": "look", "description": "Looks."}]
    first = [*LINES[:9], 'Say "please".\n', *LINES[9:]]
    second = [*LINES[:9], 'Say "please".\n', "Say it twice.\n", *LINES[9:]]
    once = accepted_file(a=asked("".join(first), tools=tools), b=asked("".join(first), tools=tools))
    assert newly_accepted("", once) == {name: {"system": [("", 'Say "please".\n')]} for name in "ab"}
    longer = [{"name": "look", "description": "Looks it up\nin the shop."}]
    twice = accepted_file(a=asked("".join(second), tools=longer), b=asked("".join(first), tools=tools))
    found = newly_accepted(once, twice)
    assert found.keys() == {"a"}
    assert found["a"]["system"] == [('Say "please".\n', 'Say "please".\nSay it twice.\n')]
    ((was, now),) = found["a"]["tools"]
    assert "Looks." in was
    assert "Looks it up\nin the shop." in now
    assert newly_accepted(once, once) == {}
    assert newly_accepted(twice, once)["a"]["tools"] == [], "it is as recorded again"


SCHEMA = {"type": "object", "properties": {"ref": {"type": "string"}}, "required": ["ref"]}
LOOK, BUY, SELL = (
    {"name": name, "description": "Acts.", "input_schema": SCHEMA} for name in ("look", "buy", "sell")
)
LONGER = {**LOOK, "description": "Looks it up."}


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        ([LOOK], [LOOK, BUY], ["buy"]),
        ([LOOK], [BUY, LOOK], ["buy"]),
        ([LOOK], [LONGER], ["look"]),
        ([LOOK], [], ["look"]),
        ([LOOK, BUY], [LOOK], ["buy"]),
        ([LOOK, BUY], [LONGER, BUY], ["look"]),
        ([LOOK, BUY], [LOOK, BUY, SELL], ["sell"]),
        ([LOOK, BUY], [BUY, LOOK], []),
        ([LOOK, BUY], [LONGER, SELL], ["buy", "look", "sell"]),
        (
            [LOOK, {"type": "mcp_toolset"}, BUY],
            [LOOK, {"type": "mcp_toolset"}, LONGER, SELL],
            ["buy", "look", "sell"],
        ),
    ],
)
def test_the_tools_are_named_that_are_accepted_otherwise(before: Any, now: Any, names: list[str]) -> None:
    """Also where no line that changed says the name; not those that were accepted so before."""
    recorded = asked("Be kind.", tools=[LOOK])

    def accepted(tools: Any) -> str:
        edits = edits_between(recorded, asked("Be kind.", tools=tools))
        turns = (AcceptedTurn(0, USAGE, Basis.COUNTED, edits),)
        return format_accepted({"test_a": [AcceptedCassette("9f2c41d07a3b", turns)]})

    assert newly_changed_tools(accepted(before), accepted(now)) == {"test_a": names}


def test_names_of_tools_change_no_digest() -> None:
    """Files of before have none, and stay what they were."""
    recorded, now = (asked("Be kind.", tools=tools) for tools in ([LOOK], [LONGER]))
    edits = edits_between(recorded, now)
    bare = tuple(replace(edit, tools={}) for edit in edits)
    turns = [(AcceptedTurn(0, USAGE, Basis.COUNTED, each),) for each in (edits, bare)]
    named, old = ([AcceptedCassette("9f2c41d07a3b", each)] for each in turns)
    assert edits[0].tools
    assert accepted_digest(named) == accepted_digest(old)
    assert named == old, "so that an update leaves the file as it is"
    assert newly_changed_tools("", format_accepted({"test_a": old})) == {"test_a": []}


def test_edits_of_another_recording_are_refused() -> None:
    edits = edits_between(asked("One\nTwo\nThree\n"), asked("One\n2\nThree\n"))
    with pytest.raises(BaselineError, match="system: line 1 is not the one that was edited"):
        edited(asked("One\nDue\nThree\n"), edits)


GONE = AcceptedTurn(1, Usage(), Basis.RECORDED, gone=True)


def cassettes(added: str = "Be kind.\n") -> list[AcceptedCassette]:
    edits = edits_between(asked("One\n"), asked(f"One\n{added}"))
    turns = (
        AcceptedTurn(0, USAGE, Basis.COUNTED, edits),
        GONE,
        AcceptedTurn(2, USAGE, Basis.RECORDED, volatile=True),
    )
    return [AcceptedCassette("9f2c41d07a3b", turns)]


def test_a_file_is_read_back(tmp_path: Path) -> None:
    path = accepted_path(tmp_path / "token_budgets" / "test_a.yaml")
    assert path == tmp_path / "token_budgets" / "accepted" / "test_a.yaml"
    assert read_accepted(path) == {}
    assert write_accepted(path, {"test_b": cassettes(), "test_a": cassettes("Be brief.\n")})
    read = read_accepted(path)
    assert {name: list(value) for name, value in read.items()} == {
        "test_a": cassettes("Be brief.\n"),
        "test_b": cassettes(),
    }
    assert accepted_digest(read["test_b"]) == accepted_digest(cassettes())
    assert accepted_digest(read["test_a"]) != accepted_digest(cassettes())
    assert [turn.volatile for turn in read["test_a"][0].turns] == [False, False, True]


def test_nothing_new_leaves_every_byte_and_nothing_left_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "test_a.yaml"
    write_accepted(path, {"test_a": cassettes()})
    path.write_text("# ours\n" + path.read_text("utf-8"), "utf-8")
    before = path.read_text("utf-8")
    assert not write_accepted(path, {"test_a": cassettes(), "test_b": ()})
    assert path.read_text("utf-8") == before
    assert write_accepted(path, {"test_a": ()})
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version: 2\nedits: {}\nscenarios: {}\n",
        "version: 1\nedits: {}\nscenarios: []\n",
        "version: 1\nedits: {}\nscenarios:\n  a:\n  - recording: x\n    turns: [{of: 0, basis: counted}]\n",
        "<<<<<<< HEAD\nversion: 1\n",
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_fix(tmp_path: Path, text: str) -> None:
    path = tmp_path / "test_a.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(
        BaselineError, match=r"was merged or edited|conflict marks of a merge \(line 1\)"
    ) as error:
        read_accepted(path)
    assert str(path) in str(error.value)
    assert "--token-budget-update" in str(error.value)
    assert "delete" not in str(error.value)
