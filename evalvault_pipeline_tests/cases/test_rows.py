"""A row becomes a case, or says of each field what was found and how to mend it."""

from __future__ import annotations

import math
from datetime import date, datetime, time
from typing import Any

import pytest

from evalvault_pipeline.cases.model import EvalCase
from evalvault_pipeline.cases.rows import case_from_row, threshold_of
from evalvault_pipeline.errors import UnreadableFile

GONE = object()


def a_row(**changes: Any) -> dict[str, Any]:
    row = {"id": "q1", "question": "면책기간은?", "answer": "90일입니다.", "contexts": ["면책기간은 90일."], **changes}
    return {name: value for name, value in row.items() if value is not GONE}


def case_of(*, cells: bool = False, **changes: Any) -> EvalCase:
    read = case_from_row(a_row(**changes), path="x.json", line=7, cells=cells)
    assert isinstance(read, EvalCase), read
    return read


def problem_of(*, cells: bool = False, **changes: Any) -> str:
    read = case_from_row(a_row(**changes), path="x.json", line=7, cells=cells)
    assert isinstance(read, list)
    assert len(read) == 1
    return str(read[0]).removeprefix("x.json:7: ")


def test_a_problem_names_file_line_field_finding_and_remedy():
    (problem,) = case_from_row(a_row(question=""), path="data/x.csv", line=12, cells=True)
    assert str(problem) == "data/x.csv:12: question: is empty. Write the question."


def test_all_that_is_wrong_with_a_row_is_named_at_once():
    read = case_from_row({"id": "", "contexts": 3}, path="x.json", line=1, cells=False)
    assert [problem.field for problem in read] == ["id", "question", "answer", "contexts"]


@pytest.mark.parametrize(
    ("row", "kind"), [([1], "a list"), ("q", "text"), (3, "a number"), (None, "null"), (True, "true or false")]
)
def test_a_row_that_is_no_object_is_refused(row: object, kind: str):
    (problem,) = case_from_row(row, path="x.jsonl", line=3, cells=False)
    assert str(problem) == f"x.jsonl:3: case: is {kind}. Write an object."


@pytest.mark.parametrize("cells", [True, False])
@pytest.mark.parametrize("blank", ["", "   ", "\u3000\t"])
@pytest.mark.parametrize("field", ["id", "question"])
def test_a_blank_id_or_question_is_empty(field: str, blank: str, cells: bool):
    assert problem_of(cells=cells, **{field: blank}).startswith(f"{field}: is empty. ")


@pytest.mark.parametrize(("value", "found"), [(GONE, "is missing"), (None, "is null"), (math.nan, "is NaN")])
@pytest.mark.parametrize("field", ["id", "question", "answer"])
def test_a_field_that_json_leaves_out_is_named_for_what_stands_there(field: str, value: object, found: str):
    assert problem_of(**{field: value}).startswith(f"{field}: {found}. ")


@pytest.mark.parametrize("empty", ["", None, math.nan])
def test_an_empty_answer_cell_is_a_bad_row(empty: object):
    """A cell cannot tell an empty answer from a missing one; JSON can."""
    assert problem_of(cells=True, answer=empty) == (
        'answer: is empty. Write the answer; to record that the system gave none, use JSON with "answer": "".'
    )


def test_an_explicit_empty_answer_in_json_is_a_case_that_said_nothing():
    assert case_of(answer="").answer == ""


@pytest.mark.parametrize("text", ["nan", "NaN", " NAN "])
@pytest.mark.parametrize("field", ["id", "question", "answer", "ground_truth"])
def test_a_literal_nan_is_reported(field: str, text: str):
    assert problem_of(**{field: text}).startswith(f"{field}: is `{text.strip()}`, which a data frame writes")


def test_a_literal_nan_among_the_contexts_is_reported():
    assert problem_of(cells=True, contexts="nan").startswith("contexts: is `nan`, which a data frame writes")


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (1.0, "1"), (0, "0"), (1.5, "1.5"), (10**15, "1000000000000000"), ("01", "01")]
)
def test_a_number_keeps_its_digits(value: object, text: str):
    case = case_of(cells=True, id=value, answer=value, ground_truth=value)
    assert (case.case_id, case.answer, case.ground_truth) == (text, text, text)


