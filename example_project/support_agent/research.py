"""Three researchers at once, one for each source; what they find goes into the conversation."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

from anthropic import AsyncAnthropic

from support_agent.texts import passages, prompt, tool

MODEL = "claude-haiku-4-5"
SOURCES = ("manuals", "rules", "cases")
MAX_TURNS = 4


def research(question: str) -> list[str]:
    """One finding for each source, in the order of the sources."""
    return asyncio.run(_research(question))


async def _research(question: str) -> list[str]:
    async with AsyncAnthropic() as client:
        return await asyncio.gather(*(_look_into(client, source, question) for source in SOURCES))


async def _look_into(client: AsyncAnthropic, source: str, question: str) -> str:
    messages: list[Any] = [{"role": "user", "content": f"Source: {source}\n\nQuestion: {question}"}]
    ask = _ask_streaming if source == "manuals" else _ask
    for _ in range(MAX_TURNS):
        reply = await ask(client, messages)
        calls = [block for block in reply.content if block.type == "tool_use"]
        if not calls:
            finding = "".join(block.text for block in reply.content if block.type == "text")
            return f"Finding from the {source}: {finding}"
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": search(source, call.input["query"])}
            for call in calls
        ]
        messages += [
            {"role": "assistant", "content": reply.content},
            {"role": "user", "content": results},
        ]
    return f"Finding from the {source}: none within {MAX_TURNS} turns."


def _request(messages: list[Any]) -> dict[str, Any]:
    return {
        "model": MODEL,
        "max_tokens": 512,
        "system": prompt("researcher"),
        "tools": [tool("search_source")],
        "messages": messages,
    }


async def _ask(client: AsyncAnthropic, messages: list[Any]) -> Any:
    return await client.messages.create(**_request(messages))


async def _ask_streaming(client: AsyncAnthropic, messages: list[Any]) -> Any:
    """The manuals take longest: whoever watches the terminal sees the finding grow."""
    async with client.messages.stream(**_request(messages)) as stream:
        async for words in stream.text_stream:
            sys.stderr.write(words)
        return await stream.get_final_message()


def search(source: str, query: str, most: int = 2) -> str:
    """The passages that share the most words with the query; ties stay in the order of the file."""
    wanted = _words(query)
    ranked = sorted(passages(source), key=lambda passage: -len(wanted & _words(passage)))
    found = [passage for passage in ranked[:most] if wanted & _words(passage)]
    return "\n\n".join(found) or "No passage shares a word with the query."


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[\w-]+", text.lower()) if len(word) > 2}
