"""Tokens of Korean and English, with and without the Korean model."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.scoring import korean
from evalvault_pipeline.scoring.korean import NgramTokenizer, Tokenizer, choose_tokenizer, english_stem

NGRAM = NgramTokenizer()


@pytest.fixture(scope="module")
def kiwi() -> Tokenizer:
    pytest.importorskip("kiwipiepy")
    return choose_tokenizer("kiwi")


def test_particles_do_not_make_a_word_another_word():
    assert NGRAM.content("보험금을") == NGRAM.content("보험금이") == {"보험", "험금"}


def test_with_the_model_a_korean_text_is_its_nouns_and_verbs(kiwi: Tokenizer):
    assert kiwi.content("보험금을 지급합니다.") >= {"보험금", "지급"}
    assert not kiwi.content("보험금을 지급합니다.") & {"을", "습니다", "ᆸ니다"}


@pytest.mark.parametrize(
    "text",
    ["30일 이상 10% 이하", "20 percent of 500", "eight or twenty-five million", "일억오천만 원", "그 및 또는", "of the and"],
)
def test_numbers_and_function_words_are_no_content(text: str, kiwi: Tokenizer):
    assert NGRAM.content(text) == kiwi.content(text) == frozenset()


def test_english_words_count_without_case_plural_and_articles():
    assert NGRAM.content("The Policies and a claim") == {"policy", "claim"}
    assert NGRAM.tokens("The claim, a claim") == ("claim", "claim")


def test_korean_words_are_counted_by_syllable_without_the_model():
    assert NGRAM.tokens("암 진단비 CT 3,000") == ("암", "진", "단", "비", "ct", "3,000")


@pytest.mark.parametrize("text", ["我们支付五千元", "保険金", "страховая выплата", "café"])
def test_letters_of_other_scripts_are_words_too(text: str, kiwi: Tokenizer):
    """A judge or answer model that falls into Chinese must not look as if it had claimed nothing."""
    assert NGRAM.content(text) and NGRAM.tokens(text)
    assert kiwi.content(text) and kiwi.tokens(text)


def test_a_text_without_hangul_never_loads_the_korean_model(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("kiwipiepy")
    monkeypatch.setitem(sys.modules, "kiwipiepy", None)
    tokenizer = korean.KiwiTokenizer()
    assert tokenizer.content("The claim is paid") == {"claim", "paid"}
    assert tokenizer.tokens("The claim is paid") == ("claim", "is", "paid")


def test_the_tokenizer_is_named_with_the_version_that_decides_about_its_tokens(kiwi: Tokenizer):
    assert NGRAM.name.startswith("ngram-")
    assert kiwi.name.startswith("kiwi-1/") and any(map(str.isdigit, kiwi.name))


def _not_installed(name: str) -> Any:
    return None if name == "kiwipiepy" else find_spec(name)


def test_auto_takes_ngrams_where_the_korean_model_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(korean, "find_spec", _not_installed)
    assert choose_tokenizer("auto").name == NGRAM.name


def test_asking_for_the_korean_model_where_it_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(korean, "find_spec", _not_installed)
    with pytest.raises(InvalidSetting, match=r"pip install 'evalvault-pipeline\[korean\]'"):
        choose_tokenizer("kiwi")


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("policies", "policy"),
        ("claims", "claim"),
        ("losses", "losse"),
        ("loss", "loss"),
        ("status", "status"),
        ("shoes", "shoe"),
    ],
)
def test_the_stemmer_is_harmans_s_stemmer(word: str, stem: str):
    """Three rules, the first that applies is the only one used; `oes` falls through to the third."""
    assert english_stem(word) == stem


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_any_text_has_the_same_tokens_twice_and_its_order_does_not_depend_on_white_space(text: str):
    fresh = NgramTokenizer()
    assert NGRAM.content(text) == fresh.content(f"  {text}\n")
    assert NGRAM.tokens(text) == fresh.tokens(f"\t{text} ")
