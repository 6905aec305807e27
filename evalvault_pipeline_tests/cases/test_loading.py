"""Dataset files of every format give the same cases, and each bad row is named with its line."""

from __future__ import annotations

import csv
import json
import tracemalloc
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalvault_pipeline.cases import text_files
from evalvault_pipeline.cases.loading import DatasetSummary, inspect_dataset, read_cases
from evalvault_pipeline.cases.model import PiiReport
from evalvault_pipeline.errors import MalformedCases, UnreadableFile

FORMATS = ["json", "jsonl", "csv", "tsv", "xlsx", "parquet"]
TABLES = ["csv", "tsv", "xlsx", "parquet"]
FIRST_LINE = {"json": 2, "jsonl": 1, "csv": 2, "tsv": 2, "xlsx": 2, "parquet": 1}  # line of the first row that `write` writes
HEAD = "id,question,answer,contexts\n"


def a_row(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "question": f"{number}번 담보의 면책기간은?",
        "answer": "90일입니다.",
        "contexts": ["면책기간은 90일.", "보험금은 3일 안에 지급."],
        **changes,
    }


def write(file: Path, *rows: dict[str, Any]) -> Path:
    """Rows in the format of the file's suffix, one per line; None is null or an empty cell, a list in a cell is JSON."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    match file.suffix:
        case ".json":
            lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
            file.write_text('{"test_cases": [\n' + lines + "\n]}", encoding="utf-8")
        case ".jsonl":
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        case ".csv" | ".tsv":
            with file.open("w", encoding="utf-8", newline="") as handle:
                table = csv.writer(handle, delimiter="," if file.suffix == ".csv" else "\t")
                table.writerow(columns)
                table.writerows([_cell(row.get(name)) for name in columns] for row in rows)
        case ".xlsx":
            workbook = openpyxl.Workbook()
            for cells in [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]:
                workbook.worksheets[0].append(cells)
            workbook.save(file)
        case ".parquet":
            pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), file)
    return file


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def problems_of(file: Path) -> list[str]:
    """The problems of a file that has a good case too, without its path."""
    return [str(problem).removeprefix(f"{file}:") for problem in inspect_dataset(file, strict=False).problems]


def refusal_of(file: Path) -> str:
    with pytest.raises(UnreadableFile) as refusal:
        inspect_dataset(file, strict=False)
    return str(refusal.value).removeprefix(str(file))


def ids(file: Path) -> list[str]:
    return [case.case_id for case in read_cases(file)]


# --- personal data

PERSONAL = {"question": "010-1234-5678로 가입했나요?", "answer": "01012345678, hong@example.com", "rrn": "900101-1234567"}


def test_personal_data_is_masked_in_every_format_and_counted(any_file: Path):
    write(any_file, a_row(1), a_row(2, **PERSONAL))
    plain, masked = read_cases(any_file)
    assert plain.question == "1번 담보의 면책기간은?"
    assert (masked.question, masked.answer) == ("[PHONE_1]로 가입했나요?", "[PHONE_1], [EMAIL_1]")
    assert masked.metadata == {"rrn": "[SSN_1]"}
    assert inspect_dataset(any_file).pii == PiiReport(policy="redact", masked={"EMAIL": 1, "PHONE": 2, "SSN": 1}, cases=1)


def test_a_registration_number_that_a_spreadsheet_made_a_number_is_masked(tmp_path: Path):
    (case,) = read_cases(write(tmp_path / "x.xlsx", a_row(주민번호=9001011234567, 연락처=1012345678, 생성=1707054686233)))
    assert case.metadata == {"주민번호": "[SSN_1]", "연락처": "[PHONE_1]", "생성": 1707054686233}


def test_the_digest_is_that_of_the_masked_cases_in_whatever_spelling_the_file_has_them(tmp_path: Path):
    files = [
        write(tmp_path / f"{number}.json", a_row(question=f"{phone} 계약은?"))
        for number, phone in enumerate(["010-1234-5678", "010 1234 5678", "[PHONE_1]"])
    ]
    assert len({inspect_dataset(file).digest for file in files}) == 1
    assert len({inspect_dataset(file, pii="off").digest for file in files}) == 3


def test_block_makes_a_row_with_personal_data_a_bad_row_in_every_format(any_file: Path):
    write(any_file, a_row(1), a_row(2, **PERSONAL))
    problems = inspect_dataset(any_file, strict=False, pii="block").problems
    line = first_line(any_file) + 1
    assert [(problem.line, problem.field, problem.found) for problem in problems] == [
        (line, "question", "holds a phone number"),
        (line, "metadata", "holds a registration number"),
        (line, "answer", "holds a phone number and an e-mail address"),
    ]
    assert [case.case_id for case in read_cases(any_file, pii="block")] == ["q1"]
    with pytest.raises(MalformedCases) as refusal:
        inspect_dataset(any_file, pii="block")
    assert "1234" not in str(refusal.value) and "hong" not in str(refusal.value)


def test_an_id_that_names_a_person_is_a_bad_row_and_is_never_repeated(any_file: Path):
    write(any_file, a_row(1), {**a_row(2), "id": "hong@example.com"}, {**a_row(3), "id": "hong@example.com"})
    line = first_line(any_file)
    remedy = "Give the case an id that names nobody: ids are kept in every result."
    assert problems_of(any_file) == [f"{line + at}: id: holds an e-mail address. {remedy}" for at in (1, 2)]


def test_off_reads_a_file_as_it_stands_and_says_so(any_file: Path):
    write(any_file, {**a_row(1, **PERSONAL), "id": "hong@example.com"})
    (case,) = read_cases(any_file, pii="off")
    assert (case.case_id, case.question) == ("hong@example.com", PERSONAL["question"])
    assert inspect_dataset(any_file, pii="off").pii.open


def test_what_a_file_says_of_itself_is_masked_too(tmp_path: Path):
    head = (
        '{"name": "QA of hong@example.com", "version": "2026-11-23", "metadata": {"contact": "010-1234-5678"}, "test_cases": '
    )
    file = tmp_path / "x.json"
    file.write_text(head + json.dumps([a_row()]) + "}", encoding="utf-8")
    header = inspect_dataset(file).header
    assert (header.name, header.version, header.metadata) == ("QA of [EMAIL]", "2026-11-23", {"contact": "[PHONE]"})
    assert inspect_dataset(file, pii="off").header.name == "QA of hong@example.com"


# --- what every format has in common


@pytest.fixture(params=FORMATS)
def any_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"2026w47.{request.param}"


@pytest.fixture(params=TABLES)
def table_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"2026w47.{request.param}"


def first_line(file: Path) -> int:
    return FIRST_LINE[file.suffix.removeprefix(".")]


def test_a_file_gives_its_cases_in_order(any_file: Path):
    write(any_file, a_row(2, ground_truth="90일", category="암"), a_row(1, ground_truth=None, category=None))
    two, one = read_cases(any_file)
    assert (two.case_id, two.question, two.answer) == ("q2", "2번 담보의 면책기간은?", "90일입니다.")
    assert (two.contexts, two.ground_truth) == (("면책기간은 90일.", "보험금은 3일 안에 지급."), "90일")
    assert two.metadata == {"category": "암"}
    assert (one.case_id, one.ground_truth) == ("q1", None)


def test_a_file_that_names_nothing_is_named_by_its_stem(any_file: Path):
    header = inspect_dataset(write(any_file, a_row())).header
    assert (header.name, header.version, header.description, header.thresholds) == ("2026w47", "1.0.0", "", {})


def test_equal_content_has_equal_digests_in_all_formats(tmp_path: Path):
    rows = [a_row(n, ground_truth="90일" if n % 2 else None, keywords=["면책", "90"]) for n in range(1, 6)]
    digests = {inspect_dataset(write(tmp_path / f"x.{name}", *rows)).digest for name in FORMATS}
    assert len(digests) == 1


def test_the_digest_of_a_dataset_knows_ids_order_and_content(tmp_path: Path):
    def digest(*rows: dict[str, Any]) -> str:
        return inspect_dataset(write(tmp_path / "x.json", *rows)).digest

    asked = digest(a_row(1), a_row(2))
    others = [
        digest(a_row(2), a_row(1)),
        digest(a_row(1), a_row(2, id="z")),
        digest(a_row(1, answer="0일"), a_row(2)),
        digest(a_row(1)),
    ]
    assert asked not in others
    assert asked == digest(a_row(1, note="no metric reads this"), a_row(2))


def test_a_duplicate_id_names_both_lines(any_file: Path):
    write(any_file, a_row(1), a_row(2), a_row(3, id="q1"))
    line = first_line(any_file)
    assert problems_of(any_file) == [f"{line + 2}: id: `q1` stands in line {line} too. Give every case an id of its own."]
    assert ids(any_file) == ["q1", "q2"]


@pytest.mark.parametrize("blank", ["", "   ", None])
def test_an_empty_id_is_a_bad_row(any_file: Path, blank: str | None):
    write(any_file, a_row(1), a_row(2, id=blank))
    (problem,) = problems_of(any_file)
    assert problem.startswith(f"{first_line(any_file) + 1}: id: is ")
    assert problem.endswith(" Give every case an id of its own.")


def test_an_empty_cell_never_becomes_the_text_nan(table_file: Path):
    write(table_file, a_row(1), a_row(2, answer=None), a_row(3, id=None), a_row(4, contexts=None, ground_truth=None))
    line = first_line(table_file)
    assert [problem.split(". ")[0] for problem in problems_of(table_file)] == [
        f"{line + 1}: answer: is empty",
        f"{line + 2}: id: is empty",
    ]
    last = list(read_cases(table_file))[-1]
    assert (last.case_id, last.contexts, last.ground_truth) == ("q4", (), None)


def test_a_literal_nan_is_reported_with_its_line(any_file: Path):
    write(any_file, a_row(1), a_row(2, answer="nan"))
    (problem,) = problems_of(any_file)
    assert problem.startswith(f"{first_line(any_file) + 1}: answer: is `nan`, which a data frame writes for a missing value.")


@pytest.mark.parametrize("name", ["json", "xlsx", "parquet"])
def test_integer_ids_and_answers_keep_their_digits_beside_a_blank(tmp_path: Path, name: str):
    """With a blank in it a column becomes one of floats: pandas writes 1.0."""
    file = write(tmp_path / f"x.{name}", a_row(id=1.0, ground_truth=3000), a_row(id=2.0, ground_truth=None), a_row(id=None))
    one, two = read_cases(file)
    assert (one.case_id, one.ground_truth, two.case_id) == ("1", "3000", "2")


def test_decomposed_hangul_has_the_digest_of_the_composed(any_file: Path):
    composed = inspect_dataset(write(any_file, a_row(question="한글"))).digest
    assert inspect_dataset(write(any_file, a_row(question="\u1112\u1161\u11ab\u1100\u1173\u11af"))).digest == composed


def test_strict_refuses_with_all_problems_in_one_message(any_file: Path):
    write(any_file, a_row(1), a_row(2, question=""), a_row(3, id="nan", answer="nan"))
    with pytest.raises(MalformedCases) as refusal:
        inspect_dataset(any_file)
    line = first_line(any_file)
    first, *others, remedy = str(refusal.value).splitlines()
    assert first == f"{any_file}: 2 bad rows"
    assert [other.split(": is ")[0] for other in others] == [
        f"{any_file}:{line + 1}: question",
        f"{any_file}:{line + 2}: id",
        f"{any_file}:{line + 2}: answer",
    ]
    assert "--skip-bad-rows" in remedy


def test_without_strict_the_good_cases_are_counted_and_the_problems_listed(any_file: Path):
    summary = inspect_dataset(write(any_file, a_row(1), a_row(2, question=" "), a_row(3)), strict=False)
    assert (summary.case_count, len(summary.problems), ids(any_file)) == (2, 1, ["q1", "q3"])
    assert summary.digest == inspect_dataset(write(any_file, a_row(1), a_row(3))).digest


def test_a_refusal_shows_the_first_twenty_problems_and_counts_the_rest(tmp_path: Path):
    with pytest.raises(MalformedCases) as refusal:
        inspect_dataset(write(tmp_path / "x.jsonl", *(a_row(n, question="") for n in range(1, 26))))
    lines = str(refusal.value).splitlines()
    assert (lines[0], lines[20].split(" ")[0], lines[21]) == (
        f"{tmp_path / 'x.jsonl'}: 25 bad rows",
        f"{tmp_path / 'x.jsonl'}:20:",
        "... and 5 more",
    )
    assert (len(lines), len(refusal.value.problems)) == (23, 25)


def test_a_file_in_which_every_row_is_bad_shows_the_first(any_file: Path):
    message = refusal_of(write(any_file, a_row(question=""), a_row(question="")))
    assert message.startswith(" has no cases. Every row is bad, the first so: ")
    assert message.endswith(f"2026w47{any_file.suffix}:{first_line(any_file)}: question: is empty. Write the question.")


def test_an_empty_file_says_so(any_file: Path):
    any_file.touch()
    message = refusal_of(any_file)
    assert any(words in message for words in ("is empty. Write at least one case", "Save it again", "Write it again"))


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "tsv"])
def test_a_file_of_white_space_has_no_cases(tmp_path: Path, name: str):
    file = tmp_path / f"x.{name}"
    file.write_text(" \n\n  \n")
    assert any(words in refusal_of(file) for words in ("has no cases. Write at least one.", "found the end of the file"))


@pytest.mark.parametrize(
    ("name", "text"), [("json", '{"test_cases": []}'), ("json", "[]"), ("csv", HEAD), ("tsv", HEAD.replace(",", "\t"))]
)
def test_a_file_without_cases_is_refused(tmp_path: Path, name: str, text: str):
    file = tmp_path / f"x.{name}"
    file.write_text(text)
    assert refusal_of(file) == " has no cases. Write at least one."


def test_a_missing_file_is_named_with_the_way_out(any_file: Path):
    assert refusal_of(any_file) == ": no such file. Check the path; the catalog's datasets: evalvault catalog check"


@pytest.mark.parametrize("name", ["x.xls", "x.txt", "x"])
def test_an_unknown_suffix_lists_those_that_can_be_read(tmp_path: Path, name: str):
    file = tmp_path / name
    file.write_text("[]")
    message = refusal_of(file)
    assert f"no dataset format ends in `{file.suffix}`" in message
    assert ".json, .jsonl, .ndjson, .csv, .tsv, .xlsx, .parquet" in message


def test_a_suffix_in_capitals_is_known(tmp_path: Path):
    write(tmp_path / "x.csv", a_row()).rename(tmp_path / "X.CSV")
    assert ids(tmp_path / "X.CSV") == ["q1"]


@pytest.mark.parametrize(
    ("question", "language"), [("면책기간은?", "ko"), ("What is covered?", "en"), ("GDP란?", "ko"), ("12?", "en")]
)
def test_the_language_is_that_of_the_questions(tmp_path: Path, question: str, language: str):
    assert inspect_dataset(write(tmp_path / "x.json", a_row(question=question))).language == language


# --- tables: columns


def test_missing_columns_are_all_named_beside_those_found(table_file: Path):
    message = refusal_of(write(table_file, {"id": "1", "question": "q", "note": "n"}))
    assert message.startswith(
        ":1: the columns answer, contexts are missing; found: id, question, note. Add them (ragas's names"
    )


def test_ragas_names_are_accepted_as_columns(any_file: Path):
    write(any_file, {"id": "1", "user_input": "q", "response": "a", "retrieved_contexts": ["c"], "reference": "g"})
    (case,) = read_cases(any_file)
    assert (case.question, case.answer, case.contexts, case.ground_truth, case.metadata) == ("q", "a", ("c",), "g", {})


@pytest.mark.parametrize("name", ["csv", "xlsx"])
def test_doubled_columns_are_refused(tmp_path: Path, name: str):
    file = tmp_path / f"x.{name}"
    columns = ["id", "question", "answer", "contexts", " answer "]
    if name == "csv":
        file.write_text(",".join(columns) + "\n1,q,a,c,b\n")
    else:
        workbook = openpyxl.Workbook()
        workbook.worksheets[0].append(columns)
        workbook.save(file)
    assert refusal_of(file) == ":1: the column `answer` stands there twice. Rename one."


def test_column_names_may_have_spaces_around_them(table_file: Path):
    write(table_file, {f" {name} ": value for name, value in a_row(threshold_chrf=0.5).items()})
    assert (ids(table_file), inspect_dataset(table_file).header.thresholds) == (["q1"], {"chrf": 0.5})


def test_a_column_without_a_name_is_passed_over(table_file: Path):
    """A data frame writes its index so."""
    (case,) = read_cases(write(table_file, {"": 0, **a_row()}))
    assert case.metadata == {}


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path):
    csv_file, jsonl_file, xlsx_file = (tmp_path / f"x.{name}" for name in ("csv", "jsonl", "xlsx"))
    csv_file.write_text(f"\n{HEAD}\n,,,\n1,q,a,c\n\n2,,a,c\n")
    jsonl_file.write_text("\n" + json.dumps(a_row()) + "\n  \n\n\n\n" + json.dumps(a_row(2, question="")) + "\n\n")
    workbook = openpyxl.Workbook()
    for row, cells in {2: HEAD.strip().split(","), 5: ["1", "q", "a", "c"], 7: ["2", None, "a", "c"]}.items():
        for column, cell in enumerate(cells, start=1):
            workbook.worksheets[0].cell(row, column, cell)
    workbook.save(xlsx_file)
    for file in (csv_file, jsonl_file, xlsx_file):
        assert problems_of(file) == ["7: question: is empty. Write the question."]


@pytest.mark.parametrize("name", ["csv", "xlsx"])
def test_a_header_below_blank_lines_is_named_with_its_line(tmp_path: Path, name: str):
    file = tmp_path / f"x.{name}"
    if name == "csv":
        file.write_text("\n\nid,question\n")
    else:
        workbook = openpyxl.Workbook()
        workbook.worksheets[0]["A3"] = "id"
        workbook.save(file)
    assert refusal_of(file).startswith(":3: the columns ")


def test_a_metadata_cell_is_json(table_file: Path):
    write(table_file, a_row(1, metadata='{"product": "auto"}'), a_row(2, metadata="product=auto"))
    assert [case.metadata for case in read_cases(table_file)] == [{"product": "auto"}]
    assert problems_of(table_file) == [
        f'{first_line(table_file) + 1}: metadata: is not valid JSON. Write an object: {{"product": "auto"}}.'
    ]


def test_a_broken_contexts_cell_is_reported_and_not_split(table_file: Path):
    write(table_file, a_row(1, contexts='["a"]'), a_row(2, contexts='["a" | "b"]'), a_row(3, contexts="['a', 'b']"))
    line = first_line(table_file)
    assert [problem.split(". ")[0] for problem in problems_of(table_file)] == [
        f"{line + 1}: contexts: starts with `[` but is not a JSON array",
        f"{line + 2}: contexts: starts with `[` but is not a JSON array; it looks like a Python list",
    ]


def test_contexts_in_a_cell_may_have_bars_between(table_file: Path):
    (case,) = read_cases(write(table_file, a_row(contexts="면책 | 지급")))
    assert case.contexts == ("면책", "지급")


# --- thresholds


def test_thresholds_of_any_metric_stand_in_columns(table_file: Path):
    write(table_file, a_row(1, threshold_chrf=None, threshold_my_own=0.25), a_row(2, threshold_chrf=0.5, threshold_my_own=None))
    assert inspect_dataset(table_file).header.thresholds == {"chrf": 0.5, "my_own": 0.25}


def test_a_threshold_counts_wherever_it_stands(table_file: Path):
    """The original tool stops looking after fifty rows."""
    write(table_file, *(a_row(n, threshold_chrf=0.5 if n == 80 else None) for n in range(1, 100)))
    assert inspect_dataset(table_file).header.thresholds == {"chrf": 0.5}


def test_a_threshold_that_is_repeated_is_fine_and_another_is_refused(table_file: Path):
    line = first_line(table_file)
    rows = [a_row(1, threshold_chrf=0.5), a_row(2, threshold_chrf=0.5), a_row(3, threshold_chrf=0.6)]
    assert inspect_dataset(write(table_file, *rows[:2])).header.thresholds == {"chrf": 0.5}
    assert refusal_of(write(table_file, *rows)) == (
        f":{line + 2}: threshold_chrf: is 0.6, in line {line} it is 0.5. Write one value."
    )


def test_a_threshold_column_out_of_range_is_refused_with_its_line(table_file: Path):
    write(table_file, a_row(1, threshold_chrf=None), a_row(2, threshold_chrf=1.5))
    assert refusal_of(table_file) == (
        f":{first_line(table_file) + 1}: threshold of chrf: is `1.5`. Write a number from 0 to 1, or null for the default."
    )


def json_file(tmp_path: Path, before: str = "", after: str = "") -> Path:
    file = tmp_path / "x.json"
    file.write_text("{" + before + '"test_cases": [' + json.dumps(a_row()) + "]" + after + "}", encoding="utf-8")
    return file


def test_null_thresholds_in_json_mean_the_default(tmp_path: Path):
    file = json_file(tmp_path, '"thresholds": {"chrf": null, "faithfulness": 0.9}, ')
    assert inspect_dataset(file).header.thresholds == {"faithfulness": 0.9}
    assert inspect_dataset(json_file(tmp_path, '"thresholds": null, ')).header.thresholds == {}


@pytest.mark.parametrize("value", ["1.5", "-0.1", "true", '"high"', "[0.5]"])
def test_a_threshold_in_json_that_is_none_is_refused_with_its_line(tmp_path: Path, value: str):
    file = json_file(tmp_path, f'"version": "1",\n\n"thresholds": {{"chrf": {value}}}, ')
    assert refusal_of(file).startswith(":3: threshold of chrf: is `")


def test_thresholds_that_are_no_object_are_refused_with_their_line(tmp_path: Path):
    assert refusal_of(json_file(tmp_path, '\n"thresholds": 0.7, ')) == (':2: thresholds: is no object. Write {"metric": 0.7}.')


# --- JSON


HEADER = '"name": "auto", "version": 3, "description": "d", "metadata": {"domain": "insurance"}, "thresholds": {"chrf": 0.5}'


@pytest.mark.parametrize(("before", "after"), [(f"{HEADER}, ", ""), ("", f", {HEADER}")])
def test_the_header_may_stand_before_or_after_the_cases(tmp_path: Path, before: str, after: str):
    summary = inspect_dataset(json_file(tmp_path, before, after))
    header = summary.header
    assert (header.name, header.version, header.description) == ("auto", "3", "d")
    assert (header.metadata, header.thresholds, summary.case_count) == ({"domain": "insurance"}, {"chrf": 0.5}, 1)


def test_a_header_is_held_as_utf_8_can_hold_it(tmp_path: Path):
    header = inspect_dataset(json_file(tmp_path, '"name": "\\ud83d", "metadata": {"x": NaN}, ')).header
    assert (header.name, header.metadata) == ("?", {"x": None})


def test_a_list_of_cases_is_a_dataset(tmp_path: Path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps([a_row(1), a_row(2)], indent=2))
    assert (inspect_dataset(file).header.name, ids(file)) == ("x", ["q1", "q2"])


def test_conversations_are_refused_with_the_way_out(tmp_path: Path):
    file = tmp_path / "x.json"
    file.write_text('{"conversations": [{"turns": []}]}')
    assert refusal_of(file) == ": holds conversations of several turns. Write one case per turn under `test_cases`."


@pytest.mark.parametrize("text", ["{}", '{"cases": []}', '{"test_cases": {"q1": {}}}', '{"test_cases": null}'])
def test_json_without_a_list_of_cases_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "x.json"
    file.write_text(text)
    assert refusal_of(file) == ': has no list `test_cases`. Write {"test_cases": [...]} or a list of cases.'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"test_cases": [\n{"id": 1\n"question": 2}]}', 3),
        ('{"name": "x",\n"test_cases": [],\n}', 3),
        ('{"test_cases": []\n"name": "x"}', 2),
        ("[\n{},\n\n]", 4),
        ('{"test_cases": []}\n\nx', 3),
        ("[]\n[]", 2),
        ('{"name": "x",\n1: 2}', 2),
        ('\n\n"text"', 3),
        ('{"test_cases": [\n{"id": "1', 2),
    ],
)
def test_a_json_syntax_error_names_its_line(tmp_path: Path, text: str, line: int):
    file = tmp_path / "x.json"
    file.write_text(text)
    message = refusal_of(file)
    assert message.startswith(f":{line}: not valid JSON: ")
    assert message.endswith(". Mend the file there.")


def test_a_json_syntax_error_far_into_a_big_file_names_its_line(tmp_path: Path):
    rows = [json.dumps(a_row(n, answer="x" * 1_000)) for n in range(3_000)]
    rows[2_500] = rows[2_500].replace('"answer":', '"answer"')
    file = tmp_path / "x.json"
    file.write_text("[\n" + ",\n".join(rows) + "\n]")
    assert file.stat().st_size > 2 * text_files.CHUNK
    assert refusal_of(file) == ":2502: not valid JSON: Expecting ':' delimiter. Mend the file there."


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_nan_in_json_is_missing_for_a_reference_reported_for_an_answer_and_null_in_metadata(tmp_path: Path, name: str):
    nan = float("nan")
    file = write(tmp_path / f"x.{name}", a_row(1, ground_truth=nan, metadata={"score": nan}), a_row(2, answer=nan))
    (case,) = read_cases(file)
    assert (case.ground_truth, case.metadata) == (None, {"score": None})
    assert problems_of(file) == [
        f'{first_line(file) + 1}: answer: is NaN. Write the answer; "" says that the system gave none.'
    ]


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_an_explicit_empty_answer_in_json_is_a_case(tmp_path: Path, name: str):
    (case,) = read_cases(write(tmp_path / f"x.{name}", a_row(answer="")))
    assert case.answer == ""


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud83d"])
def test_an_escape_that_no_text_may_hold_is_a_bad_row(tmp_path: Path, escape: str):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(a_row(1)) + "\n" + json.dumps(a_row(2, answer="@")).replace("@", escape) + "\n")
    assert problems_of(file)[0].startswith("2: answer: contains ")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"id": "2" "x"}', "Expecting ',' delimiter in column 12"),
        ("not json", "Expecting value in column 1"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": ' + "9" * 5_000 + "}", "a number of too many digits"),
        ('{"id": "a\x00b"}', "Invalid control character at in column 10"),
    ],
)
def test_a_line_of_jsonl_that_is_no_json_is_a_bad_row(tmp_path: Path, line: str, fault: str):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(a_row(1)) + "\n" + line + "\n" + json.dumps(a_row(3)) + "\n")
    assert problems_of(file) == [f"2: case: is not valid JSON: {fault}. Write one object per line."]
    assert ids(file) == ["q1", "q3"]


# --- CSV


def csv_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "x.csv"
    file.write_bytes(text.encode())
    return file


@pytest.mark.parametrize(("row", "count"), [("2,q,a", 3), ("2,q,a,c,more", 5), ("2,q,네, 맞습니다,c", 5)])
def test_a_row_of_too_many_or_few_cells_is_a_bad_row(tmp_path: Path, row: str, count: int):
    file = csv_file(tmp_path, f"{HEAD}1,q,a,c\n{row}\n3,q,a,c\n")
    assert problems_of(file) == [f"3: row: has {count} cells, the header has 4. Put text that holds the separator in quotes."]
    assert ids(file) == ["1", "3"]


def test_an_unclosed_quote_is_named_with_the_line_where_it_opens(tmp_path: Path):
    file = csv_file(tmp_path, f'{HEAD}1,q,a,c\n2,q,"a,c\n3,q,a,c\n')
    assert problems_of(file) == [
        "3: row: is not valid CSV: unexpected end of data. "
        'Put text with quotes in quotes, and write each quote inside it twice: "".'
    ]


def test_a_row_behind_cells_of_many_lines_is_named_with_its_own_line(tmp_path: Path):
    file = csv_file(tmp_path, f'{HEAD}1,q,"a\nb\r\nc",c\r\n2,,a,c\r\n')
    assert problems_of(file) == ["5: question: is empty. Write the question."]
    assert next(read_cases(file)).answer == "a\nb\nc"


def test_a_nul_byte_in_a_csv_cell_is_a_bad_row(tmp_path: Path):
    file = csv_file(tmp_path, f"{HEAD}1,q,a,c\n2,q,a\x00b,c\n")
    assert problems_of(file) == ["3: answer: contains a NUL byte. Remove it."]


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "tsv"])
@pytest.mark.parametrize("encoding", ["cp949", "euc-kr", "utf-8-sig", "utf-16"])
def test_korean_in_the_encodings_it_comes_in_is_read_alike(tmp_path: Path, name: str, encoding: str):
    file = write(tmp_path / f"x.{name}", a_row(1), a_row(2))
    digest = inspect_dataset(file).digest
    file.write_bytes(file.read_bytes().decode("utf-8").encode(encoding))
    assert inspect_dataset(file).digest == digest


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "tsv"])
def test_a_broken_byte_is_refused_with_its_line(tmp_path: Path, name: str):
    file = write(tmp_path / f"x.{name}", *(a_row(n) for n in range(1, 6)))
    lines = file.read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b"90", b"\xb0\xa1", 1)
    file.write_bytes(b"\n".join(lines))
    assert refusal_of(file) == ":4: bytes that are not UTF-8, in a file that otherwise is. Save it as UTF-8."


# --- a line that is no case


@pytest.fixture
def huge_line(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """A file whose second row is one line of 200 MB of Korean, gone after the test."""
    file = tmp_path / f"huge.{request.param}"
    text = ("가" * (1 << 20)).encode()
    start, end, others = {
        "jsonl": ('{"id": "q2", "answer": "', '"}\n', [json.dumps(a_row(n)) + "\n" for n in (1, 3)]),
        "csv": ('q2,q,"', '",c\n', [f"{HEAD}q1,q,a,c\n", "q3,q,a,c\n"]),
    }[request.param]
    with file.open("wb") as handle:
        handle.write((others[0] + start).encode())
        for _ in range(200 * 10**6 // len(text) + 1):
            handle.write(text)
        handle.write((end + others[1]).encode())
    yield file
    file.unlink()


@pytest.mark.parametrize("huge_line", ["jsonl", "csv"], indirect=True)
def test_a_line_of_200_mb_is_a_bad_row_and_is_never_held(huge_line: Path):
    assert huge_line.stat().st_size >= 200 * 10**6
    tracemalloc.start()
    summary = inspect_dataset(huge_line, strict=False)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    line = FIRST_LINE[huge_line.suffix[1:]] + 1
    assert [str(problem).removeprefix(str(huge_line)) for problem in summary.problems] == [
        f":{line}: row: is longer than 16,777,216 characters. Cut the contexts into passages."
    ]
    assert (summary.case_count, peak < 120 * 10**6) == (2, True)


def test_a_json_value_over_the_limit_is_refused_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_files, "MAX_CASE_CHARS", 2_000)
    monkeypatch.setattr(text_files, "CHUNK", 500)
    file = write(tmp_path / "x.json", a_row(1), a_row(2, answer="x" * 10_000), a_row(3))
    assert refusal_of(file) == ":3: a value is longer than 2,000 characters. Cut the contexts into passages."


def test_a_csv_row_around_a_line_over_the_limit_is_not_read_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_files, "MAX_CASE_CHARS", 100)
    file = csv_file(tmp_path, f'{HEAD}1,q,"short\n{"x" * 1_000}\nshort",c\n2,q,a,c\n')
    assert [problem.split(":")[0] for problem in problems_of(file)] == ["3"]
    assert ids(file) == ["2"]


# --- workbooks and Parquet


def test_a_cell_of_a_date_a_number_or_an_error_is_read_for_what_it_shows(tmp_path: Path):
    file = write(
        tmp_path / "x.xlsx",
        a_row(1, answer=datetime(2026, 11, 23)),
        a_row(2, answer=3000),
        a_row(3, answer="#N/A"),
        a_row(4, answer=True),
    )
    assert [case.answer for case in read_cases(file)] == ["2026-11-23", "3000"]
    assert problems_of(file) == [
        "4: answer: is the spreadsheet error #N/A. Mend the formula.",
        "5: answer: is true or false. Write text.",
    ]


def test_a_workbook_that_states_too_small_a_range_is_read_to_its_end(tmp_path: Path):
    """Some exporters write `A1` for every sheet."""
    whole = write(tmp_path / "whole.xlsx", a_row(1), a_row(2))
    stated = tmp_path / "stated.xlsx"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(stated, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "xl/worksheets/sheet1.xml":
                assert b'<dimension ref="A1:D3"' in content
                content = content.replace(b'<dimension ref="A1:D3"', b'<dimension ref="A1"')
            target.writestr(name, content)
    assert inspect_dataset(stated).digest == inspect_dataset(whole).digest


@pytest.mark.parametrize("damage", ["text", "cut", "zip", "sheet"])
def test_a_damaged_workbook_is_refused(tmp_path: Path, damage: str):
    file = write(tmp_path / "x.xlsx", a_row(1))
    content = file.read_bytes()
    if damage == "text":
        file.write_text("id,question")
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        with zipfile.ZipFile(tmp_path / "whole.zip", "w") as whole:
            whole.writestr("note.txt", "no workbook")
        if damage == "sheet":
            with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "whole.zip", "w") as whole:
                for name in source.namelist():
                    text = source.read(name)
                    whole.writestr(name, text[:200] if name == "xl/worksheets/sheet1.xml" else text)
        (tmp_path / "whole.zip").rename(file)
    message = refusal_of(file)
    assert message.startswith(": is no workbook that can be opened (")
    assert message.endswith("). Save it again as .xlsx.")


@pytest.mark.parametrize("damage", ["text", "cut", "pages"])
def test_a_damaged_parquet_file_is_refused(tmp_path: Path, damage: str):
    file = write(tmp_path / "x.parquet", *(a_row(n, answer=f"{n}일 " * 50) for n in range(1, 100)))
    content = file.read_bytes()
    damaged = {"text": b"id,question", "cut": content[:-100], "pages": content[:4] + b"\xff" * 400 + content[404:]}
    file.write_bytes(damaged[damage])
    message = refusal_of(file)
    assert message.startswith(": is no Parquet file that can be opened (")
    assert message.endswith("). Write it again.")


# --- the original tool's datasets


def test_every_dataset_of_the_original_tool_loads(original_data: Path):
    files = sorted(original_data.iterdir())
    summaries: list[DatasetSummary] = [inspect_dataset(file) for file in files]
    assert all(summary.case_count and not summary.problems for summary in summaries)
    assert [sum(1 for _ in read_cases(file)) for file in files] == [summary.case_count for summary in summaries]


@pytest.mark.parametrize("name", ["insurance_qa_korean", "sample_dataset"])
def test_a_dataset_of_the_original_tool_is_the_same_in_each_of_its_formats(original_data: Path, name: str):
    digests = {inspect_dataset(original_data / f"{name}.{suffix}").digest for suffix in ("json", "csv", "xlsx")}
    assert len(digests) == 1


def test_a_file_that_may_not_be_opened_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is forbidden, so the system's refusal is raised by hand."""
    file = tmp_path / "d.json"
    file.write_text("[]", encoding="utf-8")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreadableFile, match=r"d\.json cannot be read: Permission denied\. Check the file"):
        inspect_dataset(file)
