"""The documents of several shards as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.reports.document import Document, ScenarioEntry, totals
from pytest_tokenbudget.wording import plural

_SAME_RUN = ("commit", "mode", "prices", "tool")
"""What documents must agree on for their numbers to be of one run and to add up."""


@dataclass(frozen=True, slots=True)
class Merged:
    """One document, and what a person should know of how it came about."""

    document: Document
    notes: tuple[str, ...] = ()


def merge(documents: Mapping[str, Document], *, shards: int | None = None) -> Merged:
    """The document of all scenarios of `documents`, which are named by the files they came from.

    The order of the files does not matter. A scenario that several files hold is taken once when it is the
    same in all of them. Raises ReportError, naming the files, when it is not, when the files are not of one
    run, or when there are not `shards` of them.
    """
    names = sorted(documents)
    if shards is not None and len(names) != shards:
        raise ReportError(
            f"{len(names)} of {shards} shards are here: {', '.join(names) or 'none'}. What the others have "
            "measured would be missing without a trace: wait for them, or give the number that is meant."
        )
    if not names:
        raise ReportError("There is no document to merge. Name the files of the shards.")
    _check_same_run(names, documents)
    found: dict[str, tuple[str, ScenarioEntry]] = {}
    doubles = 0
    for name in names:
        for scenario in documents[name]["scenarios"]:
            before, known = found.setdefault(scenario["id"], (name, scenario))
            doubles += known is not scenario
            if known != scenario:
                raise ReportError(
                    f"{before} and {name} disagree about {scenario['id']}. Each shard runs its own part of "
                    "the suite: leave one of the files out, or run both with the same settings."
                )
    scenarios = [scenario for _, (_, scenario) in sorted(found.items())]
    merged = {**documents[names[0]], "totals": totals(scenarios), "scenarios": scenarios}
    empty = [name for name in names if not documents[name]["scenarios"]]
    notes = [f"{name} holds no scenario." for name in empty]
    if doubles:
        verb = "was" if doubles == 1 else "were"
        notes.append(f"{plural(doubles, 'scenario')} {verb} in more than one file, and the same in each.")
    return Merged(cast("Document", merged), tuple(notes))


def _check_same_run(names: list[str], documents: Mapping[str, Document]) -> None:
    first = names[0]
    for key in _SAME_RUN:
        for name in names[1:]:
            ours, theirs = documents[first].get(key), documents[name].get(key)
            if ours != theirs:
                raise ReportError(
                    f"{first} and {name} are not of one run: {key} {_shown(ours)} and {_shown(theirs)}. "
                    "Merge what one commit, one mode, one price list and one version of the tool measured."
                )


def _shown(value: object) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
