"""A Messages API server that nobody here wrote: llama.cpp's own, whose counters are an independent oracle."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.budgeted import Judged, Project
from support.small_model import write_model

SUITE = """
import os
import anthropic
import pytest

SYSTEM = "You file letters by their date. " * int(os.environ.get("TIMES", "10"))

@pytest.mark.token_budget
def test_clerk():
    messages = []
    with anthropic.Anthropic(max_retries=0) as client:
        for words in ("Hello", "And now?", "Bye"):
            messages.append({"role": "user", "content": words})
            asked = {"model": "random-model", "max_tokens": 20, "system": SYSTEM, "messages": messages}
            if words == "And now?":
                with client.messages.stream(**asked) as stream:
                    answer = stream.get_final_message()
            else:
                answer = client.messages.create(**asked)
            messages.append({"role": "assistant", "content": answer.content[0].text})
"""
KINDS = ("input_tokens", "cache_read_input_tokens", "output_tokens")

pytestmark = pytest.mark.frameworks


@dataclass(frozen=True)
class LlamaServer:
    url: str

    def counters(self) -> dict[str, int]:
        """What it has counted since it began: prompt tokens evaluated and cached, and tokens predicted."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            text = answer.read().decode()
        names = ("prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total")
        found = [re.search(rf"^llamacpp:{name} (\d+)$", text, re.M) for name in names]
        return {kind: int(match[1]) for kind, match in zip(KINDS, found, strict=True) if match}

    def since(self, before: dict[str, int]) -> dict[str, int]:
        return {kind: count - before[kind] for kind, count in self.counters().items()}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LlamaServer:
    for name in ("xllamacpp", "gguf"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: make test-frameworks")
    import xllamacpp

    path = tmp_path_factory.mktemp("llama") / "random.gguf"
    write_model(path)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.model_alias = {"random-model"}
    settings.n_ctx = 16_384
    settings.n_parallel = 1
    settings.cpuparams.n_threads = 1
    settings.endpoint_metrics = True
    settings.sampling.seed = 17
    settings.use_jinja = True
    settings.port = 0
    settings.verbosity = -1
    server = xllamacpp.Server(settings)
    llama = LlamaServer(server.listening_address)
    llama.__dict__["server"] = server  # lives as long as its address
    return llama


@pytest.fixture
def project(llama: LlamaServer, tmp_path: Path, pytester: pytest.Pytester) -> Iterator[Project]:
    """A recorded suite with its baseline; what was recorded is what the server counted."""
    (tmp_path / "test_letters.py").write_text(SUITE, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n", "utf-8")
    project = Project(tmp_path, pytester)
    before = llama.counters()
    done = project.run("--token-budget-record=once", url=llama.url)
    assert done.status == 0, done.output
    counted = llama.since(before)
    assert project.run("--token-budget", "--token-budget-update").status == 0
    (tmp_path / "counted.json").write_text(json.dumps(counted), "utf-8")
    yield project
    assert llama.counters()["input_tokens"] > 0


def measured(result: Judged) -> dict[str, Any]:
    tokens: dict[str, Any] = result.scenarios["test_clerk"]["measured"]
    return tokens


def test_replayed_it_is_what_the_server_counted(project: Project, llama: LlamaServer) -> None:
    before = llama.counters()
    result = project.judge()
    entry = result.scenarios["test_clerk"]
    assert (entry["verdict"], entry["basis"]) == ("within", "recorded"), result.output
    counted = json.loads((project.path / "counted.json").read_text("utf-8"))
    assert {kind: measured(result)[kind] for kind in KINDS} == counted
    assert counted["cache_read_input_tokens"] > 0
    assert llama.since(before) == dict.fromkeys(KINDS, 0), "a replay asks nobody"


def test_an_unknown_models_cost_is_unknown_and_that_is_said(project: Project) -> None:
    result = project.judge()
    assert measured(result)["cost_usd"] is None
    assert result.status == 0
    assert re.search(r"^test_clerk +prompt .* unknown$", result.output, re.M), "said where all is green, too"
    findings = result.scenarios["test_clerk"]["findings"]
    assert "no price is known for random-model" in {finding["text"] for finding in findings}


def test_a_changed_prompt_is_what_its_own_endpoint_counts(
    project: Project, llama: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMES", "30")
    result = project.judge("--token-budget-count=api", url=llama.url)
    entry = result.scenarios["test_clerk"]
    assert (entry["verdict"], entry["basis"]) == ("over", "estimated"), result.output
    assert "what the prompt cache holds of its prompts is estimated" in result.words, (
        "its prompts are counted"
    )
    cassette = next((project.path / "cassettes").rglob("*.yaml"))
    before = llama.counters()
    cassette.unlink()
    assert project.run("--token-budget-record=all", url=llama.url).status == 0
    counted = llama.since(before)
    prompt = counted["input_tokens"] + counted["cache_read_input_tokens"]
    assert measured(result)["prompt_tokens"] == prompt


def test_without_the_endpoint_a_changed_prompt_is_never_called_exact(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMES", "30")
    entry = project.judge().scenarios["test_clerk"]
    assert entry["basis"] == "estimated"
    assert entry["verdict"] == "over"


def test_live_samples_are_what_the_server_counted(project: Project, llama: LlamaServer) -> None:
    report = project.path / "live.json"
    before = llama.counters()
    done = project.run(
        "--token-budget-live",
        "--token-budget-samples=3",
        f"--token-budget-report=json:{report}",
        url=llama.url,
    )
    [entry] = json.loads(report.read_text("utf-8"))["scenarios"]
    counted = llama.since(before)
    print(done.output, json.dumps(entry, indent=1), counted)
    assert entry["basis"] == "live"
    assert entry["measured"]["output_tokens"] * 3 == counted["output_tokens"]
    prompt = counted["input_tokens"] + counted["cache_read_input_tokens"]
    assert entry["measured"]["prompt_tokens"] * 3 == prompt
