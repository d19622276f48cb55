import asking
import pytest

pytest.importorskip("agents")
pytest.importorskip("litellm")


@pytest.mark.token_budget
def test_openai_agents():
    from agents import Agent, Runner, function_tool
    from agents.extensions.models.litellm_model import LitellmModel

    agent = Agent(
        name="clerk",
        instructions=asking.system("openai_agents"),
        model=LitellmModel(model=f"anthropic/{asking.MODEL}"),
        tools=[function_tool(asking.look_up)],
    )
    result = Runner.run_sync(agent, asking.QUESTION)
    assert result.final_output == asking.ANSWER
    used = result.context_wrapper.usage
    read = used.input_tokens_details.cached_tokens  # which `input_tokens` includes
    asking.reports("openai_agents", used.input_tokens - read, None, read, used.output_tokens)
