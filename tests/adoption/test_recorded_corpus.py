"""Cassettes of other projects through pytest-recording's own fixtures: metered as they were billed."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.budgeted import Judged, Project
from support.recorded_suites import INI
from support.sample import WHOLE, tenth

CORPUS = Path(os.environ.get("TOKENBUDGET_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
CASSETTES = CORPUS / "cassettes"

pytestmark = pytest.mark.skipif(
    not CASSETTES.is_dir(), reason=f"the corpus of real traffic is not at {CORPUS}"
)

CONFTEST = """
import json

from support.parsed_bodies import ParsedBodies


def pytest_recording_configure(config, vcr):
    vcr.register_serializer("yaml", ParsedBodies)


def pytest_warning_recorded(warning_message, nodeid):
    with open("warnings.jsonl", "a", encoding="utf-8") as lines:
        lines.write(json.dumps([nodeid, str(warning_message.message)]) + "\\n")
"""
SUITE = '''
import json
from pathlib import Path

import httpx
import httpx2
import pytest

CLIENTS = (httpx2.Client(), httpx2.Client(), httpx.Client())


def recorded():
    for index, (name, path, numbers) in enumerate(json.loads(Path("files.json").read_text("utf-8"))):
        marks = [pytest.mark.default_cassette(Path(path).name)]
        yield pytest.param(Path(path), numbers, CLIENTS[index % 3], id=name, marks=marks)


@pytest.fixture
def vcr_cassette_dir(path):
    return str(path.parent)


@pytest.mark.vcr
@pytest.mark.parametrize(("path", "numbers", "client"), list(recorded()))
def test_replays(path, numbers, client, vcr):
    """Asks what was asked; of a cassette without Messages traffic everything."""
    asked = range(len(vcr)) if numbers is None else numbers
    for number in asked:
        request = vcr.requests[number]
        kept = {name: request.headers[name] for name in request.headers if name.lower() not in ("content-length", "host")}
        client.request(request.method, request.uri, headers=kept, content=request.body)
    assert vcr.play_count == len(asked)
'''  # noqa: E501
FILES = set(
    tenth(sorted(p.relative_to(CASSETTES).as_posix() for p in CASSETTES.rglob("*.yaml")), of="corpus")
)
UNKNOWN = "posit-dev__chatlas/tests/_vcr/test_batch_chat/test_can_submit_anthropic_batch.yaml"
"""A batch whose results were never fetched."""
COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
TOLD = ("turns", *COUNTS)
Row = Mapping[str, Any]


@pytest.fixture(scope="module")
def billed() -> dict[str, list[Row]]:
    """What was billed, or was not, by file, as an independent reader of the corpus has it."""
    rows: dict[str, list[Row]] = defaultdict(list)
    with gzip.open(CORPUS / "exchanges.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["kind"] in ("messages", "bedrock_invoke", "vertex"):
                rows[f"{row['repo'].replace('+', '__')}/{row['file']}"].append(row)
    return rows


def sums(rows: Sequence[Row]) -> dict[str, int]:
    paid = [row["usage"] for row in rows if row["usage"]]
    return {"turns": len(paid)} | {name: sum(usage.get(name) or 0 for usage in paid) for name in COUNTS}


def name_of(node_id: str) -> str:
    return node_id.removeprefix("test_corpus.py::test_replays[").removesuffix("]")


def judge(folder: Path, pytester: pytest.Pytester, billed: Mapping[str, Sequence[Row]]) -> Judged:
    numbers = {name: sorted(row["index_in_cassette"] for row in rows) for name, rows in billed.items()}
    files = [(name, str(CASSETTES / name), numbers.get(name)) for name in sorted(FILES)]
    (folder / "files.json").write_text(json.dumps(files), "utf-8")
    (folder / "pytest.ini").write_text(INI, "utf-8")
    (folder / "conftest.py").write_text(CONFTEST, "utf-8")
    (folder / "test_corpus.py").write_text(SUITE, "utf-8")
    return Project(folder, pytester).judge("--block-network", "--token-budget-update", "-q")


def test_every_file_measures_what_was_billed(
    billed: dict[str, list[Row]], tmp_path: Path, pytester: pytest.Pytester
) -> None:
    judged = judge(tmp_path, pytester, billed)
    if UNKNOWN in FILES:
        assert f"1 failed, {len(FILES) - 1} passed" in judged.output
    else:
        assert f"{len(FILES)} passed" in judged.output
    entries = {name_of(entry["id"]): entry for entry in judged.document["scenarios"]}
    if unknown := entries.pop(UNKNOWN, None):
        assert "the results of its batch are not in the recording" in unknown["findings"][0]["text"]
    assert (unknown is not None) == (UNKNOWN in FILES)
    measured = {name: {count: one["measured"][count] for count in TOLD} for name, one in entries.items()}
    assert measured == {name: sums(billed[name]) for name in entries}
    assert {(one["verdict"], one["basis"]) for one in entries.values()} == {("within", "recorded")}
    turns = sum(one["turns"] for one in measured.values())
    assert turns >= len(measured) > 0
    if WHOLE:
        assert (len(FILES), len(measured), turns) == (308, 255, 390)
    assert {name for name in billed if name in FILES} <= entries.keys()

    # What is left out, each with its reason.
    warned = (tmp_path / "warnings.jsonl").read_text("utf-8").splitlines()
    reasons = {name_of(node_id): reason for node_id, reason in map(json.loads, warned)}
    left = FILES - entries.keys() - {UNKNOWN}
    for name in left - reasons.keys():
        asked = re.findall(r"^    uri: \S+/(\S+)$", (CASSETTES / name).read_text("utf-8"), re.MULTILINE)
        assert all(re.search("count.?tokens|input_tokens", what, re.IGNORECASE) for what in asked), name
        reasons[name] = "it only counts tokens, which is free"
    assert reasons.keys() == left
    expected = {
        "Bedrock's Converse API is not the Messages API; use invoke, or the SDK's AnthropicBedrock": 47,
        "it only counts tokens, which is free": 5,
    }
    assert set(reasons.values()) <= set(expected)
    if WHOLE:
        assert Counter(reasons.values()) == expected
