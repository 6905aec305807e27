"""The HTML report: what it says, what it lets no dataset do, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evalvault_pipeline.errors import InvalidSetting, UnwritableFile
from evalvault_pipeline.publishing import charts
from evalvault_pipeline.publishing.html import write_html
from evalvault_pipeline.publishing.recorded_runs import read_run
from evalvault_pipeline.publishing.templates.cases import LONGEST_TEXT, MOST_CASES
from evalvault_pipeline.publishing.templates.labels import LABELS
from evalvault_pipeline.reporting.comparison import compare_runs
from evalvault_pipeline.reporting.gate import GateRules, Verdict, decide
from evalvault_pipeline.reporting.recorded import TrendPoint
from evalvault_pipeline_tests.results_files import Scores, case, good

HOSTILE = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror="window.hit=1">',
    "{{7*7}}{% raw %}",
    "</script><script>window.hit=1</script>",
    "' onmouseover='window.hit=1",
    "]]><!-- </style>",
)


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., str]:
    """The text of the report on a run, against a baseline where one is given."""

    def write(run: Path, baseline: Path | None = None, **options: Any) -> str:
        write_html(tmp_path / "report.html", verdict_on(run, baseline), **options)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write


def verdict_on(run: Path, baseline: Path | None = None) -> Verdict:
    candidate = read_run(run)
    comparison = compare_runs(read_run(baseline), candidate) if baseline else None
    return decide(candidate, rules=GateRules(), comparison=comparison)


def point(**changes: Any) -> TrendPoint:
    given: dict[str, Any] = {
        "run_id": "run-1",
        "snapshot": "2026w45",
        "finished_at": "2026-11-17T05:13:46.911+00:00",
        "judge": "openai/gpt-5-mini",
        "pass_rate": 0.8,
        "interval": (0.7, 0.9),
        "coverage": 1.0,
        "cases": 40,
        "cost_usd": None,
        "means": {"faithfulness": 0.8, "chrf": None},
    }
    return TrendPoint(**{**given, **changes})


@pytest.fixture
def compared(results: Callable[..., Path]) -> tuple[Path, Path]:
    """(baseline, candidate): 40 pairs, of which 3 newly fail, 1 newly passes, 2 are unmeasured; and one without a partner."""
    before = [case(f"c{number:02d}", good()) for number in range(40)]
    before[9] = case("c09", good(chrf=0.0))
    after = [case(f"c{number:02d}", good(), answer=f"새 답변 {number}") for number in range(40)]
    for number in (1, 2):
        after[number] = case(f"c{number:02d}", good(faithfulness=0.1 * number), answer=f"틀린 답변 {number}")
    after[3] = case("c03", good(noise_sensitivity=0.85))
    after[5], after[6] = case("c05", good(faithfulness=None)), case("c06", good(noise_sensitivity=None))
    return results([*before, case("gone", good())], "before.json"), results(after, "after.json")


def cases_of(text: str) -> list[dict[str, str]]:
    found = re.findall(
        r'<details class="case" id="([^"]*)" data-state="([^"]*)" data-change="([^"]*)" data-metrics="([^"]*)">\s*'
        r"<summary><h3>([^<]*)</h3>",
        text,
    )
    return [dict(zip(("anchor", "state", "change", "metrics", "id"), one, strict=True)) for one in found]


class Outline(HTMLParser):
    """Tags that are open at the end, ids, headings and references."""

    VOID = frozenset({"meta", "br", "input", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.levels: list[int] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src", "for", "aria-labelledby"}:
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()


def test_the_report_says_the_verdict_and_each_sentence_that_made_it(compared: tuple[Path, Path], page: Callable[..., str]):
    before, after = compared
    verdict = verdict_on(after, before)
    text = page(after, before)
    assert f'<span class="outcome {verdict.outcome.value}">' in text
    for finding in verdict.findings:
        assert finding.sentence.replace("'", "&#39;") in text
        assert LABELS["en"][finding.rule.value] in text


def test_every_figure_can_be_traced_to_its_run_judge_versions_and_dataset(
    compared: tuple[Path, Path], page: Callable[..., str]
):
    text = page(compared[1], compared[0])
    for traced in (
        "run-of-after.json",
        "run-of-before.json",
        "d1935t",
        "openai/gpt-5-mini",
        "gpt-5-mini/9f2c",
        "1+faithfulness",
        "v7",
    ):
        assert traced in text


@pytest.mark.parametrize(
    ("pii", "shown"),
    [
        ({"policy": "redact", "masked": {"EMAIL": 1, "PHONE": 2}, "cases": 2}, "redact: 1 EMAIL, 2 PHONE"),
        ({"policy": "off", "masked": {}, "cases": 0}, "off: 0"),
        (None, "–"),
        ("<b>", "–"),
    ],
)
def test_what_was_masked_is_told_and_an_older_run_says_nothing_of_it(
    pii: Any, shown: str, results: Callable[..., Path], page: Callable[..., str]
):
    text = page(results([case("c1", good())], pii=pii))
    assert f'<th scope="row">Personal data masked</th><td class="text">{shown}</td>' in text


def test_the_newly_failing_come_first_with_the_answers_of_both_runs_and_why(
    compared: tuple[Path, Path], page: Callable[..., str]
):
    text = page(compared[1], compared[0])
    cases = cases_of(text)
    assert [one["id"] for one in cases[:3]] == ["c01", "c03", "c02"], "the furthest from its threshold first"
    assert [(one["state"], one["change"]) for one in cases[:6]] == [
        *[("failed", "newly_failing")] * 3,
        ("passed", "newly_passing"),
        *[("unmeasured", "")] * 2,
    ]
    assert "c01 답변" in text and "틀린 답변 1" in text
    assert "not borne out: 면책기간은 90일이다.: 컨텍스트는 60일이라고 한다." in text
    assert "gone" in text, "it has no partner"


def test_an_unmeasured_case_is_neither_failed_nor_zero(results: Callable[..., Path], page: Callable[..., str]):
    text = page(results([case("a", good()), case("b", good(faithfulness=None))]))
    assert [(one["id"], one["state"], one["metrics"]) for one in cases_of(text)] == [
        ("b", "unmeasured", "0"),
        ("a", "passed", ""),
    ]
    assert "judge_timeout" in text and "no answer within 60 s" in text
    assert 'class="badge failed"' not in text


def test_a_metric_that_was_never_measured_has_no_mean_and_no_figure(results: Callable[..., Path], page: Callable[..., str]):
    text = page(results([case("a", good(faithfulness=None)), case("b", good(faithfulness=None))]))
    assert LABELS["en"]["nothing_measured"] in text
    assert LABELS["en"]["nothing_decided"] in text
    assert re.search(r'<tr><th scope="row">faithfulness</th><td class="n">–</td><td class="n">–</td>', text)
    assert "0.0 %" not in re.sub(r"if the unmeasured|0\.0 % to 100\.0 % if", "", text)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_one_case_with_one_metric_makes_a_page(results: Callable[..., Path], page: Callable[..., str], language: str):
    alone = results([case("a", {"chrf": 0.5})])
    text = page(alone, alone, language=language, trend=[point(interval=None)])
    assert f'<html lang="{language}">' in text
    assert len(cases_of(text)) == 1


def test_a_price_that_nobody_knows_is_not_nought(results: Callable[..., Path], page: Callable[..., str]):
    known = page(results([case("a", good())]))
    unknown = page(results([case("a", good())], total_cost_usd=None))
    asked_nobody = page(results([case("a", good())], total_cost_usd=0.0, total_tokens=0))

    def cost(text: str) -> str:
        return re.findall(r'<dd class="figure small">([^<]*)</dd>', text)[0]

    assert [cost(text) for text in (known, unknown, asked_nobody)] == ["$0.2500", "no known price", "no judge was asked"]
    assert "1 h 12 min" in known


def test_a_file_of_an_older_minor_version_without_costs_is_shown_without_them(
    results: Callable[..., Path], page: Callable[..., str]
):
    path = results([case("a", good())])
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in ("total_cost_usd", "total_tokens", "usage", "cache", "duration_seconds", "finished_at", "unmeasured_details"):
        del content[name]
    for summary in content["metric_summaries"].values():
        del summary["usage"], summary["noise"]
    path.write_text(json.dumps(content), encoding="utf-8")
    text = page(path)
    assert re.findall(r'<dd class="figure small">([^<]*)</dd>', text) == ["–", "–"]
    assert "no judge was asked" not in text


@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_page_is_well_formed_has_headings_in_order_unique_ids_and_links_only_into_itself(
    compared: tuple[Path, Path], page: Callable[..., str], language: str
):
    text = page(compared[1], compared[0], language=language, trend=[point(), point(coverage=0.0, interval=None, pass_rate=0.0)])
    outline = Outline(text)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.levels[0] == 1 and outline.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.levels, outline.levels[1:], strict=False))
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert not outline.tags & {"link", "img", "iframe", "object", "base"}


def test_nothing_of_a_dataset_becomes_markup(results: Callable[..., Path], page: Callable[..., str]):
    cases = [
        case(
            f"{text} {number}",
            good(faithfulness=0.1 if number % 2 else None),
            question=text,
            answer=text,
            ground_truth=text,
            metadata={text: text, "list": [text]},
        )
        for number, text in enumerate(HOSTILE)
    ]
    for entry in cases:
        entry["metrics"][0] |= {"reason": HOSTILE[0], "version": HOSTILE[1], "judge": HOSTILE[3]}
        entry["metrics"][0]["evidence"] = {
            HOSTILE[1]: HOSTILE[0],
            "statements": [{"statement": HOSTILE[3], "verdict": 0, "reason": HOSTILE[1]}],
        }
    header = dict.fromkeys(("run_id", "dataset_name", "snapshot", "dataset_version", "model_name", "language"), HOSTILE[1])
    run = results(cases, **header, judge={HOSTILE[0]: HOSTILE[3]}, unmeasured_details=[HOSTILE[0]], skipped_rows=[HOSTILE[3]])
    text = page(run, results(cases, "before.json"), trend=[point(snapshot=HOSTILE[0], run_id=HOSTILE[1], judge=HOSTILE[3])])
    assert text.count("<script") == 1
    assert "<img" not in text and "{{7*7}}" in text
    assert Outline(text).open == []


def test_a_text_that_is_far_too_long_is_cut_and_says_so(results: Callable[..., Path], page: Callable[..., str]):
    long = case("long", good(), answer="가" * 3 * LONGEST_TEXT)
    text = page(results([long, case("empty", good(), answer="", ground_truth=None, metadata={})]))
    assert "가" * LONGEST_TEXT in text and "가" * (LONGEST_TEXT + 1) not in text
    assert LABELS["en"]["cut"] in text


def test_a_long_run_is_cut_and_says_how_many_of_which_kind_are_left_out(results: Callable[..., Path], page: Callable[..., str]):
    kinds: list[Scores] = [good(), good(faithfulness=None), good(faithfulness=0.1)]
    run = results([case(f"c{number}", kinds[number % 3]) for number in range(2400)])
    text = page(run)
    states = [one["state"] for one in cases_of(text)]
    assert (len(states), states.count("unmeasured")) == (MOST_CASES, 60)
    assert "500 of 2,400 cases are written out here" in text
    assert "1,900 are left out: Failed 360, Unmeasured 740, Passed 800" in text
    assert str(run) in text


def test_equal_input_gives_equal_bytes(compared: tuple[Path, Path], page: Callable[..., str]):
    trend = [point(), point()]
    assert page(compared[1], compared[0], trend=trend) == page(compared[1], compared[0], trend=trend)


def test_every_word_stands_in_both_languages_with_the_same_blanks():
    for name, word in LABELS["en"].items():
        translated = LABELS["ko"][name]
        assert word and translated
        assert sorted(set(re.findall(r"{\w+}", word))) == sorted(set(re.findall(r"{\w+}", translated))), name


def test_every_word_is_used():
    folder = Path(charts.__file__).parent
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in [
            *folder.glob("templates/report.*"),
            folder / "html.py",
            folder / "charts.py",
            folder / "templates" / "cases.py",
        ]
    )
    called_by_value = {
        "pass",
        "fail",
        "inconclusive",
        "every_case_scored",
        "pass_rate_at_least_minimum",
        "not_worse_than_baseline",
        "phoenix_experiment",
        "phoenix_compare",
    }
    unused = [
        name
        for name in LABELS["en"]
        if not re.search(rf"""(?:t\.{name}\b|["']{name}["'])""", source) and name not in called_by_value
    ]
    assert unused == []


def test_a_language_that_the_report_does_not_speak_is_refused(compared: tuple[Path, Path], page: Callable[..., str]):
    with pytest.raises(InvalidSetting, match="en or ko, not in `fr`"):
        page(compared[1], language="fr")


def test_what_cannot_be_written_is_said(compared: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(UnwritableFile, match="folder"):
        write_html(tmp_path, verdict_on(compared[1]))


@pytest.fixture
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the written report from disk; what it logged or asked the network for fails the test at its end."""
    complaints: list[str] = []

    def open_page(*, width: int = 1280, height: int = 900, scheme: str = "light", anchor: str = "") -> Any:
        tab = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: None if request.url.startswith("file:") else complaints.append(request.url))
        tab.goto((tmp_path / "report.html").as_uri() + anchor)
        return tab

    yield open_page
    assert complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize(("width", "height", "scheme"), [(1280, 900, "light"), (1280, 900, "dark"), (390, 844, "light")])
def test_a_page_opens_from_disk_without_error_request_or_sideways_scroll(
    compared: tuple[Path, Path],
    page: Callable[..., str],
    opened: Callable[..., Any],
    width: int,
    height: int,
    scheme: str,
    language: str,
):
    page(compared[1], compared[0], language=language, trend=[point(), point(judge="another")])
    tab = opened(width=width, height=height, scheme=scheme)
    tab.locator("details.case").first.click(position={"x": 12, "y": 12})
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate(CONTRAST) == []


# Texts whose contrast against what they stand on is below WCAG's AA, 4.5 to 1.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (one) => { for (; one; one = one.parentElement) { const c = rgb(getComputedStyle(one).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const bad = new Set();
  for (const one of document.querySelectorAll("body *")) {
    if (!one.checkVisibility() || ![...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(one), colour = one.closest("svg") ? style.fill : style.color;
    const [a, b] = [luminance(rgb(colour)), luminance(ground(one))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.add(`${one.tagName} ${one.className} ${colour}`);
  }
  return [...bad];
}"""


@pytest.mark.browser
def test_search_and_filters_hide_and_show_cases(
    compared: tuple[Path, Path], page: Callable[..., str], opened: Callable[..., Any]
):
    page(compared[1], compared[0])
    tab = opened()

    def shown() -> list[str]:
        return [one.inner_text() for one in tab.locator("details.case:visible h3").all()]

    assert len(shown()) == 40
    tab.get_by_role("button", name="Newly failing").click()
    assert shown() == ["c01", "c03", "c02"]
    assert tab.locator("#shown").inner_text() == "showing 3 of 40"
    tab.locator("#metric").select_option(label="noise_sensitivity")
    assert shown() == ["c03"]
    tab.get_by_role("button", name="All", exact=True).click()
    assert shown() == ["c03", "c06"], "failed, or unmeasured, by that metric"
    tab.locator("#metric").select_option("")
    tab.get_by_role("button", name="Unmeasured").click()
    assert shown() == ["c05", "c06"]
    tab.get_by_role("button", name="Failed", exact=True).click()
    tab.locator("#search").fill("틀린 C02")
    assert shown() == ["c02"]
    tab.locator("#search").fill("no such words")
    assert shown() == []
    tab.get_by_role("link", name="c01").click()
    assert "c01" in shown(), "a link to a hidden case shows it"
    assert tab.locator("#case-2").get_attribute("open") is not None


@pytest.mark.browser
def test_no_script_of_a_dataset_runs(results: Callable[..., Path], page: Callable[..., str], opened: Callable[..., Any]):
    cases = [case(text, good(faithfulness=0.1), question=text, answer=text, metadata={text: text}) for text in HOSTILE]
    page(results(cases, snapshot=HOSTILE[0], model_name=HOSTILE[1]), trend=[point(snapshot=HOSTILE[3])])
    tab = opened()
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.mouse.move(300, 300)
    assert tab.evaluate("window.hit") is None
    assert tab.locator("details.case").count() == len(HOSTILE)
    assert HOSTILE[0] in tab.locator("h1").inner_text()
    assert json.loads(tab.evaluate("JSON.stringify([...document.querySelectorAll('script')].length)")) == 1
