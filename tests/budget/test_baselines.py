"""The committed file: what it looks like, what is refused, what is kept."""

from __future__ import annotations

import errno
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tokenbudget.budget.baselines import (
    Baseline,
    Merged,
    baseline_path,
    format_baselines,
    parse_baselines,
    read_baselines,
    read_merged,
    recording_digest,
    write_baselines,
)
from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.exchange import Answer, Exchange
from pytest_tokenbudget.wire.requests import read_request
from support.sample import examples

RATE = Rate("claude-haiku-4-5", ("batch",))
USAGE = Usage.of(RATE, Tokens(3, 1200, 0, 4800, 77), 3)
BASELINE = Baseline(USAGE)
TEXT = """\
# Token budgets. Written by `pytest --token-budget --token-budget-update`; commit it and review it like code.
version: 1
scenarios:
  TestRefund::test_refund[a|b]:
    turns: 3
    models:
      claude-haiku-4-5 (batch):
        input_tokens: 3
        ephemeral_5m_input_tokens: 1200
        ephemeral_1h_input_tokens: 0
        cache_read_input_tokens: 4800
        output_tokens: 77
"""
FULL = Baseline(USAGE, {RATE: {"5m": 4085}}, "9f2c41d07a3b", "123456789012", "ctok 1.3")
TEXT_2 = (
    TEXT.replace("version: 1", "version: 2")
    + """\
        foreign_reads:
          5m: 4085
    recording: 9f2c41d07a3b
    accepted: '123456789012'
    counted_by: ctok 1.3
"""
)


def test_the_file_is_one_value_a_line() -> None:
    assert format_baselines({"TestRefund::test_refund[a|b]": BASELINE}) == TEXT


def test_its_place_is_beside_the_test_module() -> None:
    assert baseline_path(Path("tests/test_a.py")) == Path("tests/token_budgets/test_a.yaml")


def test_a_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert read_baselines(tmp_path / "none.yaml") == {}


def test_writing_keeps_the_rest_and_sorts(tmp_path: Path) -> None:
    path = tmp_path / "token_budgets" / "test_a.yaml"
    assert write_baselines(path, {"test_z": BASELINE})
    assert write_baselines(path, {"test_a": Baseline(USAGE + USAGE)})
    assert list(read_baselines(path)) == ["test_a", "test_z"]
    assert read_baselines(path)["test_a"] == Baseline(USAGE + USAGE)


