"""Suites with real cassettes, in the style of public ones: green at once under the flag, and so they stay.

Nothing is recorded here: the cassettes are written by hand, as such suites commit them, and what they bill is
read from the files by a reader of its own.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_tokenbudget.wire import framing
from support.budgeted import Project
from support.sample import WHOLE

URL = "https://api.anthropic.com/v1/messages"
AGENT = f'''
import json

import httpx2


def ask(words):
    """One model call, its body in the order in which the agent writes it."""
    body = {{
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "system": "You answer the customers of a parcel service.",
        "messages": [{{"role": "user", "content": words}}],
    }}
    headers = {{"content-type": "application/json", "anthropic-version": "2023-06-01"}}
    answer = httpx2.post("{URL}", content=json.dumps(body), headers=headers)
    return answer.raise_for_status().json()["content"][0]["text"]
'''

INI = """
[pytest]
pythonpath = .
addopts = --import-mode=importlib
asyncio_default_fixture_loop_scope = function
markers = cassette
"""

MARKED = """
import pytest
from agent import ask


@pytest.mark.vcr
@pytest.mark.parametrize("number", [1, 2])
def test_parcel(number):
    assert ask(f"Where is parcel {number}?") == f"On its way {number}."
    assert ask(f"And parcel {number} now?") == f"Still on its way {number}."
"""
SHARED = """
import pytest
import vcr
from agent import ask


@pytest.fixture(scope="module")
def cassette():
    with vcr.use_cassette("shared/cassettes/module.yaml", record_mode="none", match_on=["method", "body"]):
        yield


@pytest.mark.parametrize("number", [1, 2, 3])
def test_parcel(cassette, number):
    assert ask(f"Where is parcel {number}?") == f"On its way {number}."
"""
ZIPPED = """
import gzip
from pathlib import Path

import vcr
from agent import ask
from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.serialize import deserialize


class Zipped:
    @staticmethod
    def load_cassette(path, serializer):
        packed = Path(f"{path}.gz")
        if not packed.exists():
            raise CassetteNotFoundError(path)
        return deserialize(gzip.decompress(packed.read_bytes()).decode(), serializer)

    @staticmethod
    def save_cassette(path, cassette, serializer):
        raise AssertionError("a cassette of the suite was written")


library = vcr.VCR(cassette_library_dir="zipped/cassettes", record_mode="none")
library.register_persister(Zipped)


@library.use_cassette("parcel.yaml")
def test_parcel():
    assert ask("Where is parcel 1?") == "On its way 1."
"""
BY_FIXTURE = """
from pathlib import Path

import pytest
import vcr


@pytest.fixture(autouse=True)
def vcr_cassette(request):
    marker = request.node.get_closest_marker("cassette")
    if marker is None:
        yield
        return
    library = vcr.VCR(cassette_library_dir=str(Path(request.fspath).parent / "cassettes"), record_mode="none")
    with library.use_cassette(f"{request.node.name}.yaml") as opened:
        yield opened
"""
BY_MARK = """
import pytest
from agent import ask


@pytest.mark.cassette
def test_parcel(vcr_cassette):
    assert ask("Where is parcel 1?") == "On its way 1."
    assert vcr_cassette.play_count == 1
"""
CLASSY = """
import pytest
import vcr
from agent import ask


def without_headers(request):
    request.headers = {}
    return request


def without_date(answer):
    answer["headers"].pop("Date", None)
    return answer


library = vcr.VCR(
    cassette_library_dir="classy/cassettes",
    record_mode="once",
    before_record_request=without_headers,
    before_record_response=without_date,
    decode_compressed_response=True,
)


@pytest.fixture(scope="class")
def opened():
    with library.use_cassette("TestParcels.yaml"):
        yield


@pytest.mark.usefixtures("opened")
class TestParcels:
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_parcel(self, number):
        assert ask(f"Where is parcel {number}?") == f"On its way {number}."
"""
CASES = """
import unittest

import vcr
from agent import ask

library = vcr.VCR(serializer="json", cassette_library_dir="cases/cassettes", record_mode="any")


class ParcelCase(unittest.TestCase):
    def setUp(self):
        self.enterContext(library.use_cassette(f"{self.id().rpartition('.')[2]}.json"))

    def test_parcel(self):
        self.assertEqual(ask("Where is parcel 1?"), "On its way 1.")

    def test_parcel_again(self):
        with self.subTest("now"):
            self.assertEqual(ask("Where is parcel 2?"), "On its way 2.")
"""
AWAITED = f"""
import json

import httpx2
import pytest

pytestmark = pytest.mark.anyio  # on asyncio and on trio, as anyio runs it where nothing else is said


