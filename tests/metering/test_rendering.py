"""How blocks and options are shown to the model, and what neighbours and models decide about it."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.metering.counting import Counter, CtokCounter, Memo
from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.metering.rendering import (
    Rendered,
    block_weights,
    envelope,
    places,
    render,
    render_options,
)
from pytest_tokenbudget.wire.prompt import Prompt, parse_prompt
from support.blocks import assistant, call, text, tool, user

OLDER, NEWER = "claude-haiku-4-5", "claude-opus-4-8"
NS = "antml:"
pytestmark = pytest.mark.newest

CORPUS = Path(os.environ.get("TOKENBUDGET_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))


def prompt(model: str = OLDER, **body: Any) -> Prompt:
    return parse_prompt({"model": model, "messages": [], **body})


def rendered(asked: Prompt) -> list[Rendered]:
    pairs = zip(asked.blocks, places(asked), strict=True)
    return [render(block, place.surroundings, asked.model) for block, place in pairs]


def result(content: Any, number: int = 1, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": content, **more}


def image(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": source}


def document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "source": source}


PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (60).to_bytes(4, "big") + (30).to_bytes(4, "big")
).decode()


PLAIN = '{"name": "add", "parameters": {"type": "object"}}'


@pytest.mark.parametrize(
    ("definition", "shown"),
    [
        (tool("add"), PLAIN),
        (tool("add", description=""), PLAIN),
        (tool("add", strict=True, cache_control={"type": "ephemeral"}, type="custom"), PLAIN),
        (tool("add", input_schema={"b": 1, "a": 2}), '{"name": "add", "parameters": {"b": 1, "a": 2}}'),
        (
            tool("add", description="\u00e9"),
            '{"description": "\\u00e9", "name": "add", "parameters": {"type": "object"}}',
        ),
    ],
)
def test_a_tool_is_shown_as_json(definition: dict[str, Any], shown: str) -> None:
    assert rendered(prompt(tools=[definition])) == [Rendered((f"<function>{shown}</function>",))]


def test_newer_models_are_shown_other_letters_as_they_are() -> None:
    [shown] = rendered(prompt("claude-sonnet-4-6", tools=[tool("add", description="\u00e9")]))
    assert "\u00e9" in shown.texts[0]


def test_calls_and_results_are_shown_as_elements() -> None:
    asked = prompt(messages=[assistant(call("add", x=1, y="two", z=[3])), user(result("3"))])
    expected_call = (
        f'<{NS}invoke name="add">\n'
        f'<{NS}parameter name="x">1</{NS}parameter>\n'
        f'<{NS}parameter name="y">two</{NS}parameter>\n'
        f'<{NS}parameter name="z">[3]</{NS}parameter>\n'
        f"</{NS}invoke>"
    )
    assert [one.texts for one in rendered(asked)] == [
        (expected_call,),
        ("<function_results>3</function_results>",),
    ]


@pytest.mark.parametrize("apart", [True, False])
def test_several_results_name_their_tools(apart: bool) -> None:
    results = [result("1", 1), result([text("2"), text("!")], 2)]
    messages = [user(one) for one in results] if apart else [user(*results)]
    asked = prompt(messages=[assistant(call("add", "toolu_1"), call("sub", "toolu_2")), *messages])
    assert [one.texts[0] for one in rendered(asked)[2:]] == [
        "<result>\n<name>add</name>\n<output>1</output>\n</result>",
        "<result>\n<name>sub</name>\n<output>2!</output>\n</result>",
    ]


def test_an_image_of_haiku_3_5_counts_eleven_more() -> None:
    picture = [user(image(type="base64", media_type="image/png", data=PNG))]
    newer, older = (
        rendered(prompt(model, messages=picture))[0] for model in (OLDER, "claude-3-5-haiku-latest")
    )
    assert (newer.tokens, older.tokens) == (3 * 2 + 3, 3 * 2 + 3 + 11)


@pytest.mark.parametrize(
    ("content", "tokens", "texts"),
    [
        (image(type="base64", media_type="image/png", data=PNG), 3 * 2 + 3, ()),
        (document(type="text", media_type="text/plain", data="plain"), 36, ("plain",)),
        (document(type="text", data="plain") | {"title": "Title"}, 48, ("plain", "Title")),
        (result("bad", is_error=True), 8, ("<function_results>bad</function_results>",)),
        (result([]), 0, ("<function_results></function_results>",)),
        (
            result([image(type="base64", data=PNG), text("that was it")]),
            3 * 2 + 3 + 12 + 12,
            ("<function_results>that was it</function_results>",),
        ),
    ],
)
def test_what_is_no_text_counts_by_its_size_and_constants(
    content: dict[str, Any], tokens: int, texts: tuple[str, ...]
) -> None:
    [shown] = rendered(prompt(messages=[user(content)]))
    assert (shown.tokens, shown.texts, shown.unknown) == (tokens, texts, None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (document(type="base64", media_type="application/pdf", data="AAAA"), "application/pdf"),
        (document(type="url", url="https://example.com/a.pdf"), "a document (by url)"),
        (document(type="file", file_id="file_1"), "a document (by file)"),
        (document(type="text", data="x") | {"citations": {"enabled": True}}, "citations"),
        (image(type="url", url="https://example.com/a.png"), "an image by url"),
        (image(type="file", file_id="file_1"), "an image by file"),
        (image(type="base64", media_type="image/tiff", data="AAAA"), "image/tiff"),
        ({"type": "thinking", "thinking": "hm", "signature": "x"}, "thinking"),
        ({"type": "redacted_thinking", "data": "x"}, "thinking"),
        ({"type": "server_tool_use", "name": "web_search", "input": {}}, "server_tool_use"),
        ({"type": "web_search_tool_result", "content": []}, "web_search_tool_result"),
        ({"type": "mcp_tool_use", "name": "x", "input": {}}, "mcp_tool_use"),
        ({"type": "compaction", "content": "x"}, "compaction"),
        ({"type": "container_upload", "file_id": "file_1"}, "container_upload"),
        ({"type": "not_yet_invented"}, "not_yet_invented"),
        (result([image(type="url", url="https://example.com/a.png")]), "an image by url"),
    ],
)
def test_what_cannot_be_counted_offline_says_so(content: dict[str, Any], reason: str) -> None:
    [shown] = rendered(prompt(messages=[user(content)]))
    assert shown.unknown is not None
    assert reason in shown.unknown


@pytest.mark.parametrize("kind", ["web_search_20250305", "code_execution_20260120", "memory_20250818"])
def test_a_tool_of_the_apis_own_cannot_be_counted(kind: str) -> None:
    [shown] = rendered(prompt(tools=[{"type": kind, "name": "it"}]))
    assert shown.unknown == f"the tool {kind} of the API's own"


SEARCH = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search"}
FOUND = {
    "type": "tool_result",
    "tool_use_id": "x",
    "content": [{"type": "tool_reference", "tool_name": "add"}],
}


@pytest.mark.parametrize(
    ("more", "messages", "hidden"),
    [([], [], True), ([SEARCH], [], False), ([], [user(FOUND)], False)],
)
def test_a_deferred_tool_is_shown_only_where_it_may_be_found(
    more: list[Any], messages: list[Any], hidden: bool
) -> None:
    asked = prompt(tools=[tool("add", defer_loading=True), *more], messages=messages)
    assert (rendered(asked)[0] == Rendered()) is hidden


CALLS = 1 + 18  # of a message with calls; older family
RESULTS = 2


@pytest.mark.parametrize(
    ("body", "framing"),
    [
        ({"messages": [user(text("a"))]}, [3]),
        ({"messages": [user(text("a"), text("b"))]}, [3, 0]),
        ({"messages": [user(text("a")), user(text("b"))]}, [3, 1]),
        ({"messages": [user(text("a")), assistant(text("b")), user(text("c"))]}, [3, 3, 3]),
        ({"messages": [user(text("a")), assistant(text("b"))]}, [3, 0]),
        ({"messages": [assistant(text("a")), user(text("b"))]}, [12 + 3, 3]),
        ({"system": "s", "messages": [user(text("a"))]}, [0, 3]),
        ({"tools": [tool("add"), tool("add")], "messages": [user(text("a"))]}, [1, 1, 3]),
        ({"messages": [user(text("a")), assistant(call("f")), user(result("r"))]}, [3, CALLS, RESULTS]),
        (
            {"messages": [user(text("a")), assistant(text("b"), call("f")), user(result("r"), text("c"))]},
            [3, CALLS, 0, RESULTS, 5],
        ),
        (
            {"messages": [assistant(call("f"), call("g", "toolu_2")), user(result("r"), result("s", 2))]},
            [12 + CALLS, 1, RESULTS + 12, 1],
        ),
    ],
)
def test_framing_is_with_the_first_block_of_what_it_frames(body: dict[str, Any], framing: list[int]) -> None:
    assert [place.framing for place in places(prompt(**body))] == framing


@pytest.mark.parametrize(
    ("model", "around", "each"), [(OLDER, 4, 3), ("claude-opus-4-7", 9, 2), (NEWER, 4, 2)]
)
def test_framing_is_by_tokenizer(model: str, around: int, each: int) -> None:
    asked = prompt(model, messages=[user(text("a")), assistant(text("b")), user(text("c"))])
    assert [place.framing for place in places(asked)] == [each, each, each]
    assert envelope(asked) == around


def test_calls_of_the_newest_tokenizer_have_hardly_a_frame() -> None:
    asked = {"messages": [user(text("a")), assistant(call("f")), user(result("r"))]}
    frames = {model: places(prompt(model, **asked))[1].framing for model in ("claude-opus-4-7", NEWER)}
    assert frames == {"claude-opus-4-7": 1 + 20, NEWER: 1 - 3}


def test_some_models_frame_a_system_prompt() -> None:
    assert (
        envelope(prompt("claude-sonnet-4-6", system="s"))
        == envelope(prompt("claude-sonnet-4-5", system="s")) + 1
    )
    assert envelope(prompt()) == 0


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "x"}


@pytest.mark.parametrize(
    ("model", "last", "dropped"),
    [
        (OLDER, user(text("next")), True),
        (OLDER, user(result("1")), False),
        ("claude-opus-4-5", user(text("next")), False),
        ("claude-sonnet-4-6", user(text("next")), False),
        (NEWER, user(text("next")), False),
    ],
)
def test_older_models_drop_thinking_when_a_new_turn_begins(
    model: str, last: dict[str, Any], dropped: bool
) -> None:
    asked = prompt(model, messages=[user(text("go")), assistant(THOUGHT, call("f")), last])
    assert places(asked)[1].surroundings.dropped is dropped
    assert (rendered(asked)[1] == Rendered()) is dropped


SCHEMA = {"type": "object"}
TOOLS = [tool("add")]
FORMAT = {"type": "json_schema", "schema": SCHEMA}


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, {}),
        ({"temperature": 0, "tool_choice": {"type": "any"}, "speed": "fast"}, {}),
        ({"tools": TOOLS}, {"tools": 496}),
        (
            {"tools": TOOLS, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            {"tools": 496, "tool_choice": -208},
        ),
        ({"tools": TOOLS, "tool_choice": {"type": "any"}}, {"tools": 496, "tool_choice": 588 - 496}),
        (
            {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "add"}},
            {"tools": 496, "tool_choice": 590 - 496},
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"thinking": 29}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"output_format": FORMAT}, {"output_format": 81}),
        ({"output_config": {"format": FORMAT}}, {"output_config": 81}),
        ({"output_config": {"effort": "low"}}, {}),
    ],
)
def test_options_add_to_the_prompt_what_they_add(body: dict[str, Any], tokens: dict[str, int]) -> None:
    assert {name: shown.tokens for name, shown in render_options(prompt(**body)).items()} == tokens


def test_a_schema_is_shown_indented_and_a_forced_tool_by_its_name() -> None:
    asked = prompt(
        tools=[tool("add")],
        tool_choice={"type": "tool", "name": "add"},
        output_format={"schema": SCHEMA},
    )
    shown = render_options(asked)
    assert shown["output_format"].texts == ('{\n  "type": "object"\n}',)
    assert shown["tool_choice"].texts == ("add",)


LOOP = [user(text("go")), assistant(call("f")), user(result("1"))]


@pytest.mark.parametrize("option", [{"output_format": FORMAT}, {"output_config": {"format": FORMAT}}])
@pytest.mark.parametrize(
    ("messages", "doubt"), [([user(text("go"))], 1), (LOOP, 1 + 8), ([*LOOP, assistant(text("so"))], 1 + 8)]
)
def test_a_schema_in_a_tool_loop_may_be_eight_tokens_more(
    option: dict[str, Any], messages: list[dict[str, Any]], doubt: int
) -> None:
    shown = render_options(prompt(messages=messages, **option)).values()
    assert (sum(one.tokens for one in shown), sum(one.doubt for one in shown)) == (81, doubt)


def test_what_a_loop_adds_to_a_schema_is_in_doubt_where_there_is_one() -> None:
    assert render_options(prompt(messages=LOOP, output_config={"effort": "low"})) == {}


@pytest.mark.parametrize("option", ["mcp_servers", "container", "context_management", "not_yet_invented"])
def test_an_option_that_may_show_anything_is_unknown(option: str) -> None:
    assert render_options(prompt(**{option: "x"}))[option].unknown == f"the option {option}"


def test_interleaved_thinking_adds_with_tools_only() -> None:
    def thinking(betas: list[str] | None, **body: Any) -> Rendered:
        asked = {"model": OLDER, "thinking": {"type": "enabled"}, **body}
        return render_options(parse_prompt(asked, betas=betas))["thinking"]

    beta = ["interleaved-thinking-2025-05-14"]
    assert thinking(beta, tools=[tool("add")]).tokens - thinking(beta).tokens == 148
    assert thinking(None, tools=[tool("add")]).doubt - thinking([], tools=[tool("add")]).doubt == 148, (
        "who knows"
    )
    assert thinking(None) == thinking(beta)


class Letters:
    name, exact = "letters", False

    def count(self, text: str, family: object) -> int:
        return len(text)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_there_is_a_weight_for_every_block(words: list[str]) -> None:
    messages = [user(text(word)) for word in words]
    weights = block_weights(prompt(messages=messages, system="s", tools=[tool("add")]), Letters())
    assert len(weights) == len(words) + 2
    assert weights[0] > 4 + 496
    assert weights[1:] == (1, 3 + len(words[0]), *(1 + len(word) for word in words[1:]))


def test_what_cannot_be_counted_still_weighs() -> None:
    file = document(type="file", file_id="file_1")
    assert block_weights(prompt(messages=[user(file)]), Letters())[0] > len("file_1")


def recorded_totals() -> Iterator[tuple[Prompt, int]]:
    """Every prompt of the recorded traffic with the total that its answer told."""
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    with gzip.open(CORPUS / "exchanges.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            one = json.loads(line)
            total = sum((one["usage"] or {}).get(name) or 0 for name in names)
            if total and one["kind"] != "batch":
                yield parse_prompt(one["request"], model=one["model"]), total


def whole(asked: Prompt, counter: Counter) -> int | None:
    """Tokens of a whole prompt; None where it holds what cannot be counted."""
    shown = rendered(asked) + list(render_options(asked).values())
    if any(one.unknown for one in shown):
        return None
    family = model_row(asked.model).family
    counted = sum(counter.count(text, family) for one in shown for text in one.texts)
    return (
        counted
        + sum(one.tokens for one in shown)
        + sum(place.framing for place in places(asked))
        + envelope(asked)
    )


@pytest.mark.skipif(not (CORPUS / "exchanges.jsonl.gz").exists(), reason="no recorded traffic here")
@pytest.mark.skipif(importlib.util.find_spec("ctok") is None, reason="ctok needs Python 3.12 or newer")
@pytest.mark.whole_run
def test_whole_recorded_prompts_come_out_to_the_token() -> None:
    counter = Memo(CtokCounter())
    some = islice(recorded_totals(), 0, None, 8)
    off = [abs(total - found) for asked, total in some if (found := whole(asked, counter))]
    assert len(off) > 150
    assert sum(apart <= 1 for apart in off) > 0.85 * len(off)
    assert sum(apart <= 4 for apart in off) > 0.92 * len(off)
