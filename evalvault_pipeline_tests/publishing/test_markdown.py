"""The report as Markdown, read back with a Markdown parser: texts from datasets are text, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from evalvault_pipeline.cases.model import EvalCase, PiiReport
from evalvault_pipeline.publishing.markdown import (
    cost_text,
    evidence_lines,
    headline,
    metrics_table,
    noise_lines,
    report_markdown,
    why,
)
from evalvault_pipeline.reporting.report import Cost, RunInfo, RunReport, summarize
from evalvault_pipeline.scoring.model import CaseResult, MetricScore

HOSTILE = [
    "a | b || c",
    "<script>alert(1)</script><!-- x -->",
    "`code` ``` and `",
    "line\nbreak\r\n\n# heading\n\n| a |\n|---|\n",
    "[link](http://x.y) ![image](http://x.y/z.png)",
    "**bold** ~~gone~~ \\| \\",
    "&lt;b&gt;",
    "# 제목",
    "</td></table>",
]
INFO = RunInfo(
    run_id="r1",
    dataset="insurance_qa",
    snapshot="2026w47",
    dataset_version="v1",
    profile="offline",
    judge="none",
    tokenizer="ngram-1",
    language="ko",
    started_at=datetime(2026, 11, 16, 9, tzinfo=UTC),
    finished_at=datetime(2026, 11, 16, 9, tzinfo=UTC),
    thresholds={"chrf": 0.5},
    metric_versions={"chrf": "1"},
)


def failed(text: str, case_id: str = "c1", **more: Any) -> CaseResult:
    score = MetricScore(**{"case_id": case_id, "metric": "chrf", "value": 0.25, "threshold": 0.5, **more})
    return CaseResult(case=EvalCase(case_id=case_id, question=text, answer=text), scores=(score,))


def report(*results: CaseResult, **about: Any) -> RunReport:
    return summarize(results, info=replace(INFO, **about))


def parsed(markdown: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(markdown)


def inline(tokens: Sequence[Token]) -> list[Token]:
    return [child for token in tokens for child in token.children or []]


def rows_of_the_last_table(tokens: list[Token]) -> list[list[str]]:
    """The cells of the table's body, as a reader sees them."""
    start = max(at for at, token in enumerate(tokens) if token.type == "tbody_open")
    rows: list[list[str]] = []
    for token in tokens[start:]:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level > 3:
            rows[-1].append("".join(child.content for child in token.children or []))
        elif token.type == "tbody_close":
            break
    return rows


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_of_the_dataset_stands_in_its_cell_as_it_is(text: str):
    tokens = parsed(report_markdown(report(failed(text))))
    shown = " ".join(text.split()).replace("&lt;", "<").replace("&gt;", ">")
    assert rows_of_the_last_table(tokens) == [["c1", shown, shown, "chrf 0.250"]]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_html_a_link_an_image_or_a_heading(text: str):
    hostile = report(
        failed(text, case_id=text, evidence={"missing": [text]}),
        CaseResult(
            case=EvalCase(case_id="u", question="?", answer="!"),
            scores=(MetricScore(case_id="u", metric="chrf", value=None, threshold=0.5, unmeasured="no_field", detail=text),),
        ),
        run_id=text,
        dataset=text,
        snapshot=text,
        dataset_version=text,
        skipped_rows=[text],
        missing_batches=[text],
    )
    tokens = parsed(report_markdown(hostile))
    plain = parsed(report_markdown(report(*hostile.worst, hostile_free(), skipped_rows=["x"], missing_batches=["x"])))
    kinds = {token.type for token in [*tokens, *inline(tokens)]}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "fence", "code_block", "s_open", "em_open"}
    assert [token.type for token in tokens if token.type != "inline"] == [
        token.type for token in plain if token.type != "inline"
    ]


def test_the_report_says_what_was_masked_and_warns_where_nothing_was():
    masked = report_markdown(report(failed("x"), pii=PiiReport(masked={"EMAIL": 1, "PHONE": 2}, cases=2)))
    assert "- personal data masked: 1 EMAIL, 2 PHONE in 2 cases (policy `redact`)" in masked and "NOT" not in masked
    assert "- personal data masked: none (policy `redact`)" in report_markdown(report(failed("x")))
    off = report_markdown(report(failed("x"), pii=PiiReport(policy="off")))
    assert "**pii is off: personal data is NOT masked**" in off and "- personal data masked: none (policy `off`)" in off


