"""Message threads: a request that sends only what is new is read as the conversation that it continues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from pytest_tokenbudget.replay.playback import Ledger, Rules
from pytest_tokenbudget.replay.traffic import MessageThreads, Reader
from pytest_tokenbudget.wire.exchange import Request
from support.clients import COMMAND, client, is_faithful, record, replay
from support.messages_api import MessagesApi

SYSTEM = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
TOOLS = [{"name": "look_up", "input_schema": {"type": "object"}}]


def encoded(**body: Any) -> bytes:
    return json.dumps({"model": "claude-haiku-4-5", "max_tokens": 9, **body}).encode()


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text, **more}]}


def answer(id_: str, text: str) -> dict[str, Any]:
    return {"id": id_, "type": "message", "role": "assistant", "content": [{"type": "text", "text": text}]}


def going_on(id_: str) -> dict[str, Any]:
    return {"type": "continue", "previous_message_id": id_}


@pytest.fixture
def threads() -> MessageThreads:
    """Two turns of one thread."""
    known = MessageThreads()
    marked = user("One", cache_control={"type": "ephemeral"})
    begin = encoded(system=SYSTEM, tools=TOOLS, messages=[marked], thread={"type": "create"})
    known.keep(begin, answer("msg_1", "First"))
    known.keep(encoded(messages=[user("Two")], thread=going_on("msg_1")), answer("msg_2", "Second"))
    return known


def test_a_continuation_is_read_as_the_whole_conversation(threads: MessageThreads) -> None:
    sent = encoded(messages=[user("Three")], thread=going_on("msg_2"), temperature=0)
    assert json.loads(threads.whole(sent) or b"") == {
        "model": "claude-haiku-4-5",
        "max_tokens": 9,
        "temperature": 0,
        "system": SYSTEM,
        "tools": TOOLS,
        "messages": [
            user("One"),
            {"role": "assistant", "content": [{"type": "text", "text": "First"}]},
            user("Two"),
            {"role": "assistant", "content": [{"type": "text", "text": "Second"}]},
            user("Three"),
        ],
    }


def test_what_a_continuation_repeats_of_the_system_prompt_is_ignored(threads: MessageThreads) -> None:
    """Claude Code sends its attribution block again, and nothing else of the system prompt."""
    sent = encoded(system=[{"type": "text", "text": "x"}], messages=[user("Two")], thread=going_on("msg_1"))
    assert json.loads(threads.whole(sent) or b"")["system"] == SYSTEM


def test_a_thread_may_go_on_from_an_earlier_answer(threads: MessageThreads) -> None:
    whole = threads.whole(encoded(messages=[user("Other")], thread=going_on("msg_1")))
    assert [message["role"] for message in json.loads(whole or b"")["messages"]] == [
        "user",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize("body", [encoded(messages=[user("Hello")]), b"", b"no JSON"])
def test_what_is_of_no_thread_stays_to_the_letter(threads: MessageThreads, body: bytes) -> None:
    assert threads.whole(body) is body


def test_what_only_speaks_of_threads_stays_what_it_is(threads: MessageThreads) -> None:
    body = encoded(messages=[user('a "thread" of thought')])
    assert json.loads(threads.whole(body) or b"") == json.loads(body)


def test_a_thread_that_is_not_known(threads: MessageThreads) -> None:
    assert threads.whole(encoded(messages=[user("Two")], thread=going_on("msg_9"))) is None


# --- through the SDK --------------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    if not hasattr(anthropic.resources.beta.messages.Messages, "thread"):
        pytest.skip("this SDK has no message threads")
    with MessagesApi(lambda body: f"You said: {body['messages'][-1]['content'][:40]}") as server:
        yield server


def talk(url: str, system: str = "Be brief.", **options: Any) -> None:
    """Three turns on one thread."""
    with client(url) as sync:
        thread = sync.beta.messages.thread(
            model="claude-haiku-4-5", max_tokens=99, system=system, messages=[], **options
        )
        for words in ("One", "Two", "Three"):
            thread.send({"role": "user", "content": words})


def test_a_changed_system_prompt_shows_in_every_turn(api: MessagesApi) -> None:
    interactions = record(lambda: talk(api.url))
    assert b"system" not in interactions[1][0]["body"]
    changed = replay(interactions, lambda: talk("http://127.0.0.1:9", "Be brief, and be kind."))
    assert is_faithful(changed)
    assert [pair.how.value for pair in changed.recording.pairs] == ["similar", "lineage", "lineage"]
    for pair in changed.recording.pairs:
        assert pair.request.prompt.level("system")[0].content["text"] == "Be brief, and be kind."
        assert pair.recorded.prompt.level("system")[0].content["text"] == "Be brief."


def test_an_agent_that_begins_to_use_threads_asks_for_the_same(api: MessagesApi) -> None:
    """Upgrading the SDK turns them on for the tool runner."""

    def without() -> None:
        messages: list[Any] = []
        with client(api.url) as sync:
            for words in ("One", "Two", "Three"):
                messages.append({"role": "user", "content": words})
                answer = sync.beta.messages.create(
                    model="claude-haiku-4-5", max_tokens=99, system="Be brief.", messages=messages
                )
                messages.append({"role": "assistant", "content": answer.content})

    replayed = replay(record(without), lambda: talk("http://127.0.0.1:9"))
    assert is_faithful(replayed)
    for pair in replayed.recording.pairs:
        assert texts(pair.request) == texts(pair.recorded)


def texts(request: Request) -> list[tuple[str | None, str]]:
    return [(block.role, block.content["text"]) for block in request.prompt.blocks]


def test_a_thread_that_was_lost_is_sent_again_and_recorded(api: MessagesApi) -> None:
    def lose_it() -> None:
        with client(api.url) as sync:
            thread = sync.beta.messages.thread(model="claude-haiku-4-5", max_tokens=99, messages=[])
            thread.send({"role": "user", "content": "One"})
            api.api.threads._kept.clear()
            thread.send({"role": "user", "content": "Two"})

    def keep_it() -> None:
        with client("http://127.0.0.1:9") as sync:
            thread = sync.beta.messages.thread(model="claude-haiku-4-5", max_tokens=99, messages=[])
            thread.send({"role": "user", "content": "One"})
            thread.send({"role": "user", "content": "Two"})

    ledger = replay(record(lose_it), keep_it)
    assert [pair.answer.status for pair in ledger.recording.pairs] == [200, 404, 200]
    assert is_faithful(ledger)


def test_a_thread_that_began_elsewhere_is_told() -> None:
    ledger = Ledger("test_it", COMMAND, (), Rules(calls=True))
    body = encoded(messages=[user("Two")], thread=going_on("msg_9"))
    ledger.find(
        Reader().read({"method": "POST", "uri": "https://gate/v1/messages", "body": body, "headers": {}})
    )
    (warning,) = ledger.warnings
    assert "began elsewhere" in warning


def test_the_server_of_the_tests_refuses_a_thread_that_it_does_not_know(api: MessagesApi) -> None:
    with client(api.url) as sync, pytest.raises(anthropic.NotFoundError, match="thread_not_found"):
        sync.beta.messages.create(
            model="claude-haiku-4-5",
            max_tokens=9,
            messages=[{"role": "user", "content": "Two"}],
            thread={"type": "continue", "previous_message_id": "msg_9"},
        )
