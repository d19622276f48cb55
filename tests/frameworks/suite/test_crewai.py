import asking
import pytest

crewai = pytest.importorskip("crewai")


@pytest.mark.token_budget
def test_crewai():
    from crewai.tools import tool

    model = crewai.LLM(model=f"anthropic/{asking.MODEL}", max_tokens=999)
    agent = crewai.Agent(
        role="clerk",
        goal="Answer what customers ask.",
        backstory=asking.system("crewai"),
        tools=[tool(asking.look_up)],
        llm=model,
    )
    task = crewai.Task(description=asking.QUESTION, expected_output="The day on which it left.", agent=agent)
    result = crewai.Crew(agents=[agent], tasks=[task]).kickoff()
    assert result.raw == asking.ANSWER
    used = result.token_usage
    written, read = used.cache_creation_tokens, used.cached_prompt_tokens
    uncached = used.prompt_tokens - written - read  # which it includes
    asking.reports("crewai", uncached, written, read, used.completion_tokens)
