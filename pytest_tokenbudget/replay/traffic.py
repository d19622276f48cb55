"""HTTP interactions read as exchanges: what each request asks, and which interaction holds the answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.message_threads import MessageThreads
from pytest_tokenbudget.replay.packing import Interaction
from pytest_tokenbudget.replay.secret_text import PLACEHOLDER
from pytest_tokenbudget.replay.sent import Reader, Sent, body_bytes, lower
from pytest_tokenbudget.replay.timing import Clock
from pytest_tokenbudget.wire.answers import read_answer
from pytest_tokenbudget.wire.batches import read_batch_results
from pytest_tokenbudget.wire.bodies import decode_body, parse_body
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Request

_NO_RESULTS = Answer(200, error="the results of its batch are not in the recording: let the test fetch them")
_HIDDEN_TEXT = PLACEHOLDER.encode()
_HIDDEN = "https://hidden/v1/messages"
"""Stands in for a recorded address that a filter has blotted out."""


class Traffic:
    """The interactions of a cassette, read once."""

    def __init__(self, interactions: Sequence[Interaction]) -> None:
        self.interactions = list(interactions)
        self.reader = Reader()
        """Knows what was recorded."""
        self.exchanges: list[Exchange] = []
        """Messages requests, token counts, and the entries of batches."""
        self.carriers: list[int] = []
        """Of each exchange: the interaction with its answer, of a batch's entry the batch's creation."""
        self.by_address: dict[tuple[object, ...], list[int]] = defaultdict(list)
        """Interactions with anything else, and batches that could not be created."""
        self.batches: dict[str, list[int]] = defaultdict(list)
        """Created batches, by the digest of their request."""
        self.hides_text = any(_HIDDEN_TEXT in body_bytes(sent.get("body")) for sent, _ in self.interactions)
        """Whether something was hidden in a request when it was recorded."""
        self._threads = MessageThreads()
        self._clock = Clock()
        sent = [_recorded(self.reader, request, answer) for request, answer in self.interactions]
        results = self._results(sent)
        for number, one in enumerate(sent):
            if one.request is None or one.request.endpoint.api in ("batch", "batch_results"):
                self.by_address[one.address].append(number)
            elif one.request.endpoint.api == "batch_create":
                self._add_batch(number, one, results)
            else:
                self._add_one(number, one, one.request)

    def _add_one(self, number: int, sent: Sent, request: Request) -> None:
        answer = self._answer(number, request)
        whole = sent.in_full(self._threads) or sent
        self._threads.keep(sent.body, answer.message)
        self._add(number, Exchange(whole.request or request, answer))

    def _add(self, number: int, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.carriers.append(number)

    def _add_batch(self, number: int, sent: Sent, results: Mapping[str, Mapping[str, Answer]]) -> None:
        assert sent.request is not None
        created = self._answer(number, sent.request)
        if not created.billed:
            self.by_address[sent.address].append(number)
            return
        self.batches[sent.request.digest].append(number)
        answers = results.get(str((created.message or {}).get("id")), {})
        for entry in sent.entries:
            self._add(number, Exchange(entry, answers.get(entry.custom_id or "", _NO_RESULTS)))

    def _results(self, sent: Sequence[Sent]) -> dict[str, dict[str, Answer]]:
        """The answers of batches, by their id and custom_id."""
        results: dict[str, dict[str, Answer]] = defaultdict(dict)
        for number, one in enumerate(sent):
            if one.request is None or one.request.endpoint.api != "batch_results":
                continue
            answer = self.interactions[number][1]
            if 200 <= status(answer) < 300:
                read = read_batch_results(lower(answer.get("headers")), answer_body(answer), one.request)
                results[str(one.request.endpoint.batch_id)] |= read
        return results

    def _answer(self, number: int, request: Request) -> Answer:
        answer = self.interactions[number][1]
        return self._clock.timed(answer_to(request, answer), answer.get("timing"))


def _recorded(reader: Reader, request: Mapping[str, Any], answer: Mapping[str, Any]) -> Sent:
    """A recorded request; where a filter has hidden its address, the answer tells whether it is a message."""
    sent = reader.read(request)
    if sent.request is not None or "messages" not in (parse_body(sent.raw["body"] or b"") or {}):
        return sent
    try:
        plain = decode_body(lower(answer.get("headers")), answer_body(answer))
    except CassetteError:
        return sent
    hidden = reader.read(request, _HIDDEN)
    if hidden.request is None:
        return sent
    message = read_answer(200, {}, plain, hidden.request).message or {}
    return hidden if message.get("type") == "message" and "content" in message else sent


def answer_to(request: Request, answer: Mapping[str, Any]) -> Answer:
    """An answer in vcr's shape, read."""
    return read_answer(status(answer), lower(answer.get("headers")), answer_body(answer), request)


def status(answer: Mapping[str, Any]) -> int:
    """The HTTP status of an answer in vcr's shape, or in that of its old httpx stub; 0 where it has none."""
    code = (answer.get("status") or {}).get("code", answer.get("status_code"))
    return int(str(code)) if str(code).isdecimal() else 0


def answer_body(answer: Mapping[str, Any]) -> bytes:
    """The body of an answer in vcr's shape, or in the one of its old httpx stub."""
    if "body" not in answer:
        return body_bytes(answer.get("content"))
    body = answer["body"]
    return body_bytes(body.get("string") if isinstance(body, Mapping) else body)
