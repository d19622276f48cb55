"""How often the simulated prompt cache says what real recordings report.

    python benchmarks/cache_accuracy.py CORPUS... [--json FILE]

CORPUS is a folder with `exchanges.jsonl.gz` (one exchange a line) and/or vcr cassettes at any depth, or one
such file. Each cassette is simulated from its requests and their true totals alone, and what its answers
report as read and written is only compared with. Cassettes that start warm (their first request with cache
activity reads) get that first read as the initial state and are counted apart.

The last table is of both sides: a cassette is taken for the recording, and the next one of its project, with
as many turns and the same models, for what the agent asks now. Given the totals of the second, its split is
told from the first, as for a changed scenario, and compared with what its own answers report.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from pytest_tokenbudget.metering.cache_rules import hidden_sizes, minimum
from pytest_tokenbudget.metering.cache_split import (
    CurrentTurn,
    RecordedTurn,
    lay_out,
    measure,
    observe,
    resplit,
)
from pytest_tokenbudget.metering.counting import BuiltinCounter, Memo
from pytest_tokenbudget.metering.estimate import worked
from pytest_tokenbudget.metering.prompt_cache import CacheTurn, Outcome, Shown, chain, simulate
from pytest_tokenbudget.model import Tokens
from pytest_tokenbudget.wire.answers import read_answer, tokens
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.requests import read_prompt, read_request

COUNTER = Memo(BuiltinCounter())
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Cassette:
    """The billed turns of one cassette."""

    name: str
    turns: tuple[RecordedTurn, ...]

    @property
    def warm(self) -> bool:
        """Whether the first turn with cache activity reads what no turn of it can have written."""
        first = next((turn for turn in self.turns if turn.cached), None)
        return first is not None and first.tokens is not None and first.tokens.cache_read_input_tokens > 0


@dataclass(frozen=True)
class Result:
    """One request with cache activity, recorded or simulated."""

    name: str
    turn: int
    model: str
    recorded: Tokens
    told: Tokens
    cause: str | None
    """Why the two disagree on whether something is read or written; None where they agree."""

    @property
    def differences(self) -> dict[str, float]:
        """Of the split, over the prompt."""
        counts = {
            "read": "cache_read_input_tokens",
            "written": "cache_creation_input_tokens",
            "written 5m": "ephemeral_5m_input_tokens",
            "written 1h": "ephemeral_1h_input_tokens",
            "uncached": "input_tokens",
        }
        return {
            name: abs(getattr(self.told, count) - getattr(self.recorded, count)) / self.recorded.prompt_tokens
            for name, count in counts.items()
        }


def agree(told: Tokens, recorded: Tokens) -> bool:
    """Whether both read something or both do not, and both write something or both do not."""
    return bool(told.cache_read_input_tokens) == bool(recorded.cache_read_input_tokens) and bool(
        told.cache_creation_input_tokens
    ) == bool(recorded.cache_creation_input_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures and every disagreement here")
    options = parser.parse_args()
    sequences = list(distinct(read(options.corpus)))
    document = report(sequences)
    print_tables(document)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


# -- reading ------------------------------------------------------------------------------------------------


def read(paths: Iterable[Path]) -> Iterator[Cassette]:
    """Every cassette of the given files and folders."""
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.name.endswith(".jsonl.gz"):
                yield from read_exchanges(file)
            elif file.name.endswith((".yaml", ".yml", ".yaml.gz")):
                yield Cassette(str(file), tuple(read_cassette(file)))


def distinct(sequences: Iterable[Cassette]) -> Iterator[Cassette]:
    """Sequences with turns, each once: a corpus may hold a cassette in both forms."""
    seen = set()
    for sequence in sequences:
        known = tuple((tuple(b.digest for b in t.prompt.blocks), t.tokens) for t in sequence.turns)
        if sequence.turns and known not in seen:
            seen.add(known)
            yield sequence


def read_exchanges(path: Path) -> Iterator[Cassette]:
    """The sequences of a file of parsed exchanges, by repository and cassette, in order."""
    rows = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rows[row["repo"], row["file"]].append(row)
    for (repo, file), its in rows.items():
        its.sort(key=lambda row: row["index_in_cassette"])
        yield Cassette(f"{repo} {file}", tuple(filter(None, map(from_row, its))))


def from_row(row: Mapping[str, Any]) -> RecordedTurn | None:
    kinds = {"messages": "anthropic", "bedrock_invoke": "aws", "vertex": "google"}
    if row["kind"] not in kinds or row["status"] != 200 or not isinstance(row["request"], dict):
        return None
    billed = tokens(row["usage"] or {})
    where = Endpoint("messages", kinds[row["kind"]], model=row["model"])  # type: ignore[arg-type]
    return None if billed is None else RecordedTurn(read_prompt(row["request"], where, {}), billed)


def read_cassette(path: Path) -> Iterator[RecordedTurn]:
    """The billed turns of a vcr cassette, whatever serializer wrote it."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        document = yaml.load(file, Loader=YAML)
    for interaction in (document or {}).get("interactions") or ():
        asked, answered = interaction.get("request") or {}, interaction.get("response") or {}
        headers = {name.lower(): _first(value) for name, value in (asked.get("headers") or {}).items()}
        request = read_request(asked.get("method", "POST"), asked.get("uri", ""), headers, body_of(asked))
        if request is None or request.endpoint.api != "messages":
            continue
        headers = {name.lower(): _first(value) for name, value in (answered.get("headers") or {}).items()}
        code = (answered.get("status") or {}).get("code", 200)
        answer = read_answer(code, headers, body_of(answered), request)
        billed = sum((t for t in answer.usage.by_rate.values()), Tokens()) if answer.usage else None
        if answer.billed and billed is not None:
            by_itself = worked(answer.message or {})
            yield RecordedTurn(request.prompt, billed, answer.date, worked=by_itself)


