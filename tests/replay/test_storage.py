"""Cassettes on disk: the same bytes back, small files, small diffs, and no trust in what is read."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tokenbudget import files
from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay import cassette_file
from pytest_tokenbudget.replay.cassette_file import (
    Interaction,
    format_cassette,
    read_cassette,
    write_cassette,
)
from pytest_tokenbudget.replay.yaml_text import yaml_text
from support.blocks import compact
from support.sample import examples

URI = "https://api.anthropic.com/v1/messages"
SYSTEM = "You are a support agent.\n\n" + "".join(f"{i}. Be kind to customer {i}.\n" for i in range(1, 40))
TOOLS = [
    {
        "name": name,
        "description": f"{name}: " + "what it does, at length. " * 5,
        "input_schema": {"type": "object"},
    }
    for name in ("search", "refund", "escalate")
]
SSE = (
    'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":9}}}\n\n'
    'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"Grüße 🎉 "}}\n\n'
)


@pytest.fixture(params=["libyaml", "pure Python"])
def any_loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "pure Python":
        monkeypatch.delattr(yaml, "CSafeLoader")
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML was built without libyaml")
    files._loader.cache_clear()
    yield
    files._loader.cache_clear()


def interaction(body: bytes | None, answer: bytes = b'{"id":"msg_1"}', **headers: str) -> Interaction:
    request = {"method": "POST", "uri": URI, "body": body, "headers": {k: [v] for k, v in headers.items()}}
    status = {"code": 200, "message": "OK"}
    return request, {"status": status, "headers": {"date": ["now"]}, "body": {"string": answer}}


def encoded(**fields: Any) -> bytes:
    return compact(fields)


def conversation(
    turns: int, system: object = SYSTEM, message: str = "Where is parcel {0}? " * 20
) -> list[Interaction]:
    messages: list[object] = []
    interactions = []
    for turn in range(turns):
        messages.append({"role": "user", "content": message.format(turn)})
        request = encoded(
            model="claude-haiku-4-5", max_tokens=1024, system=system, tools=TOOLS, messages=messages
        )
        reply = {
            "role": "assistant",
            "content": [{"type": "text", "text": f"It is at stop {turn}.\nStay in."}],
        }
        interactions.append(interaction(request, encoded(id=f"msg_{turn}", **reply), retry="0"))
        messages.append(reply)
    return interactions


def stored(interactions: list[Interaction]) -> list[dict[str, Any]]:
    """The entries of the file, as a person sees them."""
    entries: list[dict[str, Any]] = yaml.safe_load(format_cassette(interactions))["interactions"]
    return entries


def round_trip(interactions: list[Interaction], folder: Path) -> list[Interaction]:
    write_cassette(folder / "round trip.yaml", interactions)
    return read_cassette(folder / "round trip.yaml")


# --- the same bytes back -----------------------------------------------------------------------------------

BODIES = {
    "compact JSON": b'{"model":"m","system":"Hi","messages":[]}',
    "json.dumps of Python": b'{"model": "m", "system": "Gr\\u00fc\\u00dfe", "n": [1, 2.5, null, true]}',
    "compact ASCII": b'{"a":"\\ud83c\\udf89","b":[{"c":1e-07}]}',
    "spaced UTF-8": '{"a": "Grüße", "b": [{"c": -0.0}]}'.encode(),
    "indented": b'{\n  "a": 1\n}',
    "repeated keys": b'{"a":1,"a":2}',
    "other numbers": b'{"a":1.50,"b":1E5,"c":NaN}',
    "huge number": b'{"a":' + b"9" * 5000 + b"}",
    "half a surrogate pair": b'{"a":"\\ud83c"}',
    "like a reference": b'{"system":{"same_as":0},"messages":{"first":1,"of":0}}',
    "deep": b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}",
    "usage": '{"usage":{"n":1e-07,"yes":null,"a: b":[1,{"no":"yes"},{},[]],"ü":"on, {off}\\n"}}'.encode(),
    "long usage": b'{"usage":{"' + b"k" * 2000 + b'":[1,2]}}',
    "array": b'[{"a":1}]',
    "scalar": b"12",
    "form": b"grant_type=refresh&scope=a+b",
    "empty": b"",
    "none": None,
    "binary": bytes(range(256)) * 3,
    "lines": b"one\r\ntwo \nthree\t\n\n\n",
    "keys that are no plain words": b'{"yes":1,"":2,"<<":3,"=":4,"a: b":5,"12":6,"- x":7,"'
    + b"k" * 2000
    + b'":8}',
}


@pytest.mark.parametrize("content", BODIES.values(), ids=BODIES.keys())
def test_every_body_comes_back_to_the_byte(content: bytes | None, tmp_path: Path, any_loader: None) -> None:
    recorded = [interaction(content), interaction(content, answer=content or b"")]
    assert round_trip(recorded, tmp_path) == recorded


def test_streams_stay_text_that_can_be_read(tmp_path: Path, any_loader: None) -> None:
    recorded = [interaction(b'{"stream":true}', SSE.encode())]
    assert round_trip(recorded, tmp_path) == recorded
    lines = (tmp_path / "round trip.yaml").read_text(encoding="utf-8").splitlines()
    assert all("      " + line in lines for line in SSE.splitlines() if line)


TEXT = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from(list(" \n\t\r\x85\u2028\ufeff:#-?|>'\"\\{}[]&*!%@`"))
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.sampled_from("abc").map(lambda c: {"role": "user", "content": c * 60}), max_size=5
        )
    },
    optional={"system": JSON, "tools": st.lists(JSON, max_size=3), "metadata": JSON},
)
ENCODERS = st.sampled_from(
    [
        {"ensure_ascii": escaped, "separators": by}
        for escaped in (True, False)
        for by in ((",", ":"), (", ", ": "))
    ]
)
HEADERS = st.dictionaries(
    st.sampled_from(["accept", "x-one", "x-two"]), st.lists(TEXT, min_size=1, max_size=2)
)
INTERACTIONS = st.lists(
    st.builds(
        lambda fields, encoder, headers, code, answer: (
            {
                "method": "POST",
                "uri": URI,
                "body": json.dumps(fields, **encoder).encode(),
                "headers": headers,
            },
            {"status": {"code": code, "message": None}, "headers": headers, "body": {"string": answer}},
        ),
        FIELDS,
        ENCODERS,
        HEADERS,
        st.integers(200, 599),
        st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | TEXT.map(str.encode),
    ),
    max_size=6,
)


@settings(max_examples=examples(200))
@given(INTERACTIONS)
def test_any_interactions_come_back_and_give_the_same_file_again(recorded: list[Interaction]) -> None:
    text = format_cassette(recorded)
    again = cassette_file._interactions(files.load_yaml(text))
    assert again == recorded
    assert format_cassette(again) == text


@settings(max_examples=examples(200))
@given(st.dictionaries(TEXT, JSON | st.binary(), min_size=1, max_size=4))
def test_every_yaml_loader_reads_the_same_values(document: dict[str, Any]) -> None:
    text = yaml_text(document)
    assert yaml.load(text, Loader=yaml.SafeLoader) == document
    assert yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) == document


# --- compact, and easy to review ---------------------------------------------------------------------------


def test_what_a_turn_repeats_is_a_reference() -> None:
    first, second, third = (entry["request"]["json"] for entry in stored(conversation(3)))
    assert first["system"] == SYSTEM
    assert second["system"] == third["system"] == {"same_as": 0}
    assert second["tools"] == third["tools"] == {"same_as": 0}
    assert (second["messages"]["first"], second["messages"]["of"]) == (1, 0)
    assert (third["messages"]["first"], third["messages"]["of"]) == (3, 1)
    assert [message["role"] for message in third["messages"]["then"]] == ["assistant", "user"]


def test_subagents_and_forks_share_what_they_have_in_common() -> None:
    main = conversation(3)
    fork = json.loads(main[2][0]["body"])
    fork["messages"][4] = {"role": "user", "content": "Never mind."}
    entries = stored(
        [*main, *conversation(2, system="You are a researcher. " * 9), interaction(encoded(**fork))]
    )
    assert [entry["request"]["json"]["tools"] for entry in entries[3:]] == [{"same_as": 0}] * 3
    assert entries[5]["request"]["json"]["messages"] == {
        "first": 4,
        "of": 2,
        "then": [{"role": "user", "content": "Never mind."}],
    }


def test_system_blocks_share_the_ones_that_stay() -> None:
    blocks = [
        [{"type": "text", "text": SYSTEM}, {"type": "text", "text": f"It is {hour} o'clock."}]
        for hour in (9, 10)
    ]
    entries = stored([interaction(encoded(system=system)) for system in blocks])
    assert entries[1]["request"]["json"]["system"] == {"first": 1, "of": 0, "then": [blocks[1][1]]}


def test_headers_are_told_once() -> None:
    recorded = [
        interaction(b"{}", accept="json", retry="0"),
        interaction(b"{}", accept="json", retry="0"),
        interaction(b"{}", accept="json", retry="1"),
        interaction(b"{}", retry="0"),
    ]
    requests = [entry["request"] for entry in stored(recorded)]
    assert requests[0]["headers"] == {"accept": "json", "retry": "0"}
    assert [request.get("headers_changed") for request in requests[1:]] == [
        None,
        {"retry": "1"},
        {"accept": None},
    ]
    assert not any("headers" in request for request in requests[1:])


def test_a_changed_system_prompt_is_one_line_of_a_diff() -> None:
    changed = SYSTEM.replace("Be kind to customer 7.", "Be brief with customer 7.")
    before, after = (format_cassette(conversation(50, system)).splitlines() for system in (SYSTEM, changed))
    diff = [
        line
        for line in difflib.unified_diff(before, after, lineterm="", n=0)
        if line[:2] not in ("--", "++", "@@")
    ]
    assert diff == ["-        7. Be kind to customer 7.", "+        7. Be brief with customer 7."]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param("One.\nTwo 🎉\n", ["text: |", "  One.", "  Two 🎉"], id="emoji stay"),
        pytest.param(
            "One. \nTwo",
            ['text: "\\', "  One. \\n\\", '  Two"'],
            id="blanks at the end of a line survive hooks",
        ),
        pytest.param("  One\n two", ["text: |2-", "    One", "   two"], id="indented"),
        pytest.param(
            "a\n b \n c\0", ['text: "\\', "  a\\n\\", "  \\ b \\n\\", '  \\ c\\0"'], id="control characters"
        ),
        pytest.param("What is it?", ["text: What is it?"], id="question"),
        pytest.param("Not now, thanks.", ["text: Not now, thanks."], id="plain"),
        pytest.param("No", ['text: "No"'], id="not a boolean"),
    ],
)
def test_text_is_shown_line_by_line(text: str, lines: list[str]) -> None:
    assert yaml_text({"text": text}).splitlines() == lines


def test_what_was_billed_is_one_line() -> None:
    billed = encoded(
        usage={"input_tokens": 3, "cache_creation": {"ephemeral_5m_input_tokens": 0}, "tier": "a b"}
    )
    line = 'usage: {input_tokens: 3, cache_creation: {ephemeral_5m_input_tokens: 0}, tier: "a b"}'
    assert line in map(str.strip, format_cassette([interaction(b"{}", billed)]).splitlines())


def test_the_order_of_headers_and_keys_of_the_answer_do_not_change_the_file() -> None:
    one, two = interaction(b"{}", a="1", b="2"), interaction(b"{}", b="2", a="1")
    assert format_cassette([one]) == format_cassette([two])


def test_the_timing_that_a_recorder_adds_is_kept(tmp_path: Path) -> None:
    request, response = interaction(b"{}")
    timed = [(request, response | {"timing": {"started": 0, "answered": 812}})]
    assert round_trip(timed, tmp_path) == timed


def test_size_is_linear_in_turns(tmp_path: Path) -> None:
    text = "Where is parcel {0}? " * 100
    sizes = {turns: len(format_cassette(conversation(turns, message=text))) for turns in (25, 50, 100)}
    assert (sizes[100] - sizes[50]) / (sizes[50] - sizes[25]) == pytest.approx(2, rel=0.05)
    assert len(round_trip(conversation(100, message=text), tmp_path)) == 100


# --- what other tools wrote --------------------------------------------------------------------------------

VCR = """\
interactions:
- request:
    body: '{"model":"claude-haiku-4-5","messages":[{"role":"user","content":"Hi,
      there"}]}'
    headers: &id001
      accept: [application/json]
      x-binary:
      - !!binary |
        YQ==
    method: POST
    uri: https://api.anthropic.com/v1/messages
  response:
    body:
      string: !!binary |
        H4sIAAAAAAAA
    headers: *id001
    status: {code: 200, message: OK}
