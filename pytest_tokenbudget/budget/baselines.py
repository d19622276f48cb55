"""The committed baselines: one YAML file a test module, written by the tool, one value a line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.files import dump_yaml, load_yaml, write_atomically
from pytest_tokenbudget.model import COUNTS, Rate, Tokens, Usage

VERSION = 1
_UPDATE = "pytest --token-budget --token-budget-update"
_HEADER = f"# Token budgets. Written by `{_UPDATE}`; commit it and review it like code.\n"
_OPTIONAL = "web_search_requests"
REQUIRED = tuple(count for count in COUNTS if count != _OPTIONAL)
"""Counts that every rate of a baseline has."""
_COMMITTED = "It was committed so: name another commit to compare with."


def baseline_path(test_file: Path) -> Path:
    """Where the baselines of a test module are: `<test dir>/token_budgets/<module>.yaml`."""
    return test_file.parent / "token_budgets" / f"{test_file.stem}.yaml"


def read_baselines(path: Path) -> Mapping[str, Usage]:
    """Baselines by scenario name (the node id without its file); empty where there is no file.

    Raises BaselineError naming the file, what is wrong in it and the fix.
    """
    restore = f"Restore it (git checkout -- {shlex.quote(str(path))}), or delete it and run `{_UPDATE}`."
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return MappingProxyType({})
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BaselineError(f"{path}: cannot be read: {why}. {restore}") from error
    return parse_baselines(text, where=str(path), fix=restore)


def parse_baselines(text: str, where: str, fix: str = _COMMITTED) -> Mapping[str, Usage]:
    """Read the text of a baseline file; in errors, `where` names it and `fix` is the next step."""
    try:
        document = load_yaml(text)
    except ValueError as error:
        raise BaselineError(f"{where}: is no YAML: {error}. {fix}") from error
    if not isinstance(document, dict) or "version" not in document:
        raise BaselineError(f"{where}: is no baseline file: it has no `version`. {fix}")
    version = document["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BaselineError(f"{where}: `version` is {version!r}, not {VERSION}. {fix}")
    if version > VERSION:
        raise BaselineError(
            f"{where}: is of version {version!r}; this pytest-tokenbudget reads {VERSION}. "
            "Install the newer version that wrote it."
        )
    scenarios = document.get("scenarios")
    if not isinstance(scenarios, dict):
        raise BaselineError(f"{where}: `scenarios` is not a table. {fix}")
    try:
        _refuse_unknown(document, ("version", "scenarios"), "the file")
        return MappingProxyType({str(k): _usage(v, str(k)) for k, v in scenarios.items()})
    except ValueError as error:
        raise BaselineError(f"{where}: {error}. {fix}") from None


def _usage(value: object, where: str) -> Usage:
    """Raises ValueError, as those below, that says what is wrong `where`."""
    if not isinstance(value, dict) or not isinstance(value.get("models"), dict):
        raise ValueError(f"{where}: is not `turns` and `models`")
    _refuse_unknown(value, ("turns", "models"), where)
    by_rate = {
        Rate.parse(str(rate)): _tokens(counts, f"{where}: {rate}") for rate, counts in value["models"].items()
    }
    return Usage(_count(value.get("turns"), f"{where}: turns"), MappingProxyType(by_rate))


def _tokens(value: object, where: str) -> Tokens:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: is not a table of token counts")
    _refuse_unknown(value, COUNTS, where)
    counts = {key: _count(value.get(key), f"{where}: {key}") for key in REQUIRED}
    return Tokens(**counts, web_search_requests=_count(value.get(_OPTIONAL, 0), f"{where}: {_OPTIONAL}"))


def _refuse_unknown(table: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    """It would mean nothing, and be lost when the file is written again."""
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}")


def _count(value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{where}: is {value!r}, not a count")


def format_baselines(baselines: Mapping[str, Usage]) -> str:
    """The text of a baseline file: sorted, one value a line, the same bytes for the same baselines."""
    scenarios = {name: _as_table(baselines[name]) for name in sorted(baselines)}
    document = {"version": VERSION, "scenarios": scenarios}
    return _HEADER + dump_yaml(document)


def _as_table(usage: Usage) -> dict[str, Any]:
    models = {}
    for rate in sorted(usage.by_rate):
        tokens = usage.by_rate[rate]
        models[str(rate)] = {key: getattr(tokens, key) for key in REQUIRED}
        if tokens.web_search_requests:
            models[str(rate)][_OPTIONAL] = tokens.web_search_requests
    return {"turns": usage.turns, "models": models}


def write_baselines(path: Path, changed: Mapping[str, Usage]) -> bool:
    """Put `changed` over what the file holds and keep the rest; whether the file was written.

    Nothing is pruned; a file whose baselines stay the same keeps every byte; the file is replaced whole or
    not at all. Raises BaselineError where it cannot be read or written.
    """
    kept = read_baselines(path)
    merged = {**kept, **changed}
    if merged == kept:
        return False
    try:
        write_atomically(path, format_baselines(merged).encode())
    except OSError as error:
        raise BaselineError(
            f"{path}: cannot be written: {error.strerror or error}. The baselines on disk are as they were; "
            f"make the folder writable and run `{_UPDATE}` again."
        ) from error
    return True
