"""The mind of the doubles: a sensible, deterministic and schema-valid answer to a ragas prompt, and an embedding of a text.

It compares character bigrams, so it tells a supported statement from an unsupported one well enough for a test, and no
better. The kind of question is recognised by the property names of the answer's schema; whatever it does not know gets the
smallest answer that the schema allows. HTTP lives in `serving`, `openai_server` and `ollama_server`.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

Schema = Mapping[str, Any]

SUPPORTED = 0.6  # the part of a statement's bigrams that has to stand in a text for the text to support it
RELATED = 0.3

_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+|\n+")
_WORD = re.compile(r"[^\W_]+(?:\.\d+)?")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_HANGUL = re.compile(r"[가-힣]")
# "모르핀" and "모르타르" are things, not a shrug.
_NONCOMMITTAL = re.compile(
    r"모르(?!핀|타르|모트)|모릅니다|알 수 없|(?:확인|답변|답)(?:할|하기| 드리기)?\s?(?:수|가)? ?없|찾을 수 없|정보가 없"
    r"|(?:do|does|did)(?:n't| not) know|not sure|cannot (?:answer|determine|say|find)|can't (?:answer|say)|no information",
    re.IGNORECASE,
)
_KOREAN_PARTICLE = re.compile(r"(?<=[가-힣]{2})(?:입니다|이며|으로|에서|에게|까지|부터|은|는|이|가|을|를|의|에|와|과|도|로)$")
_RATING_SCALE = re.compile(r"\b0\D{1,12}?([12])\D{1,12}?([24])\b")


def answer_for(schema: Schema, prompt: str, *, occurrence: int = 0) -> Any:
    """An answer that is valid under `schema`, drawn from the input JSON at the end of `prompt`.

    `occurrence` tells apart the answers to one prompt asked more than once (n choices, seeds): only a made-up question
    differs by it. The same arguments always give the same answer: a dict, unless `schema` is not one of an object.
    """
    properties = _resolved(schema, schema).get("properties", {})
    asked = input_of(prompt)
    for names, mind in _MINDS:
        if names <= properties.keys():
            answer = mind(_Question(schema, properties, asked, prompt, occurrence))
            return _conforming(answer, schema, schema)
    return _conforming({}, schema, schema)


@lru_cache(maxsize=4096)
def embedding_for(text: str, dim: int = 64) -> tuple[float, ...]:
    """The hashed character bigrams of `text` as a vector of length 1: texts that share bigrams have a high cosine."""
    vector = [0.0] * dim
    for bigram in _bigram_list(text) or [""]:
        code = zlib.crc32(bigram.encode())
        vector[code % dim] += 1.0 if code & 0x10000 else -1.0
    length = math.sqrt(sum(value * value for value in vector))
    if length == 0.0:  # bigrams that cancel each other out
        return (1.0, *vector[1:])
    return tuple(value / length for value in vector)


def input_of(prompt: str) -> dict[str, Any]:
    """The JSON object after the last line that begins with `input: `; empty where there is none."""
    start = prompt.rfind("\ninput: ")
    if start < 0 and not prompt.startswith("input: "):
        return {}
    return _first_object(prompt, prompt.index("{", start + 1) if "{" in prompt[start + 1 :] else len(prompt))


def schema_in(text: str) -> dict[str, Any] | None:
    """The first JSON schema of an object written out in `text`: how a judge without structured outputs asks for one."""
    at = text.find("{")
    while at >= 0:
        found = _first_object(text, at)
        if "properties" in found:
            return found
        at = text.find("{", at + 1)
    return None


def _first_object(text: str, at: int) -> dict[str, Any]:
    try:
        value, _ = json.JSONDecoder().raw_decode(text, at)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# What stands in what


def support(statement: str, text: str) -> float:
    """The part of the statement's bigrams that stands in `text`, in [0, 1]; 0 where one of its numbers is missing there."""
    bigrams = _bigrams(statement)
    if not bigrams:
        return 0.0
    if not _numbers(statement) <= _numbers(text):
        return 0.0
    return len(bigrams & _bigrams(text)) / len(bigrams)


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the space around them."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


