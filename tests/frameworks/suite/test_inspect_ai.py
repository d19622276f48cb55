import asking
import pytest

inspect_ai = pytest.importorskip("inspect_ai")


@pytest.mark.token_budget
def test_inspect_ai(tmp_path):
    from inspect_ai.agent import react
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import includes
    from inspect_ai.tool import tool

    @tool
    def look_up():
        async def execute(order: int) -> str:
            """Look an order up.

            Args:
                order: The number of the order.
            """
            return asking.look_up(order)

        return execute

    task = inspect_ai.Task(
        dataset=[Sample(asking.QUESTION, target=asking.ANSWER)],
        solver=react(prompt=asking.system("inspect_ai"), tools=[look_up()]),
        scorer=includes(),
    )
    [log] = inspect_ai.eval(
        task, model=f"anthropic/{asking.MODEL}", max_tokens=999, log_dir=str(tmp_path), display="none"
    )
    assert log.status == "success", log.error
    assert log.results.scores[0].metrics["accuracy"].value == 1
    [used] = log.stats.model_usage.values()
    asking.reports(
        "inspect_ai",
        used.input_tokens,
        used.input_tokens_cache_write or 0,
        used.input_tokens_cache_read or 0,
        used.output_tokens,
    )
