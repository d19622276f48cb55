"""Secrets out: no placement of a key survives in the file, and what is left still works."""

from __future__ import annotations

import base64
import copy
import gzip
import itertools
import json
import string
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pytest_tokenbudget.metering.counting import Memo
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.replay.cassette_file import Interaction, format_cassette
from pytest_tokenbudget.replay.redaction import Secrets, redact, secrets_of
from pytest_tokenbudget.wire.framing import (
    assemble,
    read_event_stream,
    read_sse,
    write_event_stream,
    write_sse,
)
from support.blocks import compact
from support.sample import examples

URI = "https://api.anthropic.com/v1/messages"
KEY = "sk-ant-api03-Zx8_wQ-0123456789abcdefghij"
USAGE = {"input_tokens": 12, "output_tokens": 34, "cache_read_input_tokens": 0}
MESSAGE = {
    "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
    "type": "message",
    "role": "assistant",
    "content": [
        {"type": "tool_use", "id": "toolu_01A09q90qw90lq917835lq9", "name": "f", "input": {"max_tokens": 1}}
    ],
    "usage": USAGE,
}


def interaction(
    request: bytes | None = b'{"model":"m","messages":[]}',
    answer: bytes = compact(MESSAGE),
    *,
    uri: str = URI,
    sent: dict[str, str] | None = None,
    received: dict[str, str] | None = None,
    message: str = "OK",
) -> Interaction:
    return (
        {"method": "POST", "uri": uri, "body": request, "headers": {k: [v] for k, v in (sent or {}).items()}},
        {
            "status": {"code": 200, "message": message},
            "headers": {k: [v] for k, v in (received or {}).items()},
            "body": {"string": answer},
        },
    )


def redact_one(one: Interaction, **options: Any) -> Interaction:
    [redacted] = redact([one], **options)
    return redacted