def body_of(message: Mapping[str, Any]) -> bytes:
    """The body as vcrpy writes it, or as serializers that parse JSON do."""
    if "parsed_body" in message:
        return json.dumps(message["parsed_body"]).encode()
    body = message.get("body")
    if isinstance(body, Mapping):
        body = body.get("string", body.get("content"))
    if isinstance(body, (dict, list)):
        return json.dumps(body).encode()
    return body if isinstance(body, bytes) else str(body or "").encode()


def _first(value: object) -> str:
    return str(value[0] if isinstance(value, list) and value else value)


# -- comparing ----------------------------------------------------------------------------------------------


def report(sequences: Sequence[Cassette]) -> dict[str, Any]:
    """The whole document: figures of the cold and of the warm sequences, and what is left out."""
    left_out: Counter[str] = Counter()
    cold: list[Result] = []
    warm: list[Result] = []
    for sequence in sequences:
        if not any(turn.cached or chain(turn.prompt).breakpoints for turn in sequence.turns):
            continue
        (warm if sequence.warm else cold).extend(compare(sequence, left_out))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cassettes": len(sequences),
        "left_out": dict(left_out),
        "cold": figures(cold),
        "warm": figures(warm),
        "both sides": figures(list(both_sides(sequences))),
    }


def compare(sequence: Cassette, left_out: Counter[str]) -> Iterator[Result]:
    """The requests with cache activity, recorded or simulated, beside what is simulated of them."""
    told = [turn.tokens if turn.tells else None for turn in sequence.turns]
    turns = measure(sequence.turns, lay_out(sequence.turns, told, COUNTER), {})
    shown: Mapping[int, Shown] = {}
    first = -1
    if sequence.warm:
        first = next(index for index, turn in enumerate(sequence.turns) if turn.cached)
        told = [tokens if index == first else None for index, tokens in enumerate(told)]
        shown, _ = observe(turns, told, {})
    outcomes = simulate(turns, shown=shown)
    for index, (was, turn, outcome) in enumerate(zip(sequence.turns, turns, outcomes, strict=True)):
        if (not was.cached and not outcome.through_5m) or was.tokens is None:
            continue
        if was.worked or len(hidden := hidden_sizes(was.prompt)) > 1:
            left_out[was.worked or next(iter(hidden.values())).partition(": ")[2]] += 1
            continue
        if index == first:
            left_out["the first read of a warm sequence, which is the initial state"] += 1
            continue
        told = Tokens(outcome.uncached, outcome.written_5m, outcome.written_1h, outcome.read)
        cause = None if agree(told, was.tokens) else why(was.tokens, turn, outcome)
        yield Result(sequence.name, index, was.prompt.model, was.tokens, told, cause)


def both_sides(sequences: Sequence[Cassette]) -> Iterator[Result]:
    """Each cassette told from its neighbour: see the module's text."""
    groups: dict[tuple[object, ...], list[Cassette]] = defaultdict(list)
    for sequence in sequences:
        if all(turn.tells for turn in sequence.turns):
            key = (sequence.name.split()[0], *(turn.prompt.model for turn in sequence.turns))
            groups[key].append(sequence)
    for group in groups.values():
        for one, other in pairwise(group):
            if not any(turn.cached for turn in (*one.turns, *other.turns)) or one.warm != other.warm:
                continue
            asked = [CurrentTurn(t.prompt, t.tokens.prompt_tokens) for t in other.turns if t.tokens]
            for index, split in enumerate(resplit(one.turns, asked, counter=COUNTER)):
                truth, told = other.turns[index].tokens, split.tokens
                if truth and told and (other.turns[index].cached or told.prompt_tokens > told.input_tokens):
                    miss = split.now.miss if split.now else None
                    cause = None if agree(told, truth) else f"simulated {miss.cause if miss else 'a read'}"
                    yield Result(other.name, index, other.turns[index].prompt.model, truth, told, cause)


