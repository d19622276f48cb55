"""The agent: a small model sorts the message, researchers look into fit, and a tool loop answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anthropic import Anthropic

from support_agent.research import research
from support_agent.shop import Shop
from support_agent.texts import prompt, tool
from support_agent.tools import run_tool

TRIAGE_MODEL = "claude-haiku-4-5"
ANSWER_MODEL = "claude-sonnet-4-6"
MAX_TURNS = 8
CATEGORIES = ("person", "return", "delivery", "fit", "other")
TOOLS = ("get_order", "track_parcel", "check_stock", "start_return", "escalate")


class NoAnswerError(Exception):
    """The tool loop did not come to an answer within its turns."""


@dataclass(frozen=True)
class Reply:
    """What the customer gets, and how the agent came to it."""

    category: str
    text: str
    tools: tuple[str, ...]
    """Names of the tools that were called, in order."""


def answer(message: str, shop: Shop) -> Reply:
    """Answer a customer's message; the client takes its key and base URL from the environment."""
    with Anthropic() as client:
        category = triage(client, message)
        findings = research(message) if category == "fit" else []
        return converse(client, category, "\n\n".join([message, *findings]), shop)


def triage(client: Anthropic, message: str) -> str:
    """Sort a message; its prompt is too short to be cached (4,096 tokens on this model)."""
    reply = client.messages.create(
        model=TRIAGE_MODEL,
        max_tokens=16,
        system=prompt("triage"),
        messages=[{"role": "user", "content": message}],
    )
    word = text_of(reply).strip()
    return word if word in CATEGORIES else "other"


def converse(client: Anthropic, category: str, message: str, shop: Shop) -> Reply:
    """Let the model call tools until it answers.

    Two cache breakpoints: one after the tools and the handbook, which every conversation shares, and one
    that moves along at the end of the conversation, so that each turn reads what the turn before it wrote.
    """
    messages: list[Any] = [{"role": "user", "content": message}]
    called: list[str] = []
    for _ in range(MAX_TURNS):
        reply = client.messages.create(
            model=ANSWER_MODEL,
            max_tokens=1024,
            tools=[tool(name) for name in TOOLS],
            system=[_handbook()],
            messages=messages,
            cache_control={"type": "ephemeral"},
        )
        calls = [block for block in reply.content if block.type == "tool_use"]
        if not calls:
            return Reply(category, text_of(reply), tuple(called))
        called += [call.name for call in calls]
        results = [run_tool(call, shop) for call in calls]
        messages += [
            {"role": "assistant", "content": reply.content},
            {"role": "user", "content": results},
        ]
    raise NoAnswerError(f"No answer after {MAX_TURNS} turns: {', '.join(called)}")


def _handbook() -> Any:
    return {"type": "text", "text": prompt("support"), "cache_control": {"type": "ephemeral"}}


def text_of(reply: Any) -> str:
    """The text blocks of a message, joined."""
    return "".join(block.text for block in reply.content if block.type == "text")
