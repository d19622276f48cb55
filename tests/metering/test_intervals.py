"""The interval of the built-in counter: it holds the truth in other languages than English, too."""

from __future__ import annotations

import importlib.util

import pytest

from pytest_tokenbudget.metering.counting import BuiltinCounter, CtokCounter, guessed
from pytest_tokenbudget.metering.estimate import Known, estimate
from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.wire.prompt import Prompt, parse_prompt

TEXTS = {
    "english": ("Please check the order number first, before any refund is granted.", 14, 16),
    "german": (
        "Bitte prüfen Sie zuerst die Bestellnummer, bevor Sie eine Rückerstattung veranlassen.",
        31,
        45,
    ),
    "french": ("Vérifiez d'abord le numéro de commande avant d'accorder un remboursement au client.", 29, 32),
    "spanish": ("Compruebe primero el número de pedido antes de autorizar cualquier reembolso.", 22, 29),
    "polish": ("Najpierw sprawdź numer zamówienia, zanim zatwierdzisz jakikolwiek zwrot pieniędzy.", 33, 47),
    "vietnamese": ("Vui lòng kiểm tra số đơn hàng trước khi chấp thuận bất kỳ khoản hoàn tiền nào.", 43, 48),
    "russian": ("Сначала проверьте номер заказа, прежде чем оформлять возврат средств клиенту.", 33, 33),
    "greek": ("Ελέγξτε πρώτα τον αριθμό παραγγελίας πριν εγκρίνετε επιστροφή χρημάτων.", 51, 51),
    "japanese": ("返金を行う前に、まず注文番号を確認してください。", 21, 20),
    "chinese": ("在办理任何退款之前，请先核对订单号码。", 20, 19),
    "korean": ("환불을 진행하기 전에 먼저 주문 번호를 확인해 주세요.", 32, 31),
    "arabic": ("يرجى التحقق من رقم الطلب أولاً قبل الموافقة على أي استرداد.", 36, 36),
    "hindi": ("कोई भी धनवापसी करने से पहले कृपया ऑर्डर नंबर की जाँच करें।", 40, 40),
    "emoji": ("Great job 🎉🎉 ship it 🚀 and tell the team 👩\u200d💻👍🏽", 33, 36),
    "url": ("https://shop.example.com/orders/4711?ref=mail&utm_source=newsletter#track", 24, 32),
    "hex": ("5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9", 40, 43),
}
"""With their tokens, as ctok 1.3 counts them: up to Opus 4.6, and since Opus 4.8."""
RECORDED = 10
"""Of a prompt of nothing but "Hi": nothing that a counter could be calibrated on."""
MODELS = {Family.V3: "claude-sonnet-4-6", Family.V48: "claude-opus-4-8"}


def prompt(model: str, system: str) -> Prompt:
    return parse_prompt({"model": model, "system": system, "messages": [{"role": "user", "content": "Hi"}]})


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("text", TEXTS)
def test_the_truth_is_within(text: str, family: Family) -> None:
    words, *counts = TEXTS[text]
    grown = counts[list(MODELS).index(family)]
    was, now = prompt(MODELS[family], "-\n\n"), prompt(MODELS[family], "-\n\n" + words)
    told = estimate(Known(was, RECORDED), now, BuiltinCounter())
    assert told.low is not None
    assert told.high is not None
    assert told.low <= RECORDED + grown <= told.high
    assert told.prompt_tokens is not None
    assert told.high - told.prompt_tokens <= 2 + 0.5 * (told.prompt_tokens - RECORDED)


def test_what_is_known_word_by_word_has_a_narrow_interval() -> None:
    known, rare = "the order of the customer and the price", "perspicacious quokkas obfuscate"
    assert guessed(known) < 0.1 < 0.7 < guessed(rare)
    widths = []
    for words in (known * 20, rare * 20):
        told = estimate(
            Known(prompt("claude-sonnet-4-6", "-"), RECORDED),
            prompt("claude-sonnet-4-6", words),
            BuiltinCounter(),
        )
        assert told.prompt_tokens is not None
        assert told.high is not None
        widths.append((told.high - told.prompt_tokens) / told.prompt_tokens)
    assert widths[0] < widths[1] / 2


@pytest.mark.skipif(importlib.util.find_spec("ctok") is None, reason="ctok needs Python 3.12")
@pytest.mark.parametrize("text", TEXTS)
def test_the_counts_are_those_of_the_tokenizer(text: str) -> None:
    words, *counts = TEXTS[text]
    assert [CtokCounter().count(words, family) for family in MODELS] == counts