def text_stream(*pieces: str, kind: str = "text") -> list[dict[str, Any]]:
    """The events of a streamed answer whose one block comes in these pieces."""
    field = {"text": "text", "thinking": "thinking", "input_json": "partial_json"}[kind]
    block = {"text": {"type": "text", "text": ""}, "thinking": {"type": "thinking", "thinking": ""}}.get(
        kind, {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    )
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": f"{kind}_delta", field: piece}}
        for piece in pieces
    ]
    return [
        {"type": "message_start", "message": {**MESSAGE, "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 34}},
        {"type": "message_stop"},
    ]


# --- headers ----------------------------------------------------------------------------------------------


def test_only_headers_that_replay_needs_are_kept() -> None:
    sent = {
        "Authorization": f"Bearer {KEY}",
        "x-api-key": KEY,
        "api-key": KEY,
        "cookie": "_cfuvid=abcdefgh12345678",
        "anthropic-workspace-id": "wrkspc_01",
        "anthropic-user-profile-id": "uprof_01",
        "X-Amz-Security-Token": "token",
        "x-goog-api-key": "AIza",
        "x-goog-user-project": "my-project",
        "openai-organization": "org",
        "x-portkey-api-key": "a gateway's own",
        "host": "gateway.internal",
        "x-stainless-os": "MacOS",
        "content-length": "12",
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "cache-diagnosis-2026-04-07",
        "User-Agent": "Anthropic/Python 2.12.0",
        "x-stainless-retry-count": "1",
        "x-claude-code-agent-id": "a1",
    }
    received = {
        "set-cookie": "_cfuvid=abc; HttpOnly",
        "anthropic-organization-id": "8f9d5dc2-1c5c-4c3f-8a5b-000000000000",
        "anthropic-workspace-id": "wrkspc_01",
        "anthropic-ratelimit-requests-remaining": "49",
        "cf-ray": "9a-FRA",
        "request-id": "req_011CSHoEeqs5C35K2UUqR7Fy",
        "x-amzn-RequestId": "5e5e",
        "content-type": "application/json",
        "date": "Sat, 21 Nov 2026 10:00:00 GMT",
        "retry-after": "3",
    }
    request, answer = redact_one(interaction(sent=sent, received=received))
    assert request["headers"] == {
        name: [sent[name]]
        for name in (
            "anthropic-version",
            "anthropic-beta",
            "User-Agent",
            "x-stainless-retry-count",
            "x-claude-code-agent-id",
        )
    }
    assert answer["headers"] == {
        "request-id": ["REDACTED"],
        "x-amzn-RequestId": ["REDACTED"],
        **{name: [received[name]] for name in ("content-type", "date", "retry-after")},
    }


@pytest.mark.parametrize(
    ("header", "value", "secret"),
    [
        ("authorization", "Bearer internal-4711-key", "internal-4711-key"),
        ("authorization", "Basic " + base64.b64encode(b"robot:s3cret-word").decode(), "s3cret-word"),
        ("x-api-key", "internal-4711-key", "internal-4711-key"),
        ("helicone-auth", "Bearer internal-4711-key", "internal-4711-key"),
        ("Cookie", "a=1; session=abcdef0123456789", "abcdef0123456789"),
        ("Set-Cookie", "session=abcdef0123456789; Path=/; HttpOnly", "abcdef0123456789"),
        ("anthropic-organization-id", "8f9d5dc2-1c5c-4c3f", "8f9d5dc2-1c5c-4c3f"),
    ],
)
def test_what_a_sensitive_header_carried_is_hidden_everywhere(header: str, value: str, secret: str) -> None:
    tells = compact({"messages": [{"role": "user", "content": f"My key is {secret}!"}]})
    first = interaction(sent={header: value})
    second = interaction(tells, received={header: value})
    for one in redact([first, interaction(tells)]), redact([second]):
        assert secret not in format_cassette(one)
        assert json.loads(one[-1][0]["body"]) == {
            "messages": [{"role": "user", "content": "My key is REDACTED!"}]
        }


# --- addresses and forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "redacted"),
    [
        ("https://h/v1?key=abc&alt=sse", "https://h/v1?key=REDACTED&alt=sse"),
        ("https://h/v1?api_key=a&API-KEY=b&access_token=c", "https://h/v1?api_key=REDACTED&API-KEY=REDACTED&access_token=REDACTED"),
        ("https://h/?X-Amz-Signature=a&X-Amz-Date=b", "https://h/?X-Amz-Signature=REDACTED&X-Amz-Date=b"),
        ("https://h/?sig=a&max_tokens=5&page_token=7", "https://h/?sig=REDACTED&max_tokens=5&page_token=7"),
        ("https://me:pass@gateway.example:8443/v1", "https://gateway.example:8443/v1"),
        (f"https://h/keys/{KEY}/v1", "https://h/keys/REDACTED/v1"),
        (f"{URI}?beta=true", f"{URI}?beta=true"),
        ("http://[::1", "http://[::1"),
    ],
)  # fmt: skip
def test_addresses(uri: str, redacted: str) -> None:
    request, answer = interaction(uri=uri)
    one = redact_one((request, answer | {"url": uri}))
    assert one[0]["uri"] == one[1]["url"] == redacted


def test_forms_and_token_answers() -> None:
    form = b"grant_type=refresh_token&client_id=me&refresh_token=r-123&client_secret=c-123&scope=a+b"
    token = {"access_token": "t-123", "id_token": "i-123", "token_type": "Bearer", "expires_in": 3599}
    request, answer = redact_one(
        interaction(form, compact(token), sent={"content-type": "application/x-www-form-urlencoded"})
    )
    assert request["body"] == (
        b"grant_type=refresh_token&client_id=me&refresh_token=REDACTED&client_secret=REDACTED&scope=a+b"
    )
    assert json.loads(answer["body"]["string"]) == token | {
        "access_token": "REDACTED",
        "id_token": "REDACTED",
    }


# --- bodies -----------------------------------------------------------------------------------------------


def test_who_the_user_is_goes_and_what_the_api_counts_stays() -> None:
    sent = {
        "model": "m",
        "max_tokens": 1024,
        "metadata": {"user_id": "user_8a_account__session_1", "team": "blue"},
        "messages": [
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}]}
        ],
        "tools": [{"name": "login", "input_schema": {"properties": {"password": {"type": "string"}}}}],
    }
    request, answer = redact_one(interaction(compact(sent)))
    assert json.loads(request["body"]) == sent | {"metadata": {"user_id": "REDACTED", "team": "blue"}}
    assert answer["body"]["string"] == compact(MESSAGE)


