import asking
import pytest

pytest.importorskip("agno")


@pytest.mark.token_budget
def test_agno():
    from agno.agent import Agent
    from agno.models.anthropic import Claude

    model = Claude(id=asking.MODEL, max_tokens=999, cache_system_prompt=True)
    agent = Agent(model=model, tools=[asking.look_up], system_message=asking.system("agno"))
    result = agent.run(asking.QUESTION)
    assert result.content == asking.ANSWER
    used = result.metrics
    asking.reports(
        "agno", used.input_tokens, used.cache_write_tokens, used.cache_read_tokens, used.output_tokens
    )
