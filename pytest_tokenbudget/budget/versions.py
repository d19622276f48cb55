"""Many versions of baseline files, read fast: history holds thousands, and most of each is as it was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from pytest_tokenbudget.budget.baselines import REQUIRED, parse_baselines
from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.model import Rate, Tokens, Usage

_BODY = re.compile(r"(?s)(?P<head>.*?\nscenarios:\n)(?P<entries>(?:  [^\n]*\n)+)")
_ENTRY = re.compile(r"(?m)^(?=  \S)")
_COUNTS = r"(?:        \w+: (?:0|[1-9]\d*)\n)+"
_USAGE = re.compile(
    rf"    turns: (?P<turns>0|[1-9]\d*)\n    models:\n(?P<models>(?:      [\w.() ,-]+:\n{_COUNTS})+)"
)
_MODEL = re.compile(rf"      (?P<rate>[a-z][\w.() ,-]*):\n(?P<counts>{_COUNTS})")


class VersionReader:
    """Reads texts of baseline files as `parse_baselines` does, but what the tool itself wrote entry by entry.

    An entry that was read before is not read again, and one in the tool's own hand needs no YAML: a hundred
    commits of five hundred scenarios are read in a second instead of ten.
    """

    def __init__(self) -> None:
        self._known: dict[str, Mapping[str, Usage]] = {}
        self._names: dict[str, str] = {}
        self._heads: set[str] = set()

    def read(self, text: str, where: str) -> Mapping[str, Usage]:
        """Baselines by scenario name. Raises BaselineError; `where` names the text in it."""
        found = _BODY.fullmatch(text)
        if found is None:
            return parse_baselines(text, where)
        baselines: dict[str, Usage] = {}
        try:
            self._check(found["head"])
            for entry in _ENTRY.split(found["entries"])[1:]:
                if entry not in self._known:
                    self._known[entry] = self._entry(found["head"], entry)
                baselines.update(self._known[entry])
        except BaselineError:  # not as the tool writes it: a value of several lines, an alias
            return parse_baselines(text, where)
        return baselines

    def _check(self, head: str) -> None:
        if head not in self._heads:
            parse_baselines(head + "  {}\n", "the version")
            self._heads.add(head)

    def _entry(self, head: str, entry: str) -> Mapping[str, Usage]:
        first, _, rest = entry.partition("\n")
        usage = _usage(rest)
        if usage is None:
            return parse_baselines(head + entry, "an entry")
        if first not in self._names:
            (self._names[first],) = parse_baselines(head + entry, "an entry")
        return {self._names[first]: usage}


def _usage(text: str) -> Usage | None:
    """What the tool wrote below a name; None for what it would not have written so."""
    found = _USAGE.fullmatch(text)
    if found is None:
        return None
    by_rate = {}
    for model in _MODEL.finditer(found["models"]):
        counts = dict(line.strip().split(": ") for line in model["counts"].splitlines())
        if not counts.keys() >= set(REQUIRED):
            return None
        try:
            by_rate[Rate.parse(model["rate"])] = Tokens(
                **{name: int(value) for name, value in counts.items()}
            )
        except TypeError:
            return None
    return Usage(int(found["turns"]), MappingProxyType(by_rate))
