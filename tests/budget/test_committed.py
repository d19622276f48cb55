"""Two sets of baselines, and many: what changed, what was renamed, what became of each scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytest_tokenbudget.budget.changes as changes_module
from pytest_tokenbudget.budget.baselines import Baseline, format_baselines, parse_baselines
from pytest_tokenbudget.budget.changes import (
    Direction,
    Matched,
    Series,
    Snapshot,
    VersionReader,
    by_id,
    changes,
    from_one_start,
    is_baseline_file,
    limit_changes,
    marker_changes,
    module_of,
    pytest_settings,
    renames,
    trends,
)
from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.model import Rate, Tokens, Usage

SONNET, TOMORROW = Rate("claude-sonnet-4-6"), Rate("claude-of-tomorrow")


def use(count: int, output: int = 0, read: int = 0, rate: Rate = SONNET) -> Usage:
    return Usage.of(rate, Tokens(count, cache_read_input_tokens=read, output_tokens=output))


def cost(usage: Usage) -> Decimal | None:
    """A dollar for an uncached token, five for one of the answer, a dime for one that is read."""
    if TOMORROW in usage.by_rate:
        return None
    tokens = usage.tokens
    return tokens.input_tokens + 5 * tokens.output_tokens + Decimal(tokens.cache_read_input_tokens) / 10


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("tests/token_budgets/test_a.yaml", "tests/test_a.py"),
        ("token_budgets/test_a.yaml", "test_a.py"),
        ("token_budgets/deep/token_budgets/conftest.yaml", "token_budgets/deep/conftest.py"),
    ],
)
def test_the_module_of_a_baseline_file(path: str, module: str) -> None:
    assert is_baseline_file(path)
    assert module_of(path) == module


@pytest.mark.parametrize(
    "path", ["tests/test_a.yaml", "token_budgets/a/b.yaml", "token_budgets.yaml", "a.py"]
)
def test_other_files(path: str) -> None:
    assert not is_baseline_file(path)


def test_by_id() -> None:
    files = {"b/token_budgets/b.yaml": {"x[1::2]": use(1)}, "token_budgets/a.yaml": {"C::x": use(2)}}
    assert by_id(files) == {"b/b.py::x[1::2]": use(1), "a.py::C::x": use(2)}


Counts = Mapping[str, int]


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        pytest.param({"a.py::x": 1}, {"a.py::y": 1}, {"a.py::y": "a.py::x"}, id="renamed"),
        pytest.param({"a.py::x": 1}, {"b.py::y": 1}, {"b.py::y": "a.py::x"}, id="moved and renamed"),
        pytest.param({"a.py::x": 1}, {"a.py::y": 2}, {}, id="other tokens"),
        pytest.param({"a.py::x": 1, "a.py::z": 1}, {"a.py::y": 1}, {}, id="two that went"),
        pytest.param({"a.py::x": 1}, {"a.py::y": 1, "a.py::z": 1}, {}, id="two that came"),
        pytest.param({"a.py::x": 0}, {"a.py::y": 0}, {}, id="nothing is like nothing else"),
        pytest.param({"a.py::x": 1}, {"a.py::x": 1, "a.py::y": 1}, {}, id="copied"),
    ],
)
def test_renamed_by_tokens(before: Counts, now: Counts, found: Mapping[str, str]) -> None:
    assert _renames(before, now, {}) == {new: (old, Matched.TOKENS) for new, old in found.items()}


@pytest.mark.parametrize(
    ("before", "now", "moved", "found"),
    [
        pytest.param(
            {"a.py::x": 1}, {"b.py::x": 2}, {"b.py": "a.py"}, {"b.py::x": "a.py::x"}, id="other tokens"
        ),
        pytest.param(
            {"t/a.py::x": 1},
            {"u/b.py::x": 2},
            {"u/token_budgets/b.yaml": "t/token_budgets/a.yaml"},
            {"u/b.py::x": "t/a.py::x"},
            id="its baselines moved",
        ),
        pytest.param(
            {"a.py::x": 1, "a.py::y": 2},
            {"b.py::x": 2, "b.py::y": 1},
            {"b.py": "a.py"},
            {"b.py::x": "a.py::x", "b.py::y": "a.py::y"},
            id="the file tells more than the tokens",
        ),
    ],
)
def test_moved_by_file(
    before: Counts, now: Counts, moved: Mapping[str, str], found: Mapping[str, str]
) -> None:
    assert _renames(before, now, moved) == {new: (old, Matched.FILE) for new, old in found.items()}


def test_renamed_and_changed_it_is_found_by_its_recording() -> None:
    before, now = {"a.py::x": use(1), "a.py::y": use(5)}, {"a.py::z": use(2), "a.py::v": use(5)}
    digests = {"a.py::x": "r", "a.py::y": "s"}, {"a.py::z": "r", "a.py::v": None}
    assert renames(before, now, {}, digests) == {
        "a.py::z": ("a.py::x", Matched.RECORDING),
        "a.py::v": ("a.py::y", Matched.TOKENS),
    }
    shared = {"a.py::x": "r", "a.py::y": "r"}, {"a.py::z": "r", "a.py::v": None}
    assert "a.py::z" not in renames(before, now, {}, shared), "two that are gone have it"


def _renames(before: Counts, now: Counts, moved: Mapping[str, str]) -> Mapping[str, tuple[str, Matched]]:
    was, is_now = ({name: use(n) if n else Usage() for name, n in side.items()} for side in (before, now))
    return renames(was, is_now, moved)


@pytest.mark.parametrize(
    ("before", "now", "direction"),
    [
        (use(10), use(11), Direction.RAISED),
        (use(10), use(9), Direction.LOWERED),
        (use(10, output=2), use(12, output=1), Direction.LOWERED),
        (use(10), use(9, read=10), Direction.SHIFTED),
        (use(10), use(11, rate=TOMORROW), Direction.RAISED),
        (use(10, rate=TOMORROW), use(5, read=5, rate=TOMORROW), Direction.SHIFTED),
        (None, use(1), Direction.ADDED),
        (use(1), None, Direction.REMOVED),
    ],
)
def test_directions(before: Usage | None, now: Usage | None, direction: Direction) -> None:
    sides = [{"a.py::x": usage} if usage else {} for usage in (before, now)]
    (found,) = changes(sides[0], sides[1], {}, cost)
    assert (found.direction, found.before, found.now) == (direction, before, now)


IDS = st.sampled_from(["a.py::x", "a.py::y", "a.py::z", "b.py::x", "b.py::y", "b.py::z"])
BASELINES = st.dictionaries(IDS, st.builds(use, st.integers(1, 4)))


@given(BASELINES, BASELINES)
def test_nothing_is_told_twice_or_left_out(before: Mapping[str, Usage], now: Mapping[str, Usage]) -> None:
    found = changes(before, now, {}, cost)
    same = {name for name in before.keys() & now.keys() if before[name] == now[name]}
    assert {one.id for one in found if one.now} == now.keys() - same
    assert sorted(one.was for one in found if one.before) == sorted(before.keys() - same)


@given(st.lists(BASELINES, max_size=6))
def test_trends_hold_every_state(states: list[Mapping[str, Usage]]) -> None:
    """Whatever is renamed, at each commit the series hold what the baselines hold, each once."""
    found, _ = trends([Snapshot(as_baselines(state)) for state in states])
    for place, state in enumerate(states):
        held = [_at(series, place) for series in found.values()]
        assert sorted(map(repr, filter(None, held))) == sorted(map(repr, state.values()))
    if states:
        assert states[-1].keys() <= found.keys()


def as_baselines(usages: Mapping[str, Usage]) -> dict[str, Baseline]:
    return {name: Baseline(usage) for name, usage in usages.items()}


def _at(series: Series, place: int) -> Usage | None:
    return next((usage for at, usage in reversed(series) if at <= place), None)


def test_trends_follow_a_scenario_under_its_names() -> None:
    one, two = use(1), use(2)
    states = [{"a.py::x": one}, {"a.py::y": one}, {"b.py::y": two}, {}, {"b.py::y": two}]
    snapshots = [Snapshot(as_baselines(state)) for state in states]
    snapshots[2] = replace(snapshots[2], moved={"b.py": "a.py"})
    found, _ = trends(snapshots)
    assert found == {"b.py::y": [(0, one), (2, two), (3, None), (4, two)]}


NAMES = st.text(min_size=1) | st.from_regex(r"test_\w+(\[[^\n]*\])?", fullmatch=True)
COUNTS = st.integers(0, 10**7)
TOKENS = st.builds(Tokens, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.integers(0, 3))
RATES = st.sampled_from(["claude-haiku-4-5", "claude-sonnet-4-6 (batch, us)", "vendor: odd", "0x1", "null"])


USAGES = st.builds(
    lambda rate, tokens, turns: Usage.of(Rate.parse(rate), tokens, turns), RATES, TOKENS, COUNTS
)


DIGESTS = st.none() | st.from_regex(r"[0-9a-f]{12}", fullmatch=True) | st.just("0b0101010101")


@st.composite
def committed(draw: st.DrawFn) -> Baseline:
    usage = draw(USAGES)
    reads = st.dictionaries(st.sampled_from(["5m", "1h"]), st.integers(1, 10**6), min_size=1)
    foreign = draw(st.none() | st.dictionaries(st.sampled_from([*usage.by_rate]), reads))
    counted_by = draw(st.sampled_from([None, "ctok 1.3", "built-in 2", "null"]))
    return Baseline(usage, foreign or {}, draw(DIGESTS), draw(DIGESTS), counted_by)


@given(st.dictionaries(NAMES, committed()))
def test_versions_are_read_as_baselines_are(baselines: Mapping[str, Baseline]) -> None:
    text = format_baselines(baselines)
    reader = VersionReader()
    assert parse_baselines(text, "x") == baselines
    assert reader.read(text, "x") == baselines
    assert reader.read(text, "x") == baselines


def test_what_the_tool_wrote_as_version_2_is_read_without_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = Rate("claude-haiku-4-5")
    usage = Usage.of(rate, Tokens(1, 2, 3, 4, 5))
    entry = Baseline(usage, {rate: {"5m": 7, "1h": 8}}, "123456789012", "0b0101010101", "ctok 1.3")
    texts = [
        format_baselines({"test_a": replace(entry, usage=usage + usage)}),
        format_baselines({"test_a": entry}),
    ]
    reader = VersionReader()
    reader.read(texts[0], "x")  # which learns the head and the name
    monkeypatch.setattr(changes_module, "parse_baselines", pytest.fail)
    assert reader.read(texts[1], "x") == {"test_a": entry}


def test_a_key_of_version_2_is_refused_in_version_1_though_version_2_was_read() -> None:
    entry = Baseline(Usage.of(Rate("claude-haiku-4-5"), Tokens(1)), recording="9f2c41d07a3b")
    text = format_baselines({"test_a": entry})
    reader = VersionReader()
    reader.read(text, "x")
    with pytest.raises(BaselineError, match="unknown key 'recording'"):
        reader.read(text.replace("version: 2", "version: 1"), "x")


OCTAL = """version: 1
scenarios:
  a:
    turns: 010
    models:
      m:
        input_tokens: 1
        ephemeral_5m_input_tokens: 0
        ephemeral_1h_input_tokens: 0
        cache_read_input_tokens: 0
        output_tokens: 0