def test_infinity_is_no_text():
    assert problem_of(answer=math.inf) == "answer: is infinite. Write text."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (date(2026, 11, 23), "2026-11-23"),
        (datetime(2026, 11, 23), "2026-11-23"),
        (datetime(2026, 11, 23, 9, 30), "2026-11-23 09:30:00"),
        (time(9, 30), "09:30:00"),
    ],
)
def test_a_date_cell_is_its_iso_text(value: object, text: str):
    assert case_of(cells=True, answer=value).answer == text


@pytest.mark.parametrize("value", [True, ["90일"], {"text": "90일"}])
def test_an_answer_that_is_no_text_is_refused(value: object):
    assert problem_of(answer=value).endswith(". Write text.")


@pytest.mark.parametrize("error", ["#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!"])
def test_a_spreadsheet_error_is_no_answer(error: str):
    assert problem_of(cells=True, answer=error) == f"answer: is the spreadsheet error {error}. Mend the formula."


@pytest.mark.parametrize("field", ["id", "question", "answer", "ground_truth"])
def test_a_nul_byte_is_refused(field: str):
    assert problem_of(**{field: "90\x00일"}) == f"{field}: contains a NUL byte. Remove it."


def test_half_of_a_surrogate_pair_is_refused():
    assert problem_of(answer="\ud83d") == "answer: contains half of a surrogate pair. Write the character as UTF-8."
    assert problem_of(contexts=["a", "\udc00"]).startswith("contexts: contains half of a surrogate pair.")


def test_decomposed_hangul_and_windows_lines_are_read_as_one_form():
    nfd = "\u1112\u1161\u11ab\u1100\u1173\u11af\r\n보험 "
    case = case_of(question=nfd, answer=nfd, contexts=[nfd], ground_truth=nfd)
    assert {case.question, case.answer, case.ground_truth, *case.contexts} == {"한글\n보험"}


@pytest.mark.parametrize("value", [None, "", "  ", math.nan, GONE])
def test_a_ground_truth_that_is_not_there_is_none(value: object):
    assert case_of(ground_truth=value).ground_truth is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("면책기간은 90일.", "is text"),
        (3, "is a number"),
        ({"text": "a"}, "is an object"),
        (True, "is true or false"),
        (None, "is null"),
        (GONE, "is missing"),
    ],
)
def test_contexts_that_are_no_list_are_refused(value: object, found: str):
    assert problem_of(contexts=value).startswith(f"contexts: {found}. Write a list of texts")


@pytest.mark.parametrize(
    ("item", "kind"), [(1, "a number"), (None, "null"), (["a"], "a list"), ({}, "an object"), (False, "true or false")]
)
def test_a_context_that_is_no_text_is_named_by_its_place(item: object, kind: str):
    assert problem_of(contexts=["a", item]) == f"contexts: element 2 is {kind}. Write each context as text."


def test_an_empty_context_keeps_its_rank():
    assert case_of(contexts=["a", "", "b"]).contexts == ("a", "", "b")


@pytest.mark.parametrize(
    ("cell", "contexts"),
    [
        ('["a", "b|c"]', ("a", "b|c")),
        ("a | b", ("a", "b")),
        ("a||b|", ("a", "b")),
        ("one text", ("one text",)),
        ("[]", ()),
        ("", ()),
        (None, ()),
        (math.nan, ()),
        (["a", "b"], ("a", "b")),
    ],
)
def test_a_contexts_cell_is_a_json_array_or_texts_with_bars_between(cell: object, contexts: tuple[str, ...]):
    assert case_of(cells=True, contexts=cell).contexts == contexts


@pytest.mark.parametrize(
    "cell", ['["a" | "b"]', '["a|b', "[별표 1, 지급기준 | 제3조", "[a, b]", "[broken", "[" * 100_000, "[" + "9" * 5_000 + "]"]
)
def test_a_broken_json_array_is_reported_and_never_split_on_bars(cell: str):
    assert problem_of(cells=True, contexts=cell).startswith("contexts: starts with `[` but is not a JSON array. Write [")


def test_a_python_list_in_a_cell_gets_a_hint():
    assert "it looks like a Python list" in problem_of(cells=True, contexts="['a', 'b']")


@pytest.mark.parametrize("cell", ["{product: auto}", "auto", "{'product': 'auto'}"])
def test_a_metadata_cell_that_is_not_json_is_refused(cell: str):
    assert problem_of(cells=True, metadata=cell) == 'metadata: is not valid JSON. Write an object: {"product": "auto"}.'


