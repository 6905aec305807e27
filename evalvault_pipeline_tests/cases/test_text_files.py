"""Encodings are recognised, lines are bounded, and JSON is read value by value exactly as `json` reads it whole."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evalvault_pipeline.cases import text_files
from evalvault_pipeline.cases.text_files import JsonReader, bounded_lines, detect_encoding
from evalvault_pipeline.errors import UnreadableFile

KOREAN = "암 진단비는 얼마인가요?\n보험금은 3,000만원입니다.\n"
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=12))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4), max_leaves=12
)
CHUNKS = st.integers(1, 12)


def reader(text: str) -> JsonReader:
    return JsonReader(Path("x.json"), StringIO(text))


def read_whole(text: str, chunk: int) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "CHUNK", chunk)
        json_file = reader(text)
        _line, value = json_file.value()
        json_file.end()
    return value


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("cp949", "cp949"),
        ("euc-kr", "cp949"),
    ],
)
def test_the_encodings_in_which_korean_files_come_are_recognised(tmp_path: Path, encoding: str, found: str):
    file = tmp_path / "x.csv"
    file.write_bytes(KOREAN.encode(encoding))
    assert detect_encoding(file) == found
    assert file.read_text(encoding=found) == KOREAN


def test_big_endian_utf_16_is_recognised_by_its_mark(tmp_path: Path):
    file = tmp_path / "x.csv"
    file.write_bytes(("\ufeff" + KOREAN).encode("utf-16-be"))
    assert file.read_text(encoding=detect_encoding(file)) == KOREAN


def test_a_syllable_that_only_cp949_has_is_read(tmp_path: Path):
    """`뷁` is not among the 2,350 syllables of EUC-KR."""
    file = tmp_path / "x.csv"
    file.write_bytes("뷁 보험".encode("cp949"))
    assert file.read_text(encoding=detect_encoding(file)) == "뷁 보험"


def test_a_broken_byte_in_a_utf_8_file_names_its_line_and_is_not_taken_for_cp949(tmp_path: Path):
    """The bytes are valid CP949 as well; only the share of broken characters tells."""
    file = tmp_path / "x.csv"
    broken = "보험 보험\n".encode() * 2 + b"\xb0\xa1\n"
    file.write_bytes(broken)
    with pytest.raises(UnreadableFile, match=r"x\.csv:3: bytes that are not UTF-8, .* Save it as UTF-8\."):
        detect_encoding(file)


def test_a_broken_byte_far_into_the_file_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_files, "CHUNK", 7)
    file = tmp_path / "x.csv"
    file.write_bytes("보험금\n".encode() * 100 + b"\xff\n")
    with pytest.raises(UnreadableFile, match=r"x\.csv:101: "):
        detect_encoding(file)


@pytest.mark.parametrize(("encoding", "name"), [("utf-8-sig", "UTF-8"), ("utf-16", "UTF-16")])
def test_a_broken_byte_behind_a_byte_order_mark_names_its_line(tmp_path: Path, encoding: str, name: str):
    file = tmp_path / "x.json"
    file.write_bytes("보험\n갊\n".encode(encoding) + b"\xff")
    with pytest.raises(UnreadableFile, match=rf"x\.json:3: bytes that are not {name}, .* Save it as UTF-8\."):
        detect_encoding(file)


def test_bytes_of_no_encoding_name_their_line(tmp_path: Path):
    file = tmp_path / "x.csv"
    file.write_bytes("보험\n".encode("cp949") * 4 + b"\xff\xff\xff\n")
    with pytest.raises(UnreadableFile, match=r"x\.csv:5: bytes that are neither UTF-8 nor Korean CP949 \(EUC-KR\)"):
        detect_encoding(file)


def test_an_empty_file_has_no_encoding_but_a_remedy(tmp_path: Path):
    file = tmp_path / "x.csv"
    file.touch()
    with pytest.raises(UnreadableFile, match=r"x\.csv is empty\. Write at least one case"):
        detect_encoding(file)


def test_a_line_over_the_limit_is_dropped_and_the_others_keep_their_numbers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_files, "MAX_CASE_CHARS", 5)
    monkeypatch.setattr(text_files, "CHUNK", 3)
    lines = bounded_lines(StringIO("1234\n12345678901\n\n1234"))
    assert list(lines) == [(1, "1234\n"), (2, None), (3, "\n"), (4, "1234")]


@given(VALUES, CHUNKS, st.booleans(), st.sampled_from([None, 1]))
@example(1.5, 2, True, None)
@example(1e-30, 2, True, None)
@example(float("-inf"), 1, True, None)
@example("\U0001f600", 8, True, None)
def test_a_value_that_straddles_chunks_is_read_as_json_reads_it(value: Any, chunk: int, ascii_only: bool, indent: int | None):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    read = read_whole(text, chunk)
    assert (type(read), read) == (type(json.loads(text)), json.loads(text))


@given(st.text(alphabet='[]{},:"\\u0019.eE+-truefalsn \n\u00a0', max_size=14), CHUNKS)
@example("1.", 1)
@example("[1e+]", 2)
def test_what_json_refuses_is_refused_in_the_same_line(text: str, chunk: int):
    try:
        wanted = repr(json.loads(text))
    except json.JSONDecodeError as error:
        with pytest.raises(UnreadableFile, match=rf"^x\.json:{error.lineno}: not valid JSON: .* Mend the file there\.$"):
            read_whole(text, chunk)
    else:
        assert repr(read_whole(text, chunk)) == wanted


@given(st.lists(VALUES, max_size=6), CHUNKS)
def test_the_elements_of_an_array_come_with_their_lines(values: list[Any], chunk: int):
    text = "[\n" + ",\n".join(json.dumps(value) for value in values) + "\n]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "CHUNK", chunk)
        json_file = reader(text)
        read = list(json_file.items())
        json_file.end()
    assert read == list(enumerate(values, start=2))


@pytest.mark.parametrize("text", ["[1,]", "[1 2]", "[1", "[,1]", "["])
def test_an_array_that_json_would_refuse_is_refused(text: str):
    with pytest.raises(UnreadableFile, match=r"x\.json:1: not valid JSON"):
        list(reader(text).items())


def test_a_value_over_the_limit_is_refused_before_it_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_files, "MAX_CASE_CHARS", 100)
    monkeypatch.setattr(text_files, "CHUNK", 10)
    handle = StringIO('[1,\n"' + "x" * 10_000 + '"]')
    with pytest.raises(UnreadableFile, match=r"x\.json:2: a value is longer than 100 characters\. Cut the contexts"):
        list(JsonReader(Path("x.json"), handle).items())
    assert handle.tell() < 400


@pytest.mark.parametrize(
    ("text", "fault"), [("[" * 100_000, "nested too deeply"), ("9" * 5_000, "a number of too many digits")]
)
def test_json_that_python_cannot_hold_is_refused(text: str, fault: str):
    with pytest.raises(UnreadableFile, match=rf"x\.json:1: not valid JSON: {fault}"):
        reader(text).value()


def test_english_of_windows_is_not_taken_for_korean(tmp_path: Path):
    """A curly quote of Windows-1252 and the letter behind it make one CP949 syllable: `What’s` would read `What뭩`."""
    file = tmp_path / "x.csv"
    file.write_bytes("id,question\n1,What’s covered if it’s raining – and where?\n".encode("cp1252"))
    with pytest.raises(UnreadableFile, match=r"x\.csv:2: bytes that are neither UTF-8 nor Korean CP949 \(EUC-KR\)\. Save"):
        detect_encoding(file)
