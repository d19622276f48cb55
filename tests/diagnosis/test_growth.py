"""Seeded growth: the part, the turns and the line of each; the parts add up."""

from __future__ import annotations

import base64
import copy
import random
import re
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tokenbudget.diagnosis.prompt_parts import with_own_parts
from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.meter import Turn
from pytest_tokenbudget.metering.rendering import image_tokens
from pytest_tokenbudget.sources import SourceTree
from support.blocks import text, user
from support.changes import (
    HANDBOOK_LINES,
    LONGER,
    LONGER_FILE,
    SEARCH_BOTH,
    SEARCH_LIMIT,
    SEARCH_LONGER,
    WEATHER,
    Case,
    adds_up,
    each,
    grow,
    in_two_blocks,
    on,
    question,
    system,
    tools_file,
    with_tools,
)
from support.sample import examples
from support.seeded import (
    FILES,
    GET_ORDER,
    HANDBOOK,
    PASSAGES,
    REFUND,
    SEARCH,
    Body,
    Change,
    Step,
    changed,
    contents,
    count,
    findings,
    record,
    replay,
    results,
    support_agent,
    tool,
)

MORE = "Be brief about what follows here.\n"

GROWTH = [
    Case(
        "system prompt grows by two lines",
        each(system(lambda _, words: words.replace("Never promise a date.\n", LONGER))),
        {"growth system[0]": ("re-sent on 4 turns", HANDBOOK_LINES)},
        LONGER_FILE,
    ),
    Case(
        "a line in the middle of the system prompt",
        each(
            system(lambda _, words: words.replace("31. When", "Be brief about what follows here.\n31. When"))
        ),
        {"growth system[0]": ("re-sent on 4 turns", "agent/prompts/handbook.md:33")},
        {
            "agent/prompts/handbook.md": HANDBOOK.replace(
                "31. When", "Be brief about what follows here.\n31. When"
            )
        },
    ),
    Case(
        "a sentence in the middle of a line",
        each(
            system(
                lambda _, words: words.replace(
                    "cite the page.\n30.", "cite the page. Or say that it has none.\n30."
                )
            )
        ),
        {"growth system[0]": ("re-sent on 4 turns", "agent/prompts/handbook.md:31")},
        {
            "agent/prompts/handbook.md": HANDBOOK.replace(
                "cite the page.\n30.", "cite the page. Or say that it has none.\n30."
            )
        },
    ),
    Case(
        "system prompt shrinks",
        each(system(lambda _, words: words.replace("Never promise a date.\n", ""))),
        {"growth system[0]": ("−", "re-sent on 4 turns", "")},
    ),
    Case(
        "a second system block",
        each(
            lambda _, body: body["system"].append(text("Speak to people as you would to a friend of yours."))
        ),
        {"growth system[1]": ("added", "re-sent on 4 turns", "agent/agent.py:1-2")},
        {"agent/agent.py": 'TONE = "Speak " \\\n    "to people as you would to a friend of yours."\n'},
    ),
    Case(
        "a tool's description grows",
        with_tools(SEARCH_LONGER, GET_ORDER, REFUND),
        {"growth tools[search].description": ("re-sent on 4 turns", "agent/tools.json:4")},
        tools_file(SEARCH_LONGER, GET_ORDER, REFUND),
    ),
    Case(
        "a tool's schema grows",
        with_tools(SEARCH_LIMIT, GET_ORDER, REFUND),
        {"growth tools[search].input_schema": ("re-sent on 4 turns", "agent/tools.json:12-14")},
        tools_file(SEARCH_LIMIT, GET_ORDER, REFUND),
    ),
    Case(
        "both grow",
        with_tools(SEARCH_BOTH, GET_ORDER, REFUND),
        {
            "growth tools[search].description": ("re-sent on 4 turns", "agent/tools.json:4"),
            "growth tools[search].input_schema": ("re-sent on 4 turns", "agent/tools.json:12-14"),
        },
        tools_file(SEARCH_BOTH, GET_ORDER, REFUND),
    ),
    Case(
        "a tool more",
        with_tools(SEARCH, GET_ORDER, REFUND, WEATHER),
        {"growth tools[weather]": ("added", "re-sent on 4 turns", "agent/tools.json:56-67")},
        tools_file(SEARCH, GET_ORDER, REFUND, WEATHER),
    ),
    Case("a tool less", with_tools(SEARCH, GET_ORDER), {"growth tools[refund]": ("removed", "−", "")}),
    Case(
        "a server of tools more",
        with_tools(
            SEARCH, GET_ORDER, REFUND, *(tool(f"mcp_{i}", f"Does thing {i}.", a="What.") for i in range(20))
        ),
        {"growth 20 tools": ("added", "re-sent on 4 turns", "")},
    ),
    Case(
        "one tool result grows, and is dragged along",
        each(grow("toolu_0_")),
        {"growth messages[2] tool_result of search": ("re-sent on 3 turns", "no file of the repository", "")},
    ),
    Case(
        "every result of one tool grows",
        each(grow("toolu_0_"), grow("toolu_2_")),
        {"growth tool_results of search": ("in 2 pieces", "re-sent on up to 3 turns", "")},
    ),
    Case(
        "the question grows",
        each(question(lambda _, words: words.replace("loose.", "loose, and it creaks on every climb."))),
        {"growth messages[0] user text": ("re-sent on 4 turns", "tests/test_agent.py:2")},
        {
            "tests/test_agent.py": FILES["tests/test_agent.py"].replace(
                "loose.", "loose, and it creaks on every climb."
            )
        },
    ),
    Case(
        "a document in front of the question",
        each(
            lambda _, body: (
                contents(body),
                body["messages"][0]["content"].insert(0, text("The manual says so. " * 9)),
            )
        ),
        {
            "growth messages[0] user text": ("added", "re-sent on 4 turns", ""),
            "growth framing": ("−3 tokens", ""),
        },
    ),
    Case(
        "examples in front of the conversation",
        each(
            lambda _, body: body["messages"].__setitem__(
                slice(0, 0),
                [
                    user("How long is a refund?"),
                    {"role": "assistant", "content": "Five working days, page 7."},
                ],
            )
        ),
        {
            "growth messages[0] user text": ("added", "re-sent on 4 turns", ""),
            "growth messages[1] assistant text": ("added", "re-sent on 4 turns", ""),
        },
    ),
    Case(
        "the prompt in two blocks, and a sentence longer",
        each(system(lambda _, words: words.replace("31. When", MORE + "31. When")), in_two_blocks),
        {"growth system[0]": ("re-sent on 4 turns", "agent/prompts/handbook.md:33")},
        {"agent/prompts/handbook.md": HANDBOOK.replace("31. When", MORE + "31. When")},
    ),
    Case(
        "an output format",
        each(
            lambda _, body: body.update(
                output_config={
                    "format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}
                }
            )
        ),
        {"growth output_config": ("re-sent on 4 turns", "")},
    ),
]


