"""How right the offline estimate of a changed request is: `accuracy.py CORPUS... [--json FILE]`.

For pairs of recorded requests whose totals are both known, the second is estimated from the first as if it
had changed into it, and held against its true total: with `ctok`, the built-in counter (its weights, and the
width of its interval, fitted without the project that they are tried on), chars/4, and the tokenizer that
litellm brings along, where it is installed.

The edit is what was taken out or put in, the larger of the two, in tokens. Nothing is fitted here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import fit_builtin
from corpus import load
from pairs import TEXT_OR_TOOL, Pair, kind_of_edit, pairs
from tables import quantile, table

from pytest_tokenbudget.metering.counting import BuiltinCounter, CtokCounter, Memo, guessed
from pytest_tokenbudget.metering.counting import Counter as TokenCounter
from pytest_tokenbudget.metering.difference import kept
from pytest_tokenbudget.metering.estimate import Estimate, Known, compare, doubt, estimate, worked
from pytest_tokenbudget.metering.models import Family, model_row
from pytest_tokenbudget.model import Basis

EXACT, BUILTIN, CHARS, LITELLM = "ctok", "built-in", "chars/4", "litellm"


class CharsCounter:
    """Four characters a token."""

    name = CHARS
    exact = True  # so that it is not calibrated

    def count(self, text: str, family: Family) -> int:  # noqa: ARG002
        return math.ceil(len(text) / 4)


class LitellmCounter:
    """What litellm, offline, takes for the tokenizer of every Claude since 3: another maker's."""

    name = LITELLM
    exact = True

    def __init__(self) -> None:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the network
        from litellm import token_counter

        self._count = token_counter

    def count(self, text: str, family: Family) -> int:  # noqa: ARG002
        return int(self._count(model="claude-3-opus-20240229", text=text)) if text else 0


@dataclass(frozen=True, slots=True)
class Result:
    """One pair, estimated by one counter."""

    counter: str
    project: str
    model: str
    family: str
    edit: str
    size: float
    """Of the edit, in tokens."""
    prompt_tokens: int
    """The truth."""
    grew: int
    """What the truth differs by."""
    error: int | None
    """None where it is unknown."""
    half_width: float
    basis: str
    reason: str | None

    @property
    def known(self) -> bool:
        return self.error is not None

    @property
    def off(self) -> int:
        assert self.error is not None
        return abs(self.error)


def results(found: Sequence[Pair], counters: dict[str, Callable[[str], TokenCounter]]) -> list[Result]:
    """Every pair by every counter; the size and kind of an edit are told by the exact one."""
    exact = counters[EXACT]("")
    done = []
    for pair in found:
        known = Known(pair.recorded.prompt, pair.recorded.prompt_tokens, worked(pair.recorded.message))
        pieces = compare(known, pair.now.prompt, exact, pair.answers)
        if not pieces:
            continue
        size = sum(max(piece.edited, abs(piece.tokens)) for piece in pieces)
        for name, counter_for in counters.items():
            made = estimate(known, pair.now.prompt, counter_for(pair.now.project), answers=pair.answers)
            done.append(_result(name, pair, kind_of_edit(pieces), size, made))
    return done


def _result(counter: str, pair: Pair, edit: str, size: float, made: Estimate) -> Result:
    truth = pair.now.prompt_tokens
    return Result(
        counter=counter,
        project=pair.now.project,
        model=pair.now.model,
        family=model_row(pair.now.prompt.model).family,
        edit=edit,
        size=max(1.0, size),
        prompt_tokens=truth,
        grew=truth - pair.recorded.prompt_tokens,
        error=None if made.prompt_tokens is None else made.prompt_tokens - truth,
        half_width=0.0 if made.high is None or made.low is None else (made.high - made.low) / 2,
        basis=made.basis,
        reason=made.reason,
    )


