"""Agents in other processes: replayed and recorded over loopback, streams and all."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_tokenbudget.errors import ReplayMiss
from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.replay.cassette_file import (
    Interaction,
    format_cassette,
    read_cassette,
    write_cassette,
)
from pytest_tokenbudget.replay.credentials import STAND_IN
from pytest_tokenbudget.replay.network import NetworkGuard
from pytest_tokenbudget.replay.playback import Ledger, Rules
from pytest_tokenbudget.replay.proxy import ChildProxy, Handler, Proxy, Reply, Upstream, api_error, new_key
from pytest_tokenbudget.replay.redaction import redact
from pytest_tokenbudget.wire.framing import assemble, disassemble, read_sse, write_sse
from support.blocks import body

REAL_KEY = "sk-ant-api03-a-real-key-0123456789"
JSON = {"content-type": ["application/json"]}
SSE = {"content-type": ["text/event-stream; charset=utf-8"]}
CHILD = """
import json, os, sys, urllib.request

def ask(body):
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "content-type": "application/json"}
    url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()

print(json.dumps([ask(json.loads(body)) for body in sys.argv[1:]]))
"""


def message(text: str) -> dict[str, Any]:
    usage = {"input_tokens": 9, "output_tokens": len(text)}
    content = [{"type": "text", "text": text}]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "usage": usage,
    }


def answer(method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
    """Says back what the last message said: as JSON, or streamed."""
    asked = json.loads(content)
    said = message(f"You said {asked['messages'][-1]['content']}.")
    if asked.get("stream"):
        return Reply(200, SSE, iter([write_sse([event]) for event in disassemble(said)]))
    return Reply(200, JSON, json.dumps(said).encode())


def run_child(proxy: Proxy, *bodies: dict[str, Any]) -> list[tuple[int, dict[str, str], str]]:
    environment = {"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:9", **proxy.environment}
    command = [sys.executable, "-c", CHILD, *map(json.dumps, bodies)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    return [tuple(one) for one in json.loads(done.stdout)]


def ask(proxy: Proxy, text: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=600)
    try:
        connection.request("POST", "/v1/messages?beta=true", json.dumps(body(text)), headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# --- serving --------------------------------------------------------------------------------------------


def test_a_child_process_is_answered() -> None:
    with NetworkGuard("test") as guard, Proxy(answer) as proxy:
        (status, headers, text), (_, stream_headers, stream) = run_child(
            proxy, body("hi"), body("ho", stream=True)
        )
    assert (status, json.loads(text)) == (200, message("You said hi."))
    assert headers["content-type"] == "application/json"
    assert stream_headers["transfer-encoding"] == "chunked"
    assert assemble(read_sse(stream.encode())).message == message("You said ho.")
    assert proxy.failures == guard.refusals == []


def test_what_the_child_sends_reaches_the_handler_whole() -> None:
    asked: list[tuple[str, str, Mapping[str, str], bytes]] = []

    def handler(*request: Any) -> Reply:
        asked.append(request)
        return Reply(200)

    with Proxy(handler) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc)
        connection.request("POST", "/v1/messages?beta=true", iter([b"a", b"bc" * 99_999]), {"X-Mine": "1"})
        connection.getresponse().read()
        connection.request("GET", "/v1/models", headers={"X-Mine": "2"})  # on the same connection
        connection.getresponse().read()
        connection.close()
    assert [(method, path, headers["x-mine"], len(content)) for method, path, headers, content in asked] == [
        ("POST", "/v1/messages?beta=true", "1", 199_999),
        ("GET", "/v1/models", "2", 0),
    ]


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("HEAD", "/"), ("HEAD", "/api/hello")])
def test_health(method: str, path: str) -> None:
    with Proxy(answer) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc)
        connection.request(method, path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"{}" if method == "GET" else b"")
        connection.close()


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ReplayMiss("Turn 3 was not recorded."), 400, "invalid_request_error"),
        (KeyError("x"), 500, "api_error"),
    ],
)
def test_a_miss_is_an_error_that_is_not_retried_and_is_kept(
    error: BaseException, status: int, kind: str
) -> None:
    def handler(*request: Any) -> Reply:
        raise error

    with Proxy(handler) as proxy:
        [(got, headers, text)] = run_child(proxy, body("hi"))
    assert got == status
    assert headers["x-should-retry"] == "false"
    assert json.loads(text)["error"]["type"] == kind
    assert str(error) in json.loads(text)["error"]["message"]
    assert proxy.failures == [error]


def test_an_answer_that_breaks_off_breaks_off_for_the_child_too() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"event: message_start\n"
        raise RuntimeError("broke off")

    with Proxy(lambda *_: Reply(200, SSE, pieces())) as proxy, pytest.raises(http.client.IncompleteRead):
        ask(proxy, "hi")
    assert [str(failure) for failure in proxy.failures] == ["broke off"]


def test_many_at_once_on_two_proxies() -> None:
    answers: dict[str, int] = {}

    def agent(proxy: Proxy, number: int) -> None:
        for turn in range(5):
            text = f"{number}.{turn}"
            answers[f"{proxy.url} {text}"] = (
                json.loads(ask(proxy, text)[1])["content"][0]["text"] == f"You said {text}."
            )

    with Proxy(answer) as one, Proxy(answer) as two:
        assert one.url != two.url
        threads = [threading.Thread(target=agent, args=(proxy, n)) for n in range(16) for proxy in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 160
    assert all(answers.values())


def test_closing_ends_idle_connections_and_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_tokenbudget.replay.proxy._PATIENCE", 3600.0)  # whoever waits for them hangs
    before = set(threading.enumerate())
    with Proxy(answer) as proxy:
        idle = socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0))
        assert ask(proxy, "hi")[0] == 200
    assert set(threading.enumerate()) <= before
    assert idle.recv(1) == b""
    idle.close()
    with pytest.raises(ConnectionRefusedError):
        ask(proxy, "hi")


def test_only_this_machine_can_reach_it() -> None:
    with Proxy(answer) as proxy:
        assert proxy.url.startswith("http://127.0.0.1:")
        assert proxy._server.socket.getsockname()[0] == "127.0.0.1"


def test_the_environment_of_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet")
    with Proxy(answer) as proxy, Proxy(answer) as other:
        environment = proxy.environment
        assert environment["ANTHROPIC_BASE_URL"] == proxy.url
        assert environment["ANTHROPIC_API_KEY"].startswith(STAND_IN)
        assert environment["ANTHROPIC_API_KEY"] != other.environment["ANTHROPIC_API_KEY"]
        assert environment["NO_PROXY"] == environment["no_proxy"] == "intranet,127.0.0.1"
        assert environment["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"


# --- recording ------------------------------------------------------------------------------------------


class Kept(list[Interaction]):
    """What a recording keeps; the upstream is another proxy that plays the API."""

    def handler(self, url: str, keys: Mapping[str, str] = MappingProxyType({})) -> Handler:
        upstream = Upstream(url, keys)

        def ask(method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
            listed = {name: [value] for name, value in headers.items()}
            request = {"method": method, "uri": upstream.url(path), "body": content, "headers": listed}
            return upstream.ask(method, path, headers, content, lambda kept: self.append((request, kept)))

        return ask

    def proxy(self, api: Proxy) -> Proxy:
        key = new_key()
        return Proxy(self.handler(api.url, {key: REAL_KEY}), key)


def test_a_childs_calls_are_recorded_with_the_real_key_and_without_it() -> None:
    seen = []

    def api_handler(method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
        seen.append(headers)
        reply = answer(method, path, headers, content)
        return Reply(reply.status, {**reply.headers, "set-cookie": ["a=12345678", "b=2"]}, reply.body)

    kept = Kept()
    with Proxy(api_handler) as api, kept.proxy(api) as proxy:
        (_, _, text), (_, _, stream) = run_child(proxy, body("hi"), body("ho", stream=True))
        assert proxy.environment["ANTHROPIC_API_KEY"] != REAL_KEY
    assert [headers["x-api-key"] for headers in seen] == [REAL_KEY] * 2
    assert [json.loads(request["body"]) for request, _ in kept] == [body("hi"), body("ho", stream=True)]
    assert [response["body"]["string"].decode() for _, response in kept] == [text, stream]
    assert kept[0][0]["uri"] == f"{api.url}/v1/messages"
    assert kept[0][1]["headers"]["set-cookie"] == ["a=12345678", "b=2"]
    written = format_cassette(redact(kept))
    assert REAL_KEY not in written
    assert STAND_IN not in written
    assert "12345678" not in written


def test_a_stream_goes_through_piece_by_piece() -> None:
    go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"event: one\n\n"
        assert go_on.wait(600)
        yield b"event: two\n\n"

    kept = Kept()
    with Proxy(lambda *_: Reply(200, SSE, pieces())) as api, kept.proxy(api) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc)
        connection.request("POST", "/v1/messages", b"{}")
        response = connection.getresponse()
        assert response.read(12) == b"event: one\n\n"  # while the second has not been sent
        assert kept == []
        go_on.set()
        assert response.read() == b"event: two\n\n"
        connection.close()
    assert kept[0][1]["body"]["string"] == b"event: one\n\nevent: two\n\n"
    assert api.failures == proxy.failures == []


PADDING = b":" * 500_000 + b"\n"
"""A comment of a stream."""


def test_a_child_that_leaves_early_is_recorded_to_the_end() -> None:
    left = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"event: one\n\n"
        assert left.wait(600)
        for _ in range(50):
            yield b"event: more\n" + PADDING + b"\n"  # more than a connection takes in that nobody reads

    kept = Kept()
    with Proxy(lambda *_: Reply(200, SSE, pieces())) as api, kept.proxy(api) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc)
        connection.request("POST", "/v1/messages", b"{}")
        connection.getresponse().read(12)
        connection.close()
        left.set()
    assert kept[0][1]["body"]["string"].count(b"more") == 50
    assert proxy.failures == []


def broken_stream() -> Iterator[bytes]:
    yield b"event: one\n\n"
    raise RuntimeError


def test_an_answer_that_broke_off_is_not_kept() -> None:
    kept = Kept()
    api = Proxy(lambda *_: Reply(200, SSE, broken_stream()))
    with api, kept.proxy(api) as proxy, pytest.raises(http.client.IncompleteRead):
        ask(proxy, "hi")
    assert kept == []
    assert len(proxy.failures) == 1


def test_a_shortened_answer_is_not_kept(unused_server: socket.socket) -> None:
    def serve() -> None:
        connection, _ = unused_server.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{}"
            )

    thread = threading.Thread(target=serve)
    thread.start()
    kept = Kept()
    upstream = kept.handler(f"http://127.0.0.1:{unused_server.getsockname()[1]}/base/")
    reply = upstream("POST", "/v1/messages", {}, b"{}")
    thread.join()
    assert (reply.status, reply.headers["x-should-retry"], kept) == (502, ["true"], [])


@pytest.fixture
def unused_server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_an_api_that_cannot_be_reached_may_be_asked_again(unused_server: socket.socket) -> None:
    port = unused_server.getsockname()[1]
    unused_server.close()
    kept = Kept()
    reply = kept.handler(f"http://127.0.0.1:{port}")("POST", "/v1/messages", {}, b"{}")
    assert isinstance(reply.body, bytes)
    assert json.loads(reply.body)["error"]["message"].startswith(f"127.0.0.1:{port}: ConnectionRefusedError")
    assert (reply.status, reply.headers["x-should-retry"], kept) == (502, ["true"], [])


def test_errors_of_the_api_are_recorded_as_they_are() -> None:
    kept = Kept()
    overloaded = api_error(529, "overloaded_error", "Overloaded", retry=True)
    with Proxy(lambda *_: overloaded) as api, kept.proxy(api) as proxy:
        assert ask(proxy, "hi") == (529, overloaded.body)
    assert kept[0][1]["status"]["code"] == 529
    assert proxy.failures == []


def test_recording_goes_past_an_open_cassette(tmp_path: Path) -> None:
    """Vcrpy patches `http.client` while a cassette is open, in mode none to refuse everything."""
    import vcr
    from vcr.errors import CannotOverwriteExistingCassetteException

    kept = Kept()
    with Proxy(answer) as api, vcr.use_cassette(str(tmp_path / "open.yaml"), record_mode="none") as cassette:
        reply = kept.handler(api.url)("POST", "/v1/messages", {}, json.dumps(body("hi")).encode())
        patched = http.client.HTTPConnection(urlsplit(api.url).netloc)
        patched.request("GET", "/v1/models")
        with pytest.raises(CannotOverwriteExistingCassetteException):
            patched.getresponse()
    assert (reply.status, len(kept), len(cassette)) == (200, 1, 0)


# --- the SDK of another language ------------------------------------------------------------------------

NODE = """
import Anthropic from "@anthropic-ai/sdk";
const client = new Anthropic();
const ask = (content) => ({model: "m", max_tokens: 64, messages: [{role: "user", content}]});
const whole = await client.messages.create(ask(process.argv[2]));
const streamed = await client.messages.stream(ask(process.argv[3])).finalMessage();
const both = await Promise.all([4, 5].map((number) => client.messages.create(ask(process.argv[number]))));
let missed = 0;
await client.messages.create(ask("missing")).catch((error) => { missed = error.status; });
const texts = [whole, streamed, ...both].map((message) => message.content[0].text);
const usage = [whole, streamed].map((message) => message.usage.output_tokens);
console.log(JSON.stringify({texts, usage, missed}));
"""


@pytest.fixture(scope="session")
def node_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the TypeScript SDK in it."""
    if shutil.which("npm") is None:
        pytest.skip("Node is not installed")
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "@anthropic-ai/sdk"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install @anthropic-ai/sdk: {done.stderr.strip()[-200:]}")
    (folder / "agent.mjs").write_text(NODE, encoding="utf-8")
    return folder