@pytest.mark.parametrize("case", GROWTH, ids=str)
def test_growth(case: Case) -> None:
    case.check()


@settings(max_examples=examples(25))
@given(
    lines=st.lists(
        st.sampled_from(["Be brief.", "Be kind.", "Ask first.", "", "Never guess a number."]), max_size=6
    ),
    description=st.sampled_from(
        [SEARCH["description"], "Search.", SEARCH["description"] + " And say where."]
    ),
    limit=st.booleans(),
    appendix=st.integers(0, 5),
    example=st.booleans(),
)
def test_parts_add_up_whatever_changes_together(
    lines: list[str], description: str, limit: bool, appendix: int, example: bool
) -> None:
    schema = SEARCH_LIMIT if limit else SEARCH

    def change(_: int, body: Body) -> Body:
        body["system"][0]["text"] += "\n".join(lines)
        body["tools"][0] = {**copy.deepcopy(schema), "description": description}
        for block in results(body)[:appendix]:
            block["content"] += " " + "Appendix. " * appendix
        if example:
            body["messages"][:0] = [user("How long?"), {"role": "assistant", "content": "Five days."}]
        return body

    case = Case("all together", change)
    run = case.run()
    adds_up(run, findings(run, SourceTree(FILES)))


def screenshot(number: int, width: int, height: int) -> dict[str, Any]:
    """An image of that size, with far more data than it counts tokens."""
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    data = base64.b64encode(header + random.Random(number).randbytes(3 * width * height)).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def screenshots(width: int, height: int, *texts: str) -> Change:
    """Every result is a screenshot, with texts before it."""

    def change(_: int, body: Body) -> Body:
        for number, block in enumerate(results(body)):
            block["content"] = [*map(text, texts), screenshot(number, width, height)]
        return body

    return change


