import asyncio
import json

import asking
import pytest

litellm = pytest.importorskip("litellm")

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look an order up.",
        "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]},
    },
}


def opening(name):
    system = {"type": "text", "text": asking.system(name), "cache_control": {"type": "ephemeral"}}
    return [{"role": "system", "content": [system]}, {"role": "user", "content": asking.QUESTION}]


def request(messages):
    return {"model": f"anthropic/{asking.MODEL}", "messages": messages, "tools": [TOOL], "max_tokens": 999}


def used_tool(messages, answer):
    """Whether the answer calls the tool; then what it returns is in the messages."""
    message = answer.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or []:
        found = asking.look_up(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": found})
    return bool(message.tool_calls)


def report(name, answers):
    read = sum(answer.usage.cache_read_input_tokens or 0 for answer in answers)
    written = sum(answer.usage.cache_creation_input_tokens or 0 for answer in answers)
    prompt = sum(answer.usage.prompt_tokens for answer in answers)  # which includes both
    output = sum(answer.usage.completion_tokens for answer in answers)
    asking.reports(name, prompt - read - written, written, read, output)


@pytest.mark.token_budget
def test_litellm():
    messages, answers = opening("litellm"), []
    while not answers or used_tool(messages, answers[-1]):
        answers.append(litellm.completion(**request(messages)))
    assert messages[-1]["content"] == asking.ANSWER
    report("litellm", answers)


@pytest.mark.token_budget
def test_litellm_async():
    async def ask():
        messages, answers = opening("litellm_async"), []
        while not answers or used_tool(messages, answers[-1]):
            answers.append(await litellm.acompletion(**request(messages)))
        assert messages[-1]["content"] == asking.ANSWER
        report("litellm_async", answers)

    asyncio.run(ask())
