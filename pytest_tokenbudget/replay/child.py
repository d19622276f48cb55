"""The proxy of a scenario: agents in other processes share the account of the test that starts them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_tokenbudget.errors import ReplayMiss, SettingsError
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.proxy import CLAUDE_CODE, Proxy, Reply, api_error, new_key
from pytest_tokenbudget.replay.secret_text import secrets_of
from pytest_tokenbudget.replay.traffic import answer_body, status
from pytest_tokenbudget.replay.upstream import Upstream

_API = "https://api.anthropic.com"
_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
_CLOUDS = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")


@dataclass(frozen=True, slots=True)
class Access:
    """What a test gets as `token_budget_proxy`, to start its child with."""

    url: str
    """The base URL, without a path."""
    environment: dict[str, str] = field(repr=False)
    """The child's whole environment."""

    @classmethod
    def direct(cls, environ: Mapping[str, str]) -> Access:
        """To the real API, where the plugin is off."""
        return cls(environ.get("ANTHROPIC_BASE_URL") or _API, {**environ, **CLAUDE_CODE})


class ChildProxy(Proxy):
    """Answers a child out of a ledger, or asks the real API and lets the ledger keep what it says.

    `ledger` tells whose account a request belongs to; `environ` is the environment of the test's own process,
    with the real key and the base URL of the real API. Raises SettingsError where it sends a child past the
    proxy.
    """

    def __init__(self, ledger: Callable[[], Ledger], environ: Mapping[str, str]) -> None:
        _check(environ)
        self._ledger = ledger
        self._environ = dict(environ)
        keys = {environ[name] for name in _KEYS if environ.get(name)}
        known = {name: environ.get(name, "") for name in (*_KEYS, "ANTHROPIC_CUSTOM_HEADERS")}
        self._secrets = sorted(secrets_of(known), key=len, reverse=True)  # also hidden inside of longer texts
        self._placeholders = {real: new_key() for real in {*keys, *self._secrets}}
        behind = {placeholder: real for real, placeholder in self._placeholders.items()}
        self._upstream = Upstream(environ.get("ANTHROPIC_BASE_URL") or _API, behind)
        super().__init__(self._answer)

    @property
    def access(self) -> Access:
        """For the child: the environment of the test, with placeholders for the real keys."""
        inherited = {name: self._hidden(value) for name, value in self._environ.items()}
        ours = self.environment
        if any(inherited.get(name) for name in _KEYS):
            del ours["ANTHROPIC_API_KEY"]  # the child has what the test has, and no more
        return Access(self.url, {**inherited, **ours})

    @property
    def problems(self) -> list[str]:
        """What went wrong beside misses, which the ledger keeps."""
        failures = [error for error in self.failures if not isinstance(error, ReplayMiss)]
        return [
            f"token_budget_proxy: {type(error).__name__} while it answered: {error}" for error in failures
        ]

    def _hidden(self, value: str) -> str:
        if value in self._placeholders:
            return self._placeholders[value]
        for secret in self._secrets:
            value = value.replace(secret, self._placeholders[secret])
        return value

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Raises ReplayMiss."""
        ledger, url = self._ledger(), self._upstream.url(path)
        listed = {name: [value] for name, value in headers.items()}
        sent = ledger.read({"method": method, "uri": url, "body": body, "headers": listed})
        found = ledger.find(sent)
        if found is not None:
            headers_of = {
                name: _listed(values) for name, values in (found.answer.get("headers") or {}).items()
            }
            return Reply(status(found.answer), headers_of, answer_body(found.answer))
        if not ledger.rules.calls:  # the ledger lets pass what goes to a server of the test itself
            return api_error(404, "not_found_error", f"{sent} was not recorded", retry=False)
        if not self._placeholders:
            ledger.refuse(f"{ledger.name}: {sent} needs a key to be really called. Set ANTHROPIC_API_KEY.")
        call = ledger.begin(sent)
        reply = self._upstream.ask(method, path, headers, body, lambda answer: ledger.finish(call, answer))
        call.began = time.monotonic()
        return reply


def _check(environ: Mapping[str, str]) -> None:
    for name in _CLOUDS:
        if environ.get(name):
            raise SettingsError(
                f"{name} sends Claude Code to a cloud, and so past token_budget_proxy, which stands for the "
                "Claude API. Unset it for this test."
            )


def _listed(values: Any) -> list[str]:
    return [values] if isinstance(values, str) else list(values)