def hostile_free() -> CaseResult:
    score = MetricScore(case_id="u", metric="chrf", value=None, threshold=0.5, unmeasured="no_field", detail="none")
    return CaseResult(case=EvalCase(case_id="u", question="?", answer="!"), scores=(score,))


@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from("|\\`*[]<>#~&!\n-_ "), min_size=1, max_size=400))
def test_whatever_the_text_the_table_has_its_four_columns_and_no_html(text: str):
    tokens = parsed(report_markdown(report(failed(text), failed("last", case_id="c2"))))
    rows = rows_of_the_last_table(tokens)
    assert [len(row) for row in rows] == [4, 4]
    assert sorted(row[0] for row in rows) == ["c1", "c2"]
    assert not {token.type for token in [*tokens, *inline(tokens)]} & {"html_block", "html_inline", "link_open", "image"}


def test_a_long_text_is_cut_with_a_sign_of_it():
    (row,) = rows_of_the_last_table(parsed(report_markdown(report(failed("가" * 1_000)))))
    assert row[1].endswith("…") and len(row[1]) == 160


def test_a_text_is_not_cut_through_an_escape():
    """The 159th character of the escaped text is the backslash, the 160th what it escapes."""
    (row,) = rows_of_the_last_table(parsed(report_markdown(report(failed("가" * 158 + "|<" * 200)))))
    assert row[1].startswith("가" * 158) and "\\" not in row[1] and "&" not in row[1]


def test_at_most_the_asked_number_of_cases_is_shown_worst_first():
    markdown = report_markdown(
        report(failed("a", "a", value=0.4), failed("b", "b", value=0.1), failed("c", "c", value=0.2)), cases=2
    )
    assert [row[0] for row in rows_of_the_last_table(parsed(markdown))] == ["b", "c"]


def test_the_headline_is_pass_rate_with_interval_and_coverage_and_bounds_where_something_is_unmeasured():
    passed = failed("x", "p", value=1.0)
    assert headline(report(passed, failed("y"))) == (
        "1 of 2 cases passed (50.0 %, 95 % interval 9.5 % to 90.5 %); coverage 100.0 %."
    )
    assert headline(report(passed, hostile_free())).endswith(
        "coverage 50.0 %. 1 cases are unmeasured: the pass rate is between 50.0 % and 100.0 %."
    )


def test_a_report_that_stands_on_some_batches_says_which_are_missing():
    markdown = report_markdown(report(failed("x"), batches=["2026w47/0001"], missing_batches=["2026w47/0002", "2026w47/0003"]))
    assert "**Stands on 1 batches; not scored yet: 2026w47/0002, 2026w47/0003**" in markdown


def judged(value: float, *others: float, **more: Any) -> CaseResult:
    """A case that the judge measured as often as there are values."""
    paid = {"metric_version": "ragas-0.4.3", "judge": "openai/m@0", "judge_calls": 2, "prompt_tokens": 1_000, **more}
    first = failed("q", value=value, **paid)
    again = tuple(replace(first.scores[0], value=other, repeat=number) for number, other in enumerate(others, start=1))
    return replace(first, repeats=again)


DETAILS = {"provider": "openai", "model": "m", "embedding_model": "e", "fingerprint": "openai/m@0"}


def test_a_report_says_who_judged_with_which_prompts_and_what_it_took():
    versions = {"metric_versions": {"chrf": "ragas-0.4.3+ko-1"}, "judge": "openai/m", "judge_details": DETAILS}
    stored = judged(1.0, reused=True, cost_usd=0.5)
    markdown = report_markdown(report(judged(1.0, cost_usd=0.25), stored, **versions))
    assert "judge `openai/m`" in markdown
    assert "- judge: provider openai, model m, embedding model e, fingerprint openai/m@0\n" in markdown
    assert "- metrics and prompts: ragas-0.4.3+ko-1\n" in markdown
    assert (
        "- this run asked for 2 LLM calls, 1,000 tokens, $0.2500; "
        "scores from the store had taken 2 LLM calls, 1,000 tokens, $0.5000\n"
    ) in markdown
    assert "LLM calls" not in report_markdown(report(failed("x")))


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (Cost(), "0 LLM calls, 0 tokens"),
        (Cost(calls=1_234, prompt_tokens=5_678, dollars=0.00004), "1,234 LLM calls, 5,678 tokens, $0.0000"),
        (Cost(calls=1, prompt_tokens=5, dollars=None), "1 LLM calls, 5 tokens, no known price"),
        (Cost(calls=1, prompt_tokens=5, embedding_tokens=2, dollars=1234.5), "1 LLM calls, 7 tokens, $1234.5000"),
    ],
)
def test_a_cost_is_told_in_calls_tokens_and_dollars_where_they_are_known(cost: Cost, text: str):
    assert cost_text(cost) == text


