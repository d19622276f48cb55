import asking
import pytest

smolagents = pytest.importorskip("smolagents")
pytest.importorskip("litellm")


@pytest.mark.token_budget
def test_smolagents():
    model = smolagents.LiteLLMModel(model_id=f"anthropic/{asking.MODEL}", max_tokens=999)
    agent = smolagents.ToolCallingAgent(
        tools=[smolagents.tool(asking.look_up)],
        model=model,
        instructions=asking.system("smolagents"),
        verbosity_level=0,
    )
    result = agent.run(asking.QUESTION, return_full_result=True)
    assert result.output == asking.ANSWER
    used = result.token_usage
    asking.reports("smolagents", used.input_tokens, None, None, used.output_tokens)