def test_what_the_model_writes_into_fields_with_telling_names_stays() -> None:
    told = MESSAGE | {
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "login", "input": {"password": "x"}}]
    }
    assert redact_one(interaction(answer=compact(told)))[1]["body"]["string"] == compact(told)


def test_request_ids_of_errors_become_a_placeholder() -> None:
    error = {
        "type": "error",
        "error": {"message": "see req_011CSHoEeqs5C35K2UUqR7Fy"},
        "request_id": "req_011CSH",
    }
    answer = json.loads(redact_one(interaction(answer=compact(error)))[1]["body"]["string"])
    assert answer == {"type": "error", "error": {"message": "see REDACTED"}, "request_id": "REDACTED"}


SHAPES = {
    "Anthropic": KEY,
    "OpenAI": "sk-proj-Ab1" + "x" * 40,
    "AWS access key": "AKIA" + "ABCDEFGH12345678",
    "Bedrock": "ABSK" + "QmVkcm9ja0FQSUtleS0" * 3,
    "GitHub": "ghp_" + "a1B2" * 9,
    "GitHub, fine-grained": "github_pat_" + "11ABCDEFG0" * 3,
    "Google": "AIza" + "SyA-1234567890_abcdefghijklmnopqrst"[:35],
    "JSON Web Token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "Slack": "xoxb-123456789012-abcdefghijkl",
    "Hugging Face": "hf_" + "abcdEFGH" * 4,
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE+/abc=\nDEF=\n-----END RSA PRIVATE KEY-----",
    "private key, cut off": "-----BEGIN PRIVATE KEY-----\nMIIEabc",
}


@pytest.mark.parametrize("key", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    "place",
    [
        lambda key: interaction(compact({"system": f"Use {key}"})),
        lambda key: interaction(compact({"system": json.dumps({"env": f"\n{key}"})})),
        lambda key: interaction(json.dumps({"a": key, "b": [1]}, indent=1).encode()),
        lambda key: interaction(answer=write_sse(text_stream(f"The key: {key}"))),
        lambda key: interaction(answer=f"plain\n{key}".encode()),
        lambda key: interaction(answer=f"https://example.com/?to=%2Fa%3Fname%3D{key}".encode()),
        lambda key: interaction(answer=rf"{{\"to\": \"/?name\u003d{key}\"}}".encode()),
        lambda key: interaction(
            answer=gzip.compress(compact({"text": key})), received={"content-encoding": "gzip"}
        ),
    ],
    ids=["JSON", "JSON in JSON", "indented JSON", "stream", "text", "URL in URL", "escaped", "compressed"],
)
def test_keys_are_known_by_their_shape(key: str, place: Callable[[str], Interaction]) -> None:
    secret = max(key.split("\n"), key=len) if "RSA" not in key else "MIIE+/abc="
    written = format_cassette([redact_one(place(key))])
    assert secret not in written
    assert "REDACTED" in written


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens, input_tokens and the tokenizer's token budget",
        "sk-learn-pipeline-with-many-words-in-it",
        "a risk-averse-investor-with-30-years-TO-GO",
        "Bearer certificates and bearer authentication",
        "https://example.com:8080/a@b and mailto:me@example.com",
        "AKIAN is a place",
        "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
        "msg_01XFDUDYJgAACzvnptvVoYEL toolu_01A09q90qw90lq917835lq9 batch_01HkcTjaV5uDC8jWR4ZsDV8d",
        "eyJ is how base64 of JSON begins",
        "iVBORw0KGgo" + "AnImage9" * 3 + "+ABSK" + "AnImage9" * 60,
        "iVBORw0KGgo" + "AnImage9" * 3 + "AIza" + "AnImage9" * 60,
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Secrets(["password", "assistant", "short1"]).redact(text) == text


def test_the_users_own_patterns() -> None:
    text = compact({"messages": [{"role": "user", "content": "Customer 4711-0815, card 1234."}]})
    request, _ = redact_one(interaction(text), patterns=[r"\d{4}-\d{4}", r"card (\d+)", "x*"])
    assert json.loads(request["body"])["messages"][0]["content"] == "Customer REDACTED, card REDACTED."


# --- streams ----------------------------------------------------------------------------------------------