@pytest.mark.vcr
async def test_parcel():
    body = {{
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "system": "You answer the customers of a parcel service.",
        "messages": [{{"role": "user", "content": "Where is parcel 1?"}}],
    }}
    async with httpx2.AsyncClient() as client:
        answer = await client.post("{URL}", content=json.dumps(body))
    assert answer.json()["content"][0]["text"] == "On its way 1."
"""
CONFIG = """
import pytest


@pytest.fixture(scope="module")
def vcr_config():
    return {options}
"""
SERIALIZERS = """
import json

import yaml


class Sorted:
    @staticmethod
    def deserialize(text):
        return yaml.safe_load(text)

    @staticmethod
    def serialize(cassette):
        raise AssertionError("a cassette of the suite was written")


class Parsed(Sorted):
    @staticmethod
    def deserialize(text):
        cassette = yaml.safe_load(text)
        for interaction in cassette["interactions"]:
            interaction["request"]["body"] = json.dumps(interaction["request"].pop("parsed_body"))
            answer = interaction["response"]
            answer["body"] = {"string": json.dumps(answer.pop("parsed_body"))}
        return cassette


def pytest_recording_configure(config, vcr):
    vcr.register_serializer("sorted", Sorted)
    vcr.register_serializer("parsed", Parsed)
"""
PYTEST_VCR = """
from pathlib import Path

import pytest
import vcr as vcrpy


def kept(request):
    marker = request.node.get_closest_marker("vcr")
    return dict(marker.kwargs) if marker else {}


@pytest.fixture(autouse=True)
def _vcr_marker(request):
    if request.node.get_closest_marker("vcr"):
        request.getfixturevalue("vcr_cassette")


@pytest.fixture(scope="module")
def vcr(request, vcr_config, vcr_cassette_dir):
    options = {"cassette_library_dir": vcr_cassette_dir, "path_transformer": vcrpy.VCR.ensure_suffix(".yaml")}
    return vcrpy.VCR(**options | vcr_config | kept(request))


@pytest.fixture
def vcr_cassette(request, vcr, vcr_cassette_name):
    with vcr.use_cassette(vcr_cassette_name, **kept(request)) as cassette:
        yield cassette


@pytest.fixture(scope="module")
def vcr_cassette_dir(request):
    return str(Path(request.node.path).parent / "cassettes")


@pytest.fixture
def vcr_cassette_name(request):
    return f"{request.cls.__name__}.{request.node.name}" if request.cls else request.node.name


@pytest.fixture(scope="module")
def vcr_config():
    return {"filter_headers": ["x-api-key"], "record_mode": "none"}
"""
"""The fixtures of pytest-vcr 1.0.2, written anew: it cannot be installed beside pytest-recording, whose
fixture `vcr` is another one. Its options of the command line are left out."""
FOR_PYTEST_VCR = """
import pytest
from agent import ask


@pytest.mark.vcr
@pytest.mark.parametrize("number", [1, 2])
def test_parcel(number, vcr_cassette):
    assert ask(f"Where is parcel {number}?") == f"On its way {number}."
    assert ask(f"And parcel {number} now?") == f"Still on its way {number}."
    assert vcr_cassette.all_played


@pytest.mark.vcr(match_on=["method", "uri", "body"])
class TestParcels:
    def test_parcel(self):
        assert ask("Where is parcel 3?") == "On its way 3."

    def test_of_another(self, vcr):
        with vcr.use_cassette("TestParcels.test_parcel"):
            assert ask("Where is parcel 3?") == "On its way 3."
"""
MANY = 40 if WHOLE else 4
"""Modules that are alike but for what they say and bill."""
MODULES = {"zipped": "test_zipped.py", "by_mark": "test_mark.py", "cases": "test_cases.py::ParcelCase"}
"""Suites whose cassettes do not lie in a folder of their module."""
IN_PARTS = {"shared": "shared/test_shared.py", "classy": "classy/test_classy.py::TestParcels"}
"""Suites whose one cassette holds an exchange of each of several tests."""


def exchange(words: str, said: str, *, prompt: int, output: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request's body, and the answer's, which bills these tokens."""
    asked = {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "system": "You answer the customers of a parcel service.",
        "messages": [{"role": "user", "content": words}],
    }
    usage = {"input_tokens": prompt, "cache_read_input_tokens": 0, "output_tokens": output}
    content = [{"type": "text", "text": said}]
    answer = {"type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": content}
    return asked, {**answer, "stop_reason": "end_turn", "usage": usage}


