"""The API behind the HTTP: checks a request, asks the script for an answer, bills it, keeps a ledger."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from support.blocks import text

from .cache import PromptCache, Split
from .counting import UnknownTextError
from .models import Model, find_model
from .prompt import Body, InvalidRequestError, Prompt, output_tokens, render
from .threads import Threads, UnknownThreadError

Script = Callable[[Body], str | Sequence[Mapping[str, Any]]]
"""From a request body to the content of the answer: a string, or a list of blocks."""


def tool_use(name: str, **arguments: object) -> dict[str, Any]:
    """A tool call of an answer; the API gives it its id."""
    return {"type": "tool_use", "name": name, "input": arguments}


@dataclass(frozen=True)
class Usage:
    """What one request was charged: disjoint counts, named as the API names them."""

    input_tokens: int
    ephemeral_5m_input_tokens: int
    ephemeral_1h_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int

    @property
    def cache_creation_input_tokens(self) -> int:
        """Written to the cache, for either lifetime."""
        return self.ephemeral_5m_input_tokens + self.ephemeral_1h_input_tokens

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt."""
        return self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens


@dataclass(frozen=True)
class Charge:
    """One line of the ledger; failed requests and token counting are not charged and have none."""

    number: int
    model: str
    service_tier: str
    usage: Usage
    body: Body = field(repr=False)


@dataclass(eq=False)
class ApiError(Exception):
    """An error answer; `in_stream` lets a stream begin with status 200 and breaks it off with the error."""

    status: int
    kind: str = ""
    message: str = "Scripted fault"
    retry_after: float | None = None
    in_stream: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    def body(self, request_id: str) -> dict[str, Any]:
        """The API's error document."""
        kind = self.kind or _KINDS.get(self.status, "api_error")
        details = {"details": dict(self.details)} if self.details else {}
        return {
            "type": "error",
            "error": {"type": kind, "message": self.message, **details},
            "request_id": request_id,
        }


_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Reply:
    """An answered request: the message, and what must happen when its first byte leaves."""

    message: dict[str, Any]
    began: Callable[[], None]


class Api:
    """One workspace: its script, its prompt cache and its ledger."""

    def __init__(self, script: Script, clock: Callable[[], float] = time.monotonic) -> None:
        self.script = script
        self.cache = PromptCache(clock)
        self.threads = Threads()
        self.charges: list[Charge] = []
        self.faults: deque[ApiError] = deque()
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def answer(self, body: Body, service_tier: str = "standard") -> Reply:
        """Answer and charge one message request; raises ApiError."""
        model = _model(body)
        if not isinstance(body.get("max_tokens"), int):
            raise ApiError(400, message="max_tokens: Field required")
        body = self._whole(body)
        split = self.cache.request(_rendered(body, model), model.cache_minimum)
        asked = self._times_asked(body)
        content = self._content(body, asked)
        try:
            output = output_tokens(content, model.family) if content else 0
        except (UnknownTextError, InvalidRequestError) as error:
            raise ApiError(400, message=str(error)) from None
        if output > body["max_tokens"]:
            raise ApiError(500, message=f"The script's answer of {output} tokens is longer than max_tokens")
        usage = _usage(split, output)
        with self._lock:
            number = len(self.charges)
            self.charges.append(Charge(number, model.name, service_tier, usage, body))
        message = {
            "model": body["model"],
            "id": identifier("msg", asked, body),
            "type": "message",
            "role": "assistant",
            "content": content,
            "stop_reason": _stop_reason(content),
            "stop_sequence": None,
            "usage": _usage_document(usage, service_tier),
        }
        self.threads.keep(body, message)
        return Reply(message, lambda: self.cache.answer_began(split))

    def count_tokens(self, body: Body) -> dict[str, int]:
        """The free count: no cache, no charge."""
        return {"input_tokens": _rendered(body, _model(body)).total}

    def ledger(self) -> list[dict[str, Any]]:
        """All charges as JSON-like values, without the requests' bodies."""
        with self._lock:
            charges = list(self.charges)
        return [
            {"number": c.number, "model": c.model, "service_tier": c.service_tier, "usage": asdict(c.usage)}
            for c in charges
        ]

    def _whole(self, body: Body) -> Body:
        try:
            return self.threads.whole(body)
        except UnknownThreadError:
            details = {"error_code": "thread_not_found"}
            raise ApiError(404, message="thread: not found", details=details) from None

    def _times_asked(self, body: Body) -> int:
        """How often this very body was asked before: it makes ids unique and yet repeatable."""
        key = json.dumps(body)
        with self._lock:
            self._seen[key] += 1
            return self._seen[key] - 1

    def _content(self, body: Body, asked: int) -> list[dict[str, Any]]:
        """The script's answer, with ids for its tool calls."""
        if body["max_tokens"] == 0:
            return []  # a request that only warms the cache
        try:
            answer = self.script(body)
        except ApiError:
            raise
        except Exception as error:
            raise ApiError(500, message=f"The script failed: {error!r}") from error
        if isinstance(answer, str):
            return [text(answer)]
        return [
            {"type": "tool_use", "id": identifier("toolu", asked, index, body), **block}
            if block["type"] == "tool_use"
            else dict(block)
            for index, block in enumerate(answer)
        ]


def _model(body: Body) -> Model:
    name = body.get("model")
    model = find_model(name) if isinstance(name, str) else None
    if model is None:
        raise ApiError(404, message=f"model: {name}")
    return model


def _rendered(body: Body, model: Model) -> Prompt:
    uncountable = {"context_management", "container", "mcp_servers", "output_format"} & body.keys()
    if isinstance(body.get("output_config"), Mapping) and "format" in body["output_config"]:
        uncountable.add("output_config.format")
    try:
        if uncountable:
            raise InvalidRequestError(
                f"This test server cannot count requests with {', '.join(sorted(uncountable))}"
            )
        return render(body, model)
    except (UnknownTextError, InvalidRequestError) as error:
        raise ApiError(400, message=str(error)) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ApiError(400, message=f"The request is not in the API's form: {error!r}") from None


def _stop_reason(content: Sequence[Body]) -> str:
    if not content:
        return "max_tokens"
    return "tool_use" if any(block["type"] == "tool_use" for block in content) else "end_turn"


def _usage(split: Split, output: int) -> Usage:
    return Usage(split.input_tokens, split.write_5m, split.write_1h, split.read, output)


def _usage_document(usage: Usage, service_tier: str) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.ephemeral_5m_input_tokens,
            "ephemeral_1h_input_tokens": usage.ephemeral_1h_input_tokens,
        },
        "output_tokens": usage.output_tokens,
        "service_tier": service_tier,
        "inference_geo": "global",
    }


def identifier(prefix: str, *of: object) -> str:
    """An id in the API's form that depends on nothing but its arguments."""
    digest = hashlib.sha256(json.dumps(of, default=str).encode()).hexdigest()
    return f"{prefix}_01{digest[:22]}"