@pytest.mark.parametrize(("value", "kind"), [([1], "a list"), (3, "a number"), ("auto", "text")])
def test_metadata_that_is_no_object_is_refused(value: object, kind: str):
    assert problem_of(metadata=value) == f'metadata: is {kind}. Write an object: {{"product": "auto"}}.'


def test_unknown_keys_land_in_metadata_and_declared_metadata_comes_first():
    case = case_of(category="auto", source="keys", metadata={"source": "metadata"})
    assert case.metadata == {"category": "auto", "source": "metadata"}


def test_unknown_columns_land_in_metadata_without_their_empty_cells_and_thresholds():
    case = case_of(cells=True, category="auto", empty="", blank=None, gap=math.nan, threshold_chrf="0.5", metadata='{"n": 1}')
    assert case.metadata == {"category": "auto", "n": 1}


def test_metadata_is_held_as_json_and_utf_8_can_hold_it():
    odd = {"nan": math.nan, "inf": -math.inf, "day": date(2026, 1, 2), "half": "\ud83d", "deep": [{"\ud83d": math.nan}]}
    assert case_of(metadata=odd).metadata == {
        "nan": None,
        "inf": "-inf",
        "day": "2026-01-02",
        "half": "?",
        "deep": [{"?": None}],
    }


def test_metadata_that_is_nested_too_deeply_is_refused():
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    assert problem_of(metadata={"deep": deep}) == "metadata: is nested too deeply. Flatten it."


@pytest.mark.parametrize(("cell", "value"), [('["암", "진단"]', ["암", "진단"]), ("암|진단", ["암", "진단"]), ("암", ["암"])])
def test_a_column_of_lists_that_metrics_read_is_a_list_as_in_json(cell: str, value: list[str]):
    assert case_of(cells=True, keywords=cell).digest == case_of(metadata={"keywords": value}).digest


@pytest.mark.parametrize(("cell", "value"), [("FALSE", False), ("true", True), (False, False)])
def test_an_answerable_column_is_true_or_false(cell: object, value: bool):
    assert case_of(cells=True, answerable=cell).metadata["answerable"] is value


@pytest.mark.parametrize("cells", [True, False])
@pytest.mark.parametrize("value", ["no", 0, 1.0])
def test_answerable_is_never_guessed(value: object, cells: bool):
    assert problem_of(cells=cells, answerable=value).startswith("answerable: is ")


def test_ragas_names_are_read_as_ours_but_never_over_ours():
    row = {"id": "1", "user_input": "q", "response": "a", "retrieved_contexts": ["c"], "reference": "g"}
    case = case_from_row(row, path="x", line=1, cells=False)
    assert case == EvalCase(case_id="1", question="q", answer="a", contexts=("c",), ground_truth="g")
    assert case_of(answer="ours", response="theirs").answer == "ours"


@pytest.mark.parametrize("nothing", [None, "", "  ", math.nan])
def test_a_threshold_that_is_null_means_the_default(nothing: object):
    assert threshold_of("chrf", nothing, path="x.json", line=3) is None


@pytest.mark.parametrize(("value", "threshold"), [(0, 0.0), (1, 1.0), (0.7, 0.7), ("0.7", 0.7), (" 1 ", 1.0)])
def test_a_threshold_is_a_number_from_0_to_1(value: object, threshold: float):
    assert threshold_of("chrf", value, path="x.csv", line=3) == threshold


@pytest.mark.parametrize("value", [1.01, -0.1, True, False, "high", "nan", "70%", [0.7], math.inf])
def test_any_other_threshold_is_refused_with_file_and_line(value: object):
    with pytest.raises(UnreadableFile, match=r"^x\.json:3: threshold of chrf: is `.*`\. Write a number from 0 to 1, or null"):
        threshold_of("chrf", value, path="x.json", line=3)


@pytest.mark.parametrize("value", [1084172093, "010-8417-2093", [0.25, "010-8417-2093"]])
def test_a_threshold_that_may_be_a_telephone_number_is_not_repeated(value: object):
    with pytest.raises(UnreadableFile, match=f"threshold of chrf: is {len(str(value))} characters long"):
        threshold_of("chrf", value, path="x.json", line=3)


def test_a_title_in_brackets_opens_a_text_and_no_list():
    """Korean policies head a paragraph with `[별표 1]`; that is no broken JSON."""
    case = case_of(cells=True, contexts="[별표 1] 지급기준 | 제3조(보상)")
    assert case.contexts == ("[별표 1] 지급기준", "제3조(보상)")
