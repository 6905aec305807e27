"""Tokens of Korean and English text for the deterministic metrics.

Korean by morphemes (kiwipiepy, extra `korean`) or, without it, by character bigrams of words without their particles.
A text without Hangul is cut into words, and never loads the Korean model (which takes 3 s and 500 MB).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from sys import intern
from typing import Any, Literal, Protocol

from evalvault_pipeline.errors import InvalidSetting

HANGUL = re.compile(r"[가-힣]")
# Letters of any script: an answer in Chinese must not pass for one that claims nothing.
_WORD = re.compile(r"[^\W_]+(?:[.,][0-9]+)*")

# Particles and endings that hang on Korean words; stripped only where no morpheme analyser is installed.
_SUFFIXES = frozenset(
    """은 는 이 가 을 를 의 에 에서 에게 께 로 으로 와 과 도 만 까지 부터 보다 처럼 마다 이나 나 이며 며 이고 고 하고 하며
    하여 해서 하는 하면 한 할 함 합니다 입니다 됩니다 되며 되고 되는 된 될 되어 되면 습니다 이다 인 일 시 라고 이라고 에는 에도
    에서는 으로는 로는 이란 란 하지 되지 않습니다 있습니다 없습니다 있는 없는 있어 없어 받을 받는 받습니다 해야 하거나 거나""".split()
)
_LONGEST_SUFFIX = max(map(len, _SUFFIXES))
_KOREAN_STOP = frozenset(
    """하 되 있 없 이 아니 않 못하 받 주 경우 것 수 때 등 위하 따르 대하 통하 관하 말하 드리 알리 해당 본
    이상 이하 이내 초과 미만 최대 최소 가능 여기 그 및 또는 네 예 아니요 퍼센트 달러 원""".split()
)
# Bigrams of endings, left after the stripping.
_ENDING_BIGRAMS = frozenset(
    """니다 습니 합니 됩니 입니 립니 랍니 봅니 있습 없습 않습 드립 하실 으실 으신 으시 시면 셔야 하셔 받으 않으 않고 이며 으며 하며 니요
    센트 퍼센 하는 되는 하여 되어 해야 하지 되지 지지 으면 다면 으로 에서 부터 까지 에게 한다 된다 지만""".split()
)
_ENGLISH_STOP = frozenset(
    """a an the and or of to in on at by for from with as is are was were be been being it its this that these those there
    you your we our they their he she his her i my me do does did have has had will would can could may might shall should
    if then than so such also any all each under up per yes not no at least most more less only when where which who
    percent dollar one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion""".split()
)
# A number in Hangul is compared as a number (quantities.py), like one in digits.
_HANGUL_NUMBER = re.compile(r"[일이삼사오육칠팔구]*[십백천만억][일이삼사오육칠팔구십백천만억]+원?")


class Tokenizer(Protocol):
    """Cuts text; `name` says how: our rules' version, and that of the library and its model. It is part of what is stored."""

    name: str

    def __hash__(self) -> int: ...

    def tokens(self, text: str) -> tuple[str, ...]:
        """All tokens that carry meaning, in order and with repeats."""

    def content(self, text: str) -> frozenset[str]:
        """The content words: nouns, verbs, names; no particles, endings, numbers or function words."""


def choose_tokenizer(choice: Literal["auto", "kiwi", "ngram"]) -> Tokenizer:
    """The tokenizer that a setting asks for, made once; `auto` is kiwi where it is installed."""
    installed = find_spec("kiwipiepy") is not None
    if choice == "kiwi" and not installed:
        raise InvalidSetting(
            "EVALVAULT_TOKENIZER is `kiwi`, and kiwipiepy is not installed. Install it: pip install 'evalvault-pipeline[korean]'"
        )
    return _made(KiwiTokenizer if installed and choice != "ngram" else NgramTokenizer)


@lru_cache(maxsize=2)
def _made(kind: type[KiwiTokenizer] | type[NgramTokenizer]) -> Tokenizer:
    return kind()


