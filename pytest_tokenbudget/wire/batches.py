"""Message batches: the requests of a batch's creation, and the answers in its results, each by custom_id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.wire.billing import answered
from pytest_tokenbudget.wire.bodies import decode_body, parse_body
from pytest_tokenbudget.wire.exchange import Answer, Request
from pytest_tokenbudget.wire.requests import digest_of, read_prompt, sorted_keys


def read_batch_requests(
    request: Request, headers: Mapping[str, str], body: bytes, *, sort_keys: bool = False
) -> tuple[Request, ...]:
    """The entries of a batch's creation as requests of their own, in order; empty for any other request.

    `request` is what `read_request` made of the same headers and body; `sort_keys` as there.
    """
    if request.endpoint.api != "batch_create":
        return ()
    parsed = parse_body(body) or {}
    entries = (sorted_keys(parsed) if sort_keys else parsed).get("requests")
    return tuple(
        _entry(request, headers, str(entry.get("custom_id")), entry["params"])
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, Mapping) and isinstance(entry.get("params"), Mapping)
    )


def _entry(
    request: Request, headers: Mapping[str, str], custom_id: str, params: Mapping[str, Any]
) -> Request:
    endpoint = replace(request.endpoint, api="messages")
    return Request(
        endpoint=endpoint,
        prompt=read_prompt(params, endpoint, headers),
        digest=digest_of("BATCH", endpoint, params),
        session=request.session,
        custom_id=custom_id,
    )


def read_batch_results(headers: Mapping[str, str], body: bytes, request: Request) -> dict[str, Answer]:
    """The answers in a batch's results (JSONL, in any order) by custom_id; `request` asked for them.

    Only succeeded entries are billed, at the batch rate; of the others the status is 0, since they have
    none, and the error is the API's error type, `canceled` or `expired`. Raises CassetteError where a line
    is no result.
    """
    answers: dict[str, Answer] = {}
    for number, line in enumerate(decode_body(headers, body).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            answers[str(entry["custom_id"])] = _answer(entry["result"], request)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise CassetteError(
                f"Line {number} of recorded batch results is no result of a message batch. Record it anew."
            ) from None
    return answers


def _answer(result: Mapping[str, Any], request: Request) -> Answer:
    kind = str(result["type"])
    if kind != "succeeded":
        error = result.get("error") or {}
        error = error.get("error") or error  # the API wraps it: {"type": "error", "error": {...}}
        return Answer(0, error=str(error.get("type", kind)))
    return answered(200, result["message"], request.endpoint, "unknown", batch=True)
