"""Count prompts by the free count_tokens endpoint, in a process of its own.

The process that runs the test is fenced: its HTTP libraries replay, its network is closed, its key is a
placeholder. So `python -m pytest_tokenbudget.run.count_api` reads requests from standard input and writes an
answer for each. The key comes in its environment and goes nowhere else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pytest_tokenbudget.errors import RecordingError
from pytest_tokenbudget.metering.counting import Store
from pytest_tokenbudget.metering.rendering import counted_betas
from pytest_tokenbudget.wire.prompt import Prompt, body_of, digest

_PUBLIC = "https://api.anthropic.com"
_VERSION = "2023-06-01"
"""The version of the API: the older one, which models of every age take."""
_PARALLEL = 8
"""At some 0.3 s a count this stays below 2,000 a minute, the lowest documented limit of the endpoint."""
_NOT_TAKEN = frozenset({"inference_geo", "fallbacks"})
"""Options that no prompt holds and that the endpoint refuses."""
_TRIES = 3
_PATIENCE = 60.0  # seconds for one request
_RETRIED = (408, 429, 500, 502, 503, 504, 529)


class _Request(NamedTuple):
    """One request to the endpoint."""

    body: Mapping[str, Any]
    betas: Sequence[str]

    @classmethod
    def of(cls, prompt: Prompt) -> _Request:
        body = {key: value for key, value in body_of(prompt).items() if key not in _NOT_TAKEN}
        return cls(body, sorted(counted_betas(prompt)))


class ApiCounter:
    """Counts prompts, each once: within the run, and across runs if a store is given."""

    def __init__(self, environ: Mapping[str, str], store: Store | None = None) -> None:
        """Take `environ` as it is before replay puts placeholders in. Raises RecordingError without a key."""
        if not (environ.get("ANTHROPIC_API_KEY") or environ.get("ANTHROPIC_AUTH_TOKEN")):
            raise RecordingError(
                "--token-budget-count=api needs ANTHROPIC_API_KEY (counting is free). "
                "Set it, or count offline, which is the default."
            )
        self.warnings: list[str] = []
        """Sentences that say why prompts were not counted, each once."""
        self._environ = dict(environ)
        self._store = store
        self._counts: dict[str, int] = {}

    def count(self, prompts: Sequence[Prompt]) -> list[int | None]:
        """Return the prompt tokens of each prompt; None, with a warning, if the endpoint does not say."""
        requests = [_Request.of(prompt) for prompt in prompts]
        keys = [f"tokenbudget/api_counts/{digest(*request)}" for request in requests]
        for key in keys:
            kept = self._store.get(key, None) if self._store and key not in self._counts else None
            if isinstance(kept, int):
                self._counts[key] = kept
        missing = {key: one for key, one in zip(keys, requests, strict=True) if key not in self._counts}
        for key, answer in zip(missing, self._ask(list(missing.values())), strict=True):
            if isinstance(answer, int):
                self._counts[key] = answer
                if self._store:
                    self._store.set(key, answer)
            elif answer not in self.warnings:
                self.warnings.append(answer)
        return [self._counts.get(key) for key in keys]

    def _ask(self, requests: Sequence[_Request]) -> Sequence[int | str]:
        if not requests:
            return ()
        done = subprocess.run(  # noqa: S603  # this module
            [sys.executable, "-m", __name__],
            input=json.dumps(requests),
            env={**self._environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2]
            return [f"count_tokens could not be asked: {reason}; counted offline instead."] * len(requests)
        answers: list[int | str] = json.loads(done.stdout)
        return answers


def main() -> None:
    """Answer the requests on standard input: with a list of counts, or of reasons where there is none."""
    requests = [_Request(*one) for one in json.load(sys.stdin)]
    with ThreadPoolExecutor(_PARALLEL) as pool:
        json.dump(list(pool.map(_count, requests)), sys.stdout)


def _count(asked: _Request) -> int | str:
    body, betas = asked
    base = (os.environ.get("ANTHROPIC_BASE_URL") or _PUBLIC).rstrip("/")
    key, token = os.environ.get("ANTHROPIC_API_KEY"), os.environ.get("ANTHROPIC_AUTH_TOKEN")
    headers = {"content-type": "application/json", "anthropic-version": _VERSION}
    headers |= {"x-api-key": key} if key else {"authorization": f"Bearer {token}"}
    headers |= {"anthropic-beta": ",".join(betas)} if betas else {}
    request = urllib.request.Request(  # noqa: S310  # the user's own ANTHROPIC_BASE_URL
        f"{base}/v1/messages/count_tokens", json.dumps(body).encode(), headers
    )
    problem = "no answer"
    for attempt in range(_TRIES):
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
                return int(json.load(answer)["input_tokens"])
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}"
            if error.code not in _RETRIED:
                break
            time.sleep(_delay(error.headers.get("retry-after"), attempt))
        except (OSError, ValueError, LookupError, TypeError) as error:
            problem = str(error)
            time.sleep(_delay(None, attempt))
    return (
        f"count_tokens does not count a request to {body.get('model')}: {problem}; counted offline instead."
    )


def _delay(retry_after: str | None, attempt: int) -> float:
    try:
        return min(float(retry_after or ""), _PATIENCE)
    except ValueError:
        return 0.5 * 2.0**attempt


if __name__ == "__main__":
    main()
