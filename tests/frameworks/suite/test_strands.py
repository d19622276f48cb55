import asking
import pytest

strands = pytest.importorskip("strands")


@pytest.mark.token_budget
def test_strands():
    from strands.models.anthropic import AnthropicModel

    model = AnthropicModel(model_id=asking.MODEL, max_tokens=999)
    agent = strands.Agent(
        model=model,
        tools=[strands.tool(asking.look_up)],
        system_prompt=asking.system("strands"),
        callback_handler=None,
    )
    result = agent(asking.QUESTION)
    assert str(result).strip() == asking.ANSWER
    used = result.metrics.accumulated_usage
    asking.reports("strands", used["inputTokens"], None, None, used["outputTokens"])