@pytest.mark.parametrize("texts", [(), ("The page of the shop.",)], ids=["alone", "beside a text"])
def test_images_are_sized_as_images(texts: tuple[str, ...]) -> None:
    """Twelve larger screenshots read `+7,366,564 tokens, framing -7,363,312`: their data as text."""
    case = Case(
        "larger screenshots",
        screenshots(294, 210, *texts),
        before=screenshots(210, 150, *texts),
    )
    run = case.run()
    told = findings(run, SourceTree(FILES))
    adds_up(run, told)
    grown = [finding for finding in told if finding.kind == "growth"]
    assert grown
    assert all(finding.where.startswith(("tool_results of", "messages[")) for finding in grown)
    more = image_tokens(294, 210, max_edge=1568, max_patches=1568) - image_tokens(
        210, 150, max_edge=1568, max_patches=1568
    )
    sent = sum(len(results(body)) for body in (turn.pair.request.body for turn in run.turns))
    told_tokens = sum(finding.tokens or 0 for finding in grown)
    assert told_tokens == pytest.approx(more * sent, rel=0.2), (
        "counted from another turn, constants may differ"
    )
    assert not any("no file" in finding.text for finding in grown), "a picture is no text"
    assert all(len(finding.text) < 400 for finding in told)


def test_no_cause_is_larger_than_what_it_explains() -> None:
    """Counted from a turn of another size: what the sizes are off by is no framing."""
    run = Case("", screenshots(294, 210), before=screenshots(210, 150)).run()
    for turn in run.turns:
        total = sum(part.tokens for part in turn.estimate.parts)
        own = with_own_parts(_from_elsewhere(turn), count).estimate.parts
        assert sum(part.tokens for part in own) == total
        assert all(0 <= part.tokens <= total for part in own)
        assert "framing" not in [part.where for part in own]


def _from_elsewhere(turn: Turn) -> Turn:
    """The turn as if it had been counted from another recorded prompt, whose system prompt was longer."""
    system = turn.pair.request.prompt.level("system")[0]
    total = sum(part.tokens for part in turn.estimate.parts)
    parts = (Part("system[0]", "changed", -900, system, system), Part("framing", "changed", total + 900))
    return replace(turn, estimate=replace(turn.estimate, parts=parts if total else ()))


TRIAGE = "Sort the letters of customers.\nName the parcel, the part or the refund that each is about.\n"
AS_JSON = "Answer with one JSON object that has the key `about` and nothing else.\n"


def _first_turn_triages(words: str) -> Change:
    return each(on(0, step=system(lambda _, __: words)))


def test_two_prompts_at_one_place_are_two_causes_each_with_its_line() -> None:
    longer = system(lambda turn, words: words.replace("Never promise a date.\n", LONGER) if turn else words)
    case = Case(
        "",
        each(on(0, step=system(lambda _, __: TRIAGE + AS_JSON)), longer),
        files={**LONGER_FILE, "agent/prompts/triage.md": TRIAGE + AS_JSON},
        before=_first_turn_triages(TRIAGE),
    )
    run = case.run()
    before = {**FILES, "agent/prompts/triage.md": TRIAGE}
    told = findings(run, SourceTree({**before, **case.files}, {path: before[path] for path in case.files}))
    assert [(one.where, str(one.source)) for one in told if one.kind == "growth"] == [
        ("system[0]", HANDBOOK_LINES),
        ("system[0]", "agent/prompts/triage.md:3"),
    ]
    adds_up(run, told)


