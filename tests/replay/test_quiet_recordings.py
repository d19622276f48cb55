"""The diff of two recordings shows what changed: not ids, dates, times, or attempts that were turned away."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_tokenbudget.replay.cassette_file import Interaction, format_cassette
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.traffic import Reader, settled
from support.blocks import body
from support.clients import CALLS, COMMAND

SYSTEM = "You find parcels.\nYou answer in one line.\nYou never guess.\n" * 8


def request(messages: Sequence[Any], system: str = SYSTEM, sdk: str = "2.12.0") -> dict[str, Any]:
    content = {"model": "claude-haiku-4-5", "max_tokens": 100, "system": system, "messages": messages}
    return {
        "method": "POST",
        "uri": "https://api.anthropic.com/v1/messages",
        "headers": {"content-type": ["application/json"], "x-stainless-package-version": [sdk]},
        "body": json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(),
    }


def answer(message: Mapping[str, Any], day: int, started: int, answered: int) -> dict[str, Any]:
    return {
        "status": {"code": 200, "message": "OK"},
        "timing": {"started": started, "answered": answered},
        "headers": {"content-type": ["application/json"], "date": [f"Sat, {day} Nov 2026 22:20:09 GMT"]},
        "body": {"string": json.dumps(message, separators=(",", ":")).encode()},
    }


def stream(message: Mapping[str, Any]) -> bytes:
    """A message as the events that it is streamed in."""
    text = message["content"][0]["text"]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": message["usage"]},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()


def usage(prefix: int, turn: int) -> dict[str, Any]:
    """Of a turn that adds 50 tokens to what the one before it has cached, as the API tells it."""
    read, written = (prefix + 50 * (turn - 1), 50) if turn else (0, prefix)
    return {
        "input_tokens": 3,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 20,
        "service_tier": "standard",
    }


def recording(
    run: int,
    *,
    turns: int = 4,
    last: str = "It comes tomorrow.",
    system: str = SYSTEM,
    streamed: bool = False,
    at_once: bool = False,
) -> list[Interaction]:
    """An agent that looks a parcel up on each turn but the last; `run` is in all that says nothing."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Where is my parcel?"}]
    interactions: list[Interaction] = []
    for turn in range(turns):
        use = {"type": "tool_use", "id": f"toolu_run{run}_turn{turn}", "name": "look_up", "input": {}}
        content = [use] if turn < turns - 1 else [{"type": "text", "text": last}]
        message = {
            "id": f"msg_run{run}_turn{turn}",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5",
            "content": content,
            "stop_reason": "end_turn",
            "usage": usage(len(system), turn),
        }
        started = 0 if at_once else 1000 * turn + run
        told = answer(message, 20 + run, started, 1000 * turn + 500 + run)
        if streamed and turn == turns - 1:
            told["headers"]["content-type"] = ["text/event-stream"]
            told["body"] = {"string": stream(message)}
        interactions.append((request(list(messages), system, f"2.12.{run}"), told))
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": "On its way."}
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    return interactions


def difference(new: Sequence[Interaction], old: Sequence[Interaction]) -> list[str]:
    """The lines that a diff of two recordings has, with their signs."""
    before, now = (format_cassette(one).splitlines() for one in (old, new))
    changed = list(difflib.unified_diff(before, now, lineterm="", n=0))[2:]
    return [line for line in changed if not line.startswith("@@")]


def diff(new: Sequence[Interaction], old: Sequence[Interaction]) -> list[str]:
    """The lines that are other ones than before, as they are now."""
    return [line[1:].strip() for line in difference(new, old) if line.startswith("+")]


@pytest.mark.parametrize("streamed", [False, True])
def test_equal_answers_change_nothing(streamed: bool) -> None:
    old, new = recording(1, streamed=streamed), recording(2, streamed=streamed)
    assert len(diff(new, old)) > 20
    assert settled(new, old) == old


def test_one_changed_sentence_is_shown_with_what_it_costs() -> None:
    old = recording(1)
    new = recording(2, system=SYSTEM.replace("You never guess.", "You never ever guess.", 1))
    lines = difference(settled(new, old), old)
    assert lines[:2] == ["-        You never guess.", "+        You never ever guess."]
    assert [line.split()[1] for line in lines[2:]] == ["usage:"] * 8
    assert len(lines) == 10


def test_another_answer_is_shown_and_what_is_before_it_keeps_its_ids() -> None:
    old, new = recording(1), recording(2, last="It is lost.")
    kept = settled(new, old)
    lines = diff(kept, old)
    assert "- type: text" not in lines
    assert "text: It is lost." in lines
    assert not any("toolu_run2" in line for line in lines)
    assert kept[-1][1]["timing"] == new[-1][1]["timing"], "times are compared within one run"
    assert kept[0][1]["timing"] == new[0][1]["timing"]


def test_more_turns_than_before_keep_the_ids_of_the_first() -> None:
    old, new = recording(1, turns=3), recording(2, turns=5)
    kept = settled(new, old)
    assert len(kept) == 5
    text = format_cassette(kept)
    assert "toolu_run1_turn0" in text
    assert "toolu_run2_turn0" not in text
    assert "toolu_run2_turn3" in text


