"""The committed file: what it looks like, what is refused, what is kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tokenbudget.budget.baselines import (
    baseline_path,
    format_baselines,
    parse_baselines,
    read_baselines,
    write_baselines,
)
from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.model import Rate, Tokens, Usage
from support.sample import examples

USAGE = Usage.of(Rate("claude-haiku-4-5", ("batch",)), Tokens(3, 1200, 0, 4800, 77), 3)
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


def test_the_file_is_one_value_a_line() -> None:
    assert format_baselines({"TestRefund::test_refund[a|b]": USAGE}) == TEXT


def test_its_place_is_beside_the_test_module() -> None:
    assert baseline_path(Path("tests/test_a.py")) == Path("tests/token_budgets/test_a.yaml")


def test_a_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert read_baselines(tmp_path / "none.yaml") == {}


def test_writing_keeps_the_rest_and_sorts(tmp_path: Path) -> None:
    path = tmp_path / "token_budgets" / "test_a.yaml"
    assert write_baselines(path, {"test_z": USAGE})
    assert write_baselines(path, {"test_a": USAGE + USAGE})
    assert list(read_baselines(path)) == ["test_a", "test_z"]
    assert read_baselines(path)["test_a"] == USAGE + USAGE


def test_nothing_new_leaves_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "test_a.yaml"
    path.write_text("# our own comment\n" + TEXT, encoding="utf-8")
    before = path.stat()
    assert not write_baselines(path, {"TestRefund::test_refund[a|b]": USAGE})
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no `version`"),
        (TEXT[: len(TEXT) // 2] + "\n  x: [", "is no YAML"),
        (TEXT[:190], "is not `turns` and `models`"),
        ("scenarios: {}\n", "no `version`"),
        ("version: 2\nscenarios: {}\n", "version 2"),
        ("version: 1\nscenarios: []\n", "not a table"),
        (TEXT.replace("77", "-1"), "output_tokens: is -1, not a count"),
        (TEXT.replace("77", "many"), "output_tokens: is 'many', not a count"),
        (TEXT.replace("        output_tokens: 77\n", ""), "output_tokens: is None, not a count"),
        (TEXT.replace("output_tokens", "outputs"), "unknown key 'outputs'"),
        ("version: 1\nscenarios: !!python/object/apply:os.system [id]\n", "is no YAML"),
        ("<<<<<<< HEAD\n" + TEXT, "is no YAML"),
        ("[" * 200_000, "is no YAML"),
        (
            TEXT + TEXT.partition("scenarios:\n")[2],
            "the key 'TestRefund::test_refund[a|b]' stands there twice",
        ),
        (TEXT.replace("turns: 3", "turns: 3\n    turns: 99"), "the key 'turns' stands there twice"),
        (TEXT.replace("turns: 3", "turns: 3\n    note: once"), "unknown key 'note'"),
        (TEXT.replace("turns: 3", "turns: 3\n    <<: {turns: 9}"), "unknown key '<<'"),
        (TEXT + "note: x\n", "the file: unknown key 'note'"),
        (TEXT.replace("version: 1", "version: 0"), "`version` is 0, not 1"),
        (TEXT.replace("version: 1", "version: one"), "`version` is 'one', not 1"),
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
    with pytest.raises(BaselineError):
        write_baselines(path, {"test_a": USAGE})
    assert path.read_text(encoding="utf-8") == text


def test_what_is_no_text_is_named_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "test_a.yaml"
    path.write_bytes(TEXT.encode("utf-16"))
    with pytest.raises(BaselineError, match=r"test_a.yaml: cannot be read: it is not UTF-8 text. Restore it"):
        read_baselines(path)
    with pytest.raises(
        BaselineError, match=f"{tmp_path.name}: cannot be read: {os.strerror(errno.EISDIR)}. Restore it"
    ):
        read_baselines(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "test_a.yaml"
    path.write_text(TEXT, encoding="utf-8")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BaselineError, match="cannot be written"):
            write_baselines(path, {"test_b": USAGE})
    finally:
        tmp_path.chmod(0o700)
    assert path.read_text(encoding="utf-8") == TEXT


def test_a_folder_that_is_a_file_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "token_budgets").write_text("not a folder", encoding="utf-8")
    with pytest.raises(BaselineError, match=r"cannot be (read|written)"):
        write_baselines(tmp_path / "token_budgets" / "test_a.yaml", {"test_b": USAGE})


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
@given(st.dictionaries(NAMES, USAGES, max_size=4))
def test_what_is_written_is_read_back(baselines: dict[str, Usage]) -> None:
    read = parse_baselines(format_baselines(baselines), where="x")
    assert {name: (u.turns, u.tokens) for name, u in read.items()} == {
        name: (u.turns, u.tokens) for name, u in baselines.items()
    }
    assert format_baselines(read) == format_baselines(baselines)
