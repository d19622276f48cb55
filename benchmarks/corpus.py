"""Recorded exchanges of a corpus folder: `*.jsonl` or `*.jsonl.gz` with one a line, and vcr cassettes.

A line holds `repo, file, index_in_cassette, model, stream, request, response_message, usage` (and more); a
cassette is any YAML file that vcrpy, pytest-recording or this project wrote. A folder of cassettes below
`cassettes/` is a project.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_tokenbudget.errors import TokenBudgetError
from pytest_tokenbudget.metering.models import model_name
from pytest_tokenbudget.replay.cassette_file import read_cassette
from pytest_tokenbudget.wire.answers import read_answer
from pytest_tokenbudget.wire.prompt import Prompt, digest, parse_prompt
from pytest_tokenbudget.wire.requests import read_request


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request whose prompt tokens its answer tells."""

    project: str
    file: str
    index: int
    """In its file."""
    prompt: Prompt
    prompt_tokens: int
    output_tokens: int
    message: Mapping[str, Any]
    """The answer."""

    @property
    def model(self) -> str:
        """Its model, by the name that is the same on every platform."""
        return model_name(self.prompt.model)

    @property
    def content(self) -> str:
        """A digest of all that is asked."""
        prompt = self.prompt
        return digest([block.digest for block in prompt.blocks], prompt.options, sorted(prompt.betas or ()))


def load(folders: Iterable[Path]) -> list[Recorded]:
    """Every recorded exchange below `folders`, once: a corpus may hold one in two forms."""
    found: dict[object, Recorded] = {}
    for folder in folders:
        for one in (*_lines(folder), *_cassettes(folder)):
            found.setdefault((one.project, one.model, one.content, one.prompt_tokens, one.output_tokens), one)
    return list(found.values())


def _lines(folder: Path) -> Iterator[Recorded]:
    for path in sorted((*folder.rglob("*.jsonl"), *folder.rglob("*.jsonl.gz"))):
        read = gzip.open if path.suffix == ".gz" else open
        with read(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                one = json.loads(line)
                usage, request = one.get("usage"), one.get("request")
                if not usage or not request or one.get("kind") == "batch" or "messages" not in request:
                    continue
                model, stream = one.get("model"), bool(one.get("stream"))
                prompt = parse_prompt(request, model=model, betas=None, stream=stream)
                tokens = _prompt_tokens(usage)
                if tokens:
                    yield Recorded(
                        one["repo"].replace("+", "/"),
                        one["file"],
                        one["index_in_cassette"],
                        prompt,
                        tokens,
                        usage.get("output_tokens") or 0,
                        one.get("response_message") or {},
                    )


def _prompt_tokens(usage: Mapping[str, Any]) -> int:
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage.get(name) or 0 for name in names)


def _cassettes(folder: Path) -> Iterator[Recorded]:
    for path in sorted((*folder.rglob("*.yaml"), *folder.rglob("*.yml"))):
        try:
            interactions = read_cassette(path)
        except (TokenBudgetError, OSError):
            continue
        parts = path.relative_to(folder).parts
        project = (parts[1] if parts[0] == "cassettes" and len(parts) > 2 else parts[0]).replace("__", "/")
        for index, (sent, came) in enumerate(interactions):
            headers = {name.lower(): values[0] for name, values in sent["headers"].items() if values}
            request = read_request(sent["method"], sent["uri"], headers, _bytes(sent["body"]))
            if request is None or request.endpoint.api != "messages":
                continue
            names = {name.lower(): values[0] for name, values in came["headers"].items() if values}
            body = _bytes(came["body"].get("string"))
            answer = read_answer(came["status"]["code"], names, body, request)
            tokens = None if answer.usage is None else answer.usage.tokens
            if tokens and tokens.prompt_tokens and answer.message:
                yield Recorded(
                    project,
                    "/".join(parts),
                    index,
                    request.prompt,
                    tokens.prompt_tokens,
                    tokens.output_tokens,
                    answer.message,
                )


def _bytes(body: object) -> bytes:
    return body if isinstance(body, bytes) else str(body or "").encode()
