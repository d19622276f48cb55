"""Seeded breaks of the cached prefix: first block and character, kind of value, line, what it costs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_tokenbudget.sources import SourceTree
from support.blocks import EPHEMERAL, text
from support.changes import (
    HANDBOOK_LINES,
    LONGER,
    LONGER_FILE,
    MEASURED,
    NOW,
    TEMPLATE,
    UUIDS,
    WEATHER,
    WHO,
    Case,
    InPlace,
    before_system,
    each,
    every_result,
    mark_system,
    mark_tools,
    on,
    put,
    question,
    system,
    tools_file,
    unmark,
)
from support.seeded import (
    FILES,
    GET_ORDER,
    HANDBOOK,
    PASSAGES,
    QUESTION,
    REFUND,
    RULES,
    SEARCH,
    Body,
    Step,
    changed,
    contents,
    findings,
    record,
    replay,
    results,
    subagents,
    support_agent,
    tool,
)

PIXEL = {
    "type": "image",
    "source": {
        "type": "base64",
        "media_type": "image/png",
        "data": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA"
        "60e6kgAAAABJRU5ErkJggg==",
    },
}


def per_turn(name: str, line: str, values: tuple[str, ...], kind: str, line_of: str = "") -> Case:
    """A value in front of the system prompt that differs on every turn."""
    found = {
        "cache_break system[0]": ("system_changed", kind, "on turns 2-4 lose the cache", line_of),
        "growth system[0]": ("", line_of),
    }
    return Case(name, each(before_system(line, *values)), found, TEMPLATE)


def reversed_keys(schema: Mapping[str, Any]) -> dict[str, Any]:
    return dict(reversed(schema.items()))


def clear_old_results(_: int, body: Body) -> None:
    for block in results(body)[:-1]:
        block["content"] = "[cleared]"


def notes(message: Body) -> None:
    """More blocks in one message than the API looks back over, and the breakpoint behind them."""
    message["content"][:0] = [text(f"note {i}") for i in range(25)]


def notes_in_front_of_results(_: int, body: Body) -> None:
    contents(body)
    for message in body["messages"][2:3]:
        notes(message)


def reminder_at_the_end(_: int, body: Body) -> None:
    """A line behind the newest message, which the next turn does not send again; the breakpoint behind it."""
    last = contents(body)[-1]
    marked = last.pop("cache_control")
    body["messages"][-1]["content"].append(
        {**text("You may leave notes with a tool."), "cache_control": marked}
    )


def order_of_inputs(turn: int, body: Body) -> None:
    for block in contents(body):
        if block["type"] == "tool_use":
            given = {"limit": 5, **block["input"]}
            block["input"] = given if turn % 2 else dict(reversed(given.items()))


BREAKS = [
    per_turn(
        "an ISO time",
        "Current time: {}.",
        ("2026-11-21T10:00:01Z", "2026-11-21T10:00:07Z", "2026-11-21T10:01:00Z", "2026-11-21T10:02:31Z"),
        "date or time",
        NOW,
    ),
    per_turn(
        "a written time",
        "Current time: {}.",
        (
            "Sat Nov 21 10:00:01 2026",
            "Sat Nov 21 10:00:02 2026",
            "Sat Nov 21 10:00:09 2026",
            "Sun Nov 22 0:00:09 2026",
        ),
        "date or time",
        NOW,
    ),
    per_turn(
        "seconds since 1970",
        "Started {}",
        ("1763719201", "1763719207", "1763719290", "1763719999"),
        "date or time",
    ),
    per_turn("a UUID", "Session: {} on web", UUIDS, "UUID or random id", WHO),
    per_turn(
        "a random id", "Trace req_{}", ("8Fk2LmQ9", "Aa7dE0wq", "pp3Lm9Zk", "0qK2mmZ1"), "UUID or random id"
    ),
    per_turn(
        "an object's address",
        "Tools: <Box at 0x{}>",
        ("7f3a12b0", "7f3a99c4", "7f1112b0", "7f00ffb0"),
        "random id",
    ),
    per_turn("a counter", "Turn {} of this conversation", ("1", "2", "3", "4"), "counter"),
    per_turn(
        "tokens left",
        "You have {} tokens left",
        ("98,112", "91,004", "77,310", "5"),
        "counter or other number",
    ),
    Case(
        "a counter, beside a file that holds its number in a sentence of its own",
        each(before_system("Call number {}.", "1", "2", "3", "4")),
        {
            "cache_break system[0]": (
                "system_changed, counter",
                "on turns 2-4 lose the cache",
                "agent/calls.py:1",
            ),
            "growth system[0]": ("", "agent/calls.py:1"),
        },
        {
            "agent/calls.py": 'T = f"Call number {next(CALLS)}.\\n"\n',
            "tests/sizes.py": 'SIZE = "2.5 mm"\nABOUT = "the support of a mail"\n',
        },
    ),
    per_turn("a path", "Work in /tmp/agent-{}/shop", ("a81x", "b22y", "c37z", "d40w"), "path or host name"),
    per_turn("a host", "Host: {}", ("blue", "green", "red", "grey"), "path or host name"),
    per_turn(
        "a host name",
        "Served by {}",
        ("ip-10-0-0-1", "ip-10-0-4-2", "ip-10-1-0-3", "ip-10-9-0-4"),
        "host name",
    ),
    Case(
        "a counter at the end of a tool's description",
        each(lambda turn, body: body["tools"][1].update(description=f"Look up an order. Call {turn + 1}.")),
        {
            "cache_break tools[get_order].description": (
                "tools_changed, counter",
                "character 23",
                "turns 2-4",
                "",
            ),
            "growth tools[get_order].description": ("", ""),
        },
    ),
    Case(
        "tools in another order on every other turn",
        each(on(1, 3, step=lambda _, body: body["tools"].reverse())),
        {
            "cache_break tools": (
                "tools_changed, another order",
                'was "search, get_order, refund"',
                'now "refund, get_order, search"',
                "",
            )
        },
    ),
    Case(
        "keys of a schema in another order",
        each(
            on(
                1,
                3,
                step=lambda _, body: body["tools"][0].update(
                    input_schema=reversed_keys(body["tools"][0]["input_schema"])
                ),
            )
        ),
        {
            "cache_break tools[search].input_schema": ("keys in another order", "turns 2-4", ""),
        },
    ),
    Case(
        "keys of a tool's input in another order",
        each(order_of_inputs),
        {"cache_break messages[1] assistant tool_use": ("messages_changed, another order", "")},
        before=each(lambda _, body: order_of_inputs(0, body)),
    ),
    Case(
        "a tool that comes on the third turn",
        each(on(2, 3, step=lambda _, body: body["tools"].append(copy.deepcopy(WEATHER)))),
        {
            "cache_break tools[weather]": ("tools_changed, added", "turn 3 lose", ""),
            "growth tools[weather]": ("re-sent on 2 turns", "agent/tools.json:56-67"),
        },
        tools_file(SEARCH, GET_ORDER, REFUND, WEATHER),
    ),
    Case(
        "a tool that goes on the third turn",
        each(on(2, 3, step=lambda _, body: body["tools"].pop(1))),
        {
            "cache_break tools[get_order]": ("tools_changed, removed", "turn 3 lose", ""),
            "growth tools[get_order]": ("removed", ""),
        },
    ),
    Case(
        "old tool results cleared",
        each(clear_old_results),
        {
            "cache_break messages[2] tool_result of search": ("messages_changed", 'now "[cleared]"', ""),
            "growth messages[2] tool_result of search": ("−", ""),
            "growth messages[4] tool_result of get_order": ("−", ""),
        },
    ),
    Case(
        "results of one message in another order on a later turn",
        each(on(2, step=lambda _, body: body["messages"][2]["content"].reverse())),
        {
            "cache_break messages[2] tool_result of get_order": (
                "messages_changed, another order",
                "turn 3",
                "",
            )
        },
        agent=lambda: support_agent(
            steps=[
                Step(
                    "", [("search", {"query": "saddle"}), ("get_order", {"order": "1"})], [PASSAGES, "Sent."]
                ),
                Step("", [("search", {"query": "bolt"})], [PASSAGES]),
                Step("Tighten it."),
            ]
        ),
    ),
    Case(
        "results that are looked up anew",
        each(every_result(lambda turn, words: f"{words} (looked up at 10:00:0{turn})", "toolu_0_")),
        {
            "cache_break messages[2] tool_result of search": (
                "messages_changed, date or time",
                "turns 3 and 4",
                "",
            ),
            "growth messages[2] tool_result of search": ("", ""),
        },
    ),
    Case(
        "a date in the first message, filled in anew",
        each(question(lambda turn, words: f"[10:0{turn}] {words}")),
        {
            "cache_break messages[0] user text": (
                "messages_changed, date or time",
                "character 5",
                "turns 2-4",
                "",
            ),
            "growth messages[0] user text": ("", ""),
        },
    ),
    Case(
        "all breakpoints dropped",
        each(unmark("system", "messages")),
        {
            "cache_break system[0]": (
                "cache_control is dropped from system[0] and the last message",
                "turns 2-4",
                "",
            )
        },
    ),
    Case(
        "the moving breakpoint dropped",
        each(unmark("messages")),
        {"cache_break the last message": ("cache_control is dropped from the last message", "turns 2-4", "")},
    ),
    Case(
        "the breakpoint moved before what it covered",
        each(unmark("system"), mark_tools),
        {"cache_break system[0]": ("cache_control moved from system[0] to tools[refund]", "turns 2-4", "")},
        agent=lambda: support_agent(
            rolling=False, tools=[tool(f"t{i}", "Does a lot. " * 30, q="What.") for i in range(8)] + [REFUND]
        ),
    ),
    Case(
        "an hour instead of five minutes",
        each(mark_system("1h")),
        {"cache_break system[0]": ("asks for 1h where it asked for 5m", "on turn 1 are written for 1h", "")},
    ),
    Case(
        "five minutes instead of an hour",
        each(mark_system("5m")),
        {"cache_break system[0]": ("asks for 5m where it asked for 1h", "on turn 1 are written for 5m", "")},
        before=each(mark_system("1h")),
    ),
    Case(
        "the hour dropped, and five minutes in its place",
        each(unmark("system")),
        {
            "cache_break system[0]": (
                "system[0]: cache_control is dropped, which asked for 1h; ",
                "on turn 1 are written for 5m, at another price",
                "",
            )
        },
        before=each(mark_system("1h")),
    ),
    Case(
        "an hour for what had five minutes of another breakpoint",
        each(mark_system("1h")),
        {
            "cache_break system[0]": (
                "system[0]: cache_control asks for 1h and is new; ",
                "on turn 1 are written for 1h, at another price",
                "",
            )
        },
        before=each(unmark("system")),
    ),
    Case(
        "a prompt too short to be cached",
        each(system(lambda _, words: words.replace(RULES, "Be brief."))),
        {
            "cache_break system[0]": (
                "than the 1,024 tokens that claude-sonnet-4-6 caches at least, since system[0] was shortened",
                "turns 2-4",
                "agent/prompts/handbook.md:1",
            ),
            "growth system[0]": ("−", ""),
        },
        agent=lambda: support_agent(rolling=False),
    ),
    Case(
        "a larger minimum, which the last turn of a growing conversation reaches",
        each(put(model="claude-haiku-4-5")),
        {
            "model_changed turns 1-4": ("", ""),
            "cache_break the last message": (
                "shorter than the 4,096 tokens that claude-haiku-4-5 caches at least;",
                "turns 2-4 lose",
                "",
            ),
            "growth tools": ("", ""),
            "growth framing": ("", ""),
        },
        agent=lambda: support_agent(system=[text((HANDBOOK * 2)[1300:], cache_control=EPHEMERAL)]),
    ),
    Case(
        "more blocks in a turn than the API looks back over",
        each(notes_in_front_of_results),
        {
            "cache_break the last message": (
                "28 blocks stand between",
                "looks back over 20 only",
                "turn 2",
                "",
            ),
            "growth messages[2] user text": ("re-sent on 3 turns", ""),
            "growth framing": ("", ""),
        },
        agent=lambda: support_agent(system=HANDBOOK),
    ),
    Case(
        "more blocks than that in two turns",
        each(lambda _, body: [notes(message) for message in body["messages"][2::2]]),
        {
            "cache_break the last message": ("blocks stand between", "turns 2-4", ""),
            "growth messages[2] user text": ("re-sent on 3 turns", ""),
            "growth messages[4] user text": ("re-sent on 2 turns", ""),
            "growth messages[6] user text": ("on one turn", ""),
            "growth framing": ("", ""),
        },
        agent=lambda: support_agent(system=HANDBOOK),
    ),
    Case(
        "five breakpoints",
        each(lambda _, body: [tool.update(cache_control=dict(EPHEMERAL)) for tool in body["tools"]]),
        {
            "unknown by hand": (
                "turns 1-4 cannot be counted: the API would refuse it with an error 400",
                "5 cache breakpoints are set",
                "",
            )
        },
    ),
    Case(
        "an hour behind five minutes",
        each(lambda _, body: contents(body)[-1].update(cache_control={**EPHEMERAL, "ttl": "1h"})),
        {
            "unknown by hand": (
                "turns 1-4 cannot be counted: the API would refuse it with an error 400",
                "1h stands after one of 5m",
                "",
            )
        },
    ),
    Case(
        "a smaller model, below whose minimum nothing is cached",
        each(put(model="claude-haiku-4-5")),
        {
            "model_changed turns 1-4": ("", ""),
            "cache_break the last message": (
                "shorter than the 4,096 tokens that claude-haiku-4-5 caches at least;",
                "turns 2-4 lose",
                "",
            ),
            "growth tools": ("", ""),
            "growth framing": ("", ""),
        },
    ),
    Case(
        "a time in front of the question, in brackets",
        each(question(lambda turn, words: f"[2026-11-21 10:00:01.{turn}4] {words}")),
        {
            "cache_break messages[0] user text": ("date or time", "turns 2-4", "agent/ask.py:1"),
            "growth messages[0] user text": ("filled in at agent/ask.py:1", "agent/ask.py:1"),
        },
        {"agent/ask.py": 'asked = f"[{datetime.now()}] " + question\n'},
    ),
    Case(
        "another model on one turn",
        each(on(1, step=put(model="claude-haiku-4-5"))),
        {
            "model_changed turn 2": ("claude-haiku-4-5 instead of claude-sonnet-4-6", ""),
            "cache_break model": (
                "model_changed",
                "claude-haiku-4-5 cannot read what claude-sonnet-4-6 cached",
                "",
            ),
            "growth framing": ("", ""),
            "growth tools": ("", ""),
        },
    ),
    Case(
        "a forced tool on one turn",
        each(on(2, step=put(tool_choice={"type": "any"}))),
        {
            "cache_break tool_choice": ("loses the cache from messages on", "turns 3 and 4", ""),
            "growth tool_choice": ("", ""),
        },
    ),
    Case(
        "no parallel calls from the second turn on",
        each(on(1, 2, 3, step=put(tool_choice={"type": "auto", "disable_parallel_tool_use": True}))),
        {
            "cache_break disable_parallel_tool_use": ("loses the cache from messages on", "turn 2", ""),
            "growth tool_choice": ("re-sent on 3 turns", ""),
        },
    ),
    Case(
        "thinking from the second turn on",
        each(on(1, 2, 3, step=put(thinking={"type": "enabled", "budget_tokens": 2000}))),
        {
            "cache_break thinking": ("loses the cache from tools on", "turn 2", ""),
            "growth thinking": ("", ""),
            "answer_options thinking": ("turns 2-4: thinking is enabled with 2,000", ""),
        },
    ),
    Case(
        "less effort from the third turn on",
        each(on(2, 3, step=put(output_config={"effort": "low"}))),
        {
            "cache_break effort": ("loses the cache from tools on", "turn 3", ""),
            "answer_options effort": ("turns 3 and 4: effort is low, and was not set", ""),
        },
    ),
    Case(
        "an image in the third turn",
        each(on(2, 3, step=lambda _, body: body["messages"][4]["content"].insert(0, copy.deepcopy(PIXEL)))),
        {
            "cache_break images": ("loses the cache from messages on", ""),
            "growth messages[4] user image": ("added", "re-sent on 2 turns", ""),
            "growth framing": ("", ""),
        },
    ),
    Case(
        "a reminder at the end that the next turn does not send",
        each(reminder_at_the_end),
        {
            "cache_break messages[0] user text": ("messages_changed", "removed", "leave notes", ""),
            "growth messages[0] user text": ("added", "on one turn", ""),
            "growth messages[2] user text": ("added", "on one turn", ""),
            "growth messages[4] user text": ("added", "on one turn", ""),
            "growth messages[6] user text": ("added", "on one turn", ""),
        },
    ),
    Case(
        "sentences of a file that the change does not touch, by a line that it adds",
        each(
            before_system(
                "Keep in mind whatever comes: {}",
                *["Answers the customers of a shop.", QUESTION] * 2,
            )
        ),
        {
            "cache_break system[0]": ("system_changed", "agent/agent.py:2"),
            "growth system[0]": ("", "agent/agent.py:2"),
        },
        {
            "agent/agent.py": (
                'def system(texts, topic):\n    mind = f"Keep in mind whatever comes: {topic}"\n'
                '    return "\\n".join([mind, *texts])\n'
            )
        },
    ),
    Case(
        "text that changes on the second turn",
        each(on(1, 2, 3, step=system(lambda _, words: words.replace("Never promise", "Do not promise")))),
        {
            "cache_break system[0]": (
                "system_changed, changed text",
                'was "',
                "Never promise",
                "Do not promise",
                "agent/prompts/handbook.md:64",
            ),
            "growth system[0]": ("", "agent/prompts/handbook.md:64"),
        },
        {"agent/prompts/handbook.md": HANDBOOK.replace("Never promise", "Do not promise")},
    ),
]


@pytest.mark.parametrize("case", BREAKS, ids=str)
def test_cache_breaks(case: Case) -> None:
    case.check()


SHARED = [
    Case(
        "an edit of a prefix that was warm",
        each(system(lambda _, words: words.replace("Never promise a date.\n", LONGER))),
        {
            "growth system[0]": ("", HANDBOOK_LINES),
        },
        LONGER_FILE,
        warm=True,
    ),
    Case(
        "a time of the process before a prefix that was warm",
        each(before_system("Current time: {}.", "2026-11-21T10:00:01Z")),
        {
            "volatile system[0]": ("system_changed, date or time", "leaves the recorded prefix", NOW),
            "growth system[0]": ("", NOW),
        },
        TEMPLATE,
        warm=True,
    ),
    Case(
        "another time on every turn before a prefix that was warm",
        each(before_system("Current time: {}.", "10:00:01", "10:00:04", "10:00:07", "10:01:00")),
        {
            "cache_break system[0]": ("date or time", "leaves the prefix that an earlier turn cached", NOW),
            "growth system[0]": ("", NOW),
        },
        TEMPLATE,
        warm=True,
    ),
    Case(
        "a warm prompt that is too short now",
        each(system(lambda _, words: words.replace(RULES, "Be brief."))),
        {
            "cache_break system[0]": ("system[0] was shortened", "turns 1-4", "agent/prompts/handbook.md:1"),
            "growth system[0]": ("−", ""),
        },
        agent=lambda: support_agent(rolling=False),
        warm=True,
    ),
    Case(
        "another model than the one that was warm, with a larger minimum",
        each(put(model="claude-haiku-4-5")),
        {
            "model_changed turns 1-4": ("claude-haiku-4-5 instead of claude-sonnet-4-6", ""),
            "cache_break the last message": (
                "shorter than the 4,096 tokens that claude-haiku-4-5 caches at least;",
                "turns 1-4",
                "",
            ),
            "growth tools": ("", ""),
            "growth framing": ("", ""),
        },
        warm=True,
    ),
    Case(
        "an id for each subagent",
        each(before_system("Session: {} on web", *(UUIDS[i // 4] for i in range(12)))),
        {
            "cache_break system[0]": ("system_changed, UUID or random id", "on turns 5 and 9", WHO),
            "growth system[0]": ("re-sent on 12 turns", WHO),
        },
        TEMPLATE,
        agent=subagents,
    ),
    Case(
        "the breakpoint that subagents share is dropped",
        each(unmark("system")),
        {"cache_break system[0]": ("cache_control is dropped from system[0]", "on turns 5 and 9", "")},
        agent=subagents,
    ),
    Case(
        "the question of every subagent grows",
        each(question(lambda _, words: words + " Answer in two sentences, and name the page that says so.")),
        {"growth messages[0] user text": ("12 turns", "")},
        agent=subagents,
    ),
]


@pytest.mark.parametrize("case", SHARED, ids=str)
def test_what_is_shared_with_other_conversations(case: Case) -> None:
    case.check()


def test_a_reminder_that_is_gone_from_an_earlier_message_is_named() -> None:
    """It is put into the newest message of every turn, and taken out again: the history is written anew."""

    def remind(_: int, body: Body) -> None:
        newest = body["messages"][-1]["content"]
        marks = {"cache_control": newest[-1].pop("cache_control")} if "cache_control" in newest[-1] else {}
        newest.append(text("<reminder>You may leave notes with the note tool.</reminder>", marks))

    told = findings(Case("a reminder", each(remind)).run(), SourceTree(FILES, FILES))
    breaks = [one for one in told if one.kind == "cache_break"]
    assert [one.where for one in breaks] == ["messages[0] user text"]
    assert "on turns 2-4 lose the cache" in breaks[0].text
    assert "cache_change" not in {one.kind for one in told}, "all that is lost has a cause with a place"
    for one in breaks:
        assert "(messages_changed, removed)" in one.text
        assert '"<reminder>You may leave notes' in one.text
    dollars = {kind: sum(one.cost_usd or 0 for one in told if one.kind == kind) for kind in MEASURED}
    assert dollars["cache_break"] > 10 * dollars["growth"] > 0


CALL = """
def call(self, messages):
    return self.client.messages.create(
        model=MODEL,
        system=[{"type": "text", "text": self.rules, "cache_control": {"type": "ephemeral"}}],
        messages=messages,
    )
