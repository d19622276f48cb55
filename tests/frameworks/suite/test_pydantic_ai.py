import asking
import pytest

pytest.importorskip("pydantic_ai")


@pytest.mark.token_budget
def test_pydantic_ai():
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModelSettings

    agent = Agent(
        f"anthropic:{asking.MODEL}",
        instructions=asking.system("pydantic_ai"),
        tools=[asking.look_up],
        model_settings=AnthropicModelSettings(anthropic_cache_instructions=True, max_tokens=999),
    )
    result = agent.run_sync(asking.QUESTION)
    assert result.output == asking.ANSWER
    used = result.usage
    used = used() if callable(used) else used
    uncached = used.input_tokens - used.cache_write_tokens - used.cache_read_tokens  # which it includes
    asking.reports(
        "pydantic_ai", uncached, used.cache_write_tokens, used.cache_read_tokens, used.output_tokens
    )