def normalized(text: str) -> str:
    """NFKC, lower case, white space folded."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


class NgramTokenizer:
    """Words for English, character bigrams of stripped words for Korean. No model, no dependency."""

    name = "ngram-1"

    def content(self, text: str) -> frozenset[str]:
        found: set[str] = set()
        for word in _WORD.findall(normalized(text)):
            if HANGUL.search(word):
                stem = _without_suffix(word)
                if stem not in _KOREAN_STOP and not _HANGUL_NUMBER.fullmatch(stem):
                    found.update(_bigrams(stem))
            elif not word[0].isdigit() and word not in _ENGLISH_STOP:
                found.add(english_stem(word))
        return frozenset(found)

    def tokens(self, text: str) -> tuple[str, ...]:
        """Words; a Korean word counts syllable by syllable, as in the F1 of KorQuAD 1.0."""
        found: list[str] = []
        for word in _WORD.findall(normalized(text)):
            if HANGUL.search(word):
                found.extend(word)
            elif word not in {"a", "an", "the"}:
                found.append(word)
        return tuple(found)


class KiwiTokenizer:
    """Morphemes by kiwipiepy; texts without Hangul go the way of NgramTokenizer."""

    def __init__(self) -> None:
        try:
            model = version("kiwipiepy-model")
        except PackageNotFoundError:
            model = "unknown"
        self.name = f"kiwi-1/{version('kiwipiepy')}/{model}"
        self._analyzer: Any = None
        self._words = NgramTokenizer()

    @lru_cache(maxsize=256)  # noqa: B019  a sentence is asked for several times in a row; one tokenizer lives with its process
    def content(self, text: str) -> frozenset[str]:
        if not HANGUL.search(text):
            return self._words.content(text)
        found = set()
        for form, tag in self._morphemes(text):
            if tag == "SL":
                if form not in _ENGLISH_STOP:
                    found.add(english_stem(form))
            elif (tag in {"NNG", "NNP", "XR", "SH"} or tag.startswith(("VV", "VA"))) and form not in _KOREAN_STOP:
                found.add(form)
        return frozenset(found)

    def tokens(self, text: str) -> tuple[str, ...]:
        if not HANGUL.search(text):
            return self._words.tokens(text)
        return tuple(form for form, tag in self._morphemes(text) if not tag.startswith(("J", "E", "S")) or tag in _KEPT_SIGNS)

    def _morphemes(self, text: str) -> list[tuple[str, str]]:
        if self._analyzer is None:
            from kiwipiepy import Kiwi

            self._analyzer = Kiwi(num_workers=1)
        return [(token.form.lower(), token.tag) for token in self._analyzer.tokenize(normalized(text))]


_KEPT_SIGNS = frozenset({"SL", "SN", "SH"})


def english_stem(word: str) -> str:
    """Plural to singular: the S-stemmer of Harman, How effective is suffixing?, JASIS 42(1), 1991."""
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1]
    return word


def _without_suffix(word: str) -> str:
    for length in range(min(_LONGEST_SUFFIX, len(word) - 2), 0, -1):
        if word[-length:] in _SUFFIXES:
            return word[:-length]
    return word


def topic_words(text: str) -> list[str]:
    """Words that a topic can be named by: without particles and endings, numbers and function words; no model is loaded."""
    found = []
    for word in _WORD.findall(normalized(text)):
        stem = _without_suffix(word) if HANGUL.search(word) else english_stem(word)
        if len(stem) > 1 and not stem[0].isdigit() and stem not in _KOREAN_STOP | _ENGLISH_STOP | _SUFFIXES:
            found.append(stem)
    return found


def _bigrams(word: str) -> Iterator[str]:
    hangul = "".join(HANGUL.findall(word))
    for at in range(len(hangul) - 1):
        pair = hangul[at : at + 2]
        if pair not in _ENDING_BIGRAMS:
            yield intern(pair)  # the same few thousand pairs stand in every text