"""
MARK = ', "cache_control": {"type": "ephemeral"}'


@pytest.mark.parametrize(
    ("change", "was", "now", "told"),
    [
        (
            unmark("system", "messages"),
            ', "cache_control": {"type": "ephemeral"}',
            "",
            {"cache_break system[0]"},
        ),
        (
            on(1, 3, step=lambda _, body: body["tools"].reverse()),
            "messages=messages",
            "tools=random.sample(self.tools, 3), messages=messages",
            {"cache_break tools"},
        ),
        (mark_system("1h"), '"ephemeral"}', '"ephemeral", "ttl": "1h"}', {"cache_break system[0]"}),
        (
            on(1, 3, step=lambda _, body: body.update(tool_choice={"type": "any"})),
            "messages=messages",
            'tool_choice={"type": "any"} if self.turn % 2 else NOT_GIVEN, messages=messages',
            {"cache_break tool_choice", "growth tool_choice"},
        ),
        (
            on(1, 3, step=lambda _, body: body.update(thinking={"type": "enabled", "budget_tokens": 2000})),
            "messages=messages",
            "thinking=self.thinking(), messages=messages",
            {"cache_break thinking", "growth thinking", "answer_options thinking"},
        ),
        (
            on(1, 3, step=lambda _, body: body.update(model="claude-opus-4-8")),
            "MODEL",
            '"claude-opus-4-8" if self.turn % 2 else MODEL',
            {"model_changed turns 2 and 4", "cache_break model"},
        ),
        (put(max_tokens=9), "messages=messages", "max_tokens=9, messages=messages", {"unknown turns 1-4"}),
    ],
    ids=["dropped", "shuffled", "ttl", "tool_choice", "thinking", "model", "max_tokens"],
)
def test_what_an_edited_line_of_code_decides_names_it(
    change: InPlace, was: str, now: str, told: set[str]
) -> None:
    agent = support_agent()
    run = replay(record(agent.bodies(), agent.answers()), changed(agent.bodies(), each(change)))
    code = CALL.replace(was, now)
    named = findings(run, SourceTree({**FILES, "agent/call.py": code}, {"agent/call.py": CALL}))
    line = next(n for n, text in enumerate(code.splitlines(), 1) if text != CALL.splitlines()[n - 1])
    at = {f"{one.kind} {one.where}": one for one in named if one.source}
    assert at.keys() == told, named
    lasting = {"is cached for 1h, at another price"} if "ttl" in now else set()
    assert {one.short for one in named if one.short} == lasting
    for one in at.values():
        assert str(one.source) == f"agent/call.py:{line}"
        assert f"(edited at agent/call.py:{line})" in one.text
    twice = {"agent/call.py": CALL, "agent/again.py": CALL}
    several = findings(run, SourceTree({**FILES, **dict.fromkeys(twice, code)}, twice))
    places = f"(edited at agent/call.py:{line} and agent/again.py:{line})"
    assert {f"{one.kind} {one.where}" for one in several if places in one.text} == told
    assert not [one for one in several if one.source], "none of them is the one"
    silent = findings(run, SourceTree({**FILES, "agent/call.py": code}))
    assert not [one for one in silent if one.source], "nothing is known of an edit here"
