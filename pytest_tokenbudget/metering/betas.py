"""Beta headers: which of them may change what a request counts."""

from __future__ import annotations

from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.wire.prompt import Prompt

OUTSIDE_THE_CACHE = (
    *("prompt-caching-", "extended-cache-ttl-", "cache-diagnosis-", "message-batches-", "token-counting-"),
    *("oauth-", "oidc-federation-"),
)
"""About caching, transport and signing in. Every other one counts for the cache, since "Cache diagnostics"
names their set among what a prompt depends on."""
_OUTSIDE_THE_ANSWER = (
    *("context-1m-", "output-128k-", "output-300k-", "model-context-window-exceeded-"),  # limits
    *("files-api-", "structured-outputs-", "message-threads-"),  # they take what the body asks for
    *("thinking-token-count-", "user-profiles-", "fallback-credit-"),  # accounts
)
INTERLEAVED, EFFICIENT = "interleaved-thinking-", "token-efficient-tools-"


def counted_betas(prompt: Prompt) -> frozenset[str]:
    """The betas that may change the prompt or the answer of a request; empty where no headers were kept.

    Interleaved thinking needs thinking and tools (the platform's documentation of 2025); efficient tools need
    tools, and a model that has that way.
    """
    idle = [*OUTSIDE_THE_CACHE, *_OUTSIDE_THE_ANSWER]
    tools, thinking = prompt.level("tools"), prompt.options.get("thinking")
    if not tools or not isinstance(thinking, dict) or thinking.get("type") != "enabled":
        idle.append(INTERLEAVED)
    if not tools or not model_row(prompt.model).efficient_tools:
        idle.append(EFFICIENT)
    return frozenset(beta for beta in prompt.betas or () if not beta.startswith(tuple(idle)))