def errors(done: Sequence[Result], groups: Iterable[tuple[str, Callable[[Result], bool]]]) -> str:
    """A table: errors over the edit and over the prompt, median and p90, a counter a column."""
    names = list(dict.fromkeys(one.counter for one in done))
    rows = []
    for title, belongs in groups:
        chosen = [one for one in done if belongs(one) and one.known]
        if not chosen:
            continue
        first = [one for one in chosen if one.counter == names[0]]
        row: list[object] = [f"{title} ({len(first)}; {len({one.project for one in first})})"]
        for name in names:
            mine = [one for one in chosen if one.counter == name]
            over_edit = _both(one.off / one.size for one in mine)
            row.append(f"{over_edit}; {_both(one.off / one.prompt_tokens for one in mine)}")
        rows.append(row)
    return table(["edit (pairs; projects)", *names], rows)


def _both(values: Iterable[float]) -> str:
    listed = list(values)
    return "/".join(f"{quantile(listed, part):.3f}" for part in (0.5, 0.9))


def targets(done: Sequence[Result]) -> str:
    """A table: the worst nine of ten single text or tool edits, against what was promised; of what a prompt
    grew by, which is small where about as much was taken out as put in, how often the interval holds it.
    """
    rows = []
    for name, of_edit, of_prompt in ((EXACT, 0.03, 0.01), (BUILTIN, 0.12, 0.06)):
        mine = [one for one in done if one.counter == name and one.known and one.edit in TEXT_OR_TOOL]
        inside = sum(one.off <= one.half_width for one in mine) / len(mine)
        over = {
            "the edit": ([one.off / one.size for one in mine], of_edit),
            "what the prompt grew by": ([one.off / max(1, abs(one.grew)) for one in mine], of_edit),
            "the prompt": ([one.off / one.prompt_tokens for one in mine], of_prompt),
        }
        rows += [
            [name, what, len(found), f"{quantile(found, 0.9):.1%}", f"{most:.0%}", f"{inside:.1%}"]
            for what, (found, most) in over.items()
        ]
    return table(["counter", "error over", "pairs", "p90", "at most", "truth within"], rows)


def additions(corpus: Sequence[fit_builtin.Text], builtin: Callable[[str], TokenCounter]) -> str:
    """A table: one line or sentence put into a text of the corpus, by what it adds.

    The built-in counter of each project has weights that were fitted without it; `ctok` tells the truth.
    """
    rows = []
    by_size = defaultdict(list)
    for project in sorted({one.project for one in corpus} - {"samples"}):
        counter = builtin(project)
        for was, now in _additions([one.text for one in corpus if one.project == project]):
            for family in fit_builtin.FAMILIES:
                grew = fit_builtin.count(now, family) - fit_builtin.count(was, family)
                size = next(name for most, name in fit_builtin.SIZES if abs(grew) < most)
                by_size[family, size].append(_addition(was, now, grew, counter, family))
    for (family, size), found in sorted(by_size.items(), key=lambda row: (row[0][0], len(row[0][1]))):
        over = [f"{quantile([error for error, _ in found], part):.1%}" for part in (0.5, 0.9)]
        rows.append([family, size, len(found), *over, f"{sum(held for _, held in found) / len(found):.1%}"])
    return table(["family", "tokens added", "additions", "median error", "p90", "truth within"], rows)


_A_PROJECT = 100
"""Additions that are tried of each project's texts."""
_LONGEST = 4000
"""Characters of a text that is tried: each is counted as a whole, with and without the addition."""
_ENDS = re.compile(r"(?<=\n)|(?<=[.!?] )")


