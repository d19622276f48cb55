"""What became of the committed baselines since another commit, as JSON, and what failed there already.

    DIFF = {"version": 1, "prices": {"source": ..., "version": ...},
      "base": {"name": "origin/main", "commit": HASH}, "unchanged": 11,
      "scenarios": [{"id": ..., "was": ..., "matched": "file" | "tokens" | null,
        "change": "raised" | "lowered" | "shifted" | "added" | "removed" | "renamed",
        "before": TOKENS | null, "now": TOKENS | null}],
      "already": null | [{"id": ..., "verdict": "over", "commit": HASH | null, "worse": [METRIC, ...]}]}

`already` is null where nobody brought a document of the base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from pytest_tokenbudget.budget.changes import Change
from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.reports import build, view
from pytest_tokenbudget.reports.document import Document, LimitEntry, ScenarioEntry, TokensEntry
from pytest_tokenbudget.reports.rows import METRICS
from pytest_tokenbudget.reports.validation import problems

VERSION = 1
_AGAIN = "Write it again with `tokenbudget diff --format json`."


class BaseEntry(TypedDict):
    """What the baselines are compared with."""

    name: str
    """As it was asked for."""
    commit: str


class ChangeEntry(TypedDict):
    """One baseline that is not what it was."""

    id: str
    was: str
    matched: str | None
    change: str
    before: TokensEntry | None
    now: TokensEntry | None


class AlreadyEntry(TypedDict):
    """A scenario that fails, and failed with the same verdict at the base."""

    id: str
    verdict: str
    commit: str | None
    """Where it was measured failing."""
    worse: list[str]
    """Metrics further past their limit than then, or only now past it: for these the change answers."""


class Diff(TypedDict):
    """DIFF."""

    version: int
    base: BaseEntry
    prices: dict[str, str]
    unchanged: int
    scenarios: list[ChangeEntry]
    already: list[AlreadyEntry] | None


def diff(
    changes: Sequence[Change], unchanged: int, base: BaseEntry, prices: Mapping[str, str], cost: CostOf
) -> Diff:
    """The DIFF of `changes`; both sides at the same prices."""
    scenarios: list[ChangeEntry] = [
        {
            "id": one.id,
            "was": one.was,
            "matched": None if one.matched is None else str(one.matched),
            "change": str(one.direction),
            "before": None if one.before is None else build.tokens(one.before, cost),
            "now": None if one.now is None else build.tokens(one.now, cost),
        }
        for one in changes
    ]
    return {
        "version": VERSION,
        "base": base,
        "prices": dict(prices),
        "unchanged": unchanged,
        "scenarios": scenarios,
        "already": None,
    }


def already_failing(report: Document, base: Document, was: Mapping[str, str]) -> list[AlreadyEntry]:
    """What fails in `report` and failed with the same verdict in `base`, a document made at the base.

    `was` holds the ids of then of scenarios that have another one now.
    """
    then = {one["id"]: one for one in base["scenarios"]}
    found: list[AlreadyEntry] = []
    for one in filter(view.fails, report["scenarios"]):
        before = then.get(was.get(one["id"], one["id"]))
        if before is not None and before["verdict"] == one["verdict"]:
            worse = _worse(one, before)
            found.append(
                {"id": one["id"], "verdict": one["verdict"], "commit": base["commit"], "worse": worse}
            )
    return found


def _worse(now: ScenarioEntry, before: ScenarioEntry) -> list[str]:
    then = {limit["metric"]: limit for limit in before["limits"] if limit["over"]}
    exceeded = [limit for limit in now["limits"] if limit["over"]]
    return [
        one["metric"] for one in exceeded if one["metric"] not in then or _is_worse(one, then[one["metric"]])
    ]


def _is_worse(now: LimitEntry, before: LimitEntry) -> bool:
    measured, measured_before = now["measured"], before["measured"]
    if measured is None or measured_before is None:
        return measured is None and measured_before is not None
    return measured < measured_before if now["metric"] == "cache_share" else measured > measured_before


def load_diff(path: Path) -> Diff:
    """Read and validate the DIFF at `path`; `ReportError` says what is wrong with it."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}. {_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}. {_AGAIN}") from error
    wrong = next(problems(found, _SCHEMA), None)
    if wrong is not None:
        raise ReportError(f"{path}: {wrong}. {_AGAIN}")
    return cast("Diff", found)


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_TOKENS_OR_NULL = {"anyOf": [{"$ref": "#/$defs/tokens"}, {"type": "null"}]}
_CHANGES = {"enum": ["raised", "lowered", "shifted", "added", "removed", "renamed"]}
_CHANGE = _object(
    id=_TEXT,
    was=_TEXT,
    matched={"enum": ["file", "tokens", None]},
    change=_CHANGES,
    before=_TOKENS_OR_NULL,
    now=_TOKENS_OR_NULL,
)
_ALREADY = _object(
    id=_TEXT,
    verdict={"enum": ["over", "stale", "new"]},
    commit=_TEXT_OR_NULL,
    worse={"type": "array", "items": {"enum": list(METRICS)}},
)
_SCHEMA = _object(
    version={"const": VERSION},
    base=_object(name=_TEXT, commit=_TEXT),
    prices=_object(source=_TEXT, version=_TEXT),
    unchanged={"$ref": "#/$defs/count"},
    scenarios={"type": "array", "items": _CHANGE},
    already={"anyOf": [{"type": "array", "items": _ALREADY}, {"type": "null"}]},
)
