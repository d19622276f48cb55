"""A suite that uses pytest-recording: a module for each mark and setting of it."""

from __future__ import annotations

CONFTEST = """
import pytest
import vcr.serialize
import yaml
from vcr.persisters.filesystem import CassetteNotFoundError


class Shouted:
    serialize = staticmethod(lambda cassette: "SHOUTED" + yaml.dump(cassette))
    deserialize = staticmethod(lambda text: yaml.safe_load(text.removeprefix("SHOUTED")))


def same_question(now, recorded):
    assert now.body == recorded.body


def pytest_recording_configure(config, vcr):
    vcr.register_serializer("shouted", Shouted)
    vcr.register_matcher("question", same_question)
"""
CONFIG = """
import pytest
from agent import ask

pytestmark = pytest.mark.vcr


def before(request):
    if request.path == "/v1/nothing":
        return None
    request.headers.pop("x-api-key", None)
    request.body = request.body.replace(b"Four", b"4")
    return request


def after(response):
    response["headers"].pop("set-cookie", None)
    return response


@pytest.fixture(scope="{scope}")
def vcr_config():
    return {config}


def test_it():
    assert ask("One", path="/v1/messages?beta=true&key=secret").startswith("You said")
    assert ask("Two", path="/v1/messages?beta=true&key=secret", metadata={{"user_id": "a"}})
"""
ONE = """
import pytest
from agent import ask


def test_one():
    assert ask("One").startswith("You said")
"""


def config(text: str, scope: str = "module") -> str:
    return CONFIG.format(config=text, scope=scope)


