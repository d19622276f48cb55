import asking
import pytest

dspy = pytest.importorskip("dspy")


@pytest.mark.token_budget
def test_dspy():
    """With its cache off: else the second run would ask nothing."""
    model = dspy.LM(f"anthropic/{asking.MODEL}", max_tokens=999, cache=False)
    signature = dspy.Signature("question -> answer", asking.system("dspy"))
    with dspy.context(lm=model):
        result = dspy.Predict(signature)(question=asking.QUESTION)
    assert result.answer == asking.ANSWER
    [call] = model.history
    asking.reports("dspy", call["usage"]["prompt_tokens"], None, None, call["usage"]["completion_tokens"])