def cassette(*exchanges: tuple[dict[str, Any], dict[str, Any]], style: str = "yaml") -> str:
    """Exchanges as vcr's own YAML, or as a serializer writes them that sorts, or parses, bodies."""
    interactions = []
    for asked, answer in exchanges:
        request: dict[str, Any] = {"method": "POST", "uri": URL, "headers": {}}
        response: dict[str, Any] = {"status": {"code": 200, "message": "OK"}, "headers": {}}
        if style == "parsed":
            request["parsed_body"], response["parsed_body"] = asked, answer
        else:
            request["body"] = json.dumps(asked, sort_keys=style == "sorted")
            response["body"] = {"string": json.dumps(answer, sort_keys=style == "sorted")}
        interactions.append({"request": request, "response": response})
    return yaml.safe_dump({"interactions": interactions, "version": 1}, sort_keys=True)


def parcel(number: int, prompt: int = 24) -> tuple[dict[str, Any], dict[str, Any]]:
    return exchange(f"Where is parcel {number}?", f"On its way {number}.", prompt=prompt, output=7 + number)


def asked_twice(number: int, style: str = "yaml") -> str:
    again = exchange(
        f"And parcel {number} now?", f"Still on its way {number}.", prompt=25 + number, output=9 + number
    )
    return cassette(parcel(number), again, style=style)


def suite(folder: Path) -> Iterator[tuple[str, str | bytes]]:
    """Every file of the suites, by its path."""
    yield "agent.py", AGENT
    yield "conftest.py", SERIALIZERS
    yield "pytest.ini", INI
    styles = {
        "sorted": '{"serializer": "sorted", "match_on": ["method", "uri"]}',
        "parsed": '{"serializer": "parsed"}',
        "by_body": '{"match_on": ["method", "scheme", "host", "path", "body"]}',
        "episodes": '{"record_mode": "new_episodes", "match_on": ["method", "uri", "body"]}',
    }
    for name, options in styles.items():
        yield f"{name}/conftest.py", CONFIG.format(options=options)
        yield f"{name}/test_agent.py", MARKED
        for number in (1, 2):
            style = name if name in ("sorted", "parsed") else "yaml"  # which is what its files end in
            yield f"{name}/cassettes/test_agent/test_parcel[{number}].{style}", asked_twice(number, style)
    yield "shared/test_shared.py", SHARED
    yield "shared/cassettes/module.yaml", cassette(*(parcel(number, 20 + number) for number in (1, 2, 3)))
    yield "zipped/test_zipped.py", ZIPPED
    yield "zipped/cassettes/parcel.yaml.gz", gzip.compress(cassette(parcel(1)).encode())
    yield "by_mark/conftest.py", BY_FIXTURE
    yield "by_mark/test_mark.py", BY_MARK
    yield "by_mark/cassettes/test_parcel.yaml", cassette(parcel(1))
    yield "classy/test_classy.py", CLASSY
    yield (
        "classy/cassettes/TestParcels.yaml",
        cassette(*(parcel(number, 20 + number) for number in (1, 2, 3))),
    )
    yield "cases/test_cases.py", CASES
    for number, name in enumerate(("test_parcel", "test_parcel_again"), start=1):
        held = yaml.safe_load(cassette(parcel(number)))
        yield f"cases/cassettes/{name}.json", json.dumps(held)
    yield "awaited/test_awaited.py", AWAITED
    for loop in ("asyncio", "trio"):
        yield f"awaited/cassettes/test_awaited/test_parcel[{loop}].yaml", cassette(parcel(1))
    for number in range(MANY):
        test = MARKED.replace("[1, 2]", f"[{number}]")
        yield f"many/test_{number}.py", test
        yield f"many/cassettes/test_{number}/test_parcel[{number}].yaml", asked_twice(number)