def test_the_noise_of_the_judge_is_a_sentence_of_its_own():
    (line,) = noise_lines(report(judged(1.0, 0.0, 1.0), judged(1.0)))
    assert line == (
        "judge noise of chrf: 66.7 % of verdicts flip when judged again (1 cases, 3 times, standard deviation 0.471)"
    )
    assert noise_lines(report(judged(1.0))) == []
    assert "66.7 % of verdicts flip" in report_markdown(report(judged(1.0, 0.0, 1.0)))


def test_a_threshold_says_on_which_side_of_it_a_value_passes():
    assert [row.split("|")[5].strip() for row in metrics_table(report(failed("x")))[2:]] == ["≥ 0.5"]
    assert [row.split("|")[5].strip() for row in metrics_table(report(failed("x", lower_is_better=True)))[2:]] == ["≤ 0.5"]


def test_all_evidence_is_told_line_by_line_with_its_reasons():
    evidence = {
        "statements": [
            {"statement": "a", "verdict": 1, "reason": "said"},
            {"statement": "b", "verdict": 0, "reason": "not said", "contexts": [2]},
        ],
        "words_not_found": ["x", "y"],
        "questions": [{"question": "q?", "answered": True}],
        "contexts": [{"context": 2, "verdict": 0}],
    }
    assert evidence_lines(evidence) == [
        "statements:",
        "  yes a",
        "      said",
        "  NO  b (contexts: 2)",
        "      not said",
        "words not found: x, y",
        "questions:",
        "  yes q?",
        "contexts:",
        "  NO  context 2",
    ]


@pytest.mark.parametrize("evidence", [{}, {"a": None}, {"a": []}, {"a": [{}]}, {"a": {"b": {"c": 1}}}])
def test_evidence_of_any_form_can_be_told(evidence: dict[str, Any]):
    assert all(isinstance(line, str) for line in evidence_lines(evidence))
    assert isinstance(why(evidence), str)


def test_an_empty_run_can_be_written():
    assert "0 of 0 cases passed" in report_markdown(report())


@pytest.mark.parametrize(
    ("evidence", "text"),
    [
        (
            {"weakest": {"contradicted_by": "지급하지 않습니다", "words_not_found": ["x"]}},
            "the context says: 지급하지 않습니다",
        ),
        ({"weakest": {"numbers_not_found": ["1억", "2년"]}}, "not found: 1억, 2년"),
        ({"not_found": ["3년"]}, "not found: 3년"),
        ({"missing": ["한도"]}, "not found: 한도"),
        ({"weakest": {"words_not_found": list("abcdefghij")}}, "not in the contexts: a, b, c, d, e, f, g, h"),
        ({"declined": True}, "it declined"),
        ({"declined": False}, "it did not decline"),
        ({"precision": 0.5}, ""),
        ({}, ""),
        (
            {"statements": [{"statement": "a", "verdict": 1}, {"statement": "b", "verdict": 0, "reason": "not said"}]},
            "not borne out: b: not said",
        ),
        (
            {"contexts": [{"context": rank, "verdict": 0, "reason": "beside it"} for rank in (1, 2, 3)]},
            "not borne out: context 1: beside it (and 2 more)",
        ),
        ({"rating": 2, "feedback": "too short"}, "rating 2: too short"),
        ({"ratings": [2, 1]}, "ratings 2, 1"),
        ({"questions": ["얼마인가요?"], "noncommittal": 0, "cosine": 0.4}, "it answers: 얼마인가요?"),
        ({"questions": ["얼마인가요?"], "noncommittal": 1}, "it is noncommittal"),
    ],
)
def test_the_evidence_is_told_in_a_few_words(evidence: dict[str, Any], text: str):
    assert why(evidence) == text
