"""`tokenbudget show`, `report` and `merge`: from files to files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.reports.document import from_the_top
from support import documents
from support.scratch import Scratch, use

FILE = "tests/token_budgets/test_agent.yaml"


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """A folder that is no repository, with the documents of two shards."""
    folder = Scratch(tmp_path)
    listed = documents.one_of_each()["scenarios"]
    for place in range(2):
        shard = json.dumps(documents.document(listed[place::2]))
        folder.write(f"shard-{place}.json", shard)
        folder.write(f"artifacts/{place}/token-budget.json", shard)
    folder.write("each.json", json.dumps(documents.one_of_each()))
    folder.write("green.json", json.dumps(documents.all_green()))
    return folder


def test_show(scratch: Scratch) -> None:
    scratch.baselines(FILE, {"test_a": use(1000, read=600), "test_b[x::y]": use(500)})
    scratch.baselines("other/token_budgets/test_x.yaml", {"test_x": use(1)})
    found = scratch.json("show")
    assert list(found["scenarios"]) == [
        "other/test_x.py::test_x",
        "tests/test_agent.py::test_a",
        "tests/test_agent.py::test_b[x::y]",
    ]
    assert found["totals"]["prompt_tokens"] == 1501
    for path in ("tests", "tests/test_agent.py", "./tests"):
        assert len(scratch.json("show", path)["scenarios"]) == 2
    one = "tests/test_agent.py::test_a"
    assert list(scratch.json("show", one)["scenarios"]) == [one]
    assert "No baseline belongs to nowhere" in scratch.refused("show", "nowhere")
    text = scratch.run("show").stdout
    assert "3 scenarios, prices of genai-prices" in text
    assert "a month" not in text


def test_show_by_month(scratch: Scratch) -> None:
    scratch.baselines(FILE, {"test_a": use(1000)})
    scratch.write("pyproject.toml", "[tool.tokenbudget]\nruns_per_month = 2000\n")
    cost = scratch.json("show")["totals"]["cost_usd"]
    assert f"${cost * 2000:.2f}" in scratch.run("show").stdout
    assert "a month is 2,000 runs of each, as the settings say" in scratch.run("show").stdout


def test_show_without_baselines(scratch: Scratch) -> None:
    assert "There are no baselines here. Write them with `tokenbudget update`." in scratch.run("show").stdout


def test_show_leaves_out_what_git_ignores(tmp_path: Path) -> None:
    repo = Scratch.create(tmp_path / "repo")
    repo.baselines(FILE, {"test_a": use(1000)})
    repo.baselines(f"build/{FILE}", {"test_a": use(1000)})
    repo.write(".gitignore", "build/\n")
    assert list(repo.json("show")["scenarios"]) == ["tests/test_agent.py::test_a"]


def test_merge_is_free_of_order(scratch: Scratch) -> None:
    for names in (["shard-0.json", "shard-1.json"], ["artifacts/1", "artifacts/0"]):
        done = scratch.run("merge", *names, "-o", "all.json", "--expect", "2")
        assert (done.returncode, done.stderr) == (0, "Wrote all.json\n")
        assert json.loads((scratch.top / "all.json").read_text("utf-8")) == documents.one_of_each()


def test_merge_refuses_what_does_not_fit(scratch: Scratch) -> None:
    alone = ("merge", "shard-0.json", "-o", "all.json", "--expect", "2")
    assert "1 of 2 shards are here" in scratch.refused(*alone)
    assert "prices" in scratch.refused("merge", "shard-0.json", _other(scratch), "-o", "all.json")
    assert "nowhere.json cannot be read" in scratch.refused("merge", "nowhere.json", "-o", "all.json")
    assert not (scratch.top / "all.json").exists()
    assert "all.json cannot be written" in scratch.refused("merge", "each.json", "-o", "each.json/all.json")


def _other(scratch: Scratch) -> str:
    prices = {"source": "genai-prices", "version": "9"}
    scratch.write("other.json", json.dumps({**documents.all_green(), "prices": prices}))
    return "other.json"


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("terminal", "==== token budgets ="),
        ("markdown", "<!-- pytest-tokenbudget -->\n\n### "),
        ("markdown-comment", "<!-- pytest-tokenbudget -->\n\n### "),
        ("github", "::error file="),
        ("otel", '{\n  "resourceSpans": ['),
    ],
)
def test_reports(scratch: Scratch, form: str, begins: str) -> None:
    done = scratch.run("report", "each.json", "--format", form)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lstrip("=").startswith(begins.lstrip("="))
    scratch.run("report", "shard-1.json", "shard-0.json", "--format", form, "-o", "report")
    written = (scratch.top / "report").read_text("utf-8")
    if form != "otel":  # whose times are those of now
        assert written == done.stdout


@pytest.mark.parametrize("form", ["terminal", "markdown", "markdown-comment", "github", "otel", "html"])
def test_half_a_surrogate_pair_is_told_in_every_form(scratch: Scratch, form: str) -> None:
    """Clients in JavaScript send them: they cut texts between the halves of an emoji."""
    document: Any = documents.one_of_each()
    cut = "it grew by \ud83d"
    for one in document["scenarios"]:
        for finding in one["findings"]:
            finding["text"] = cut
    scratch.write("cut.json", json.dumps(document))
    done = scratch.run("report", "cut.json", "--format", form)
    assert done.returncode == 0
    assert form == "otel" or "it grew by \\ud83d" in done.stdout.replace("\\\\", "\\")
    scratch.run("merge", "cut.json", "-o", "all.json")
    assert json.loads((scratch.top / "all.json").read_text("utf-8")) == document


def test_a_report_is_utf8_whatever_the_terminal_is(scratch: Scratch) -> None:
    """As on Windows, where a report is sent into the summary of a job."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_tokenbudget", "report", "each.json", "--format", "markdown"],
        cwd=scratch.top,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == scratch.run("report", "each.json", "--format", "markdown").stdout