def billed(path: Path) -> list[tuple[int, int]]:
    """What each answer in a cassette bills, prompt and output tokens, however it is written."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text("utf-8")
    found = []
    for interaction in yaml.safe_load(text)["interactions"]:
        response = interaction["response"]
        answer = response.get("parsed_body") or json.loads(response["body"]["string"])
        found.append((answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]))
    return found


def expected(folder: Path) -> dict[str, tuple[int, int, int]]:
    """By scenario: turns, prompt and output tokens that its cassette bills."""
    found: dict[str, tuple[int, int, int]] = {}
    for path in sorted(path for path in folder.rglob("cassettes/**/*") if path.is_file()):
        where, answers = path.relative_to(folder).as_posix(), billed(path)
        style = where.partition("/")[0]
        if style in IN_PARTS:
            for number, answer in enumerate(answers, start=1):
                found[f"{IN_PARTS[style]}::test_parcel[{number}]"] = 1, *answer
            continue
        module = re.search(r"cassettes/(test_\w+)/", where)
        name = "test_parcel" if style == "zipped" else path.name.partition(".")[0]
        scenario = f"{style}/{f'{module[1]}.py' if module else MODULES[style]}::{name}"
        found[scenario] = len(answers), *(sum(column) for column in zip(*answers, strict=True))
    return found


def measured(document: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    tokens = {entry["id"]: entry["measured"] for entry in document["scenarios"]}
    return {n: (t["turns"], t["prompt_tokens"], t["output_tokens"]) for n, t in tokens.items()}


def test_suites_are_green_at_once_without_a_key_and_stay_so(
    tmp_path: Path, pytester: pytest.Pytester
) -> None:
    folder = tmp_path / "suites"
    for name, content in suite(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    project, bills = Project(folder, pytester), expected(folder)
    assert len(bills) == 4 * 2 + 3 + 1 + 1 + 3 + 2 + 2 + MANY

    first = project.judge("--token-budget-update")
    assert first.status == 0, first.output
    assert first.verdicts == {"within"}
    assert measured(first.document) == bills
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not list(folder.rglob("accepted")), "all is as recorded"

    second = project.judge()
    assert (second.status, second.verdicts) == (0, {"within"}), second.output
    assert measured(second.document) == bills
    assert {entry["basis"] for entry in second.document["scenarios"]} == {"recorded"}
    assert not [
        f for entry in second.document["scenarios"] for f in entry["findings"] if f["kind"] == "problem"
    ]

    again = project.judge("--token-budget-update")
    assert again.status == 0
    assert {path: path.read_bytes() for path in files if path.suffix != ".json"} == {
        path: content for path, content in files.items() if path.suffix != ".json"
    }, "a second update writes nothing, and no cassette of the suites is ever written"


def test_a_suite_of_pytest_vcr_is_green_at_once_and_stays_so(
    tmp_path: Path, pytester: pytest.Pytester
) -> None:
    files = {"pytest.ini": INI, "agent.py": AGENT, "conftest.py": PYTEST_VCR, "test_it.py": FOR_PYTEST_VCR}
    for number in (1, 2):
        files[f"cassettes/test_parcel[{number}].yaml"] = asked_twice(number)
    for test in ("test_parcel", "test_of_another"):
        files[f"cassettes/TestParcels.{test}.yaml"] = cassette(parcel(3))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, "utf-8")
    project = Project(tmp_path, pytester)
    bills = {
        f"test_it.py::{path.stem.replace('.', '::')}": (
            len(answers := billed(path)),
            *(sum(column) for column in zip(*answers, strict=True)),
        )
        for path in tmp_path.glob("cassettes/*")
    }
    without = ("-p", "no:recording")
    for arguments in (["--token-budget-update"], [], ["--token-budget-update"]):
        held = {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")}
        judged = project.judge(*without, *arguments)
        assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
        assert measured(judged.document) == bills
        assert {entry["recorder"] for entry in judged.document["scenarios"]} == {"vcrpy"}
        assert not held.items() - {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")}.items()
    (tmp_path / "agent.py").write_text(AGENT.replace("parcel service.", "parcel service. " * 60), "utf-8")
    changed = project.judge(*without)
    assert changed.status == 1
    assert {changed.scenarios[f"test_parcel[{number}]"]["verdict"] for number in (1, 2)} == {"over"}
    in_class = changed.scenarios["TestParcels::test_parcel"]
    assert "match_on: body differs" in changed.words
    assert in_class["verdict"] == "over"


@pytest.mark.parametrize(("coding", "module"), [("br", "brotli"), ("zstd", "zstandard")])
def test_an_answer_that_nothing_decompresses_is_named_with_its_cassette(
    coding: str, module: str, tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client would say that it is no JSON: a dependency that brought the decoder went away."""
    packed = pytest.importorskip(module).compress(json.dumps(parcel(1)[1]).encode())
    held = yaml.safe_load(cassette(parcel(1)))
    held["interactions"][0]["response"] |= {
        "headers": {"Content-Encoding": [coding]},
        "body": {"string": packed},
    }
    files = {"pytest.ini": INI, "agent.py": AGENT, "conftest.py": BY_FIXTURE, "test_mark.py": BY_MARK}
    for name, content in {**files, "cassettes/test_parcel.yaml": yaml.safe_dump(held)}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, "utf-8")
    monkeypatch.setattr(framing, "_MODULES", {coding: ("no_such_decoder",)})
    judged = Project(tmp_path, pytester).judge()
    told = judged.words
    assert judged.status == 1
    assert (
        f"A recorded answer is compressed with {coding}, and no module that undoes it is installed." in told
    )
    assert "in the cassette cassettes/test_parcel.yaml" in told