@lru_cache(maxsize=1024)
def _bigrams(text: str) -> frozenset[str]:
    return frozenset(_bigram_list(text))


def _bigram_list(text: str) -> list[str]:
    found: list[str] = []
    for word in _WORD.findall(_plain(text)):
        found.extend([word] if len(word) == 1 else [word[i : i + 2] for i in range(len(word) - 1)])
    return found


@lru_cache(maxsize=1024)
def _numbers(text: str) -> frozenset[str]:
    return frozenset(_NUMBER.findall(_plain(text)))


def _plain(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3})", "", text.lower())


# One mind for each kind of question


class _Question:
    """What a mind may look at: the schema, its properties, the input JSON, the whole prompt, and which draw this is."""

    def __init__(
        self, schema: Schema, properties: Mapping[str, Any], asked: Mapping[str, Any], prompt: str, occurrence: int
    ) -> None:
        self.schema, self.properties, self.asked, self.prompt, self.occurrence = schema, properties, asked, prompt, occurrence

    def text(self, *names: str) -> str:
        """The first of these inputs that is there, as one text."""
        for name in names:
            value = self.asked.get(name)
            if value:
                return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
        return ""

    def texts(self, name: str) -> list[str]:
        value = self.asked.get(name)
        return [str(part) for part in value] if isinstance(value, list) else sentences(str(value or ""))


def _statements(question: _Question) -> dict[str, Any]:
    """Sentences of the answer, or a verdict on each statement: the schema says which."""
    items = _resolved(question.properties["statements"], question.schema).get("items", {})
    if "properties" in _resolved(items, question.schema):
        context = question.text("context", "contexts", "reference")
        return {"statements": [_verdict_on(statement, context, "verdict") for statement in question.texts("statements")]}
    return {"statements": sentences(question.text("answer", "text", "response"))}


def _classifications(question: _Question) -> dict[str, Any]:
    context = question.text("context", "contexts")
    return {"classifications": [_verdict_on(s, context, "attributed") for s in sentences(question.text("answer"))]}


def _verdict_on(statement: str, context: str, name: str) -> dict[str, Any]:
    found = support(statement, context)
    return {"statement": statement, "reason": _reason(statement, found >= SUPPORTED), name: int(found >= SUPPORTED)}


def _reason(text: str, holds: bool) -> str:
    if _HANGUL.search(text):
        return "주어진 글에 그 내용이 있다." if holds else "주어진 글에 그 내용이 없다."
    return "The given text says so." if holds else "The given text does not say so."


def _claims(question: _Question) -> dict[str, Any]:
    return {"claims": sentences(question.text("response", "answer", "text"))}


def _made_up_question(question: _Question) -> dict[str, Any]:
    response = question.text("response", "answer")
    words = (sentences(response) or [""])[0].rstrip(".!?。").split()
    if _HANGUL.search(response):
        endings = ("무엇인가요?", "얼마인가요?", "어떻게 되나요?")
        made_up = " ".join([*(words[:-1] or words), endings[question.occurrence % 3]])
    else:
        beginnings = ("What is known about", "What is said about", "How would you describe")
        made_up = f"{beginnings[question.occurrence % 3]} {' '.join(words[:10])}?"
    return {"question": made_up, "noncommittal": int(bool(_NONCOMMITTAL.search(response)))}


def _useful_context(question: _Question) -> dict[str, Any]:
    """Context precision asks of a context and an answer; goal accuracy of a desired and an arrived outcome."""
    context = question.text("context", "arrived_outcome", "reference")
    answer = question.text("answer", "desired_outcome", "response")
    useful = max((support(sentence, context) for sentence in sentences(answer)), default=0.0) >= SUPPORTED
    return {"reason": _reason(answer, useful), "verdict": int(useful)}


