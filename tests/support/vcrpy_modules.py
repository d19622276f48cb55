"""A suite that uses vcrpy itself: a module for each way to open a cassette, and for its settings."""

from __future__ import annotations

HEAD = """
import pytest
import vcr
from agent import ask

library = vcr.VCR(cassette_library_dir="cassettes", path_transformer=vcr.VCR.ensure_suffix(".yaml"))

"""
_MODULES = {
    "context_manager": """
def test_one():
    with vcr.use_cassette("cassettes/context.yaml"):
        assert ask("One")
""",
    "decorator": """
@vcr.use_cassette("cassettes/decorator.yaml")
def test_one():
    assert ask("One")

@library.use_cassette
def test_named_after_it():
    assert ask("Two")

@library.use_cassette()
def test_named_after_it_too():
    assert ask("Three")
""",
    "async_decorator": """
@pytest.mark.asyncio
@library.use_cassette("async")
async def test_one():
    assert ask("One")
""",
    "fixtures": """
@pytest.fixture
def cassette():
    with library.use_cassette("fixture") as opened:
        yield opened

@pytest.fixture
@library.use_cassette("decorated")
def letter():
    yield ask("Fetch a letter.")

def test_one(cassette):
    assert ask("One")
    assert cassette.play_count in (0, 1)

def test_two(letter):
    assert letter
""",
    "serializer": """
import json

class Upper:
    serialize = staticmethod(lambda cassette: json.dumps(cassette, default=lambda one: one.decode()))
    deserialize = staticmethod(json.loads)

library.register_serializer("upper", Upper)

@library.use_cassette("upper", serializer="upper", decode_compressed_response=True)
def test_one():
    assert ask("One")
""",
    "persister": """
import gzip
from pathlib import Path

from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.serialize import deserialize, serialize

class Zipped:
    @staticmethod
    def load_cassette(path, serializer):
        if not Path(path + ".gz").exists():
            raise CassetteNotFoundError
        return deserialize(gzip.decompress(Path(path + ".gz").read_bytes()).decode(), serializer)

    @staticmethod
    def save_cassette(path, cassette, serializer):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path + ".gz").write_bytes(gzip.compress(serialize(cassette, serializer).encode()))

library.register_persister(Zipped)

@library.use_cassette("zipped")
def test_one():
    assert ask("One")
""",
    "matcher": """
library.register_matcher("question", lambda now, recorded: now.body == recorded.body)
library.match_on = ["method", "question"]

@library.use_cassette("matcher")
def test_one():
    assert ask("One")
    assert ask("Two")
""",
    "match_on_body": """
@library.use_cassette("body", match_on=["method", "body"])
def test_one():
    assert ask("One")
""",
    "nested": """
def test_one():
    with library.use_cassette("outer") as outer:
        assert ask("One")
        with library.use_cassette("inner") as inner:
            assert ask("Two")
        assert ask("Three")
    assert (len(outer), len(inner)) == (2, 1)
""",
    "one_after_the_other": """
def test_one():
    for name in ("first", "second"):
        with library.use_cassette(name):
            assert ask(name)
""",
    "inject": """
@library.use_cassette("inject", inject_cassette=True)
def ask_through(cassette, words):
    return ask(words), len(cassette)

def test_one():
    assert ask_through(words="One")[1] == 1
""",
    "custom_patches": """
class Clock:
    now = 1

@library.use_cassette("patches", custom_patches=((Clock, "now", 2),))
def test_one():
    assert ask("One")
    assert Clock.now == 2
""",
    "record_on_exception": """
@library.use_cassette("kept")
def test_kept():
    assert ask("One") == "Something else"

@library.use_cassette("passes", record_on_exception=False)
def test_passes():
    assert ask("Two")
""",
    "unittest_case": """
from vcr.unittest import VCRMixin, VCRTestCase

class TestIt(VCRTestCase):
    def test_one(self):
        assert ask("One")
        assert len(self.cassette) in (0, 1)

class TestOptions(VCRTestCase):
    def _get_vcr_kwargs(self):
        return {"record_mode": "new_episodes", "match_on": ["method", "path"]}

    def test_two(self):
        assert ask("Two")
""",
    "test_case": """
class TestIt(library.test_case()):
    def test_one(self):
        assert ask("One")
""",
    "hooks": """
def before(request):
    if request.path == "/v1/nothing":
        return None
    request.headers.pop("x-api-key", None)
    return request

def after(response):
    response["headers"].pop("set-cookie", None)
    return response

@library.use_cassette("hooks", before_record_request=before, before_record_response=[after])
def test_one():
    assert ask("One")

@library.use_cassette("interactions", before_save_interaction=lambda request, response: (request, response),
                      after_load_interaction=lambda request, response: (request, response))
def test_two():
    assert ask("Two")
""",
    "settings": """
@library.use_cassette("hosts", ignore_hosts=["example.com"], filter_headers=["x-api-key"])
def test_one():
    assert ask("One")

@library.use_cassette("repeats", allow_playback_repeats=True)
def test_two():
    assert ask("Two")

@library.use_cassette("unused", drop_unused_requests=True)
def test_three():
    assert ask("Three")

@library.use_cassette("new", record_mode="new_episodes")
def test_four():
    assert ask("Four")

@library.use_cassette("patchers", skip_patchers=["boto3"])
def test_five():
    assert ask("Five")
""",
}
MODULES = {name: HEAD + text for name, text in _MODULES.items()}
REFUSED = {"matcher", "match_on_body"}
"""Modules whose `match_on` finds no answer to a changed prompt."""