def test_what_is_asked_at_once_now_is_no_quiet_change() -> None:
    old, new = recording(1), recording(2, at_once=True)
    kept = settled(new, old)
    assert [told["timing"] for _, told in kept] == [told["timing"] for _, told in new]


def test_the_order_of_what_was_asked_at_once_says_nothing() -> None:
    def votes(run: int, words: Sequence[str]) -> list[Interaction]:
        one = {"id": f"msg_run{run}_", "type": "message", "role": "assistant", "usage": {"input_tokens": 9}}
        said = [{**one, "id": f"msg_run{run}_{word}", "content": [word]} for word in words]
        asked = [request([{"role": "user", "content": word}]) for word in words]
        return list(zip(asked, [answer(told, 20 + run, 0, 900 + run) for told in said], strict=True))

    old = votes(1, ["yes", "no", "maybe"])
    assert settled(votes(2, ["maybe", "yes", "no"]), old) == old


def subagents(
    agents: Sequence[str], ids: Sequence[str], *, host: str, system: str = SYSTEM
) -> list[Interaction]:
    """Agents at once, in this order: each looks something up, by a call with its id, and answers."""
    first, second = list[Interaction](), list[Interaction]()
    for number, (agent, name) in enumerate(zip(agents, ids, strict=True)):
        messages: list[dict[str, Any]] = [{"role": "user", "content": f"Source: {agent}"}]
        call = {"type": "tool_use", "id": f"toolu_{name}", "name": "look_up", "input": {}}
        for turn, content in enumerate(([call], [{"type": "text", "text": f"Found in {agent}."}])):
            told = {
                "id": f"msg_{name}_{turn}",
                "type": "message",
                "role": "assistant",
                "model": "claude-haiku-4-5",
                "content": content,
                "usage": usage(100, turn),
            }
            asked = request(list(messages), system) | {"uri": f"https://{host}/v1/messages"}
            started = 10 * number + 1000 * turn
            (second if turn else first).append((asked, answer(told, 20, started, started + 500)))
            result = {"type": "tool_result", "tool_use_id": call["id"], "content": "On its way."}
            messages += [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    return first + second


def turn_of(interaction: Interaction) -> tuple[list[bytes], int]:
    """The agent that asks, and its turn: how often its calls were answered."""
    sent = bytes(interaction[0]["body"])
    return re.findall(rb"Source: (\w+)", sent), sent.count(b"On its way.")


IDS = ("0123456789ab_1", "0123456789ab_2", "0123456789ab_3", "0123456789ab_4")


@example(["rules", "manuals", "cases"], [IDS[1], IDS[0], *IDS[2:]], "gate", SYSTEM)
@given(
    st.permutations(["manuals", "rules", "cases"]),
    st.permutations(IDS),
    st.sampled_from(["gate", "api.anthropic.com"]),
    st.sampled_from([SYSTEM, "You find parcels."]),
)
def test_agents_at_once_keep_their_own_calls(
    agents: Sequence[str], ids: Sequence[str], host: str, system: str
) -> None:
    """In another order, from another host, with ids that the old recording had elsewhere.

    Of agents at once, the order alone is no change: the recording then stays as it was.
    """
    old = subagents(["manuals", "rules", "cases"], IDS[:3], host="gate")
    new = subagents(agents, ids[:3], host=host, system=system)
    kept = settled(new, old)
    pairs = set[tuple[str, str]]()
    for was, now in zip(sorted(new, key=turn_of), sorted(kept, key=turn_of), strict=True):
        assert now[0]["uri"] == was[0]["uri"], "the host decides what a token costs"
        assert turn_of(now) == turn_of(was)
        texts = [bytes(asked["body"]) + told["body"]["string"] for asked, told in (was, now)]
        before, after = (re.findall(r"toolu_\w+", text.decode()) for text in texts)
        pairs |= set(zip(before, after, strict=True))
    assert len({new for new, _ in pairs}) == len({old for _, old in pairs}) == len(pairs) == 3


def called(*attempts: tuple[int, str]) -> Ledger:
    """A ledger of one call that was tried several times: the status, and the retry that the SDK counts."""
    ledger = Ledger("test_it", COMMAND, (), CALLS)
    for code, retry in attempts:
        headers = {"x-stainless-retry-count": [retry]} if retry else {}
        raw = {"method": "POST", "uri": "https://gate/v1/messages", "headers": headers}
        sent = Reader().read({**raw, "body": json.dumps(body()).encode()})
        assert ledger.find(sent) is None
        said = {"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}
        content = json.dumps(said if code == 200 else error).encode()
        told = {"status": {"code": code, "message": ""}, "headers": {}, "body": {"string": content}}
        ledger.finish(ledger.begin(sent), told)
    return ledger


@pytest.mark.parametrize(
    ("attempts", "kept"),
    [
        ([(429, "0"), (529, "1"), (200, "2")], [200]),
        ([(500, "0"), (200, "1")], [500, 200]),
        ([(429, ""), (200, "")], [429, 200]),  # a loop of the agent's own may ask twice whatever it gets
        ([(200, "0"), (529, "0")], [200, 529]),
        ([(529, "0"), (529, "1")], [529, 529]),
    ],
)
def test_attempts_that_a_retry_came_through_are_not_kept(
    attempts: list[tuple[int, str]], kept: list[int]
) -> None:
    assert [told["status"]["code"] for _, told in called(*attempts).interactions()] == kept