def test_a_prompt_that_shrank_beside_one_that_grew_is_a_cause_of_its_own() -> None:
    longer = system(lambda turn, words: words.replace("Never promise a date.\n", LONGER) if turn else words)
    case = Case(
        "",
        each(on(0, step=system(lambda _, __: TRIAGE)), longer),
        files=LONGER_FILE,
        before=_first_turn_triages(TRIAGE + AS_JSON),
    )
    run = case.run()
    told = findings(run, SourceTree({**FILES, **case.files}, {path: FILES[path] for path in case.files}))
    grew, shrank = [finding for finding in told if finding.kind == "growth"]
    assert str(grew.source) == HANDBOOK_LINES
    assert (shrank.where, shrank.source) == ("system[0]", None)
    assert grew.tokens > 0 > shrank.tokens
    adds_up(run, told)


def test_a_tool_of_an_mcp_server_names_the_server() -> None:
    name = "mcp__github__create_issue"
    change = with_tools(SEARCH, GET_ORDER, REFUND, tool(name, "Opens an issue.", title="What it is about."))
    (finding,) = findings(Case("", change).run(), SourceTree(FILES))
    assert finding.where == f"tools[{name}]"
    assert finding.text.endswith("it comes from the MCP server github")
    held = SourceTree(
        {**FILES, "agent/mcp.json": '{"description": "Opens an issue.", "title": "What it is about."}'}
    )
    (finding,) = findings(Case("", change).run(), held)
    assert str(finding.source) == "agent/mcp.json:1"


def test_in_no_file_is_said_only_where_all_were_read() -> None:
    run = next(case for case in GROWTH if case.name == "one tool result grows, and is dragged along").run()
    (finding,) = findings(run, SourceTree(FILES, unread=2))
    nowhere = "its text is in no file that was searched (2 files too large): was "
    assert re.search(rf'{re.escape(nowhere)}".+", now ".+ Appendix: .+"$', finding.text)


def test_what_several_files_hold_together_is_not_said_to_be_in_none() -> None:
    chapters = {
        f"{name}.md": f"The chapter on {name} tells in many words what the house asks of {name}, and why."
        for name in ("leave", "travel", "laptops", "parking")
    }
    run = Case("", each(system(lambda _, words: words + "".join(chapters.values())))).run()
    (finding,) = findings(run, SourceTree({**FILES, **chapters}))
    assert ", its text is in no one file, and in parts in several: was " in finding.text


def test_a_cause_is_told_in_one_sentence() -> None:
    case = next(case for case in GROWTH if case.name == "system prompt grows by two lines")
    (finding,) = findings(case.run(), SourceTree({**FILES, **case.files}, dict.fromkeys(case.files, "")))
    assert finding.source is not None
    amount = r"system\[0\]: \+\d+ tokens, re-sent on 4 turns = \+\d+ \(\+\d\.\d%\)"
    assert re.fullmatch(rf"{amount}, from {re.escape(str(finding.source))}", finding.text)


def test_what_another_turn_differs_in_is_not_told() -> None:
    """An estimate may be counted from the turn before, which had no tools: its own recording had them."""
    run = next(case for case in GROWTH if case.name == "a sentence in the middle of a line").run()
    (part,) = run.turns[0].estimate.parts
    tools = Part("tools", "changed", 497), Part("framing", "changed", -497)
    estimate = replace(run.turns[0].estimate, parts=(part, *tools))
    run = replace(run, turns=(replace(run.turns[0], estimate=estimate), *run.turns[1:]))
    told = findings(run, SourceTree(FILES))
    assert [one.where for one in told if one.kind == "growth"] == ["system[0]"]
    adds_up(run, told)


def test_what_is_said_twice_is_two_pieces() -> None:
    """Both results of a run are the same text: one is sent twice, the other once."""
    looks = [Step("", [("search", {"query": words})], [PASSAGES]) for words in ("saddle", "bolt")]
    agent = support_agent(steps=[*looks, Step("Tighten it.")])

    def longer(_: int, body: Body) -> Body:
        for block in results(body):
            block["content"] += " Ask for the torque before you tighten anything." * 20
        return body

    run = replay(record(agent.bodies(), agent.answers()), changed(agent.bodies(), longer))
    (grown,) = [finding for finding in findings(run) if finding.where == "tool_results of search"]
    once = (grown.tokens or 0) // 3
    assert f"+{2 * once:,} tokens in 2 pieces, re-sent on up to 2 turns = +{3 * once:,}" in grown.text
