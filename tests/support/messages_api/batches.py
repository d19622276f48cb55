"""Message batches: created, polled, read as JSON lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .api import Api, ApiError, identifier
from .prompt import Body


class Batches:
    """The batches of one workspace; their requests are charged at once, as `batch`.

    An entry for which the script raises ApiError is errored; with the kind `expired`, expired.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._results: dict[str, list[dict[str, Any]]] = {}
        self._polled: Counter[str] = Counter()

    def create(self, body: Body) -> dict[str, Any]:
        """Take a batch."""
        requests = body.get("requests")
        if not requests:
            raise ApiError(400, message="requests: must not be empty")
        name = identifier("msgbatch", len(self._results), body)
        self._results[name] = [self._result(request) for request in requests]
        return self._document(name, "")

    def poll(self, name: str, url: str) -> dict[str, Any]:
        """The state of a batch: in progress at the first poll, ended from then on."""
        self._known(name)
        document = self._document(name, url)
        self._polled[name] += 1
        return document

    def results(self, name: str) -> str:
        """JSONL, last request first: the API promises no order."""
        return "".join(json.dumps(result) + "\n" for result in reversed(self._known(name)))

    def _known(self, name: str) -> list[dict[str, Any]]:
        if name not in self._results:
            raise ApiError(404, message=f"No batch {name}")
        return self._results[name]

    def _result(self, request: Mapping[str, Any]) -> dict[str, Any]:
        custom_id = request["custom_id"]
        try:
            reply = self._api.answer(request["params"], "batch")
        except ApiError as error:
            if error.kind == "expired":
                return {"custom_id": custom_id, "result": {"type": "expired"}}
            document = error.body(identifier("req", custom_id))
            return {"custom_id": custom_id, "result": {"type": "errored", "error": document}}
        reply.began()
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": reply.message}}

    def _document(self, name: str, url: str) -> dict[str, Any]:
        kinds = [result["result"]["type"] for result in self._results[name]]
        ended = self._polled[name] > 0
        counts = {kind: kinds.count(kind) if ended else 0 for kind in ("succeeded", "errored", "expired")}
        return {
            "id": name,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": {
                "processing": 0 if ended else len(kinds),
                "canceled": 0,
                **counts,
            },
            "created_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-02T00:00:00Z",
            "ended_at": "2026-01-01T00:01:00Z" if ended else None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{url}/v1/messages/batches/{name}/results" if ended else None,
        }