"""


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nscenarios:\n  a: &one\n    turns: 1\n    models: {}\n  b: *one\n",
        "version: 1\nscenarios:\n  a: {turns: 1,\n  models: {}}\n  b: {turns: 2, models: {}}\n",
        "version: 1\nscenarios: {}\n",
        OCTAL,
    ],
    ids=["alias", "two lines", "none", "octal"],
)
def test_what_others_wrote_is_read_as_yaml(text: str) -> None:
    assert VersionReader().read(text, "x") == parse_baselines(text, "x")


@pytest.mark.parametrize(
    "text",
    [
        "version: 9\nscenarios:\n  a:\n    turns: 1\n    models: {}\n",
        "version: 1\nscenarios:\n  a:\n    turns: -1\n    models: {}\n",
        "version: 1\nscenarios:\n  a:\n    turns: 1\n    models:\n      m:\n        sheep: 1\n",
        "version: 1\nscenarios:\n  a:\n    turns: 1\n    models:\n      m:\n        input_tokens: 1\n",
        "<<<<<<< ours\n",
    ],
    ids=["newer", "negative", "unknown", "incomplete", "conflict"],
)
def test_what_is_wrong_is_refused_in_the_same_words(text: str) -> None:
    with pytest.raises(BaselineError) as expected:
        parse_baselines(text, "the file")
    with pytest.raises(BaselineError) as found:
        VersionReader().read(text, "the file")
    assert str(found.value) == str(expected.value)


def test_a_count_that_is_missing_in_a_later_version_is_not_read_as_0() -> None:
    reader, text = VersionReader(), OCTAL.replace("010", "10")
    reader.read(text, "the first")
    with pytest.raises(BaselineError, match="output_tokens: is None, not a count"):
        reader.read(text.replace("        output_tokens: 0\n", ""), "the second")


MARKED = """
import pytest
from pytest import mark