MODULES = {
    "mark": """
        import pytest
        from agent import ask

        @pytest.mark.vcr
        def test_one():
            assert ask("One").startswith("You said")

        @pytest.mark.vcr()
        @pytest.mark.parametrize("words", ["Two", "a/b?"])
        def test_words(words):
            assert ask(words).startswith("You said")

        @pytest.mark.asyncio
        @pytest.mark.vcr
        async def test_async():
            assert ask("Three").startswith("You said")

        @pytest.mark.vcr
        def test_nothing():
            pass
    """,
    "class_mark": """
        import unittest

        import pytest
        from agent import ask

        @pytest.mark.vcr
        class TestIt:
            def test_one(self):
                assert ask("One").startswith("You said")

        @pytest.mark.vcr
        class Case(unittest.TestCase):
            def test_two(self):
                assert ask("Two").startswith("You said")
    """,
    "module_mark": ONE + "pytestmark = pytest.mark.vcr",
    "settings_in_mark": ONE + "pytestmark = pytest.mark.vcr(filter_headers=['host'], match_on=['method'])",
    "several_marks": """
        import pytest
        from agent import post

        pytestmark = pytest.mark.vcr(filter_headers=["x-api-key"])

        def test_one():
            assert post("One. Asked by test_several_marks.py::test_one (call)").status_code == 200

        @pytest.mark.vcr("test_one.yaml")
        @pytest.mark.vcr("test_none.yaml", match_on=["method", "path"])
        def test_two():
            assert post("One. Asked by test_several_marks.py::test_one (call)").status_code == 200
    """,
    "default_cassette": ONE + "pytestmark = [pytest.mark.vcr, pytest.mark.default_cassette('other.yaml')]",
    "function_config": config('{"filter_headers": ["x-api-key"]}', "function"),
    "class_config": config('{"filter_headers": ["x-api-key"]}', "class"),
    "session_config": config('{"filter_headers": ["x-api-key"]}', "session"),
    "filter_headers": config(
        '{"filter_headers": ["x-api-key", ("host", "HIDDEN"), ("accept", lambda key, value, request: None)]}'
    ),
    "filter_query": config('{"filter_query_parameters": ["beta", ("key", "HIDDEN")]}'),
    "filter_body": config('{"filter_post_data_parameters": ["metadata", ("temperature", "1")]}'),
    "filter_sensitive": config('{"filter_sensitive_data": [("KEY", "sk-ant-secret")]}'),
    "before_request": config('{"before_record_request": before}'),
    "before_response": config('{"before_record_response": after}'),
    "match_default": config('{"match_on": ["method", "uri"]}'),
    "match_body": config('{"match_on": ["method", "path", "body"]}'),
    "match_raw_body": config('{"match_on": ["raw_body"]}'),
    "match_headers": config('{"match_on": ["method", "uri", "headers"]}'),
    "match_own": config('{"match_on": ["method", "question"]}'),
    "ignore_hosts": config('{"ignore_hosts": ["example.com"]}'),
    "decoded": config('{"decode_compressed_response": True}'),
    "repeats": config('{"allow_playback_repeats": True}'),
    "json": config('{"serializer": "json", "decode_compressed_response": True}'),
    "serializer": config('{"serializer": "shouted"}'),
    "transformer": config('{"path_transformer": lambda path: path + ".moved"}'),
    "drop_unused": config('{"drop_unused_requests": True}'),
    "once": config('{"record_mode": "once"}'),
    "new_episodes": config('{"record_mode": "new_episodes"}'),
    "directory": ONE
    + """
pytestmark = pytest.mark.vcr


@pytest.fixture(scope="module")
def vcr_cassette_dir(request):
    return str(request.path.parent / "cassettes" / "elsewhere")
""",
    "names": ONE
    + """
pytestmark = pytest.mark.vcr


@pytest.fixture
def default_cassette_name(request):
    return f"named-{request.node.name}"
""",
    "markers": ONE
    + """
@pytest.fixture
def vcr_markers():
    return [pytest.mark.vcr(filter_headers=["x-api-key"]).mark]
""",
    "fixture": """
        import pytest
        from agent import ask

        @pytest.fixture
        def letter():
            yield ask("Fetch a letter.")
            ask("Put it back.")

        @pytest.mark.vcr
        def test_one(letter, vcr):
            played = vcr.play_count
            assert ask("One").startswith("You said")
            assert vcr.play_count == (played + 1 if vcr.rewound else 0)
            assert vcr.dirty is not vcr.rewound
            assert [request.path for request in vcr.requests] == ["/v1/messages"] * len(vcr)
            assert [response["status"]["code"] for response in vcr.responses] == [200] * len(vcr)
            assert not vcr.all_played
    """,
    "block_network": """
        import socket

        import pytest
        from agent import ask

        def connect():
            with socket.socket() as one:
                one.settimeout(1)
                one.connect(("127.0.0.1", 1))

        @pytest.mark.vcr
        @pytest.mark.block_network
        def test_one():
            assert ask("One").startswith("You said")

        @pytest.mark.block_network
        def test_refused():
            with pytest.raises(RuntimeError):
                connect()

        @pytest.mark.block_network(allowed_hosts=["127.0.0.1"])
        def test_allowed():
            with pytest.raises(ConnectionError):
                connect()

        @pytest.mark.block_network(hosts=["127.0.0.1"])
        def test_misspelled():
            pass
    """,
    "outcomes": """
        import pytest
        from agent import ask, post

        pytestmark = pytest.mark.vcr

        @pytest.fixture
        def broken():
            raise OSError("nothing to do with a model")

        def test_skipped():
            ask("One")
            pytest.skip("not today")

        def test_fails():
            assert ask("One") == "Something else"

        def test_error(broken):
            ask("One")

        @pytest.mark.xfail(reason="not yet")
        def test_expected():
            assert ask("One") == "Something else"

        def test_refused_by_the_api():
            assert post("One", model="claude-unknown-1").status_code == 404

        def test_not_a_model_call():
            assert post("One", path="/v1/nothing").status_code == 404
    """,
}  # fmt: skip
REFUSED = {"match_body", "match_raw_body", "match_headers", "match_own"}
"""Modules whose `match_on` finds no answer to a changed prompt."""
OLD_ANSWERS = {"test_repeats.py::test_it", "test_several_marks.py::test_two"}
"""Tests that are answered what was asked before, also when they are recorded."""
