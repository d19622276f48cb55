"""Fits the weights of the built-in counter: `fit_builtin.py CORPUS... [--write]`, in Python 3.12 or newer.

The model is linear in the pieces of a text (`pytest_tokenbudget/metering/counting.py`). What a piece
counts, `ctok` tells. The commonest words and marks of Python's standard library and of the corpus (there: of
two projects at least) get what they count between two words as their own weight; the weights of the other
kinds of pieces are fitted by least squares to whole texts of the corpus: blocks of prompts as the model is
shown them, and answers. Prints the error on each project with weights that were fitted without it, and
writes the weights of all projects to the package with `--write`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path

import ctok
from corpus import Recorded, load
from samples import SAMPLES
from tables import quantile, table

from pytest_tokenbudget.metering import counting
from pytest_tokenbudget.metering.counting import CTOK_FRAME, BuiltinCounter, features, pieces
from pytest_tokenbudget.metering.difference import items
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.metering.rendering import render_options

FAMILIES = (Family.V3, Family.V48)
COMMON = 6000
"""How many pieces get a weight of their own."""

ONE_TOKEN = {"digits": 1.0, "lines": 1.0, "spaces": 1.0, "title": 1.0}
"""What is always one token: three digits, white space that counts, the mark of a capital."""

Weights = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Text:
    """A text as the tokenizer reads it."""

    text: str
    project: str

    @property
    def pieces(self) -> Counter[str]:
        return Counter(pieces(self.text))


def texts(recorded: Iterable[Recorded]) -> list[Text]:
    """Every text of the corpus, once."""
    found: dict[str, Text] = {}
    for one in recorded:
        rendered = [item.rendered() for item in items(one.prompt)]
        rendered += render_options(one.prompt).values()
        said = [block.get("text") for block in one.message.get("content") or () if isinstance(block, dict)]
        for text in (*(text for piece in rendered for text in piece.texts), *said):
            if isinstance(text, str) and text.strip():
                found.setdefault(text, Text(text, one.project))
    return [*found.values(), *(Text(sample, "samples") for sample in SAMPLES)]


@cache
def count(text: str, family: Family) -> int:
    """Exact tokens of a text."""
    return int(ctok.token_count(text, family)) - CTOK_FRAME[family]


@cache
def piece_count(piece: str, family: Family) -> int:
    """Tokens of a piece between two words, of one token each."""
    apart = piece[0].isalpha()
    return count(f"x {piece} x" if apart else f"x{piece}x", family) - 2


@cache
def standard_library() -> Counter[str]:
    """How often a piece occurs in the source of Python's standard library, its tests left out."""
    found: Counter[str] = Counter()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if not {"site-packages", "test", "tests", "idle_test"} & set(path.parts):
            found.update(pieces(path.read_text("utf-8", errors="ignore")))
    return found


def common(corpus: Sequence[Text]) -> list[str]:
    """The pieces that get a weight of their own."""
    projects: defaultdict[str, set[str]] = defaultdict(set)
    times: Counter[str] = Counter()
    for one in corpus:
        for piece, number in one.pieces.items():
            projects[piece].add(one.project)
            times[piece] += min(number, 20)  # one text that repeats itself is no evidence
    library = standard_library()
    score = {
        piece: 4 * times[piece] + library[piece] / 8
        for piece in {*times, *library}
        if (len(projects[piece]) > 1 or library[piece] >= 8)
        and len(piece) <= 24
        and not piece[0].isdigit()
        and not piece.isspace()
    }
    chosen = sorted(score, key=lambda piece: (-score[piece], piece))[:COMMON]
    words = {piece for piece in chosen if piece.isalpha() and piece.isascii() and piece.islower()}
    # A capital costs a token of its own, unless the vocabulary has the word with it.
    titles = {
        word.title()
        for word in words
        if any(piece_count(word.title(), kin) != piece_count(word, kin) + 1 for kin in FAMILIES)
    }
    return sorted(
        {piece for piece in chosen if piece.lower() not in words or not piece.istitle()} | titles | words
    )