pytestmark = pytest.mark.token_budget(tolerance="5%")

class TestCart:
    @mark.token_budget(max_turns=3, runs_per_month=10)
    def test_a(self): ...

    def test_b(self): ...

@pytest.mark.token_budget(**LIMITS)
async def test_c(): ...
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"5%"', '"20%"', {"the module": ['tolerance "5%" -> "20%" (looser)']}),
        ('"5%"', '{"prompt_tokens": 300}', {"the module": ["tolerance"]}),
        ("max_turns=3", "max_turns=2", {"TestCart.test_a": ["max_turns 3 -> 2"]}),
        ("max_turns=3", "max_turns=4", {"TestCart.test_a": ["max_turns 3 -> 4 (looser)"]}),
        ("max_turns=3, ", "", {"TestCart.test_a": ["max_turns 3 -> not set (looser)"]}),
        ("runs_per_month=10", "runs_per_month=1", {"TestCart.test_a": ["runs_per_month 10 -> 1"]}),
        ("runs_per_month=10", "runs_per_month=RUNS", {"TestCart.test_a": ["the marker changed (looser)"]}),
        ("**LIMITS", "max_turns=1", {"test_c": ["the marker changed (looser)"]}),
        ("**LIMITS", "**OTHERS", {}),
        (
            "    def test_b",
            '    @mark.token_budget(exclude="slow")\n    def test_b',
            {"TestCart.test_b": ['exclude not set -> "slow" (excludes)']},
        ),
        ("def test_b(self): ...", "def test_b(self): pass", {}),
        ("    def test_b(self): ...", "", {}),
        ("    def test_b", "    @mark.token_budget(max_turns=1)\n    def test_d", {}),
        (
            "    def test_b",
            '    @mark.token_budget(tolerance="50%")\n    def test_d',
            {"TestCart.test_d": ['tolerance not set -> "50%" (looser)']},
        ),
        ("import pytest", "import (", {}),
    ],
)
def test_what_became_of_markers(old: str, new: str, told: dict[str, list[str]]) -> None:
    assert MARKED.count(old) == 1
    found = marker_changes(MARKED, MARKED.replace(old, new))
    assert found.keys() == told.keys()
    for name, differing in found.items():
        for change, text in zip(differing, told[name], strict=True):
            looser, excludes = " (looser)" * change.is_looser, " (excludes)" * change.is_exclusion
            assert f"{change}{looser}{excludes}".startswith(text)