def without_missing(handler: Handler) -> tuple[Handler, list[str]]:
    asked: list[str] = []

    def handle(method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
        asked.append(json.loads(content)["messages"][-1]["content"])
        if asked[-1] == "missing":
            raise ReplayMiss("Not recorded.")
        return handler(method, path, headers, content)

    return handle, asked


@pytest.mark.frameworks
@pytest.mark.parametrize("recording", [False, True], ids=["replay", "record"])
def test_the_typescript_sdk(node_project: Path, recording: bool) -> None:
    kept = Kept()
    texts = ["hi", "ho", "ha", "he"]
    with Proxy(answer) as api:
        key = new_key()
        handler, asked = without_missing(kept.handler(api.url, {key: REAL_KEY}) if recording else answer)
        with Proxy(handler, key) as proxy:
            environment = {"PATH": os.environ["PATH"], **proxy.environment}
            command = ["node", "agent.mjs", *texts]
            done = subprocess.run(
                command,
                cwd=node_project,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
    assert done.returncode == 0, done.stderr
    said = [f"You said {text}." for text in texts]
    assert json.loads(done.stdout) == {"texts": said, "usage": [len(said[0]), len(said[1])], "missed": 400}
    assert asked.count("missing") == 1, "a miss was retried"
    assert [str(failure) for failure in proxy.failures] == ["Not recorded."]
    assert len(kept) == (4 if recording else 0)
    assert REAL_KEY not in format_cassette(redact(kept))


@pytest.fixture(scope="session")
def claude_code() -> Path:
    """The command that ships in the claude-agent-sdk wheel."""
    found = importlib.util.find_spec("claude_agent_sdk")
    if found is None or found.origin is None:
        pytest.skip("claude-agent-sdk is not installed")
    return Path(found.origin).parent / "_bundled" / "claude"


@pytest.mark.frameworks
def test_claude_code_records_and_replays(claude_code: Path, tmp_path: Path) -> None:
    """A tool loop of two turns; in replay it runs elsewhere, so that no request is the same to the byte."""

    def api_handler(method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
        said = message("All done.") | {"stop_reason": "end_turn"}
        if b"tool_result" not in content:
            call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "echo hello"}}
            said |= {"content": [call], "stop_reason": "tool_use"}
        return Reply(200, SSE, iter([write_sse([event]) for event in disassemble(said)]))

    def run(proxy: Proxy, name: str) -> str:
        home = tmp_path / name
        home.mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), **proxy.environment}
        command = [claude_code, "-p", "Say hello.", "--output-format", "json", "--allowedTools", "Bash"]
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        result: str = json.loads(done.stdout)["result"]
        return result

    kept = Kept()
    with Proxy(api_handler) as api, kept.proxy(api) as proxy:
        assert run(proxy, "recorded") == "All done."
    write_cassette(tmp_path / "cassette.yaml", redact(kept))
    recorded = [answer for _, answer in read_cassette(tmp_path / "cassette.yaml")]
    replies = iter([Reply(one["status"]["code"], one["headers"], one["body"]["string"]) for one in recorded])
    with Proxy(lambda *_: next(replies)) as proxy:
        assert run(proxy, "replayed") == "All done."
    assert len(recorded) == 2
    assert proxy.failures == list(replies) == []


def test_a_client_that_takes_the_version_for_a_part_of_the_base_url() -> None:
    """The AI SDK of Vercel asks for `/messages` below whatever base URL it is given."""
    bodies = {path: json.dumps(body(path)).encode() for path in ("/messages", "/messages?beta=true")}

    def play(ledger: Ledger, url: str) -> list[bytes]:
        said = []
        environ = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": REAL_KEY}
        with ChildProxy(lambda: ledger, environ) as proxy:
            headers = {"x-api-key": proxy.access.environment["ANTHROPIC_API_KEY"]}
            for path, content in bodies.items():
                connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=600)
                connection.request("POST", path, content, headers)
                said.append(connection.getresponse().read())
                connection.close()
        assert proxy.problems == []
        return said

    with Proxy(answer) as api:
        recording = Ledger("test_it", "record it", (), Rules(calls=True))
        said = play(recording, api.url)
    assert [request["uri"].removeprefix(api.url) for request, _ in recording.interactions()] == [
        "/v1/messages",
        "/v1/messages?beta=true",
    ]
    replay = Ledger("test_it", "record it", recording.interactions())
    assert play(replay, "http://127.0.0.1:9") == said
    assert [pair.how for pair in replay.recording.pairs] == [Paired.EXACT] * 2