def cut(text: str, *at: int) -> list[str]:
    edges = [0, *sorted(at), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


FRAMINGS = {"SSE": (write_sse, read_sse), "AWS event stream": (write_event_stream, read_event_stream)}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("kind", ["text", "thinking", "input_json"])
@given(at=st.lists(st.integers(0, 60), max_size=12))
@example(at=[12, 13, 14])
@example(at=[])
def test_a_key_cut_into_pieces_is_found(framing: str, kind: str, at: list[int]) -> None:
    write, read = FRAMINGS[framing]
    text = (
        json.dumps({"env": f'say "{KEY}" twice: {KEY}.'}) if kind == "input_json" else f"Key {KEY} and {KEY}."
    )
    answer = write(text_stream(*cut(text, *at), kind=kind))
    redacted = redact_one(interaction(answer=answer))[1]["body"]["string"]
    before, after = assemble(read(answer)), assemble(read(redacted))
    assert after.message == json.loads(json.dumps(before.message).replace(KEY, "REDACTED"))
    assert after.error is None


def test_a_stream_without_secrets_is_the_same_to_the_byte() -> None:
    odd = b': ping\r\n\r\nevent: x\ndata: {"a" : 1}\n\ndata: [DONE]\n\n' + write_sse(
        text_stream("Hi \u2028 there")
    )
    assert redact_one(interaction(answer=odd))[1]["body"]["string"] == odd
    framed = write_event_stream(text_stream("Hi"))
    assert redact_one(interaction(answer=framed))[1]["body"]["string"] == framed


def test_batch_results_line_by_line() -> None:
    results = [
        {"custom_id": str(n), "result": {"type": "succeeded", "message": MESSAGE | {"id": KEY}}}
        for n in (1, 2)
    ]
    answer = b"\n".join(map(compact, results)) + b"\n"
    redacted = redact_one(interaction(answer=answer))[1]["body"]["string"]
    assert redacted == answer.replace(KEY.encode(), b"REDACTED")


# --- anywhere ---------------------------------------------------------------------------------------------

SECRETS = st.text(
    st.sampled_from(string.ascii_letters + string.digits + '-_+/=!%"\\ \n\té€🔑'), min_size=8
).filter(lambda value: len(value.strip()) >= 8 and not value.isalpha() and len(set(value)) > 5)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLACES: dict[str, Callable[[str], Interaction]] = {
    "request body": lambda text: interaction(compact({"system": text, "messages": [{"content": text}]})),
    "request key": lambda text: interaction(compact({"messages": [{text: 1}]})),
    "ASCII body": lambda text: interaction(json.dumps({"system": text}).encode()),
    "indented body": lambda text: interaction(json.dumps({"system": text}, indent=2).encode()),
    "repeated key": lambda text: interaction(b'{"a":' + compact(text) + b',"a":1}'),
    "JSON in JSON": lambda text: interaction(compact({"system": json.dumps({"text": text})})),
    "deep body": lambda text: interaction(b"[" * 80 + compact(text) + b"]" * 80),
    "form": lambda text: interaction(f"a=1&b={quote_plus(text)}".encode()),
    "URL": lambda text: interaction(compact({"url": f"https://h/?q={quote(text)}&r={quote(text, safe='')}"})),
    "hex": lambda text: interaction(compact({"data": text.encode().hex()})),
    "base64": lambda text: interaction(
        compact({"data": base64.b64encode(b"user:" + text.encode()).decode()})
    ),
    "binary body": lambda text: interaction(b"\xff\xfe" + text.encode() + b"\x80"),
    "path": lambda text: interaction(uri=f"https://h/{quote(text, safe='')}/v1"),
    "query": lambda text: interaction(uri=f"https://h/v1?q={quote_plus(text)}"),
    "kept header": lambda text: interaction(sent={"user-agent": text}, received={"location": text}),
    "dropped header": lambda text: interaction(sent={"x-mine": text}, received={"x-mine": text}),
    "status": lambda text: interaction(message=text),
    "answer": lambda text: interaction(
        answer=compact(MESSAGE | {"content": [{"type": "text", "text": text}]})
    ),
    "stream": lambda text: interaction(answer=write_sse(text_stream(*cut(text, 3, 9, 20)))),
    "tool input": lambda text: interaction(
        answer=write_sse(text_stream(*cut(json.dumps({"q": text}), 9, 12, 20), kind="input_json"))
    ),
    "JSON in a tool input": lambda text: interaction(
        answer=write_sse(
            text_stream(*cut(json.dumps({"q": json.dumps({"a": text})}), 9, 30), kind="input_json")
        )
    ),
    "Bedrock stream": lambda text: interaction(answer=write_event_stream(text_stream(*cut(text, 3, 9, 20)))),
    "plain text": lambda text: interaction(answer=text.encode()),
    "compressed": lambda text: interaction(
        answer=gzip.compress(text.encode()), received={"content-encoding": "gzip"}
    ),
}


def texts_in(value: Any) -> list[str]:
    """Every text of the interactions as a reader would see it, bodies decoded as far as they go."""
    if isinstance(value, bytes):
        found = [value.decode("utf-8", "replace")]
        for read in (
            lambda data: [json.loads(data)],
            lambda data: [*read_sse(data)],
            lambda data: [*read_event_stream(data)],
        ):
            try:
                events = read(value)
            except (ValueError, KeyError, RecursionError):
                continue
            found += texts_in(events)
            if len(events) > 1:
                found += texts_in(assemble(events).message)
        return found
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in texts_in(item)]
    return [text for item in value for text in texts_in(item)] if isinstance(value, (list, tuple)) else []