def fit(corpus: Sequence[Text]) -> Weights:
    """Weights by family."""
    chosen = common(corpus)
    weights: Weights = {}
    for family in FAMILIES:
        known = ONE_TOKEN | {f"={piece}": float(piece_count(piece, family)) for piece in chosen}
        rows, targets = [], []
        for one in corpus:
            row: Counter[str] = Counter()
            rest = float(count(one.text, family))
            trust = (rest + 10) ** -0.8  # the error grows with the text
            for piece, number in one.pieces.items():
                for name, value in features(piece, known):
                    if name in known:
                        rest -= number * value * known[name]
                    else:
                        row[name] += number * value
            rows.append({name: value * trust for name, value in row.items()})
            targets.append(rest * trust)
        weights[family] = known | least_squares(rows, targets)
    return weights


def least_squares(rows: Sequence[Mapping[str, float]], targets: Sequence[float]) -> dict[str, float]:
    """The weights whose sums come closest to the targets (with a slight pull to 0), by elimination."""
    names = sorted({name for row in rows for name in row})
    matrix = [[0.01 * (a == b) for b in names] + [0.0] for a in names]
    place = {name: index for index, name in enumerate(names)}
    for row, target in zip(rows, targets, strict=True):
        for a, value in row.items():
            for b, other in row.items():
                matrix[place[a]][place[b]] += value * other
            matrix[place[a]][-1] += value * target
    for index in range(len(names)):
        pivot = max(range(index, len(names)), key=lambda line: abs(matrix[line][index]))
        matrix[index], matrix[pivot] = matrix[pivot], matrix[index]
        for line in range(len(names)):
            if line != index and (factor := matrix[line][index] / matrix[index][index]):
                matrix[line] = [a - factor * b for a, b in zip(matrix[line], matrix[index], strict=True)]
    return {name: matrix[index][-1] / matrix[index][index] for index, name in enumerate(names)}


def check(corpus: Sequence[Text]) -> str:
    """Relative errors of counts, each project's with weights that were fitted without it."""
    errors: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for project in sorted({one.project for one in corpus} - {"samples"}):
        counter = BuiltinCounter(fit([one for one in corpus if one.project != project]))
        for one in corpus:
            for family in FAMILIES if one.project == project else ():
                true = count(one.text, family)
                size = next(name for most, name in SIZES if true < most)
                errors[family, size].append(abs(counter.estimate(one.text, family) - true) / max(true, 1))
    lines = [
        [family, size, len(found), *(f"{100 * quantile(found, part):.1f}%" for part in (0.5, 0.9))]
        for (family, size), found in sorted(errors.items())
    ]
    return table(["family", "tokens of the text", "texts", "median error", "p90"], lines)


SIZES = ((10, "1 to 9"), (30, "10 to 29"), (100, "30 to 99"), (400, "100 to 399"), (10**9, "400 and more"))


def write(weights: Weights, corpus: Sequence[Text]) -> Path:
    """Put the weights into the package; returns where."""
    path = Path(counting.__file__).with_suffix(".json")
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for name in weights[FAMILIES[0]]:
        if name.startswith("="):
            grouped["/".join(f"{weights[family][name]:g}" for family in FAMILIES)].append(name[1:])
    projects = {one.project for one in corpus} - {"samples"}
    document = {
        "about": "Weights of the built-in counter. Written by benchmarks/fit_builtin.py; do not edit.",
        "fitted": date.today().isoformat(),
        "fitted_on": (
            f"{len(corpus) - len(SAMPLES)} texts of {len(projects)} projects, {len(SAMPLES)} sample "
            f"sentences, and the pieces of Python {platform.python_version()}'s standard library; "
            f"counted by ctok {version('ctok')}"
        ),
        "weights": {
            family: {k: round(v, 3) for k, v in weights[family].items() if not k.startswith("=")}
            for family in FAMILIES
        },
        "pieces": {costs: sorted(found) for costs, found in sorted(grouped.items())},
    }
    text = json.dumps(document, ensure_ascii=True, indent=1)
    path.write_text(_wrapped(text), encoding="utf-8")
    return path


def _wrapped(text: str, width: int = 110) -> str:
    """The JSON with as many pieces and weights on a line as fit."""
    lines: list[str] = []
    for line in text.splitlines():
        inner = line.startswith('   "')
        if inner and lines[-1].startswith('   "') and len(lines[-1]) + len(line) < width:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the weights in the package")
    arguments = parser.parse_args()
    corpus = texts(load(arguments.corpus))
    print(check(corpus))
    if arguments.write:
        print(f"Wrote {write(fit(corpus), corpus)}")


if __name__ == "__main__":
    main()