def why(recorded: Tokens, turn: CacheTurn, outcome: Outcome) -> str:
    """What the recording shows where it and the simulation disagree on reading or writing."""
    read, written = recorded.cache_read_input_tokens, recorded.cache_creation_input_tokens
    if not turn.chain.breakpoints:
        return "the answer reports a cache that the request does not ask for"
    if not read and not written:
        return f"not cached: {outcome.through_5m} tokens, minimum {minimum(turn.chain.model, {})}"
    if not outcome.through_5m:
        size = turn.sizes[max(turn.chain.breakpoints)]
        least = minimum(turn.chain.model, {})
        return f"cached {read + written} tokens below the minimum {least} (simulated {size})"
    if read and not outcome.read:
        cause = outcome.miss.cause if outcome.miss else None
        return f"read a prefix that no turn of the recording wrote, or that should be lost ({cause})"
    if outcome.read and not read:
        return f"wrote again what turn {outcome.source} had written: concurrent, evicted or another workspace"
    if written and outcome.through_5m == outcome.read:
        return "read less than what an earlier turn had written"
    return "read more than what the earlier turns had written"


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """Agreement, errors of the split over the prompt, and every disagreement with its cause."""
    if not results:
        return {"requests": 0}
    names = results[0].differences
    split = {name: quantiles([result.differences[name] for result in results]) for name in names}
    worst = [max(result.differences.values()) for result in results]
    wrong = [result for result in results if result.cause]
    off = [r for r, e in zip(results, worst, strict=True) if e > 0.03 and not r.cause]
    return {
        "requests": len(results),
        "both_right": len(results) - len(wrong),
        "share_right": round(1 - len(wrong) / len(results), 4),
        "split": split | {"largest of these": quantiles(worst)},
        "causes": dict(Counter(str(result.cause) for result in wrong)),
        "disagreements": [listed(result) for result in wrong],
        "split_off_by_more_than_3_percent": [listed(result) for result in off],
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(ordered[min(round(share * (len(ordered) - 1)), len(ordered) - 1)], 4)

    return {"median": round(statistics.median(ordered), 4), "p90": at(0.9), "p95": at(0.95), "max": at(1)}


def listed(result: Result) -> dict[str, Any]:
    def split(tokens: Tokens) -> dict[str, int]:
        return {
            "read": tokens.cache_read_input_tokens,
            "written_1h": tokens.ephemeral_1h_input_tokens,
            "written_5m": tokens.ephemeral_5m_input_tokens,
        }

    return {
        "cassette": result.name,
        "turn": result.turn,
        "model": result.model,
        "prompt_tokens": result.recorded.prompt_tokens,
        "recorded": split(result.recorded),
        "simulated": split(result.told),
        "cause": result.cause,
    }


# -- telling ------------------------------------------------------------------------------------------------


def print_tables(document: Mapping[str, Any]) -> None:
    print(f"{document['date']}: {document['cassettes']} cassettes")
    for name in ("cold", "warm", "both sides"):
        its = document[name]
        print(f"\n{name}: {its['requests']} requests with cache activity")
        if not its["requests"]:
            continue
        print(
            "  reads something and writes something, both right: "
            f"{its['both_right']} ({its['share_right']:.1%})"
        )
        print("  error of the split over the prompt       median     p90     p95     max")
        for part, row in its["split"].items():
            cells = "".join(f"{row[key]:8.4f}" for key in ("median", "p90", "p95", "max"))
            print(f"    {part:36}{cells}")
        for kind in ("disagreements", "split_off_by_more_than_3_percent"):
            for row in its[kind]:
                was, now = (tuple(row[side].values()) for side in ("recorded", "simulated"))
                print(f"  {kind.replace('_', ' ')}: {row['cassette']} turn {row['turn']} ({row['model']},")
                print(f"    {row['prompt_tokens']} tokens): read, 1h, 5m recorded {was}, simulated {now}")
                if row["cause"]:
                    print(f"    {row['cause']}")
    print("\nnot simulated or not compared:")
    for reason, count in document["left_out"].items():
        print(f"  {count:4} {reason}")


if __name__ == "__main__":
    main()