def holds(forms: Iterable[str], *texts: str) -> list[str]:
    """Which of the forms stand in any of the texts."""
    return [form for form in forms if any(form in text for text in texts)]


@settings(max_examples=examples(400))
@given(place=st.sampled_from(sorted(PLACES)), secret=SECRETS, before=TEXT, after=TEXT)
def test_a_known_secret_survives_nowhere(place: str, secret: str, before: str, after: str) -> None:
    forms = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1]}
    aligned = {base64.b64encode(bytes(n) + secret.encode()).decode()[4:-4] for n in range(3)}
    forms |= {form for form in aligned if len(form) >= 8}
    without = [PLACES[place]("")]
    assume(not holds(forms, format_cassette(without), *texts_in(without)))  # words of the file itself
    given_one = PLACES[place](f"{before}{secret}{after}")
    kept = copy.deepcopy(given_one)
    redacted = redact([given_one], secrets=[secret])
    assert given_one == kept, "the interactions that were given have changed"
    assert not holds(forms, format_cassette(redacted), *texts_in(redacted))
    assert redact(redacted, secrets=[secret]) == redacted
    assert redacted[0][1]["body"]["string"] is not None


def test_the_environment_tells_its_secrets_by_name() -> None:
    environ = {
        "ANTHROPIC_API_KEY": "key-of-anthropic-1",
        "AWS_SECRET_ACCESS_KEY": "key/of/aws/2",
        "AWS_SESSION_TOKEN": "token-of-aws-3",
        "GITHUB_TOKEN": "token-of-github-4",
        "DB_PASSWORD": "p4ssword!",
        "DATABASE_URL": "postgres://app:in-the-url-5@db/app",
        "ANTHROPIC_CUSTOM_HEADERS": "X-Gateway: gateway-word-6\nX-Team: blue",
        "TOKENIZERS_PARALLELISM": "false-or-true",
        "MAX_TOKENS": "100000000",
        "HOME": "/home/somebody",
        "OPENAI_API_KEY": "dummy",
        "SOME_SECRET": "assistant",
    }
    assert secrets_of(environ) == {
        *("key-of-anthropic-1", "key/of/aws/2", "token-of-aws-3", "token-of-github-4", "p4ssword!"),
        *("in-the-url-5", "gateway-word-6"),
    }


def test_what_was_searched_is_not_kept() -> None:
    """A run reads many megabytes of prompts, of which none may outlive its test."""

    class Length:
        name, exact = "length", True

        def count(self, text: str, family: Family) -> int:
            return len(text)

    secrets, counter = Secrets(["sk-ant-api03-planted"]), Memo(Length())
    tracemalloc.start()
    try:
        for number in range(20):
            text = f"{number}" + " word" * 20_000
            assert secrets.redact(text) is text
            counter.count(text, Family.V3)
        del text
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000, "of two million characters"
