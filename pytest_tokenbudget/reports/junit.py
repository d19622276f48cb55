"""What a JUnit file says of a scenario beside pass or fail: properties of its test case."""

from __future__ import annotations

from pytest_tokenbudget.reports.document import ScenarioEntry

_COUNTS = ("turns", "prompt_tokens", "cache_read_input_tokens", "output_tokens", "cost_usd")


def properties(scenario: ScenarioEntry) -> list[tuple[str, str]]:
    """Names, all below `token_budget.`, with their values; what is unknown is `unknown`."""
    measured = scenario["measured"]
    values = {name: None if measured is None else measured[name] for name in _COUNTS}  # type: ignore[literal-required]
    told = {"verdict": scenario["verdict"], "basis": scenario["basis"], **values}
    return [
        (f"token_budget.{name}", "unknown" if value is None else str(value)) for name, value in told.items()
    ]
