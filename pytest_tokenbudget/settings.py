"""Read all settings: `[tool.tokenbudget]` of pyproject.toml, markers, command-line options, tolerances.

A marker overrides the nearest file, which overrides the files above it, key by key. A tolerance says how far
above its baseline a metric may go.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from pytest_tokenbudget.errors import SettingsError

MARKER = "token_budget"
"""The marker of a test that is a scenario."""
SAMPLE = "token_budget_sample"
"""The parameter that runs a test several times."""

Counting = Literal["offline", "api"]
ReportType = Literal["json", "markdown", "html"]
_REPORT_TYPES: tuple[str, ...] = get_args(ReportType)


class RecordMode(StrEnum):
    """Which calls are really made and recorded."""

    NONE = "none"
    """No call: all is replayed."""
    ONCE = "once"
    """The calls of scenarios that have no cassette."""
    CHANGED = "changed"
    """Requests that the cassette does not answer to the letter."""
    ALL = "all"
    """Every call."""


@dataclass(frozen=True, slots=True)
class ReportTarget:
    """A report that `--token-budget-report=TYPE:DEST` asks for."""

    type: str
    path: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """A file into which a replay writes what a recording would call: `all`, or what `changed`."""

    mode: RecordMode
    path: Path


@dataclass(frozen=True, slots=True)
class Options:
    """The `--token-budget...` options of one run."""

    judge: bool = False
    update: bool = False
    update_all: bool = False
    """Whether an update takes what is within its tolerance as well."""
    migrate: bool = False
    """Whether baselines of version 1 that still hold are written as version 2."""
    record: RecordMode = RecordMode.NONE
    live: bool = False
    samples: int = 1
    count: Counting = "offline"
    max_spend: Decimal | None = None
    purse: Path | None = None
    """File in which the processes of one run keep what they spend, where real calls are made."""
    reports: tuple[ReportTarget, ...] = ()
    log: Path | None = None
    """File that gets one line a metered scenario."""
    plan: Plan | None = None
    """Where to write what a recording would call, in place of recording it."""
    stability: bool = False
    prompts: Path | None = None
    """Folder that keeps the prompts of a stability check."""
    collected: Path | None = None
    """File that says what was collected, for `tokenbudget prune`."""

    @property
    def mode(self) -> str:
        """`replay`, `record` or `live`, as the document says it."""
        if self.live:
            return "live"
        return "replay" if self.record == RecordMode.NONE else "record"

    @property
    def calls(self) -> bool:
        """Whether this run may reach the API and cost money."""
        return self.live or self.record != RecordMode.NONE

    @property
    def is_second_replay(self) -> bool:
        """Whether this is the second replay of a run, in another process."""
        return self.prompts is not None and not self.stability

    @property
    def taken(self) -> Literal["due", "all", "migration"]:
        """Which baselines an update writes: those that are due, all, or the migration alone."""
        if self.migrate:
            return "migration"
        return "all" if self.update_all else "due"

    def check(self) -> None:
        """Raise SettingsError for options that contradict each other."""
        if self.live and self.record != RecordMode.NONE:
            raise SettingsError("--token-budget-live records nothing: drop --token-budget-record.")
        if self.update and self.migrate:
            raise SettingsError(
                "--token-budget-migrate writes only what has not changed: "
                "drop --token-budget-update, and update afterwards."
            )
        if self.live and self.migrate:
            raise SettingsError("--token-budget-migrate replays: drop --token-budget-live.")
        if self.samples < 1 or (self.samples > 1 and not self.live):
            raise SettingsError("--token-budget-samples=N needs --token-budget-live and an N of 1 or more.")
        if self.reports and not self.judge:
            raise SettingsError("--token-budget-report reports what was judged: add --token-budget.")
        if self.stability and not self.judge:
            raise SettingsError("--token-budget-stability compares two replays: add --token-budget.")
        if self.stability and self.calls:
            raise SettingsError(
                "--token-budget-stability compares two replays: record, or run live, without it."
            )
        if self.max_spend is not None and not self.calls:
            raise SettingsError(
                "--token-budget-max-spend limits recording and live runs; replay costs nothing."
            )


def parse_report(text: str, base: Path) -> ReportTarget:
    """Read TYPE:DEST; DEST is relative to `base`. Raises SettingsError that names the types."""
    kind, _, destination = text.partition(":")
    if kind not in _REPORT_TYPES or not destination:
        raise SettingsError(
            f"--token-budget-report={text}: write TYPE:DEST with TYPE one of {', '.join(_REPORT_TYPES)}, "
            "such as json:token-budget.json."
        )
    return ReportTarget(kind, _file(f"--token-budget-report={text}", base / destination))


def parse_log(text: str | None, base: Path) -> Path | None:
    """Read the file of `--token-budget-log`, relative to `base`; None stays None. Raises SettingsError."""
    return None if text is None else _file(f"--token-budget-log={text}", base / text)


def _file(option: str, path: Path) -> Path:
    """Return `path` if a file can be there. Raises SettingsError."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"needs the folder {path.parent}, which does not exist"
        raise SettingsError(f"{option}: {path} {what}. Name a file in an existing folder.")
    return path