def test_what_became_of_settings() -> None:
    was = {"tolerance": "5%", "exclude": ["a", "b"], "max_cost_usd": 0.5, "redact": ["x"]}
    now = {"tolerance": "4%", "exclude": ["b"], "max_cost_usd": "much", "redact": ["y"]}
    found = {change.name: change for change in limit_changes(was, now)}
    assert [name for name, change in found.items() if change.is_looser] == ["max_cost_usd"]
    assert not any(change.is_exclusion for change in found.values())
    (back,) = [change for change in limit_changes(now, was) if change.is_exclusion]
    assert str(back) == "exclude ['b'] -> ['a', 'b']"
    (unread,) = limit_changes({}, {"tolerance": "whatever"})
    assert unread.is_looser


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("pytest.ini", "[pytest]\naddopts = -ra -n 2 -p xdist --cov=agent\n", []),
        ("pytest.ini", "[pytest]\naddopts = --token-budget-report=json:a.json\n", []),
        ("pytest.ini", "[pytest]\naddopts = --token-budget-update -q\n", ['"--token-budget-update"']),
        ("tox.ini", "[pytest]\naddopts =\n    --token-budget-disable\n", ['"--token-budget-disable"']),
        ("setup.cfg", "[tool:pytest]\naddopts = -qx --deselect=test_a.py\n", ['"-qx --deselect=test_a.py"']),
        ("setup.cfg", "[pytest]\naddopts = -x\n", []),  # read by nobody
        ("pytest.ini", "[pytest]\naddopts = -m 'not slow' -k cart\n", ["\"-m 'not slow' -k cart\""]),
        ("pytest.ini", "[pytest]\naddopts = -m'not slow' --ignore a\n", ["\"'-mnot slow' --ignore a\""]),
        (".pytest.ini", "[pytest]\naddopts = -p no:tokenbudget -p no:xdist\n", ['"-p no:tokenbudget"']),
        ("pytest.ini", "[pytest]\naddopts = -v tests/unit test_a.py::test_b\n", ['"test_a.py::test_b"']),
        ("pytest.ini", "[pytest]\naddopts = -c other.ini\n", ['"-c other.ini"']),
        ("pytest.ini", "[pytest]\naddopts = -k 'open\n", []),  # pytest refuses it
        ("pyproject.toml", '[tool.pytest.ini_options]\naddopts = "--lf"\n', ['"--lf"']),
        ("pyproject.toml", '[tool.pytest.ini_options]\naddopts = ["-k", "a b"]\n', ["\"-k 'a b'\""]),
        ("pyproject.toml", '[tool.pytest]\naddopts = ["--co"]\n', ['"--co"']),
        ("pytest.toml", '[pytest]\naddopts = ["--maxfail=1"]\n', ['"--maxfail=1"']),
        ("pytest.ini", "[pytest]\naddopts = --setup-plan --setup-show\n", ['"--setup-plan"']),
        ("pyproject.toml", "[tool.pytest.ini_options]\naddopts = 7\n", []),
        ("pyproject.toml", "[tool.pytest\n", []),
        ("pytest.ini", "addopts = -x\n", []),
    ],
)
def test_options_that_choose_what_is_judged(name: str, text: str, told: list[str]) -> None:
    """Others say nothing of what is judged: a changed `-ra` is no news."""
    changes = limit_changes(pytest_settings(name, ""), pytest_settings(name, text))
    assert [str(change) for change in changes] == [f"addopts not set -> {one}" for one in told]
    back = limit_changes(pytest_settings(name, text), pytest_settings(name, ""))
    assert [str(change) for change in back] == [f"addopts {one} -> not set" for one in told]