def _rating(question: _Question) -> dict[str, Any]:
    worst, middle, best = _scale(question)
    if "reference_answer" in question.asked:
        user, reference = question.text("user_answer"), question.text("reference_answer")
        found = (support(user, reference) + support(reference, user)) / 2
    elif "response" in question.asked:
        context = question.text("context")
        verdicts = [support(sentence, context) >= SUPPORTED for sentence in sentences(question.text("response"))]
        found = 0.0 if not any(verdicts) else 1.0 if all(verdicts) else SUPPORTED - 0.1
    else:
        found = support(question.text("user_input", "question"), question.text("context", "contexts")) + 0.1
    return {"rating": best if found >= SUPPORTED else middle if found >= RELATED else worst}


def _scale(question: _Question) -> tuple[int, int, int]:
    """The three ratings that are allowed, worst first: the schema's, else the prompt's, else ragas's for this input."""
    field = _resolved(question.properties["rating"], question.schema)
    values = sorted(value for value in field.get("enum", ()) if isinstance(value, int))
    if len(values) >= 3:
        return values[0], values[len(values) // 2], values[-1]
    named = _RATING_SCALE.search(f"{field.get('description', '')} {question.prompt[: question.prompt.rfind('input: ')]}")
    if named:
        return 0, int(named[1]), int(named[2])
    return (0, 2, 4) if "reference_answer" in question.asked else (0, 1, 2)


def _keyphrases(question: _Question) -> dict[str, Any]:
    """Words with a number first, then names, then the longest ones: six at most."""
    words = dict.fromkeys(
        _KOREAN_PARTICLE.sub("", word) for word in re.findall(r"[^\s.,!?()\[\]\"']{2,}", question.text("text"))
    )
    ranked = sorted(words, key=lambda word: (not _NUMBER.search(word), not word[0].isupper(), -len(word)))
    return {"keyphrases": ranked[:6], "entities": ranked[:6]}


def _questions(question: _Question) -> dict[str, Any]:
    phrases = question.texts("keyphrases") or sentences(question.text("text"))[:1]
    korean = _HANGUL.search(question.text("text"))
    return {"questions": [f"'{p}'에 대한 내용이 있습니까?" if korean else f"Is '{p}' mentioned?" for p in phrases]}


def _answers(question: _Question) -> dict[str, Any]:
    summary = question.text("summary")
    return {"answers": ["1" if support(_subject(q), summary) >= SUPPORTED else "0" for q in question.texts("questions")]}


def _subject(closed_question: str) -> str:
    quoted = re.search(r"'(.+)'", closed_question)
    return quoted[1] if quoted else closed_question


def _feedback(question: _Question) -> dict[str, Any]:
    response = question.text("response")
    yardstick = question.text("reference", "reference_contexts", "retrieved_contexts", "user_input")
    score = 1 + round(4 * support(response, yardstick))
    return {"feedback": _reason(response, score > 3), "score": score}


def _true_and_false(question: _Question) -> dict[str, Any]:
    """Answer correctness: what both say, what only the answer says, what only the ground truth says."""
    answer, truth = question.texts("answer"), question.texts("ground_truth")
    in_truth = [_verdict_on(statement, "\n".join(truth), "verdict") for statement in answer]
    in_answer = [_verdict_on(statement, "\n".join(answer), "verdict") for statement in truth]
    pick = [("TP", in_truth, 1), ("FP", in_truth, 0), ("FN", in_answer, 0)]
    return {
        name: [{"statement": v["statement"], "reason": v["reason"]} for v in verdicts if v["verdict"] == wanted]
        for name, verdicts, wanted in pick
    }


_MINDS: Sequence[tuple[frozenset[str], Callable[[_Question], dict[str, Any]]]] = (
    (frozenset({"statements"}), _statements),
    (frozenset({"question", "noncommittal"}), _made_up_question),
    (frozenset({"classifications"}), _classifications),
    (frozenset({"claims"}), _claims),
    (frozenset({"rating"}), _rating),
    (frozenset({"keyphrases"}), _keyphrases),
    (frozenset({"entities"}), _keyphrases),
    (frozenset({"questions"}), _questions),
    (frozenset({"answers"}), _answers),
    (frozenset({"feedback", "score"}), _feedback),
    (frozenset({"TP", "FP", "FN"}), _true_and_false),
    (frozenset({"verdict"}), _useful_context),
)


# Values that a schema allows


def _resolved(schema: Any, root: Schema) -> dict[str, Any]:
    """The schema behind `$ref`, with the first branch that is not null taken of `anyOf` and `oneOf`, and `allOf` merged."""
    if not isinstance(schema, Mapping):
        return {}
    found = dict(schema)
    if isinstance(found.get("$ref"), str):
        return {**_resolved(_at(root, found["$ref"]), root), **{k: v for k, v in found.items() if k != "$ref"}}
    for branches in (found.get("anyOf"), found.get("oneOf")):
        for branch in branches or ():
            resolved = _resolved(branch, root)
            if resolved.get("type") != "null":
                return {**{k: v for k, v in found.items() if k not in ("anyOf", "oneOf")}, **resolved}
    for part in found.pop("allOf", ()):
        found = {**found, **_resolved(part, root)}
    return found


def _at(root: Schema, reference: str) -> Any:
    here: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            here = here[step.replace("~1", "/").replace("~0", "~")]
    return here


def _conforming(value: Any, schema: Any, root: Schema) -> Any:
    """`value`, changed no more than `schema` asks for: what it cannot keep becomes the smallest value that is allowed."""
    rules = _resolved(schema, root)
    if "const" in rules:
        return rules["const"]
    if rules.get("enum"):
        return _one_of(value, rules["enum"])
    kind = _type_of(rules)
    if kind == "object":
        return _conforming_object(value if isinstance(value, Mapping) else {}, rules, root)
    if kind == "array":
        return _conforming_array(value if isinstance(value, list) else [], rules, root)
    if kind == "string":
        text = value if isinstance(value, str) else "" if value is None else str(value)
        return text[: rules.get("maxLength")].ljust(rules.get("minLength", 0), "-")
    if kind in ("integer", "number"):
        return _conforming_number(value, rules, whole=kind == "integer")
    if kind == "boolean":
        return bool(value)
    return None if kind == "null" else value


def _type_of(rules: Schema) -> str | None:
    kind = rules.get("type")
    if isinstance(kind, list):
        return next((one for one in kind if one != "null"), "null")
    if kind is None:
        return "object" if "properties" in rules else "array" if "items" in rules else None
    return str(kind)


def _one_of(value: Any, allowed: Iterable[Any]) -> Any:
    choices = list(allowed)
    for choice in choices:
        if choice == value and type(choice) is type(value):
            return choice
    for choice in choices:
        if str(choice) == str(value):
            return choice
    numbers = [choice for choice in choices if isinstance(choice, (int, float)) and not isinstance(choice, bool)]
    if numbers and isinstance(value, (int, float)):
        return min(numbers, key=lambda choice: abs(choice - value))
    return choices[0]


def _conforming_object(value: Mapping[str, Any], rules: Schema, root: Schema) -> dict[str, Any]:
    properties = rules.get("properties", {})
    required = list(rules.get("required", ()))
    names = [name for name in properties if name in value or name in required]
    names += [name for name in required if name not in properties]
    return {name: _conforming(value.get(name), properties.get(name, {}), root) for name in names}


def _conforming_array(value: list[Any], rules: Schema, root: Schema) -> list[Any]:
    kept = value[: rules.get("maxItems")]
    kept = [*kept, *[None] * (rules.get("minItems", 0) - len(kept))]
    return [_conforming(item, rules.get("items", {}), root) for item in kept]


def _conforming_number(value: Any, rules: Schema, *, whole: bool) -> int | float:
    number: int | float = value if isinstance(value, (int, float)) else 0
    step = 1 if whole else 1e-6
    lowest = rules.get("minimum", rules.get("exclusiveMinimum", -math.inf - step) + step)
    highest = rules.get("maximum", rules.get("exclusiveMaximum", math.inf + step) - step)
    number = min(max(number, lowest), highest)
    return math.ceil(number) if whole else number