def parse_reports(texts: Sequence[str], base: Path) -> tuple[ReportTarget, ...]:
    """Read every `--token-budget-report`, relative to `base`. Raises SettingsError."""
    return tuple(parse_report(text, base) for text in texts)


def parse_spend(text: str | None) -> Decimal | None:
    """Read the dollars of `--token-budget-max-spend`; None stays None. Raises SettingsError."""
    if text is None:
        return None
    try:
        amount = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise SettingsError(f"--token-budget-max-spend={text}: write dollars, such as 2.50.")
    return amount


Metric = Literal["prompt_tokens", "output_tokens", "turns", "cache_share", "cost_usd"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_TEXT = re.compile(r"\+?(?:(?P<percent>\d+(?:\.\d+)?)\s*%)?(?:\s*or\s*)?(?:\+?(?P<absolute>\d+))?")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Growth allowed over a baseline: the larger of a share of it and an absolute amount.

    For `cache_share`, `absolute` is in percentage points, downwards. For `cost_usd` it is unused: the price
    of the absolute token tolerances takes its place, so that a tiny scenario is not failed for its cents.
    """

    relative: Fraction = Fraction(0)
    absolute: int = 0

    def limit(self, baseline: int) -> int:
        """Return the largest count that is still allowed, rounded to a whole one."""
        return baseline + max(round(self.relative * baseline), self.absolute)

    def floor(self, baseline: int) -> int:
        """Return the count below which a run is an improvement, not noise."""
        return baseline - max(round(self.relative * baseline), self.absolute)

    def cost_limit(self, baseline: Decimal, least: Decimal) -> Decimal:
        """Return the highest cost that is still allowed, in dollars.

        `least` is the price of the absolute token tolerances.
        """
        relative = baseline * self.relative.numerator / self.relative.denominator
        return baseline + max(relative, least)


DEFAULTS: Mapping[Metric, Tolerance] = MappingProxyType(
    {
        "prompt_tokens": Tolerance(Fraction(5, 100), 25),
        "output_tokens": Tolerance(Fraction(10, 100), 25),
        "turns": Tolerance(),
        "cache_share": Tolerance(absolute=5),
        "cost_usd": Tolerance(Fraction(5, 100)),
    }
)
_BY_ONE_VALUE: tuple[Metric, ...] = ("prompt_tokens", "output_tokens", "cost_usd")


def parse_tolerance(value: object, default: Tolerance) -> Tolerance:
    """Read `"10%"`, `200`, `"200"` or `"10% or 200"`; a share alone keeps the default's absolute amount.

    `"0%"` and `0` mean exactly that: no growth. Raises ValueError with the reason.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Tolerance(absolute=value)
    match = _TEXT.fullmatch(value.strip()) if isinstance(value, str) and value.strip() else None
    if match is None or not any(match.groups()):
        raise ValueError(f'{value!r} is no tolerance; write "10%", 200 or "10% or 200"')
    if match["percent"] is None:
        return Tolerance(absolute=int(match["absolute"]))
    relative = Fraction(match["percent"]) / 100
    if match["absolute"] is not None:
        return Tolerance(relative, int(match["absolute"]))
    return replace(default, relative=relative) if relative else Tolerance()


def parse_tolerances(
    value: object, base: Mapping[Metric, Tolerance] = DEFAULTS
) -> Mapping[Metric, Tolerance]:
    """Read a tolerance setting over `base`: one value for tokens and cost, or a table by metric.

    Raises ValueError that names the metric and the reason.
    """
    if not isinstance(value, Mapping):
        given: Mapping[object, object] = dict.fromkeys(_BY_ONE_VALUE, value)
    else:
        given = value
    tolerances = dict(base)
    for key, one in given.items():
        metric = next((name for name in METRICS if name == key), None)
        if metric is None:
            raise ValueError(f"{key!r} is no metric; use {', '.join(METRICS)}")
        try:
            parsed = parse_tolerance(one, base[metric])
        except ValueError as error:
            raise ValueError(f"{metric}: {error}") from None
        if metric in ("turns", "cache_share") and parsed.relative:
            unit = "turns" if metric == "turns" else "percentage points"
            raise ValueError(f"{metric}: {one!r} is a share; write a whole number of {unit}")
        tolerances[metric] = parsed
    return MappingProxyType(tolerances)


@dataclass(frozen=True, slots=True)
class Caps:
    """Absolute ceilings of one scenario run; None is no ceiling."""

    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    max_total_tokens: int | None = None
    max_cost_usd: Decimal | None = None
    max_turns: int | None = None


@dataclass(frozen=True, slots=True)
class ScenarioSettings:
    """What is allowed to one scenario, and how often it runs in production."""

    tolerances: Mapping[Metric, Tolerance] = field(default_factory=lambda: DEFAULTS)
    caps: Caps = Caps()
    runs_per_month: int | None = None
    batchable: bool = False
    """Whether nobody waits for it, so that it could go through the Message Batches API."""
    exclude: str | None = None
    """Why it is not judged; None if it is."""


@dataclass(frozen=True, slots=True)
class NodePattern:
    """A prefix of node ids, relative to the folder of the file that holds it; `*` and `?` are wildcards.

    It ends where a name ends: `test_a.py::test_pdf` is the prefix of `test_a.py::test_pdf[x]`, and none of
    `test_a.py::test_pdf_two`.
    """

    text: str
    folder: Path

    def matches(self, file: Path, name: str) -> bool:
        """Return whether the test `name` of `file` (absolute) begins with the pattern."""
        if not file.is_relative_to(self.folder):
            return False
        node = f"{file.relative_to(self.folder).as_posix()}::{name}"
        return _node_prefix(self.text).match(node) is not None

    @property
    def stem(self) -> Path:
        """Return the file or folder that all it can match lies in."""
        path, _, _ = self.text.partition("::")
        known = path if not re.search(r"[*?]", path) else re.split(r"[*?]", path)[0].rpartition("/")[0]
        return self.folder / known


@cache
def _node_prefix(text: str) -> re.Pattern[str]:
    wild = re.escape(text.rstrip("/")).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(rf"(?:{wild})(?=$|/|::|\[)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of `[tool.tokenbudget]`."""

    scenario: ScenarioSettings = ScenarioSettings()
    minimum_cacheable_tokens: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Shortest cacheable prefix (tokens) by model, over the built-in table."""
    redact: tuple[str, ...] = ()
    """Regular expressions of what else must never reach a cassette."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that a scenario may reach in replay, beside loopback."""
    trusted_usage: tuple[str, ...] = ()
    """Hosts whose usage is taken as it is, whatever the prompts count."""
    ignored_hosts: tuple[str, ...] = ()
    """Hosts that are sent nothing but model calls: all else gets an empty answer, in recording too."""
    placeholder: bool = True
    """Whether a request that nothing answers gets a placeholder in judging runs, so that it gets bounds."""
    max_spend_unbounded: bool = False
    """Whether calls with an unknown worst case are made under a spend limit, too."""
    exclude: tuple[NodePattern, ...] = ()
    """Tests that are not judged."""
    allow_unmetered: bool | tuple[str | NodePattern, ...] = False
    """Model calls that no scenario needs to meter: all, none, or those of certain hosts and tests."""

    def allows(self, host: str, file: Path, test: str) -> bool:
        """Return whether `test` of `file` (absolute) may call a model at `host` that no scenario meters."""
        if isinstance(self.allow_unmetered, bool):
            return self.allow_unmetered
        return any(
            one.matches(file, test) if isinstance(one, NodePattern) else one.lower() == host
            for one in self.allow_unmetered
        )


_SCENARIO_KEYS = (
    "tolerance",
    "max_prompt_tokens",
    "max_output_tokens",
    "max_total_tokens",
    "max_cost_usd",
    "max_turns",
    "runs_per_month",
    "batchable",
)
_SUITE_KEYS = (
    "minimum_cacheable_tokens",
    "redact",
    "allowed_hosts",
    "trusted_usage",
    "ignored_hosts",
    "placeholder",
    "max_spend_unbounded",
    "exclude",
    "allow_unmetered",
)
_TABLE = "tokenbudget"
_ALIKE = 0.9
"""From this likeness on (0 to 1), another table's name is taken for a misspelling of ours."""


def load_settings(folder: Path) -> Settings:
    """Return the settings that hold in `folder`. Raises SettingsError that names file, key and fix."""
    return SettingsFiles(folder).of(folder)


class SettingsFiles:
    """Reads the settings of each folder: those of its pyproject.toml over those of the folders above it.

    Folders above `root` count up to the top of its repository; without a repository, `root` is the top.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = next((at for at in (root, *root.parents) if (at / ".git").exists()), root)
        self._read: dict[Path, Settings] = {}

    @property
    def redact(self) -> tuple[str, ...]:
        """Return the union of the patterns of all folders that were asked for."""
        return tuple(dict.fromkeys(text for one in self._read.values() for text in one.redact))

    @property
    def minimum_cacheable_tokens(self) -> Mapping[str, int]:
        """Return what any of these folders says of a model, of several the nearest to a test."""
        nearest_last = sorted(self._read.items(), key=lambda item: len(item[0].parts))
        return {
            model: least for _, one in nearest_last for model, least in one.minimum_cacheable_tokens.items()
        }

    @property
    def exclude(self) -> frozenset[NodePattern]:
        """Return the patterns of all these folders."""
        return frozenset(pattern for one in self._read.values() for pattern in one.exclude)

    def of(self, folder: Path) -> Settings:
        """Return the settings that hold in `folder`, or those of the root if it lies elsewhere.

        Raises SettingsError that names the file, the key and the fix.
        """
        if not folder.is_relative_to(self._top):
            folder = self._root
        if folder not in self._read:
            above = self.of(folder.parent) if folder != self._top else Settings()
            self._read[folder] = _read_settings(folder / "pyproject.toml", above)
        return self._read[folder]


def _read_settings(path: Path, above: Settings) -> Settings:
    """Return the settings of a file over those `above`, which hold where it says nothing."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return above
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}. Repair the file.") from error
    tool = document.get("tool", {})
    if not isinstance(tool, Mapping):
        raise SettingsError(f"{path}: `tool` is no table. Write `[tool.{_TABLE}]` and keys below it.")
    for name in _misnamed(document, tool):
        raise SettingsError(f"{path}: [{name}] is read by nobody. Write [tool.{_TABLE}].")
    if _TABLE not in tool:
        return above
    return parse_settings(tool[_TABLE], f"{path}, [tool.{_TABLE}]", above, path.parent)


def _misnamed(document: Mapping[str, object], tool: Mapping[str, object]) -> Iterator[str]:
    """Yield the names of tables whose names look like misspellings of ours."""
    yield from (name for name in document if name != "tool" and _is_alike(name))
    yield from (f"tool.{name}" for name in tool if name != _TABLE and _is_alike(name))


def _is_alike(name: str) -> bool:
    letters = re.sub(r"[^a-z]", "", name.lower()).removeprefix("pytest")
    return difflib.SequenceMatcher(None, letters, _TABLE).ratio() >= _ALIKE


def parse_settings(
    table: object, where: str, above: Settings | None = None, folder: Path = Path()
) -> Settings:
    """Read the values of `[tool.tokenbudget]` over those of the files `above`; `where` names it in errors.

    Patterns of tests are relative to `folder`.
    """
    if not isinstance(table, Mapping):
        raise SettingsError(
            f"{where}: is {table!r}, not a table. Write `[tool.tokenbudget]` and keys below it."
        )
    above = above or Settings()
    _refuse_unknown(table, (*_SCENARIO_KEYS, *_SUITE_KEYS), where)
    per_scenario = {key: value for key, value in table.items() if key in _SCENARIO_KEYS}
    readers: Mapping[str, Callable[[object, str, str], object]] = {
        "minimum_cacheable_tokens": _minimums,
        "redact": lambda value, key, where: (*above.redact, *_patterns(value, key, where)),
        "allowed_hosts": _hosts,
        "trusted_usage": _hosts,
        "ignored_hosts": _hosts,
        "placeholder": _flag,
        "max_spend_unbounded": _flag,
        "exclude": lambda value, key, where: tuple(
            NodePattern(text, folder) for text in _texts(value, key, where)
        ),
        "allow_unmetered": lambda value, key, where: _unmetered(value, key, where, folder),
    }
    given = {key: read(table[key], key, where) for key, read in readers.items() if key in table}
    scenario = override(above.scenario, per_scenario, where)
    return dataclasses.replace(above, scenario=scenario, **given)  # type: ignore[arg-type]  # of each reader


def override(base: ScenarioSettings, arguments: Mapping[str, Any], where: str) -> ScenarioSettings:
    """Return `base` with the keyword arguments of a marker (or of the settings table) over it.

    Raises SettingsError that names `where`, the argument and what it may be.
    """
    _refuse_unknown(arguments, (*_SCENARIO_KEYS, "exclude"), where)
    tolerances = base.tolerances
    if "tolerance" in arguments:
        try:
            tolerances = parse_tolerances(arguments["tolerance"], base.tolerances)
        except ValueError as error:
            raise SettingsError(f"{where}: tolerance: {error}.") from None
    readers: Mapping[str, Callable[[object, str, str], object]] = {
        "max_prompt_tokens": _whole,
        "max_output_tokens": _whole,
        "max_total_tokens": _whole,
        "max_cost_usd": _dollars,
        "max_turns": _whole,
    }
    given = {key: read(arguments[key], key, where) for key, read in readers.items() if key in arguments}
    caps = dataclasses.replace(base.caps, **given)  # type: ignore[arg-type]  # each reader gives its field's type
    runs, batchable = base.runs_per_month, arguments.get("batchable", base.batchable)
    if "runs_per_month" in arguments:
        runs = _whole(arguments["runs_per_month"], "runs_per_month", where)
    exclude = _reason(arguments["exclude"], where) if "exclude" in arguments else base.exclude
    return ScenarioSettings(tolerances, caps, runs, _flag(batchable, "batchable", where), exclude)


def _refuse_unknown(given: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in allowed:
            meant = difflib.get_close_matches(str(key), allowed, 1)
            hint = f"Did you mean {meant[0]}? " if meant else ""
            raise SettingsError(f"{where}: unknown key {key!r}. {hint}Use {', '.join(allowed)}.")


def _reason(value: object, where: str) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise SettingsError(f'{where}: exclude is {value!r}; write why, such as exclude="asks for the weather".')


def _minimums(value: object, key: str, where: str) -> Mapping[str, int]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: {key} must be a table of model = tokens.")
    return MappingProxyType({str(m): _whole(n, f"{key}.{m}", where) for m, n in value.items()})


def _flag(value: object, key: str, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise SettingsError(f"{where}: {key} is {value!r}; write true or false.")


def _whole(value: object, key: str, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise SettingsError(f"{where}: {key} is {value!r}; write a whole number of 0 or more.")


def _dollars(value: object, key: str, where: str) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise SettingsError(f"{where}: {key} is {value!r}; write dollars a run, such as 0.05.")
    return amount


def _texts(value: object, key: str, where: str) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise SettingsError(f"{where}: {key} is {value!r}; write a list of strings.")


def _hosts(value: object, key: str, where: str) -> tuple[str, ...]:
    hosts = _texts(value, key, where)
    for host in hosts:
        if not host or "://" in host:
            raise SettingsError(f"{where}: {key}: {host!r} is no host; write such as db.internal.")
    return hosts


def _unmetered(value: object, key: str, where: str, folder: Path) -> bool | tuple[str | NodePattern, ...]:
    """Read true or false, or a list of hosts and of node ids, which have a slash, `::` or a file's name."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, list):
        raise SettingsError(f"{where}: {key} is {value!r}; write true, or a list of hosts and tests.")
    is_test = re.compile(r"::|/|\.py$|[*?]")
    texts = _texts(value, key, where)
    tests = [text for text in texts if "://" not in text and is_test.search(text)]
    hosts = _hosts([text for text in texts if text not in tests], key, where)
    return (*hosts, *(NodePattern(text, folder) for text in tests))


def _patterns(value: object, key: str, where: str) -> tuple[str, ...]:
    patterns = _texts(value, key, where)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingsError(f"{where}: {key}: {pattern!r} is no regular expression: {error}.") from None
    return patterns
