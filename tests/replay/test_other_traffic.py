"""What is no model call: telemetry, uploads, listings. It is played, told, and decides over nothing."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import httpx2
import pytest
import requests

from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.playback import Ledger
from support.clients import is_faithful, record, replaying, sdk
from support.loopback import serving
from support.messages_api import MessagesApi

SDK = {"anthropic-version": "2023-06-01"}
"""What makes traffic on loopback that of an SDK, which is recorded."""


class _Answers(BaseHTTPRequestHandler):
    """Answers with how many requests there were before it."""

    count = 0

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        data = str(type(self).count).encode()
        type(self).count += 1
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[str]:
    handler = type("Answers", (_Answers,), {})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        yield url


def get(url: str, client: Any = httpx2) -> str:
    return str(client.get(url, headers=SDK, timeout=600).text)


@pytest.mark.parametrize("client", [httpx2, requests])
def test_a_query_that_varies(other: str, client: Any) -> None:
    recorded = record(lambda: [get(f"{other}/v1/files?at={n}", client) for n in range(3)])
    with replaying(recorded) as ledger:
        assert get(f"{other}/v1/files?at=1", client) == "1", "its own answer first"
        assert [get(f"{other}/v1/files?at={n}", client) for n in (7, 8)] == ["0", "2"], "then in order"
        assert ledger.warnings == []
        assert get(f"{other}/v1/files?at=9", client) == "2", "and then the last one again"
    assert is_faithful(ledger)
    (warning,) = ledger.warnings
    assert "/v1/files was asked more often than it was recorded" in warning


@pytest.mark.parametrize("make_id", [lambda: str(uuid.uuid4()), lambda: uuid.uuid4().hex])
def test_an_id_in_the_path_that_is_made_anew_on_every_run(other: str, make_id: Callable[[], str]) -> None:
    recorded = record(lambda: [get(f"{other}/v1/runs/{make_id()}/state") for _ in range(2)])
    with replaying(recorded) as ledger:
        assert [get(f"{other}/v1/runs/{make_id()}/state") for _ in range(2)] == ["0", "1"]
        assert len(ledger.warnings) == 2
        assert "is answered as GET" in ledger.warnings[0]
        for path in ("runs/17/state", f"runs/{make_id()}", f"files/{make_id()}/state"):
            assert get(f"{other}/v1/{path}") == "{}", "refused"
    assert is_faithful(ledger)


def test_another_base_url(other: str) -> None:
    recorded = record(lambda: get(f"{other}/v1/files"))
    with replaying(recorded) as ledger:
        assert get("https://gateway.test/anthropic/v1/files") == "0"
    assert ledger.warnings == []


def test_one_host_is_not_taken_for_another(other: str) -> None:
    """Two services that are asked by one path: each has its own answers."""
    (request, answer), *_ = record(lambda: get(f"{other}/v1/traces"))
    second = {**request, "uri": "https://second.test/v1/traces"}, {**answer, "body": {"string": b"second"}}
    with replaying([(request, answer), second]):
        assert get("https://second.test/v1/traces") == "second"
        assert get("https://second.test/v1/traces") == "second"
        assert get(f"{other}/v1/traces") == "0"


def upload(url: str, content: bytes = b"%PDF-1.4 \xff\x00", name: str = "order.pdf") -> None:
    with anthropic.Anthropic(base_url=url, api_key="sk-ant-test", max_retries=0) as client:
        client.beta.files.with_raw_response.upload(file=(name, content, "application/pdf"))


def test_an_upload_has_another_boundary_on_every_run(other: str) -> None:
    recorded = record(lambda: upload(other))
    with replaying(recorded) as ledger:
        upload("https://gateway.test/anthropic")
    assert is_faithful(ledger)
    assert ledger.warnings == []
    with replaying(recorded) as ledger:
        upload(other, b"%PDF-1.4 \xff\x01")
    (warning,) = ledger.warnings
    assert "/v1/files?beta=true uploads another file" not in warning
    assert "/v1/files uploads another file than was recorded" in warning
    assert is_faithful(ledger), "what it counts is not known to have changed"


def ask_and_report(url: str, telemetry: str) -> None:
    with contextlib.suppress(httpx2.ConnectError, httpx2.HTTPStatusError):
        httpx2.post(f"{telemetry}/v1/traces", json={"run": 1}, headers=SDK, timeout=600).raise_for_status()
    sdk(url, "Hello", "Be brief.")


def play(recorded: list[Interaction], url: str, telemetry: str) -> Ledger:
    with replaying(recorded) as ledger:
        ask_and_report(url, telemetry)
    assert is_faithful(ledger)
    return ledger


def test_telemetry_that_was_not_recorded_decides_nothing(api: MessagesApi, other: str) -> None:
    recorded = record(lambda: sdk(api.url, "Hello", "Be brief."))
    ledger = play(recorded, api.url, "https://telemetry.test")
    (warning,) = ledger.warnings
    assert "POST https://telemetry.test/v1/traces is no model call, and is not in the recording" in warning
    recorded = record(lambda: ask_and_report(api.url, other))
    with replaying(recorded) as ledger:
        sdk(api.url, "Hello", "Be brief.")
    assert is_faithful(ledger), "what was exported once may come too late to be exported again"


def test_a_thread_that_sends_telemetry_has_asked_no_model(api: MessagesApi, other: str) -> None:
    """It is warned of threads that ask a model and outlive their test: an exporter is none of them."""
    with replaying(record(lambda: [sdk(api.url, "Hello", []), get(f"{other}/telemetry")])) as ledger:
        exporter = threading.Thread(target=get, args=[f"{other}/telemetry"])
        exporter.start()
        exporter.join(600)
        sdk(api.url, "Hello", [])
    assert ledger.threads == {threading.current_thread()}


def test_telemetry_that_failed_is_kept_as_failed(api: MessagesApi) -> None:
    dead = "http://127.0.0.1:9"
    with replaying([], calls=True) as ledger:
        ask_and_report(api.url, dead)
    assert len(ledger.calls) == 1
    assert ledger.called("test_it").lost == [f"POST {dead}/v1/traces"]
    recorded = ledger.interactions()
    assert [answer["status"]["code"] for _, answer in recorded] == [403, 200]
    assert play(recorded, api.url, dead).warnings == []


def test_what_a_retry_came_through_for_is_not_kept_as_failed(other: str) -> None:
    with replaying([], calls=True) as ledger:
        sent = ledger.read({"method": "GET", "uri": f"{other}/v1/files", "headers": {}, "body": None})
        ledger.begin(ledger.read({**sent.raw, "headers": SDK}))
        get(f"{other}/v1/files")
    assert [answer["status"]["code"] for _, answer in ledger.interactions()] == [200]


@pytest.mark.parametrize("calls", [True, False])
def test_what_is_ignored_is_answered_and_never_sent(
    api: MessagesApi, calls: bool, network: list[str]
) -> None:
    recorded = record(lambda: sdk(api.url, "Hello", "Be brief."))
    network.clear()
    ignored = frozenset({"telemetry.test"})
    with replaying([] if calls else recorded, calls=calls, ignored_hosts=ignored) as ledger:
        answer = httpx2.post("https://telemetry.test/v1/traces", json={})
        assert (answer.status_code, answer.content) == (200, b"{}")
        sdk(api.url, "Hello", "Be brief.")
    assert not any("telemetry" in address for address in network)
    assert ledger.warnings == []
    if calls:
        assert len(ledger.interactions()) == 1


def test_a_changed_upload_is_called_anew_where_calls_are_allowed(other: str) -> None:
    """--token-budget-record=changed"""
    recorded = record(lambda: upload(other))
    with replaying(recorded, calls=True, exact=True) as ledger:
        upload(other)
        assert not ledger.called("test_it").interactions()
        upload(other, b"another")
    assert [answer["body"]["string"] for _, answer in ledger.interactions()] == [b"0", b"1"]
    assert ledger.warnings == []
