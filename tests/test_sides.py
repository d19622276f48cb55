"""Which whole runs are tested on which of the two Pythons of `.ci/run`: each on one, none on neither."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from support.sample import SIDES, side

TESTS = Path(__file__).parent
FILES = [path.relative_to(TESTS.parent).as_posix() for path in sorted(TESTS.rglob("test_*.py"))]
FIXED = {"tests/test_example.py": "newest", "tests/test_log.py": "oldest"}
SUITE = """
import pytest


def test_a(pytester): ...


@pytest.mark.{mark}
def test_b(pytester): ...


def test_by_itself(): ...
"""


@pytest.mark.parametrize("seed", range(20))
def test_a_file_is_drawn_on_one_side_or_is_where_it_must_be(seed: int) -> None:
    drawn = {file: side(file, FIXED, seed) for file in FILES}
    assert set(drawn.values()) == set(SIDES)
    assert FIXED.items() <= drawn.items()
    alone = {file: side(file, FIXED, seed) for file in FILES[::2]}
    assert alone.items() <= drawn.items(), "whatever other files there are"


def test_about_half_of_the_files_is_drawn_on_each_side_and_seeds_differ() -> None:
    draws = [tuple(side(file, {}, seed) for file in FILES) for seed in range(50)]
    assert len(set(draws)) == 50
    share = Counter(drawn for draw in draws for drawn in draw)["newest"] / (50 * len(FILES))
    assert 0.45 < share < 0.55
    for place in range(len(FILES)):
        assert {draw[place] for draw in draws} == set(SIDES), "in time, each file is tested on both"


def test_the_whole_runs_of_both_sides_are_all(pytester: pytest.Pytester) -> None:
    """Tests that have `pytester` are whole runs; a file with a test marked `newest` is there as a whole."""
    pytester.makeconftest((TESTS / "conftest.py").read_text("utf-8"))
    pytester.makeini("""
        [pytest]
        addopts = -p pytester --strict-markers
        markers =
            whole_run
            newest
            frameworks
        asyncio_default_fixture_loop_scope = function
    """)
    names = [f"test_{number}" for number in range(12)]
    marks = ["newest" if number < 3 else "whole_run" for number in range(12)]
    pytester.makepyfile(**{name: SUITE.format(mark=mark) for name, mark in zip(names, marks, strict=True)})

    def collected(*arguments: str) -> set[str]:
        done = pytester.runpytest("--collect-only", "-q", *arguments)
        return set(re.findall(r"^test_\S+::\S+", str(done.stdout), re.MULTILINE))

    runs = {f"{name}.py::{test}" for name in names for test in ("test_a", "test_b")}
    assert collected("-m", "whole_run") == runs
    assert collected("-m", "not whole_run") == {f"{name}.py::test_by_itself" for name in names}
    oldest, newest = (collected("-m", "whole_run", "--side", drawn) for drawn in SIDES)
    assert oldest
    assert (oldest | newest, oldest & newest) == (runs, set())
    assert {run for run in runs if run.startswith(("test_0.", "test_1.", "test_2."))} <= newest


def test_what_only_exact_counts_show_is_tested_where_they_are() -> None:
    """A file of whole runs that asks whether there is ctok is marked: Python 3.11 has none."""
    asks = re.compile(r"find_spec\(\"ctok\"\)|^from .* import .*\bEXACT\b|counter_name\(\) != ", re.MULTILINE)
    starts_pytest = re.compile(r"\b(pytester|whole_run|Suite|Project|Scratch)\b")
    marked = re.compile(r"^pytestmark = .*\bpytest\.mark\.newest\b", re.MULTILINE)
    texts = {
        file: (TESTS.parent / file).read_text("utf-8") for file in FILES if file != "tests/test_sides.py"
    }
    asking = {file for file, text in texts.items() if asks.search(text) and starts_pytest.search(text)}
    assert len(asking) > 5
    assert {file for file in asking if not marked.search(texts[file])} == set()
