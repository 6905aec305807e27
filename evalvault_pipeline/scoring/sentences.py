"""Sentences, clauses, negation and refusal in Korean and English, by rules.

What is counted in them stands in `lexical_metrics.py`, numbers and dates in `quantities.py`.
"""

from __future__ import annotations

import re

from evalvault_pipeline.scoring.korean import HANGUL

_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+|\n+")
_CLAUSE_END = re.compile(
    r"(?<=[며고나])\s*,\s*|(?<=지만)\s*,?\s+|(?<=으며)\s+|(?<=으나)\s+|(?<=는데)\s*,?\s+|;\s*|,\s*(?=다만|단,|단 |그러나|하지만)"
    r"|,\s+(?=(?:but|while|whereas|however|although)\b)|(?<=다만)\s*,\s*"
)
_NEGATION = re.compile(
    r"않|못\s?[하한할합해되된될됩받]|아니[다고며하한함합]|아닙|아닌|없|불가(?!피)|불능|제외|면책(?!금|\s?기간|\s?일수)|미지급|미보장|무효"
    r"|(?<![가-힣])안\s(?=[가-힣])|(?<![가-힣])안(?:됩|되|된|돼)|거절|금지|제한[되됩]|대상\s?외"
    r"|\b(?:not|no|never|none|nothing|nobody|cannot|neither|nor|without|exclud\w+|exclusions?|unable|ineligible|denied|den(?:y|ies)|void|refus\w+)\b"
    r"|n['’]t\b",
    re.IGNORECASE,
)
# What negates a noun or a condition beside the verb, not what the sentence says.
_NO_NEGATION = re.compile(
    r"(?:관계|상관|제한|한도|차이|횟수|구분|예외|조건|심사|진단|별도|지체|공제)\S{0,4}\s?없(?:이|는)|뿐(?:만)?\s?아니라|문제\s?없"
    r"|지\s?않(?:으면|은 경우|는 한|도록)|\bno (?:later|more|less|fewer) than\b|\bnot only\b"
    r"|\b(?:that|which|who|if|when|unless)(?:\s+\w+){0,3}?\s+(?:cannot|not|never)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"(?:확인|찾|알|답변|안내|판단|파악|알려|제공|말씀|답)\S{0,6}\s?(?:수\s?(?:가\s?)?없|어렵|못|불가|되지\s?않)"
    r"|(?:나와|명시|기재|언급|포함|규정|설명|수록|제시|적혀)\S{0,4}\s?(?:있지\s?않|되지\s?않|하지\s?않|않|없)"
    r"|(?:정보|내용|자료|근거|언급|규정|조항|문구)\S{0,3}\s?(?:없|부족|찾을\s?수\s?없)|모르겠|모릅니다|알\s?수\s?없"
    r"|\b(?:do(?:es)?|did)(?:\s+not|n['’]t)\s+(?:\w+\s+)?(?:state|contain|mention|specify|say|know|tell)"
    r"|\b(?:not|n['’]t)\s+(?:\w+\s+)?(?:stated|mentioned|specified|found|know|find|determine|answer)"
    r"|\b(?:cannot|unable to|could not|can not)\s+(?:\w+\s+)?(?:find|answer|determine|tell|confirm|say)|\bno (?:information|answer|mention|details?)\b",
    re.IGNORECASE,
)
# Courtesies around an answer: they claim nothing.
_COURTESY = re.compile(
    r"죄송|감사합니다|안녕하|(?:문의|상담|확인|참고|연락|참조)\S{0,3}\s(?:주시|주세요|바랍|보시)|도움이 되"
    r"|\b(?:sorry|apologi[sz]e|thank you|please (?:contact|refer|check|call|ask|see)|hope this helps)\b",
    re.IGNORECASE,
)
# In Korean the predicate, and with it what is said or denied, ends the clause.
PREDICATE_WORDS = 3


def sentences(text: str) -> list[str]:
    return [part for part in (piece.strip() for piece in _SENTENCE_END.split(text)) if any(map(str.isalnum, part))]


def clauses(text: str) -> list[str]:
    """The clauses of all sentences, where coordination or contrast ends one."""
    parts = (piece.strip() for sentence in sentences(text) for piece in _CLAUSE_END.split(sentence) if piece)
    return [part for part in parts if any(map(str.isalnum, part))]


def is_negative(text: str) -> bool:
    """Whether the clause denies something: `지급하지 않습니다`, `보상에서 제외`, `is not covered`."""
    kept = _NO_NEGATION.sub(" ", text)
    if HANGUL.search(kept):
        kept = " ".join(kept.split()[-PREDICATE_WORDS:])
    return bool(_NEGATION.search(kept))


def is_refusal(text: str) -> bool:
    """Whether the text says that it cannot answer; an empty text does."""
    return not text.strip() or bool(_REFUSAL.search(text))


def claims_nothing(sentence: str) -> bool:
    """Whether a sentence is a refusal or a courtesy."""
    return is_refusal(sentence) or bool(_COURTESY.search(sentence))