def test_nothing_new_leaves_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "test_a.yaml"
    path.write_text("# our own comment\n" + TEXT, encoding="utf-8")
    before = path.stat()
    assert not write_baselines(path, {"TestRefund::test_refund[a|b]": BASELINE})
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no `version`"),
        (TEXT[: len(TEXT) // 2] + "\n  x: [", "is no YAML"),
        (TEXT[:190], "is not `turns` and `models`"),
        ("scenarios: {}\n", "no `version`"),
        ("version: 3\nscenarios: {}\n", "version 3"),
        ("version: 1\nscenarios: []\n", "not a table"),
        (TEXT.replace("77", "-1"), "output_tokens: is -1, not a count"),
        (TEXT.replace("77", "many"), "output_tokens: is 'many', not a count"),
        (TEXT.replace("        output_tokens: 77\n", ""), "output_tokens: is None, not a count"),
        (TEXT.replace("output_tokens", "outputs"), "unknown key 'outputs'"),
        ("version: 1\nscenarios: !!python/object/apply:os.system [id]\n", "is no YAML"),
        ("<<<<<<< HEAD\n" + TEXT, "holds conflict marks of a merge (line 1)"),
        ("[" * 200_000, "is no YAML"),
        (
            TEXT + TEXT.partition("scenarios:\n")[2],
            "the key 'TestRefund::test_refund[a|b]' stands there twice",
        ),
        (TEXT.replace("turns: 3", "turns: 3\n    turns: 99"), "the key 'turns' stands there twice"),
        (TEXT.replace("turns: 3", "turns: 3\n    note: once"), "unknown key 'note'"),
        (TEXT.replace("turns: 3", "turns: 3\n    <<: {turns: 9}"), "unknown key '<<'"),
        (TEXT + "note: x\n", "the file: unknown key 'note'"),
        (TEXT.replace("version: 1", "version: 0"), "`version` is 0, not 1 to 2"),
        (TEXT.replace("version: 1", "version: one"), "`version` is 'one', not 1 to 2"),
        (TEXT_2.replace("version: 2", "version: 1"), "unknown key 'recording'"),
        (TEXT_2.replace("counted_by", "counter"), "unknown key 'counter'"),
        (TEXT_2.replace("5m: 4085", "2h: 4085"), "foreign_reads: unknown key '2h'"),
        (TEXT_2.replace("5m: 4085", "5m: -1"), "foreign_reads: 5m: is -1, not a count"),
        (TEXT_2.replace("9f2c41d07a3b", "9f2c"), "recording: is '9f2c', not 12 hex digits"),
        (TEXT_2.replace("'123456789012'", "123456789012"), "accepted: is 123456789012, not a text"),
        (TEXT_2.replace("ctok 1.3", "[]"), "counted_by: is [], not a text"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_fix(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "test_a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BaselineError) as error:
        read_baselines(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "--token-budget-update" in str(error.value) or "newer version" in str(error.value)
    assert "delete" not in str(error.value)
    with pytest.raises(BaselineError):
        write_baselines(path, {"test_a": BASELINE})
    assert path.read_text(encoding="utf-8") == text


def test_what_is_no_text_is_named_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "test_a.yaml"
    path.write_bytes(TEXT.encode("utf-16"))
    with pytest.raises(
        BaselineError, match=r"test_a.yaml: cannot be read: it is not UTF-8 text.\nRestore it"
    ):
        read_baselines(path)
    with pytest.raises(
        BaselineError, match=f"{tmp_path.name}: cannot be read: {os.strerror(errno.EISDIR)}.\nRestore it"
    ):
        read_baselines(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "test_a.yaml"
    path.write_text(TEXT, encoding="utf-8")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BaselineError, match="cannot be written"):
            write_baselines(path, {"test_b": BASELINE})
    finally:
        tmp_path.chmod(0o700)
    assert path.read_text(encoding="utf-8") == TEXT


def test_a_folder_that_is_a_file_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "token_budgets").write_text("not a folder", encoding="utf-8")
    with pytest.raises(BaselineError, match=r"cannot be (read|written)"):
        write_baselines(tmp_path / "token_budgets" / "test_a.yaml", {"test_b": BASELINE})


COUNT = st.integers(0, 10**9)
USAGES = st.builds(
    Usage.of,
    st.builds(
        Rate,
        st.from_regex(r"[a-z0-9][a-z0-9.@:/_-]{0,40}", fullmatch=True),
        st.lists(st.sampled_from(["batch", "fast", "us", "long"])).map(tuple),
    ),
    st.builds(Tokens, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT),
    COUNT,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=examples(50))
@given(st.dictionaries(NAMES, st.builds(Baseline, USAGES), max_size=4))
def test_what_is_written_is_read_back(baselines: dict[str, Baseline]) -> None:
    read = parse_baselines(format_baselines(baselines), where="x")
    assert {name: (b.usage.turns, b.usage.tokens) for name, b in read.items()} == {
        name: (b.usage.turns, b.usage.tokens) for name, b in baselines.items()
    }
    assert format_baselines(read) == format_baselines(baselines)


def test_keys_that_version_1_does_not_know_make_it_version_2() -> None:
    assert format_baselines({"TestRefund::test_refund[a|b]": FULL}) == TEXT_2
    assert parse_baselines(TEXT_2, where="x") == {"TestRefund::test_refund[a|b]": FULL}


def test_a_foreign_read_of_0_is_none() -> None:
    assert format_baselines({"TestRefund::test_refund[a|b]": Baseline(USAGE, {RATE: {"5m": 0}})}) == TEXT


def test_version_1_is_kept_where_nothing_new_is_to_be_said(tmp_path: Path) -> None:
    path = tmp_path / "test_a.yaml"
    path.write_text(TEXT, encoding="utf-8")
    write_baselines(path, {"test_b": BASELINE})
    assert "version: 1\n" in path.read_text(encoding="utf-8")
    write_baselines(path, {"test_b": FULL})
    assert "version: 2\n" in path.read_text(encoding="utf-8")
    assert read_baselines(path) == {"TestRefund::test_refund[a|b]": BASELINE, "test_b": FULL}


TOKENS = Tokens(10, 90, 0, 0, 5)


def _turn(
    text: str = "Where is it?", call: str = "toolu_1", tokens: Tokens = TOKENS, day: int = 1
) -> Exchange:
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 100,
        "messages": [
            {"role": "user", "content": text},
            {"role": "assistant", "content": [{"type": "tool_use", "id": call, "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call, "content": "here"}]},
        ],
    }
    sent = json.dumps(body).encode()
    request = read_request("POST", "https://api.anthropic.com/v1/messages", {}, sent)
    assert request is not None
    usage = Usage.of(Rate("claude-haiku-4-5"), tokens)
    return Exchange(request, Answer(200, {"id": call}, usage, date=datetime(2026, 1, day, tzinfo=UTC)))


def test_a_recording_is_told_by_its_requests_and_what_they_billed() -> None:
    known = recording_digest([_turn()])
    assert re.fullmatch("[0-9a-f]{12}", known)
    others = [
        [_turn("Where was it?")],
        [_turn(tokens=Tokens(11, 90, 0, 0, 5))],
        [_turn(tokens=Tokens(10, 90, 0, 0, 6))],
        [_turn(), _turn()],
        [],
    ]
    digests = [known, *map(recording_digest, others)]
    assert len(set(digests)) == len(digests)


def test_a_recording_is_not_told_by_its_split_its_dates_or_ids() -> None:
    again = _turn(call="toolu_2", tokens=Tokens(10, 0, 0, 90, 5), day=2)
    assert recording_digest([again]) == recording_digest([_turn()])


def counted(number: int | None) -> Baseline | None:
    return None if number is None else Baseline(Usage.of(RATE, Tokens(number)))


@pytest.mark.parametrize("base_in", ["marks", "git", None])
@pytest.mark.parametrize(
    ("before", "ours", "theirs", "taken"),
    [
        (1, 1, 1, 1),
        (1, 2, 2, 2),
        (1, 2, 1, 2),
        (1, 1, 3, 3),
        (None, 2, None, 2),
        (None, None, 3, 3),
        (1, None, 1, None),
        (1, 2, 3, "contested"),
        (None, 2, 3, "contested"),
        (1, None, 3, 3),
    ],
)
def test_a_conflict_is_resolved_scenario_by_scenario(
    tmp_path: Path,
    base_in: str | None,
    before: int | None,
    ours: int | None,
    theirs: int | None,
    taken: int | str | None,
) -> None:
    """The neighbour is the conflict's other scenario, which nobody changed."""
    base, *sides = (
        format_baselines({"neighbour": BASELINE, **({"test_a": known} if (known := counted(n)) else {})})
        for n in (before, ours, theirs)
    )
    middle = f"||||||| base\n{base}" if base_in == "marks" else ""
    path = tmp_path / "test_a.yaml"
    path.write_text(f"<<<<<<< HEAD\n{sides[0]}{middle}=======\n{sides[1]}>>>>>>> topic\n", "utf-8")
    merged = read_merged(path, lambda _: base if base_in == "git" else None)
    expected = taken
    if base_in is None and ours != theirs:  # who changed it cannot be told; a scenario is never lost
        expected = "contested" if ours and theirs else ours or theirs
    assert merged.conflict
    assert merged.contested == ({"test_a": counted(ours)} if expected == "contested" else {})
    assert merged.baselines.get("test_a") == (counted(expected) if isinstance(expected, int) else None)
    assert merged.baselines["neighbour"] == BASELINE


def test_a_conflict_stays_until_all_that_is_contested_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "test_a.yaml"
    kept = Merged({"test_b": BASELINE}, {"test_a": BASELINE, "test_c": None}, conflict=True)
    with pytest.raises(BaselineError, match="not in this run: test_c"):
        write_baselines(path, {"test_a": BASELINE}, kept)
    assert not path.exists()
    assert write_baselines(path, {"test_a": BASELINE, "test_c": BASELINE}, kept)
    assert list(read_baselines(path)) == ["test_a", "test_b", "test_c"]
