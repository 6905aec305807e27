"""The catalog is read as meant, or refused with file, line and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalvault_pipeline.cases.catalog import Catalog, describe_snapshot, load_catalog
from evalvault_pipeline.cases.loading import DatasetSummary, inspect_dataset
from evalvault_pipeline.errors import InvalidCatalog, UnknownDataset, UnknownSnapshot

GOOD = """\
# datasets of the tests
[datasets.insurance_qa]
files = "insurance_qa/*"
language = "ko"
description = "metrics = files"
owners = ["team:evaluation"]
metrics = ["chrf", "lexical_support"]
thresholds = { lexical_support = 0.7, chrf = 0.5 }
batch_size = 25
partitions_per_run = 4
min_pass_rate = 0.9

[datasets.small]
files = "small.json"
metrics = ["chrf"]
"""


def catalog_of(folder: Path, text: str = GOOD) -> Catalog:
    file = folder / "catalog.toml"
    file.write_text(text, encoding="utf-8")
    return load_catalog(file)


def refusal_of(folder: Path, text: str) -> str:
    with pytest.raises(InvalidCatalog) as refusal:
        catalog_of(folder, text)
    return str(refusal.value).removeprefix(str(folder / "catalog.toml"))


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def summary_of(folder: Path, count: int = 3, question: str = "면책기간은?", **header: object) -> DatasetSummary:
    case = {"question": question, "answer": "a", "contexts": []}
    file = folder / "2026w47.json"
    file.write_text(json.dumps({"test_cases": [{"id": str(n), **case} for n in range(count)], **header}), encoding="utf-8")
    return inspect_dataset(file)


def test_a_good_catalog_is_read_as_it_stands(tmp_path: Path):
    spec = catalog_of(tmp_path).dataset("insurance_qa")
    assert (spec.name, spec.folder, spec.files, spec.language) == ("insurance_qa", tmp_path, "insurance_qa/*", "ko")
    assert (spec.metrics, spec.thresholds) == (("chrf", "lexical_support"), {"chrf": 0.5, "lexical_support": 0.7})
    assert (spec.batch_size, spec.partitions_per_run, spec.min_pass_rate) == (25, 4, 0.9)


def test_files_and_metrics_are_all_that_a_dataset_needs(tmp_path: Path):
    spec = catalog_of(tmp_path).dataset("small")
    assert (spec.language, spec.owners, spec.thresholds, spec.batch_size, spec.min_pass_rate) == ("auto", (), {}, None, None)


def test_a_catalog_may_be_empty(tmp_path: Path):
    assert catalog_of(tmp_path, "").datasets == {}


def test_the_catalog_that_is_shipped_can_be_read():
    catalog = load_catalog(Path(__file__).resolve().parents[2] / "data" / "catalog.toml")
    assert all(spec.snapshots() for spec in catalog.datasets.values())


@pytest.mark.parametrize(
    ("wanted", "instead", "message"),
    [
        ("batch_size = 25", "batchsize = 25", ":9: datasets.insurance_qa: unknown key `batchsize`. Known keys: alert_pass_rate, "),
        ("batch_size = 25", 'name = "x"', ":9: datasets.insurance_qa: unknown key `name`. Known keys: alert_pass_rate, "),
        ('language = "ko"', 'language = "kr"', ":4: datasets.insurance_qa: language: "),
        ("batch_size = 25", "batch_size = 0", ":9: datasets.insurance_qa: batch_size: "),
        ("batch_size = 25", 'batch_size = "25"', ":9: datasets.insurance_qa: batch_size: "),
        ("batch_size = 25", "batch_size = true", ":9: datasets.insurance_qa: batch_size: "),
        ("min_pass_rate = 0.9", "min_pass_rate = 90", ":11: datasets.insurance_qa: min_pass_rate: "),
        ("min_pass_rate = 0.9", "min_pass_rate = true", ":11: datasets.insurance_qa: min_pass_rate: "),
        ("chrf = 0.5", "chrf = 1.5", ":8: datasets.insurance_qa: thresholds.chrf: "),
        ("chrf = 0.5", "chrf = nan", ":8: datasets.insurance_qa: thresholds.chrf: "),
        ('metrics = ["chrf", "lexical_support"]', "metrics = []", ":7: datasets.insurance_qa: metrics: "),
        ('metrics = ["chrf", "lexical_support"]', 'metrics = "chrf"', ":7: datasets.insurance_qa: metrics: "),
        ('metrics = ["chrf", "lexical_support"]', 'metrics = ["chrf", 3]', ":7: datasets.insurance_qa: metrics.1: "),
        ('metrics = ["chrf"]', "", ":13: datasets.small: metrics: Field required. See docs/datasets.md."),
        ('files = "small.json"', 'files = "/data/*.json"', ":14: datasets.small: files: it must be a path or glob relative to"),
        ('files = "small.json"', 'files = ""', ":14: datasets.small: files: it must be a path or glob relative to"),
    ],
)  # fmt: skip
def test_what_a_dataset_cannot_mean_is_refused_in_its_line(tmp_path: Path, wanted: str, instead: str, message: str):
    assert wanted in GOOD
    found = refusal_of(tmp_path, GOOD.replace(wanted, instead))
    assert found.startswith(message)
    assert "See docs/datasets.md." in found or "Known keys: " in found


def test_a_threshold_in_a_table_of_its_own_is_refused_in_its_line(tmp_path: Path):
    text = GOOD + "\n[datasets.small.thresholds]\nlexical_support = 0.5\nchrf = -1\n"
    assert refusal_of(tmp_path, text).startswith(":19: datasets.small: thresholds.chrf: ")


RUBRIC = "\n".join(
    f'score{level}_description = "{text}"' for level, text in enumerate(("wrong", "poor", "half", "good", "best"), 1)
)
RATED = f"{GOOD}\n[datasets.small.rubric]\n{RUBRIC}\n"


def test_a_rubric_has_its_five_levels_in_their_order(tmp_path: Path):
    shuffled = "\n".join(reversed(RUBRIC.splitlines()))
    spec = catalog_of(tmp_path, f"{GOOD}\n[datasets.small.rubric]\n{shuffled}\n").dataset("small")
    assert list(spec.rubric.items()) == [
        (f"score{level}_description", text) for level, text in enumerate(("wrong", "poor", "half", "good", "best"), start=1)
    ]
    assert catalog_of(tmp_path).dataset("small").rubric == {}


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ('score3_description = "half"\n', ""),
        ('score5_description = "best"\n', ""),
        ('score1_description = "wrong"', 'score0_description = "wrong"'),
        ('score5_description = "best"', 'score5_description = "best"\nscore6_description = "more"'),
        ('"half"', '""'),
        ('"half"', '"  "'),
    ],
)
def test_a_rubric_with_a_level_that_is_missing_empty_or_too_much_is_refused_in_its_line(
    tmp_path: Path, line: str, instead: str
):
    assert line in RATED
    message = refusal_of(tmp_path, RATED.replace(line, instead))
    assert message == (
        ":17: datasets.small: rubric: a rubric has exactly score1_description, score2_description, score3_description, "
        "score4_description, score5_description, none of them empty. See docs/datasets.md."
    )


def test_a_level_of_a_rubric_that_is_no_text_is_refused_in_its_line(tmp_path: Path):
    message = refusal_of(tmp_path, RATED.replace('"half"', "3"))
    assert message.startswith(":20: datasets.small: rubric.score3_description: ")


def test_how_often_the_judge_repeats_may_be_set_for_a_dataset(tmp_path: Path):
    catalog = catalog_of(tmp_path, GOOD.replace("batch_size = 25", "judge_repeats = 3"))
    assert [catalog.dataset(name).judge_repeats for name in ("insurance_qa", "small")] == [3, None]


@pytest.mark.parametrize("value", ["0", "21", "-1", "2.0", '"2"', "true"])
def test_how_often_the_judge_repeats_is_a_whole_number_from_1_to_20(tmp_path: Path, value: str):
    for fine in ("1", "20"):
        assert catalog_of(tmp_path, GOOD.replace("batch_size = 25", f"judge_repeats = {fine}"))
    message = refusal_of(tmp_path, GOOD.replace("batch_size = 25", f"judge_repeats = {value}"))
    assert message.startswith(":9: datasets.insurance_qa: judge_repeats: ")
    assert message.endswith(" See docs/datasets.md.")


@pytest.mark.parametrize("name", ["Insurance", "insurance-qa", '"보험"', '"a b"', '""'])
def test_a_name_that_dagster_could_not_bear_is_refused(tmp_path: Path, name: str):
    message = refusal_of(tmp_path, f'\n\n[datasets.{name}]\nfiles = "x"\nmetrics = ["chrf"]\n')
    assert message.startswith(f":3: `{name.strip(chr(34))}` cannot name a dataset; a name is made of a-z, 0-9 and `_`.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "\n[dataset.x]\n", ":17: unknown table `dataset`. Datasets stand in [datasets.<name>]."),
        ("\ndatasets = 3", ":2: `datasets` is no table. Write [datasets.<name>]."),
        ("[datasets]\nfiles = 'x'", ":2: `datasets.files` is no table. Write [datasets.files]."),
    ],
)
def test_a_table_that_is_no_dataset_is_refused_in_its_line(tmp_path: Path, text: str, message: str):
    assert refusal_of(tmp_path, text) == message


def test_a_toml_syntax_error_names_its_line(tmp_path: Path):
    message = refusal_of(tmp_path, GOOD.replace('language = "ko"', "language = ko"))
    assert message.startswith(":4: not valid TOML: ")
    assert message.endswith(". Mend it there.")


def test_toml_that_breaks_off_names_its_last_line(tmp_path: Path):
    assert refusal_of(tmp_path, "[datasets.x]\nmetrics = [").startswith(":2: not valid TOML: ")


def test_a_missing_catalog_is_named_with_the_way_out(tmp_path: Path):
    with pytest.raises(InvalidCatalog, match=r"There is no catalog .*catalog\.toml\. Create it .* EVALVAULT_CATALOG"):
        load_catalog(tmp_path / "catalog.toml")


def test_a_catalog_that_is_not_utf_8_says_so(tmp_path: Path):
    (tmp_path / "catalog.toml").write_bytes("# 보험".encode("cp949"))
    with pytest.raises(InvalidCatalog, match=r"catalog\.toml cannot be read: .* Save it as UTF-8\."):
        load_catalog(tmp_path / "catalog.toml")


def test_snapshots_are_in_the_order_of_their_names(tmp_path: Path):
    put(tmp_path, "insurance_qa/2026w47.json", "insurance_qa/2026w05.csv", "insurance_qa/2025w50.XLSX")
    snapshots = catalog_of(tmp_path).dataset("insurance_qa").snapshots()
    assert list(snapshots) == ["2025w50", "2026w05", "2026w47"]
    assert snapshots["2026w05"] == tmp_path / "insurance_qa" / "2026w05.csv"


def test_what_is_no_dataset_file_is_passed_over(tmp_path: Path):
    """Excel puts `~$...` beside a workbook while it is open, macOS `._...` beside every file."""
    put(tmp_path, *(f"insurance_qa/{name}" for name in ("a.json", "README.md", "~$a.xlsx", "._a.json", ".hidden.csv")))
    (tmp_path / "insurance_qa" / "folder.json").mkdir()
    assert list(catalog_of(tmp_path).dataset("insurance_qa").snapshots()) == ["a"]


def test_two_files_of_one_snapshot_are_refused(tmp_path: Path):
    put(tmp_path, "insurance_qa/2026w47.json", "insurance_qa/2026w47.csv")
    with pytest.raises(
        InvalidCatalog, match=r"2026w47\.json and 2026w47\.csv are both snapshot `2026w47` of `insurance_qa`\. Rename"
    ):
        catalog_of(tmp_path).dataset("insurance_qa").snapshots()


@pytest.mark.parametrize("name", ["a b.json", "보험.json", "-a.json"])
def test_a_file_name_that_cannot_name_a_snapshot_is_refused(tmp_path: Path, name: str):
    put(tmp_path, f"insurance_qa/{name}")
    with pytest.raises(InvalidCatalog, match=rf"{name}: a snapshot's name is made of .* Rename it\."):
        catalog_of(tmp_path).dataset("insurance_qa").snapshots()


def test_an_unknown_dataset_suggests_the_nearest(tmp_path: Path):
    with pytest.raises(UnknownDataset, match=r"no dataset `insurance_q`\. Did you mean `insurance_qa`\?"):
        catalog_of(tmp_path).dataset("insurance_q")
    with pytest.raises(UnknownDataset, match=r"no dataset `x`\. Known: insurance_qa, small\."):
        catalog_of(tmp_path).dataset("x")


def test_an_unknown_snapshot_suggests_the_nearest(tmp_path: Path):
    put(tmp_path, "insurance_qa/2026w47.json")
    spec = catalog_of(tmp_path).dataset("insurance_qa")
    assert spec.snapshot_file("2026w47") == tmp_path / "insurance_qa" / "2026w47.json"
    with pytest.raises(UnknownSnapshot, match=r"`insurance_qa` has no snapshot `2026w48`\. Did you mean `2026w47`\?"):
        spec.snapshot_file("2026w48")


def test_a_file_is_owned_by_the_dataset_whose_snapshot_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path, "insurance_qa/2026w47.json", "small.json", "other.json")
    catalog = catalog_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    owners = [
        catalog.owner_of(Path(name)) for name in ("insurance_qa/../insurance_qa/2026w47.json", "small.json", "other.json")
    ]
    assert [owner and owner.name for owner in owners] == ["insurance_qa", "small", None]


def test_a_snapshot_is_described_by_its_file_and_the_catalog(tmp_path: Path):
    summary = summary_of(tmp_path, 60, version="2", thresholds={"chrf": 0.4})
    snapshot, size = describe_snapshot(summary, catalog_of(tmp_path).dataset("insurance_qa"))
    assert (snapshot.dataset, snapshot.name, snapshot.version, snapshot.language) == ("insurance_qa", "2026w47", "2", "ko")
    assert (snapshot.digest, snapshot.thresholds, snapshot.batch_count, size) == (summary.digest, {"chrf": 0.4}, 3, 25)


def test_the_batch_size_is_the_argument_then_the_catalogs_then_the_guides(tmp_path: Path):
    catalog, summary = catalog_of(tmp_path), summary_of(tmp_path, 60)
    own, none = catalog.dataset("insurance_qa"), catalog.dataset("small")
    sizes = [describe_snapshot(summary, spec, batch_size=size)[1] for spec, size in ((own, 7), (own, None), (none, None))]
    assert sizes == [7, 25, 10]


def test_a_language_that_the_catalog_leaves_open_is_that_of_the_questions(tmp_path: Path):
    catalog, summary = catalog_of(tmp_path), summary_of(tmp_path, question="What is covered?")
    languages = [describe_snapshot(summary, catalog.dataset(name))[0].language for name in ("insurance_qa", "small")]
    assert languages == ["ko", "en"]


def test_a_file_outside_the_catalog_is_its_own_dataset(tmp_path: Path):
    snapshot, size = describe_snapshot(summary_of(tmp_path, name="auto"), None)
    assert (snapshot.dataset, snapshot.name, snapshot.language, size) == ("auto", "2026w47", "ko", 10)
