import asking
import pytest

pytest.importorskip("langgraph")
pytest.importorskip("langchain_anthropic")
pytest.importorskip("langchain")


@pytest.mark.token_budget
def test_langgraph():
    from langchain.agents import create_agent
    from langchain_anthropic import ChatAnthropic
    from langchain_core.messages import SystemMessage

    prompt = {"type": "text", "text": asking.system("langgraph"), "cache_control": {"type": "ephemeral"}}
    model = ChatAnthropic(model=asking.MODEL, max_tokens=999)
    agent = create_agent(model, [asking.look_up], system_prompt=SystemMessage([prompt]))
    messages = agent.invoke({"messages": [("user", asking.QUESTION)]})["messages"]
    assert messages[-1].text == asking.ANSWER
    used = [message.usage_metadata for message in messages if message.type == "ai"]
    details = [one["input_token_details"] for one in used]
    read = sum(one.get("cache_read", 0) for one in details)
    written = sum(
        one.get("cache_creation", 0)
        + one.get("ephemeral_5m_input_tokens", 0)
        + one.get("ephemeral_1h_input_tokens", 0)
        for one in details
    )
    uncached = sum(one["input_tokens"] for one in used) - written - read  # which it includes
    asking.reports("langgraph", uncached, written, read, sum(one["output_tokens"] for one in used))