- request:
    body: null
    headers: {date: 2026-11-21}
    method: GET
    uri: !!python/unicode 'https://example.com/'
  response:
    body: {string: 'Grüße'}
    headers: {cf-ray: REDACTED}
    status: {code: 200, message: OK}
version: 1
"""


def test_a_plain_vcr_cassette_is_read_as_vcr_reads_it(tmp_path: Path, any_loader: None) -> None:
    from vcr.serialize import deserialize
    from vcr.serializers import yamlserializer

    path = tmp_path / "vcr.yaml"
    path.write_text(VCR, encoding="utf-8")
    first, second = read_cassette(path)
    requests, responses = deserialize(VCR, yamlserializer)
    assert [first[0]["body"], second[0]["body"]] == [request.body for request in requests]
    assert [first[1]["body"], second[1]["body"]] == [response["body"] for response in responses]
    assert first[1] == responses[0]
    assert second[0]["headers"] == {"date": ["2026-11-21"]}  # vcr makes a date object of it
    assert second[1]["headers"] == {"cf-ray": ["REDACTED"]}
    assert round_trip([first, second], tmp_path) == [first, second]


@pytest.mark.whole_run
def test_recorded_cassettes_of_other_projects_round_trip(tmp_path: Path) -> None:
    corpus = Path(os.environ.get("TOKENBUDGET_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
    paths = sorted((corpus / "cassettes").rglob("*.y*ml"))
    if not paths:
        pytest.skip(f"no recorded cassettes at {corpus}")
    read, left_out = 0, []
    for path in paths:
        try:
            recorded = read_cassette(path)
        except CassetteError as error:
            left_out.append(str(error))
        else:
            read += 1
            assert round_trip(recorded, tmp_path) == recorded, path
    assert read >= 170
    assert all("another serializer wrote it" in reason for reason in left_out)


# --- bad files ---------------------------------------------------------------------------------------------

WHOLE = format_cassette(conversation(2))


def replaced(old: str, new: str) -> str:
    assert old in WHOLE
    return WHOLE.replace(old, new)


NO_REQUEST = "interaction 0 is not a request and a response"
NO_YAML = "is no YAML that a cassette may hold"
GROWTH = "many times larger than the file"


def entries(*requests: str) -> str:
    lines = "".join(f"- request: {request}\n  response: {{body: ''}}\n" for request in requests)
    return f"interactions:\n{lines}version: 1\n"


def laughs(first: str, more: str) -> str:
    return f"a0: &a0 {first}\n" + "".join(
        f"a{i}: &a{i} {more.format(a=f'*a{i - 1}, *a{i - 1}')}\n" for i in range(1, 60)
    )


def post(json: str) -> str:
    return f"{{method: POST, uri: u, json: {json}}}"


BAD = {
    "empty": ("", "is empty"),
    "blank": ("\n\n", "is empty"),
    "truncated between lines": (WHOLE[: WHOLE.rindex("- request:")], "truncated"),
    "truncated in a line": (WHOLE[:-5], NO_YAML),
    "truncated in its last value": (WHOLE[:-2], "truncated"),
    "truncated in quotes": (VCR[:60], NO_YAML),
    "no YAML": ("interactions: [}", NO_YAML),
    "merge conflict": (replaced("  response:", "<<<<<<< HEAD\n  response:"), "conflict marks of a merge"),
    "a list": ("- request: {}\n", "no `interactions`"),
    "text": ("Not found", "no `interactions`"),
    "interactions of another shape": ("interactions: {a: 1}\nversion: 1", "`interactions` is not a list"),
    "entry of another shape": ("interactions: [a]\nversion: 1", NO_REQUEST),
    "no request": ("interactions: [{response: {}}]\nversion: 1", NO_REQUEST),
    "other serializer": (entries("{parsed_body: {}}"), "another serializer wrote it"),
    "version 0": (replaced("\nversion: 1", "\nversion: 0"), "version 0"),
    "version of another kind": (replaced("\nversion: 1", "\nversion: one"), "version 'one'"),
    "newer version": (replaced("\nversion: 1", "\nversion: 2"), "version 2.*Upgrade pytest-tokenbudget"),
    "reference forward": (replaced("of: 0", "of: 1"), "interaction 1: `messages` refers to interaction 1"),
    "reference backward": (replaced("of: 0", "of: -1"), "refers to interaction -1"),
    "reference to a word": (replaced("of: 0", "of: zero"), "refers to interaction 'zero'"),
    "reference to too much": (replaced("first: 1", "first: 9"), "refers to more than interaction 0 has"),
    "reference to no list": (entries(post("{a: b}"), post("{a: {first: 1, of: 0}}")), "refers to more than"),
    "reference to no field": (
        entries(post("{a: b}"), post("{x: {same_as: 0}}")),
        "`x` refers to interaction 0",
    ),
    "unknown encoding": (entries("{method: POST, uri: u, encoding: rot13, json: {}}"), "encoding 'rot13'"),
    "header of another kind": (replaced('retry: "0"', "retry: {a: 1}"), "header retry"),
    "no address": (
        entries("{method: POST, uri: 'http://[::1', json: {}}"),
        "interaction 0: Invalid IPv6 URL",
    ),
    "a status that is a list": (
        replaced("status:\n      code: 200\n      message: OK", "status: [200]"),
        "`status`",
    ),
    "a status that is a word": (replaced("code: 200", "code: fine"), "no number for its code"),
    "a key that stands there twice": (
        replaced("method: POST", "method: POST\n    method: GET"),
        "'method' stands",
    ),
    "JSON key that is a number": (entries(post("{7: 1}")), "key 7"),
    "JSON value that is a date": (entries(post("{a: !!timestamp 2026-11-21}")), "date is not JSON"),
    "a set for a body": (entries("{method: POST, uri: u, body: !!set {a}}"), "a body is set"),
    "object of Python": ("!!python/object/apply:os.system ['true']", NO_YAML),
    "deep flow": ("[" * 150 + "]" * 150, "nested deeper than 100 levels"),
    "deep block": ("- " * 150 + "x", "nested deeper than 100 levels"),
    "endlessly deep flow": ("[" * 200_000, NO_YAML),  # libyaml 0.2.6 refuses it before we do
    "endlessly deep block": ("- " * 200_000 + "x", NO_YAML),
    "endless": ("interactions: &a [*a]\nversion: 1", "part of"),
    "laughs": (laughs("[x]", "[{a}]"), GROWTH),
    "long laughs": (f"a: &a {'x' * 100_000}\nb: [{'*a,' * 10_000}]", GROWTH),
    "merged laughs": (laughs("{x: y}", "{{!!merge <<: [{a}]}}"), NO_YAML),
    "references that grow": (
        entries(post(f"{{a: [{'x, ' * 5_000}]}}"), *[post("{a: {same_as: 0}}")] * 1_000),
        "larger than 20,000,000 bytes",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_cassette_is_refused_by_name(
    text: str, message: str, tmp_path: Path, any_loader: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cassette_file, "MAX_BYTES", 20_000_000)
    path = tmp_path / "test_agent.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CassetteError, match=message) as caught:
        read_cassette(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n  pytest --token-budget-record=" in str(caught.value) or "Upgrade" in str(caught.value)


def test_a_missing_cassette_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_cassette(tmp_path / "missing.yaml")


def test_what_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(CassetteError, match="is not UTF-8 text"):
        read_cassette(tmp_path / "latin.yaml")
    with pytest.raises(CassetteError, match="cannot be read"):
        read_cassette(tmp_path)


# --- written whole or not at all ---------------------------------------------------------------------------


def test_a_cassette_is_written_into_a_new_folder_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "cassettes" / "test_agent" / "test_refund[a-b].yaml"
    write_cassette(path, conversation(2))
    write_cassette(path, conversation(1))
    assert read_cassette(path) == conversation(1)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "test_agent.yaml"
    write_cassette(path, conversation(1))
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((CassetteError, KeyboardInterrupt)) as caught:
        write_cassette(path, conversation(2))
    if isinstance(failure, OSError):
        assert str(caught.value).startswith(f"{path}: cannot be written: No space left on device.")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_cassette_cannot_hold_is_refused_before_the_file_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "test_agent.yaml"
    request, response = interaction(b"{}")
    with pytest.raises(CassetteError, match="a value is object, which a cassette cannot hold"):
        write_cassette(path, [(request, response | {"url": object()})])
    with pytest.raises(CassetteError, match=r"cannot be written: .*A cassette cannot hold"):
        write_cassette(path, [(request | {"uri": "\ud800"}, response)])
    assert not path.exists()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "shared.yaml", tmp_path / "link.yaml"
    write_cassette(target, conversation(1))
    link.symlink_to(target)
    write_cassette(link, conversation(2))
    assert link.is_symlink()
    assert read_cassette(target) == conversation(2)