def test_settings_that_choose_what_is_collected() -> None:
    was = "[pytest]\ntestpaths = tests\nmarkers =\n    slow\n"
    now = "[pytest]\ntestpaths =\n    tests/unit\n    more\npython_files = check_*.py\nlog_cli = true\n"
    changes = limit_changes(pytest_settings("pytest.ini", was), pytest_settings("pytest.ini", now))
    assert [str(change) for change in changes] == [
        'python_files not set -> "check_*.py"',
        'testpaths "tests" -> "tests/unit more"',
    ]
    assert pytest_settings("pyproject.toml", '[tool.pytest.ini_options]\ntestpaths = ["a", "b"]\n') == {
        "testpaths": "a b"
    }


def recorded(tokens: Tokens, foreign: int, recording: str | None) -> Baseline:
    return Baseline(Usage.of(SONNET, tokens), {SONNET: {"5m": foreign}} if foreign else {}, recording)


COLD = recorded(Tokens(5, ephemeral_5m_input_tokens=2000), 0, "a" * 12)
WARM = recorded(Tokens(5, cache_read_input_tokens=2000), 2000, "b" * 12)
OLD = recorded(Tokens(5, cache_read_input_tokens=2000), 0, None)
GROWN = recorded(Tokens(5, ephemeral_5m_input_tokens=2900), 0, "c" * 12)
LONGER = recorded(Tokens(5, cache_read_input_tokens=2190), 2190, "b" * 12)
"""What was accepted on the warm recording: a longer prefix, that others had filled."""
AS_RECORDED = recorded(Tokens(5, cache_read_input_tokens=1990), 1990, "d" * 12)


def test_what_was_recorded_anew_from_another_start_is_no_change() -> None:
    before = {"anew": WARM, "alike": WARM, "old": OLD, "gone": WARM, "grown": WARM}
    now = {"anew": COLD, "alike": WARM, "old": COLD, "come": WARM, "grown": LONGER}
    was, are, apart = from_one_start(before, now)
    assert apart == {"anew"}, "a baseline of version 1 does not say how it began"
    assert was["anew"] == are["anew"] == COLD.usage
    assert {name: was[name] for name in ("alike", "old", "gone")} == {
        "alike": WARM.usage,
        "old": OLD.usage,
        "gone": WARM.usage,
    }
    assert are["come"] == WARM.usage
    assert are["grown"] == LONGER.usage, "of one recording, it has one start"


@pytest.mark.parametrize(
    ("held", "series", "apart"),
    [
        ([WARM, COLD, GROWN], [(0, COLD.usage), (2, GROWN.usage)], True),
        ([OLD, WARM, COLD], [(0, COLD.usage)], True),  # a migration says how the older one began
        ([OLD, COLD], [(0, OLD.usage), (1, COLD.usage)], False),
        ([WARM, LONGER], [(0, WARM.usage), (1, LONGER.usage)], False),
        ([WARM, AS_RECORDED], [(0, WARM.usage), (1, AS_RECORDED.usage)], False),
        ([COLD, None, WARM], [(0, COLD.usage), (1, None), (2, COLD.usage)], True),
    ],
)
def test_a_trend_has_one_start(held: list[Baseline | None], series: Series, apart: bool) -> None:
    """A commit that only recorded anew is no step; one start holds for the whole trend of a scenario."""
    snapshots = [Snapshot({} if one is None else {"a.py::x": one}) for one in held]
    assert trends(snapshots) == ({"a.py::x": series}, {"a.py::x"} if apart else frozenset())
