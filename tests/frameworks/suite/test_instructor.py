import anthropic
import asking
import pytest

instructor = pytest.importorskip("instructor")


@pytest.mark.token_budget
def test_instructor():
    from pydantic import BaseModel

    class Order(BaseModel):
        left_on: str

    with anthropic.Anthropic() as plain:
        client = instructor.from_anthropic(plain)
        order, answer = client.chat.completions.create_with_completion(
            model=asking.MODEL,
            max_tokens=999,
            system=[
                {"type": "text", "text": asking.system("instructor"), "cache_control": {"type": "ephemeral"}}
            ],
            messages=[{"role": "user", "content": asking.QUESTION}],
            response_model=Order,
        )
    assert order.left_on == "Monday"
    asking.reports("instructor", *(getattr(answer.usage, tokens) for tokens in asking.TOKENS))
