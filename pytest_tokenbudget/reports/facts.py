"""What a document says of a scenario beside its numbers, as findings of kinds that are no causes.

The keys of the document are fixed, so that every reader of it knows them all.
"""

from __future__ import annotations

from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.model import Verdict
from pytest_tokenbudget.reports.document import FindingEntry, ScenarioEntry
from pytest_tokenbudget.settings import ScenarioSettings

_RECORDER, _RUNS = "recorder", "runs_per_month"


def facts(
    verdict: Verdict, recorder: str | None, its: ScenarioSettings, usual: ScenarioSettings
) -> tuple[Finding, ...]:
    """As findings, what a report of a scenario needs: who is to record it, and how often it runs.

    Of one that is within its budget only a number of runs that is not the `usual` one.
    """
    told = [recorded_by(recorder)] if recorder is not None and verdict == Verdict.STALE else []
    runs = its.runs_per_month
    if runs is not None and (runs != usual.runs_per_month or verdict != Verdict.WITHIN):
        told.append(often(runs))
    return tuple(told)


def recorded_by(recorder: str) -> Finding:
    """That a scenario's cassettes are not this plugin's own."""
    return Finding(_RECORDER, recorder, f"its cassettes are recorded by {recorder}")


def often(runs_per_month: int) -> Finding:
    """How often a scenario runs."""
    return Finding(_RUNS, str(runs_per_month), f"runs {runs_per_month:,} times a month")


def is_fact(finding: FindingEntry) -> bool:
    """Whether a finding is none of the causes of anything."""
    return finding["kind"] in (_RECORDER, _RUNS)


def recorder_of(scenario: ScenarioEntry) -> str | None:
    """Who records the cassettes that it plays; None: this plugin."""
    return _fact(scenario, _RECORDER)


def runs_of(scenario: ScenarioEntry, otherwise: float | None) -> float | None:
    """How often a month it runs: as its marker or the settings of its run said, else as the caller says."""
    told = _fact(scenario, _RUNS)
    return int(told) if told is not None and told.isdecimal() else otherwise


def usual_month(runs_per_month: float) -> str:
    """What a month is where no test ran, so that no marker was read: the basis of its dollars, in words."""
    return f"a month is {runs_per_month:,.0f} runs of each, as the settings say (markers are not read)"


def _fact(scenario: ScenarioEntry, kind: str) -> str | None:
    return next((found["where"] for found in scenario["findings"] if found["kind"] == kind), None)
