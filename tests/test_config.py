"""Settings and markers: what is read, and what is refused with the place and the fix."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.errors import SettingsError
from pytest_tokenbudget.settings import (
    DEFAULTS,
    Options,
    RecordMode,
    ScenarioSettings,
    Settings,
    SettingsFiles,
    Tolerance,
    load_settings,
    override,
    parse_report,
    parse_settings,
    parse_spend,
    parse_tolerance,
)

PROMPT = DEFAULTS["prompt_tokens"]


@pytest.mark.parametrize(
    ("value", "tolerance"),
    [
        ("10%", Tolerance(Fraction(1, 10), 25)),
        ("+10 %", Tolerance(Fraction(1, 10), 25)),
        ("2.5%", Tolerance(Fraction(1, 40), 25)),
        ("10% or 200", Tolerance(Fraction(1, 10), 200)),
        ("200", Tolerance(Fraction(0), 200)),
        (200, Tolerance(Fraction(0), 200)),
        (0, Tolerance()),
        ("0%", Tolerance()),
    ],
)
def test_a_tolerance_is_a_share_or_an_amount_or_the_larger_of_both(
    value: object, tolerance: Tolerance
) -> None:
    assert parse_tolerance(value, PROMPT) == tolerance


@pytest.mark.parametrize(
    "value", ["", "ten", "10 percent", "-5%", -1, 1.5, True, None, "%", "5% 6%", [], "1e3"]
)
def test_what_is_no_tolerance_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match='write "10%", 200 or "10% or 200"'):
        parse_tolerance(value, PROMPT)


@pytest.mark.parametrize(
    ("baseline", "limit"), [(4812, 5053), (100, 125), (0, 25), (500, 525), (501, 526), (10_000, 10_500)]
)
def test_the_default_limit_is_five_percent_or_25_tokens(baseline: int, limit: int) -> None:
    assert PROMPT.limit(baseline) == limit


@given(st.integers(0, 10**8))
def test_a_limit_is_never_below_its_baseline_and_no_floor_above(baseline: int) -> None:
    for tolerance in DEFAULTS.values():
        assert tolerance.floor(baseline) <= baseline <= tolerance.limit(baseline)


def test_no_pyproject_means_the_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()


def test_all_settings_are_read(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        """
        [tool.tokenbudget]
        max_cost_usd = 0.05
        max_total_tokens = 9_000
        max_spend_unbounded = true
        max_turns = 12
        runs_per_month = 3000
        redact = ["cust_[0-9]+"]
        allowed_hosts = ["telemetry.internal"]
        trusted_usage = ["gateway.internal"]
        ignored_hosts = ["telemetry.example.com"]
        [tool.tokenbudget.tolerance]
        prompt_tokens = "8%"
        cache_share = 3
        [tool.tokenbudget.minimum_cacheable_tokens]
        claude-sonnet-4-6 = 2048
        """,
        encoding="utf-8",
    )
    settings = load_settings(tmp_path)
    assert settings.scenario.tolerances["prompt_tokens"] == Tolerance(Fraction(8, 100), 25)
    assert settings.scenario.tolerances["cache_share"] == Tolerance(absolute=3)
    assert settings.scenario.tolerances["output_tokens"] == DEFAULTS["output_tokens"]
    assert settings.scenario.caps.max_cost_usd == Decimal("0.05")
    assert settings.scenario.caps.max_turns == 12
    assert settings.scenario.caps.max_total_tokens == 9_000
    assert settings.max_spend_unbounded
    assert settings.scenario.runs_per_month == 3000
    assert settings.redact == ("cust_[0-9]+",)
    assert settings.allowed_hosts == ("telemetry.internal",)
    assert settings.trusted_usage == ("gateway.internal",)
    assert settings.ignored_hosts == ("telemetry.example.com",)
    assert settings.minimum_cacheable_tokens == {"claude-sonnet-4-6": 2048}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"tolerence": "5%"}, "unknown key 'tolerence'. Did you mean tolerance? Use tolerance,"),
        ({"tolerance": "five"}, "tolerance: prompt_tokens: 'five' is no tolerance"),
        ({"tolerance": {"tokens": "5%"}}, "'tokens' is no metric; use prompt_tokens,"),
        ({"tolerance": {"turns": "5%"}}, "turns: '5%' is a share; write a whole number of turns"),
        ({"tolerance": {"cache_share": "5%"}}, "write a whole number of percentage points"),
        ({"max_turns": "3"}, "max_turns is '3'; write a whole number"),
        ({"max_cost_usd": "cheap"}, "max_cost_usd is 'cheap'; write dollars"),
        ({"max_cost_usd": float("nan")}, "write dollars"),
        ({"batchable": 1}, "write true or false"),
        ({"max_spend_unbounded": "yes"}, "max_spend_unbounded is 'yes'; write true or false"),
        ({"max_total_tokens": -1}, "max_total_tokens is -1; write a whole number"),
        ({"redact": "x"}, "write a list of strings"),
        ({"redact": ["("]}, "is no regular expression"),
        ({"exclude": "test_a.py"}, "exclude is 'test_a.py'; write a list of strings"),
        ({"allowed_hosts": [1]}, "write a list of strings"),
        ({"allowed_hosts": ["https://db.internal"]}, "'https://db.internal' is no host"),
        ({"trusted_usage": ["https://gateway.test"]}, "trusted_usage: 'https://gateway.test' is no host"),
        ({"ignored_hosts": ["https://t.internal"]}, "ignored_hosts: 'https://t.internal' is no host"),
        ({"minimum_cacheable_tokens": 3}, "must be a table"),
        ({"minimum_cacheable_tokens": {"m": -3}}, "minimum_cacheable_tokens.m is -3"),
        ([], "not a table"),
    ],
)
def test_bad_settings_are_named_with_the_place(table: object, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings(table, where="pyproject.toml, [tool.tokenbudget]")
    assert says in str(error.value)
    assert str(error.value).startswith("pyproject.toml, [tool.tokenbudget]: ")


def test_a_broken_pyproject_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"pyproject\.toml: cannot be read"):
        load_settings(tmp_path)


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, "utf-8")


def test_the_nearest_file_wins_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, '[tool.tokenbudget]\nmax_turns = 9\nmax_prompt_tokens = 100\nredact = ["a"]\n')
    write(tmp_path / "one", '[tool.tokenbudget]\nmax_turns = 3\nredact = ["b"]\nallowed_hosts = ["db"]\n')
    write(tmp_path / "one" / "tests", "[tool.ruff]\n")
    write(tmp_path / "two", '[tool.tokenbudget]\nredact = ["c"]\n')
    files = SettingsFiles(tmp_path)
    one, two = files.of(tmp_path / "one" / "tests" / "deep"), files.of(tmp_path / "two")
    assert (one.scenario.caps.max_turns, one.scenario.caps.max_prompt_tokens) == (3, 100)
    assert (two.scenario.caps.max_turns, two.scenario.caps.max_prompt_tokens) == (9, 100)
    assert (one.allowed_hosts, two.allowed_hosts) == (("db",), ())
    assert sorted(files.redact) == ["a", "b", "c"]
    assert files.of(tmp_path.parent) == files.of(tmp_path)


def test_files_above_the_root_hold_up_to_the_top_of_the_repository(tmp_path: Path) -> None:
    write(tmp_path, "[tool.tokenbudget]\nmax_turns = 9\n")
    write(tmp_path / "repository", "[tool.tokenbudget]\nmax_prompt_tokens = 100\n")
    write(tmp_path / "repository" / "one", "")
    assert load_settings(tmp_path / "repository" / "one") == Settings()
    (tmp_path / "repository" / ".git").mkdir()
    caps = load_settings(tmp_path / "repository" / "one").scenario.caps
    assert (caps.max_turns, caps.max_prompt_tokens) == (None, 100)


MISNAMED = """tool.token_budget tool.token-budget tool.tokenbudgets tool.pytest-tokenbudget tool.TokenBudget
tool.tokenbugdet tokenbudget token_budget"""


@pytest.mark.parametrize("name", MISNAMED.split())
def test_a_table_by_another_name_is_an_error_that_names_the_right_one(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"[{name}]\nmax_turns = 1\n")
    with pytest.raises(SettingsError, match=rf"\[{name}\] is read by nobody\. Write \[tool\.tokenbudget\]"):
        load_settings(tmp_path)


@pytest.mark.parametrize("name", ["tool.pytest", "tool.tokenizers", "tool.budget", "tool.token", "project"])
def test_other_tables_are_not_ours(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"[{name}]\nmax_turns = 1\n")
    assert load_settings(tmp_path) == Settings()


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("tests/test_a.py::test_pdf", True),
        ("tests/test_a.py::test_pdf[a]", True),
        ("tests/test_a.py::test_pdf[b]", False),
        ("tests/test_a.py::test_pd", False),
        ("tests/test_a.py::test_p?f", True),
        ("tests/test_a.py::*", True),
        ("tests/test_*", True),
        ("tests/test_a.py::test_[p]df", False),
        ("tests", True),
        ("tests/", True),
        ("test", False),
        ("*", True),
        ("tests/test_b.py", False),
        ("", False),
    ],
)
def test_a_pattern_is_a_prefix_of_node_ids(tmp_path: Path, pattern: str, matches: bool) -> None:
    (one,) = parse_settings({"exclude": [pattern]}, "pyproject.toml", folder=tmp_path).exclude
    assert one.matches(tmp_path / "tests" / "test_a.py", "test_pdf[a]") is matches
    assert not one.matches(tmp_path.parent / "tests" / "test_a.py", "test_pdf[a]")


def test_calls_are_allowed_by_host_or_by_test(tmp_path: Path) -> None:
    given = ["LLM.internal", "tests/test_a.py::test_one", "test_b.py"]
    settings = parse_settings({"allow_unmetered": given}, "pyproject.toml", folder=tmp_path)
    one, other = tmp_path / "tests" / "test_a.py", tmp_path / "test_b.py"
    assert settings.allows("llm.internal", other.with_name("test_c.py"), "test")
    assert settings.allows("host", one, "test_one[a]")
    assert settings.allows("host", other, "")
    assert not settings.allows("host", one, "test_two")
    assert parse_settings({"allow_unmetered": True}, "pyproject.toml").allows("host", one, "test_two")
    assert not Settings().allows("llm.internal", one, "test_one")


def test_a_marker_overrides_one_thing_and_keeps_the_rest() -> None:
    suite = override(ScenarioSettings(), {"tolerance": "8%", "max_turns": 9}, "pyproject.toml")
    test = override(suite, {"tolerance": {"output_tokens": "50%"}}, "tests/test_a.py::test_a")
    assert test.tolerances["prompt_tokens"].relative == Fraction(8, 100)
    assert test.tolerances["output_tokens"].relative == Fraction(1, 2)
    assert test.caps.max_turns == 9


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(judge=True, live=True, record=RecordMode.ALL), "records nothing"),
        (Options(judge=True, samples=3), "needs --token-budget-live"),
        (Options(judge=True, live=True, samples=0), "needs --token-budget-live"),
        (Options(reports=(parse_report("json:x.json", Path()),)), "add --token-budget"),
        (Options(judge=True, live=True, stability=True), "two replays"),
        (Options(judge=True, max_spend=Decimal(1)), "replay costs nothing"),
    ],
)
def test_options_that_contradict_each_other(options: Options, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        options.check()
    assert says in str(error.value)


@pytest.mark.parametrize(
    "text", ["json", "json:", "xml:out.xml", ":x", "html:no/such/folder/x.html", "json:."]
)
def test_a_report_that_cannot_be_written_is_refused_before_the_run(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--token-budget-report="):
        parse_report(text, tmp_path)


@pytest.mark.parametrize("text", ["", "much", "-1", "nan", "inf"])
def test_a_spend_limit_that_is_no_amount(text: str) -> None:
    with pytest.raises(SettingsError, match=r"write dollars, such as 2\.50"):
        parse_spend(text)


def test_a_spend_limit() -> None:
    assert parse_spend("2.50") == parse_spend("$2.50") == Decimal("2.5")
    assert parse_spend(None) is None
