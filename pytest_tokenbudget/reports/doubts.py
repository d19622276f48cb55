"""What is told of a scenario that passes: why its numbers may be others than a real run's."""

from __future__ import annotations

from pytest_tokenbudget.reports.document import ScenarioEntry
from pytest_tokenbudget.reports.text import plain


def doubts(scenario: ScenarioEntry) -> tuple[str, ...]:
    """A sentence for each option under which the recorded answers would be others."""
    return tuple(
        f"{scenario['id']}: {plain(finding['text'])}. Record it anew to know."
        for finding in scenario["findings"]
        if finding["kind"] == "answer_options"
    )
