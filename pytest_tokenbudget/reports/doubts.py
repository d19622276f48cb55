"""What is told of a scenario that passes: why its numbers may be others than a real run's."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_tokenbudget.reports.document import ScenarioEntry
from pytest_tokenbudget.reports.text import plain

_WAYS_OUT = "A newer pytest-tokenbudget may know it; --token-budget-count=api counts it exactly, for free."


def doubts(scenario: ScenarioEntry) -> Iterator[str]:
    """Yield a sentence for each option under which the recorded answers would be others, and for each model
    that is not known; the latter is the same for every scenario, so that it can be said once.
    """
    for finding in scenario["findings"]:
        text = plain(finding["text"])
        if finding["kind"] == "answer_options":
            yield f"{scenario['id']}: {text}. Record it anew to know."
        elif finding["kind"] == "assumed_model":
            yield f"{text}. {_WAYS_OUT}"