def test_a_page_of_a_run_and_of_its_history(scratch: Scratch, tmp_path: Path) -> None:
    done = scratch.run("report", "each.json", "--format", "html", "-o", "page.html")
    assert done.returncode == 0
    assert (scratch.top / "page.html").read_text("utf-8").startswith("<!doctype html>")
    repo = Scratch.create(tmp_path / "repo")
    for prompt in (100, 120):
        repo.baselines(FILE, {"test_a": use(prompt)})
        repo.commit(f"To {prompt}")
    repo.write("each.json", json.dumps(documents.one_of_each()))
    done = repo.run("report", "each.json", "--format", "html", "-o", "page.html")
    assert done.stderr == "Wrote page.html\n"
    page = repo.run("history", "--format", "html").stdout
    assert page.startswith("<!doctype html>")
    assert "test_a" in page


def test_a_green_run_is_one_sentence(scratch: Scratch) -> None:
    assert "14 scenarios are within budget" in scratch.run("report", "green.json").stdout
    assert scratch.run("report", "green.json", "--format", "github").stdout == ""


def test_what_became_of_the_baselines_stands_below(scratch: Scratch) -> None:
    found = {
        "version": 1,
        "base": {"name": "main", "commit": "c" * 40},
        "prices": {"source": "x", "version": "1"},
        "unchanged": 3,
        "scenarios": [],
        "already": [{"id": "t.py::test_a", "verdict": "over", "commit": None, "worse": []}],
    }
    scratch.write("diff.json", json.dumps(found))
    scratch.write("artifacts/1/token-budget-diff.json", json.dumps(found))
    for given in (["each.json", "--diff", "diff.json"], ["artifacts/0", "artifacts/1"]):
        text = scratch.run("report", *given, "--format", "markdown").stdout
        assert "\n- `t.py::test_a`: **already over at BASE**\n" in text
        assert text.index("already over at BASE") < text.index("<sub>"), "the footer stands last"
    missing = ("report", "each.json", "--diff", "nowhere", "--format", "markdown")
    assert "nowhere cannot be read" in scratch.refused(*missing)


def test_files_are_named_from_the_top_of_the_repository() -> None:
    found: Any = from_the_top(documents.one_of_each(), "part/")
    assert {one["file"].partition("/")[0] for one in found["scenarios"]} == {"part"}
    sources = [finding["source"] for one in found["scenarios"] for finding in one["findings"]]
    assert all(source["file"].startswith("part/") for source in sources if source)
    assert None in sources or sources
    assert from_the_top(documents.one_of_each(), "") == documents.one_of_each()
    beside = documents.finding("growth", "system[0]", "is beside", tokens=9, at="../prompts/a.md:7")
    was = documents.loop(documents.SONNET, 100, [5])
    document = documents.document([documents.scenario("t.py::test", "over", was, was, findings=[beside])])
    (scenario,) = from_the_top(document, "part/")["scenarios"]
    assert [finding["source"] for finding in scenario["findings"]] == [
        {**beside["source"], "file": "prompts/a.md"}  # type: ignore[dict-item]
    ]
