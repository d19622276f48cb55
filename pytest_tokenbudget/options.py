"""What the command line asks of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Literal, get_args

from pytest_tokenbudget.errors import SettingsError

MARKER = "token_budget"
"""Of a test that is a scenario."""
SAMPLE = "token_budget_sample"
"""The parameter that runs a test several times."""

Counting = Literal["offline", "api"]
ReportType = Literal["json", "markdown", "html"]
_REPORT_TYPES: tuple[str, ...] = get_args(ReportType)


class RecordMode(StrEnum):
    """What is really called and recorded."""

    NONE = "none"
    """Nothing: replay."""
    ONCE = "once"
    """Scenarios that have no cassette."""
    CHANGED = "changed"
    """Requests that the cassette does not answer to the letter."""
    ALL = "all"
    """Everything."""


@dataclass(frozen=True, slots=True)
class ReportTarget:
    """One `--token-budget-report=TYPE:DEST`."""

    type: str
    path: Path


@dataclass(frozen=True, slots=True)
class Options:
    """The `--token-budget...` options of one run."""

    judge: bool = False
    update: bool = False
    record: RecordMode = RecordMode.NONE
    live: bool = False
    samples: int = 1
    count: Counting = "offline"
    max_spend: Decimal | None = None
    reports: tuple[ReportTarget, ...] = ()
    stability: bool = False
    prompts: Path | None = None
    """Folder that what is asked is kept in, for a stability check."""

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

    def check(self) -> None:
        """Raise SettingsError for options that contradict each other."""
        if self.live and self.record != RecordMode.NONE:
            raise SettingsError("--token-budget-live records nothing: drop --token-budget-record.")
        if self.live and self.update:
            raise SettingsError(
                "A baseline is written from a recording, not from live runs: "
                "use --token-budget-record=changed with --token-budget-update."
            )
        if self.samples < 1 or (self.samples > 1 and not self.live):
            raise SettingsError("--token-budget-samples=N needs --token-budget-live and an N of 1 or more.")
        if self.reports and not self.judge:
            raise SettingsError("--token-budget-report reports what was judged: add --token-budget.")
        if self.stability and (self.calls or not self.judge):
            raise SettingsError(
                "--token-budget-stability compares two replays: use it with --token-budget alone."
            )
        if self.max_spend is not None and not self.calls:
            raise SettingsError(
                "--token-budget-max-spend limits recording and live runs; replay costs nothing."
            )


def parse_report(text: str, base: Path) -> ReportTarget:
    """Read TYPE:DEST; DEST is relative to `base`. Raises SettingsError naming the types."""
    kind, _, destination = text.partition(":")
    if kind not in _REPORT_TYPES or not destination:
        raise SettingsError(
            f"--token-budget-report={text}: write TYPE:DEST with TYPE one of {', '.join(_REPORT_TYPES)}, "
            "such as json:token-budget.json."
        )
    path = base / destination
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"needs the folder {path.parent}, which does not exist"
        raise SettingsError(
            f"--token-budget-report={text}: {path} {what}. Name a file in an existing folder."
        )
    return ReportTarget(kind, path)


def parse_reports(texts: Sequence[str], base: Path) -> tuple[ReportTarget, ...]:
    """Read every `--token-budget-report`."""
    return tuple(parse_report(text, base) for text in texts)


def parse_spend(text: str | None) -> Decimal | None:
    """Read dollars; None for none. Raises SettingsError."""
    if text is None:
        return None
    try:
        amount = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise SettingsError(f"--token-budget-max-spend={text}: write dollars, such as 2.50.")
    return amount
