"""What resolves each verdict: the one command, or what is done by hand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.reports.document import LimitEntry, ScenarioEntry
from pytest_tokenbudget.reports.facts import recorder_of
from pytest_tokenbudget.reports.scenario_ids import argument
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.reports.view import exceeded

UPDATE = ("pytest", "--token-budget", "--token-budget-update")
UPGRADE_PRICES = ("pip", "install", "-U", "genai-prices")
RECORD = ("pytest", "--token-budget", "--token-budget-record=changed")
REWRITE = ("pytest", "--record-mode=rewrite")


@dataclass(frozen=True, slots=True)
class WayOut:
    """What resolves a verdict: what to do, and the command that does it, where one does."""

    what: str
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what}: {shlex.join(self.command)}" if self.command else self.what


def ways_out(scenarios: Sequence[ScenarioEntry]) -> list[WayOut]:
    """For each failing verdict among `scenarios` the command that resolves it; caps are raised by hand."""
    by_verdict: dict[str, list[ScenarioEntry]] = {"over": [], "stale": [], "new": []}
    for one in scenarios:
        by_verdict[one["verdict"]].append(one)
    over, stale = by_verdict["over"], by_verdict["stale"]
    grown = [one for one in over if any(not _is_cap(limit) for limit in exceeded(one))]
    own = [one for one in stale if recorder_of(one) is None]
    found = [
        WayOut("If this is meant, accept it", _command(UPDATE, grown)),
        WayOut("Record what changed (needs an API key)", _command(RECORD, own)),
        WayOut("Write the first baseline", _command(UPDATE, by_verdict["new"])),
    ]
    unpriced_models = any(limit["measured"] is None for one in over for limit in exceeded(one))
    return [
        *(WayOut("Bring the missing price", UPGRADE_PRICES) for _ in range(unpriced_models)),
        *(way_out for way_out in found if way_out.command),
        *_as_the_suite_does([one for one in stale if recorder_of(one)]),
        *(_raise_caps(one) for one in over if any(map(_is_cap, exceeded(one)))),
    ]


def _as_the_suite_does(stale: Sequence[ScenarioEntry]) -> Iterator[WayOut]:
    """How tests are recorded that have recorded themselves."""
    theirs = [one for one in stale if recorder_of(one) == "pytest-recording"]
    if len(theirs) == 1:
        yield WayOut("Record it anew (needs an API key)", _command(REWRITE, theirs))
    elif theirs:
        yield WayOut(f"Record each anew (needs an API key): {shlex.join(REWRITE)} TEST")
    if len(theirs) < len(stale):
        yield WayOut("Record the cassettes of plain vcrpy anew as the suite does it (needs an API key)")


def _raise_caps(scenario: ScenarioEntry) -> WayOut:
    caps = " and ".join(limit["metric"] for limit in exceeded(scenario) if _is_cap(limit))
    where = f"the marker of {plain(scenario['id'])} or in [tool.tokenbudget]"
    return WayOut(f"A cap is raised by hand: {caps} in {where}")


def _is_cap(limit: LimitEntry) -> bool:
    return limit["metric"].startswith("max_")


def _command(command: tuple[str, ...], scenarios: Sequence[ScenarioEntry]) -> tuple[str, ...]:
    """The command for one scenario; for several, that of the whole suite; for none, none."""
    if len(scenarios) != 1:
        return command if scenarios else ()
    (one,) = scenarios
    return (*command, plain(argument(one["id"])))
