"""The schema, and the run-time check that walks it: what jsonschema refuses is refused, with file and key."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.budget.verdict import judge
from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.model import Finding, FindingKind, Rate, Source, Tokens, Usage, Verdict
from pytest_tokenbudget.reports import build, run_view, scenario_view
from pytest_tokenbudget.reports.dashboard import dashboard
from pytest_tokenbudget.reports.document import _upgraded, load, problems, schema, totals, validate
from pytest_tokenbudget.reports.exports import properties, traces, workflow_commands
from pytest_tokenbudget.reports.markdown import markdown
from pytest_tokenbudget.reports.terminal import summary_lines
from pytest_tokenbudget.settings import Caps, ScenarioSettings
from support.documents import all_green, finding, many, one_of_each
from support.strategies import documents as any_document

JUDGE = jsonschema.Draft202012Validator(schema())


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


EACH = one_of_each()
PLACES = list(paths(EACH))
JUNK = st.sampled_from([None, True, -1, 0, 1.5, 3, "", "over", "x", [], {}, [None], {"x": 1}, 10**30])


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_documents_are_valid() -> None:
    for document in (all_green(), one_of_each(), many(50)):
        JUDGE.validate(document)
        assert validate(document) is document


@given(any_document())
def test_generated_documents_are_valid(document: Any) -> None:
    assert list(problems(document)) == []
    JUDGE.validate(document)


def test_what_a_run_builds_is_valid() -> None:
    used = Usage.of(Rate("claude-sonnet-5", ("batch",)), Tokens(12, 3400, 0, 2000, 80, 1), turns=2)

    def cost(usage: Usage) -> Decimal | None:
        return Decimal("0.0123") * usage.turns

    place = build.Place("tests/test_a.py::test_b[x]", "tests/test_a.py", 7)
    adopted = build.Place("tests/test_a.py::test_c", "tests/test_a.py", 9, "pytest-recording")
    caps = ScenarioSettings(caps=Caps(max_prompt_tokens=10, max_cost_usd=Decimal("0.001")))
    grown = Finding(
        FindingKind.GROWTH, "system[0]", "it grew", 10, Decimal("0.1"), Source("prompts/a.md", 3, 9)
    )
    stale = judge(used, used, caps, cost, departure=Verdict.STALE)
    entries = [
        build.scenario(place, judge(used, used, caps, cost), used, Run(), [grown], cost, runs_per_month=30),
        build.scenario(place, judge(None, used, ScenarioSettings(), cost), None, Run(), [], cost),
        build.scenario(adopted, stale, used, Run(), [], cost),
    ]
    document = build.document(entries, mode="replay", prices=("p", "1"), commit=None)
    JUDGE.validate(document)
    validate(document)


@given(st.data())
def test_refuses_what_jsonschema_refuses(data: st.DataObject) -> None:
    document: Any = copy.deepcopy(EACH)
    *parents, key = data.draw(st.sampled_from(PLACES))
    holder = document
    for step in parents:
        holder = holder[step]
    change = data.draw(st.sampled_from(["replace", "delete", "add"]))
    if change == "replace":
        holder[key] = data.draw(JUNK)
    elif change == "delete":
        del holder[key]
    elif isinstance(holder, dict):
        holder["another"] = data.draw(JUNK)
    assert bool(list(problems(document))) == (not JUDGE.is_valid(document))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ('{"version": 1,', "is not JSON"),
        ('{"version": NaN}', "NaN is not a JSON number"),
        ("[]", 'must be an object, not a list'),
        ("{}", "version is missing"),
        ('{"version": 3, "anything": []}', "a newer pytest-tokenbudget; this one reads versions 1 to 2. Up"),
        (json.dumps({**EACH, "version": "1"}), 'version must be 2, not "1"'),
        (json.dumps({**EACH, "version": True}), "version must be 2, not true"),
        (json.dumps({**EACH, "mode": "<b>"}), 'mode must be a word of small letters, not "<b>"'),
        (json.dumps({**EACH, "mode": "replay\n"}), "mode must be a word of small letters"),
        (json.dumps({**EACH, "version": 1, "scenarios": 3}), "scenarios must be a list, not 3"),
        (
            json.dumps({**EACH, "scenarios": [{**EACH["scenarios"][0], "line": 0}]}),
            "scenarios[0].line must be at least 1, not 0",
        ),
        (
            json.dumps({**EACH, "scenarios": [{**EACH["scenarios"][0], "measured": {"turns": 1}}]}),
            "scenarios[0].measured.input_tokens is missing",
        ),
        ("[" * 100_000, "is not JSON"),
    ],
)  # fmt: skip
def test_names_the_file_the_key_and_the_way_out(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ReportError) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "--token-budget-report=json:" in str(caught.value) or "pip install -U" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=f"cannot be read: {os.strerror(errno.ENOENT)}"):
        load(tmp_path / "none.json")
    with pytest.raises(ReportError, match=f"cannot be read: {os.strerror(errno.EISDIR)}"):
        load(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ReportError, match="is not UTF-8 text"):
        load(tmp_path / "binary.json")


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(EACH), encoding="utf-8")
    assert load(path) == EACH


def test_totals_compare_like_with_like() -> None:
    summed = totals(EACH["scenarios"])
    assert {name: number for name, number in summed["verdicts"].items() if number} == {
        "over": 5, "stale": 1, "new": 2, "improved": 1, "within": 6,
    }  # fmt: skip
    assert list(summed["verdicts"]) == list(Verdict)
    both = [one for one in EACH["scenarios"] if one["baseline"] and one["verdict"] != "stale"]
    for side in ("baseline", "measured"):
        whole = summed[side]  # type: ignore[literal-required]
        assert whole["prompt_tokens"] == sum(one[side]["prompt_tokens"] for one in both)  # type: ignore[literal-required]
        assert whole["prompt_tokens"] == sum(rate["prompt_tokens"] for rate in whole["models"].values())
    assert summed["measured"]["cost_usd"] is None, "one model has no price"
    assert summed["baseline"]["cost_usd"] == pytest.approx(
        sum(one["baseline"]["cost_usd"] or 0 for one in both if one["baseline"])
    )


def version_1(document: Any) -> Any:
    """A document as 0.1.0 wrote it: who records a scenario, and how often it runs, were findings."""
    old = copy.deepcopy(document)
    old["version"] = 1
    del old["errors"], old["not_judged"]
    old["totals"]["verdicts"] = {
        name: old["totals"]["verdicts"][name] for name in ("over", "stale", "new", "improved", "within")
    }
    for one in old["scenarios"]:
        for key in ("recorder", "runs_per_month"):
            if (value := one.pop(key)) is not None:
                one["findings"].append(finding(key, str(value), f"{key} {value}"))
    return old


def test_version_1_is_read_for_ever(tmp_path: Path) -> None:
    document: Any = one_of_each()
    for one in document["scenarios"]:
        one["runs_per_month"] = 1_000 if one["verdict"] == "over" else None
        one["recorder"] = "vcrpy" if one["verdict"] == "stale" else None
    (tmp_path / "old.json").write_text(json.dumps(version_1(document)), "utf-8")
    read = load(tmp_path / "old.json")
    assert read["scenarios"] == document["scenarios"]
    assert {name: number for name, number in read["totals"]["verdicts"].items() if number} == {
        name: number for name, number in document["totals"]["verdicts"].items() if number
    }
    assert (read["version"], read["errors"], read["not_judged"]) == (2, [], [])


@pytest.mark.parametrize("said", ["often", "-1", "1" * 5000, None, {}])
def test_a_number_of_runs_that_is_none_is_none(said: object) -> None:
    old = version_1(all_green())
    old["scenarios"][0]["findings"] = [{**finding("runs_per_month", "", ""), "where": said}, 7]
    assert "findings[0] must be an object, not 7" in "".join(problems(_upgraded(old)))
    old["scenarios"][0]["findings"].pop()
    assert validate(old)["scenarios"][0]["runs_per_month"] is None


def of_a_newer_version() -> Any:
    """A document with keys, words and a verdict that nobody knows yet."""
    document: Any = all_green()
    document["later"] = ["tests/test_a.py::test_b"]
    document["mode"] = "dream"
    first = document["scenarios"][0]
    first |= {"verdict": "suspected", "kept": {"for": "later"}, "basis": "guessed"}
    first["limits"][0] |= {"metric": "max_pages", "of": "settings"}
    first["turns"][0] |= {"paired": "telepathy", "asked_at": 3}
    document["totals"] = {**totals(document["scenarios"]), "unmetered": 4}
    return document


def test_what_a_newer_version_adds_is_ignored_and_its_words_are_shown(tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text(json.dumps(of_a_newer_version()), "utf-8")
    document = load(tmp_path / "new.json")
    JUDGE.validate(document)
    first = document["scenarios"][0]
    assert scenario_view.fails(first)
    assert run_view.headline(document) == "1 of 14 scenarios is suspected"
    assert [str(way_out) for way_out in scenario_view.ways_out([first])] == [
        "Upgrade to know what suspected means:\n  pip install -U pytest-tokenbudget"
    ]
    terminal = "\n".join(line.text for line in summary_lines(document, columns=120))
    for text in (terminal, markdown(document, full=True), dashboard(document, None)):
        assert "suspected" in text
    assert "max pages" in markdown(document, full=True)
    assert workflow_commands(document)[0].startswith("::error file=tests/agents/test_support.py")
    assert json.loads(json.dumps(traces(document, 0)))["resourceSpans"]
    assert properties(first)[0] == ("token_budget.verdict", "suspected")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "1" + "0" * 400])
def test_numbers_that_nothing_can_add_up_are_refused(tmp_path: Path, number: str) -> None:
    text = json.dumps(one_of_each())
    for key in ("cost_usd", "prompt_tokens"):
        place = f'"{key}": '
        before, _, after = text.partition(place)
        (tmp_path / "large.json").write_text(before + place + number + after.lstrip("-.0123456789e"), "utf-8")
        with pytest.raises(ReportError, match=r"large\.json"):
            load(tmp_path / "large.json")


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        (
            {"problems": [], "notices": [], "decisions": []},
            "check` wrote. Keep it as token-budget-check.json beside token-budget.json, and name the folder.",
        ),
        (
            {"version": 1, "base": {}, "unchanged": 0, "scenarios": []},
            "diff` wrote. Give it as --diff=token-budget-diff.json.",
        ),
    ],
)
def test_what_stands_beside_a_document_is_named(beside: Any, told: str) -> None:
    with pytest.raises(ReportError) as refused:
        validate(beside, "a.json")
    assert str(refused.value) == f"a.json is no document of a run: it is what `tokenbudget {told}"
