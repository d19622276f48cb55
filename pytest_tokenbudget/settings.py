"""Settings: `[tool.tokenbudget]` of pyproject.toml, overridden by the marker of a test."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_tokenbudget.errors import SettingsError
from pytest_tokenbudget.tolerance import DEFAULTS, Metric, Tolerance, parse_tolerances


@dataclass(frozen=True, slots=True)
class Caps:
    """Absolute ceilings of one scenario run; None is no ceiling."""

    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    max_cost_usd: Decimal | None = None
    max_turns: int | None = None


@dataclass(frozen=True, slots=True)
class ScenarioSettings:
    """What is allowed to one scenario, and how often it runs in production."""

    tolerances: Mapping[Metric, Tolerance] = field(default_factory=lambda: DEFAULTS)
    caps: Caps = Caps()
    runs_per_month: int | None = None
    batchable: bool = False
    """Offline work, which could go through the Message Batches API."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All of `[tool.tokenbudget]`."""

    scenario: ScenarioSettings = ScenarioSettings()
    minimum_cacheable_tokens: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """By model, over the built-in table."""
    redact: tuple[str, ...] = ()
    """Regular expressions of what else must never reach a cassette."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that a scenario may reach in replay, beside loopback."""


_SCENARIO_KEYS = (
    "tolerance",
    "max_prompt_tokens",
    "max_output_tokens",
    "max_cost_usd",
    "max_turns",
    "runs_per_month",
    "batchable",
)
_SUITE_KEYS = ("minimum_cacheable_tokens", "redact", "allowed_hosts")


def load_settings(root: Path) -> Settings:
    """Read `[tool.tokenbudget]` of `root`/pyproject.toml; the defaults where there is none.

    Raises SettingsError naming the file, the key and the fix.
    """
    path = root / "pyproject.toml"
    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except FileNotFoundError:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}. Repair the file.") from error
    table = tool.get("tokenbudget", {}) if isinstance(tool, Mapping) else tool
    return parse_settings(table, where=f"{path}, [tool.tokenbudget]")


def parse_settings(table: object, where: str) -> Settings:
    """Read the values of `[tool.tokenbudget]`; `where` names it in errors."""
    if not isinstance(table, Mapping):
        raise SettingsError(
            f"{where}: is {table!r}, not a table. Write `[tool.tokenbudget]` and keys below it."
        )
    _refuse_unknown(table, (*_SCENARIO_KEYS, *_SUITE_KEYS), where)
    per_scenario = {key: value for key, value in table.items() if key in _SCENARIO_KEYS}
    minimums = table.get("minimum_cacheable_tokens", {})
    if not isinstance(minimums, Mapping):
        raise SettingsError(f"{where}: minimum_cacheable_tokens must be a table of model = tokens.")
    checked = {str(m): _whole(n, f"minimum_cacheable_tokens.{m}", where) for m, n in minimums.items()}
    return Settings(
        scenario=override(ScenarioSettings(), per_scenario, where),
        minimum_cacheable_tokens=MappingProxyType(checked),
        redact=_patterns(table.get("redact", []), where),
        allowed_hosts=_hosts(table.get("allowed_hosts", []), where),
    )


def override(base: ScenarioSettings, arguments: Mapping[str, Any], where: str) -> ScenarioSettings:
    """`base` with the keyword arguments of a marker (or of the settings table) over it.

    Raises SettingsError naming `where`, the argument and what it may be.
    """
    _refuse_unknown(arguments, _SCENARIO_KEYS, where)
    tolerances = base.tolerances
    if "tolerance" in arguments:
        try:
            tolerances = parse_tolerances(arguments["tolerance"], base.tolerances)
        except ValueError as error:
            raise SettingsError(f"{where}: tolerance: {error}.") from None
    readers: Mapping[str, Callable[[object, str, str], object]] = {
        "max_prompt_tokens": _whole,
        "max_output_tokens": _whole,
        "max_cost_usd": _dollars,
        "max_turns": _whole,
    }
    given = {key: read(arguments[key], key, where) for key, read in readers.items() if key in arguments}
    caps = dataclasses.replace(base.caps, **given)  # type: ignore[arg-type]  # each reader gives its field's type
    runs, batchable = base.runs_per_month, arguments.get("batchable", base.batchable)
    if "runs_per_month" in arguments:
        runs = _whole(arguments["runs_per_month"], "runs_per_month", where)
    if not isinstance(batchable, bool):
        raise SettingsError(f"{where}: batchable is {batchable!r}; write true or false.")
    return ScenarioSettings(tolerances, caps, runs, batchable)


def _refuse_unknown(given: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in allowed:
            raise SettingsError(f"{where}: unknown key {key!r}. Use {', '.join(allowed)}.")


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


def _hosts(value: object, where: str) -> tuple[str, ...]:
    hosts = _texts(value, "allowed_hosts", where)
    for host in hosts:
        if not host or "://" in host:
            raise SettingsError(f"{where}: allowed_hosts: {host!r} is no host; write such as db.internal.")
    return hosts


def _patterns(value: object, where: str) -> tuple[str, ...]:
    patterns = _texts(value, "redact", where)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingsError(f"{where}: redact: {pattern!r} is no regular expression: {error}.") from None
    return patterns