def _additions(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return texts without and with one of their lines or sentences, evenly chosen of all there are."""
    found = []
    for text in texts:
        pieces = _ENDS.split(text)
        for number, piece in enumerate(pieces):
            without = "".join(pieces[:number] + pieces[number + 1 :])
            if piece.strip() and without.strip() and len(text) <= _LONGEST:
                found.append((without, text))
    return found[:: max(1, len(found) // _A_PROJECT)]


def _addition(was: str, now: str, grew: int, counter: TokenCounter, family: Family) -> tuple[float, bool]:
    """Return the built-in counter's error over what a text grew by, and whether its interval holds it."""
    begin, end = kept(was, now)
    added = now[begin : len(now) - end]
    whole = counter.count(now, family)
    edited = whole * len(added) / len(now)
    off = abs(whole - counter.count(was, family) - grew)
    return off / max(1, abs(grew)), off <= doubt(edited, edited * guessed(added), 0, counter, known=True)


def intervals(done: Sequence[Result]) -> str:
    """A table: how often the truth is within, and how wide the interval is."""
    rows = []
    groups = [(EXACT, Basis.COUNTED), (EXACT, Basis.ESTIMATED), (BUILTIN, Basis.ESTIMATED)]
    for name, basis in groups:
        mine = [one for one in done if one.counter == name and one.basis == basis]
        if mine:
            inside = sum(one.off <= one.half_width for one in mine) / len(mine)
            width = quantile([one.half_width / one.size for one in mine], 0.5)
            rows.append([name, str(basis), len(mine), f"{inside:.1%}", f"{width:.1%}"])
    return table(["counter", "basis", "pairs", "truth within", "median half-width of the edit"], rows)


def unknowns(done: Sequence[Result]) -> str:
    """A table: what cannot be counted, and why."""
    mine = [one for one in done if one.counter == EXACT]
    first = [(one.reason or "").partition("; ")[0] for one in mine if not one.known]
    reasons = Counter(reason.rpartition(": ")[2] for reason in first)
    rows = [[reason, number, f"{number / len(mine):.1%}"] for reason, number in reasons.most_common()]
    total = sum(reasons.values())
    return table(["reason", "pairs", "share"], [*rows, ["all", total, f"{total / len(mine):.1%}"]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, help="where to write every pair's result")
    parser.add_argument("--shipped", action="store_true", help="use the shipped weights, without refitting")
    arguments = parser.parse_args()
    recorded = load(arguments.corpus)
    found = list(pairs(recorded))
    outside = [pair for pair in found if not pair.comparable]
    counters = _counters(recorded, arguments.shipped)
    done = results([pair for pair in found if pair.comparable], counters)
    print(f"{len(recorded)} recorded requests, {len(found)} pairs.")
    print(
        f"{len(outside)} left out: the API ran tools of its own for the second, and billed several prompts.\n"
    )
    print(targets(done), "\n")
    print("One line or sentence more, by the built-in counter:\n")
    print(additions(fit_builtin.texts(recorded), counters[BUILTIN]), "\n")
    kinds = sorted({one.edit for one in done})
    print("Errors over the edit, median/p90; over the prompt, median/p90:\n")
    single = ("single text or tool edits", lambda one: one.edit in TEXT_OR_TOOL)
    print(errors(done, [single, *((kind, lambda one, kind=kind: one.edit == kind) for kind in kinds)]), "\n")
    groups = sorted({one.family for one in done})
    print("By tokenizer family:\n")
    print(errors(done, [(name, lambda one, name=name: one.family == name) for name in groups]), "\n")
    print("Intervals:\n")
    print(intervals(done), "\n")
    print("Unknown:\n")
    print(unknowns(done))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in done], indent=1), encoding="utf-8")


def _counters(recorded: Sequence[object], shipped: bool) -> dict[str, Callable[[str], TokenCounter]]:
    """By name, a counter to try on a project."""
    exact = Memo(CtokCounter())
    made: dict[str, TokenCounter] = {}
    corpus = [] if shipped else fit_builtin.texts(recorded)

    def builtin(project: str) -> TokenCounter:
        if project not in made:
            others = [one for one in corpus if one.project != project]
            made[project] = Memo(BuiltinCounter(fit_builtin.fit(others) if others else None))
        return made[project]

    chars = CharsCounter()
    counters: dict[str, Callable[[str], TokenCounter]] = {
        EXACT: lambda _: exact,
        BUILTIN: builtin,
        CHARS: lambda _: chars,
    }
    if importlib.util.find_spec("litellm"):
        litellm = Memo(LitellmCounter())
        counters[LITELLM] = lambda _: litellm
    return counters


if __name__ == "__main__":
    main()
