"""A score store copied into another; into Postgres: `test_postgres.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalvault_pipeline.backups.store_copy import copy_store, source_url
from evalvault_pipeline.errors import InvalidSetting
from evalvault_pipeline.scoring.store import ScoreStore
from evalvault_pipeline_tests.backups.test_backup import score, settings_of


def test_only_what_the_other_store_lacks_is_copied(tmp_path: Path) -> None:
    old, new = settings_of(tmp_path / "old"), settings_of(tmp_path / "new")
    score(old, 5)
    score(new, 2)
    source = source_url(str(tmp_path / "old" / "data" / "results" / "scores.sqlite"))
    assert copy_store(source, new.score_store_url)["scores"] == 3
    assert copy_store(source, new.score_store_url)["scores"] == 0
    for settings in (old, new):
        with ScoreStore(settings.score_store_url) as store:
            assert store.count() == 5


def test_a_store_is_not_copied_into_itself_and_none_is_made_where_the_file_is_not_there(tmp_path: Path) -> None:
    url = settings_of(tmp_path).score_store_url
    with pytest.raises(InvalidSetting, match="cannot be copied into itself"):
        copy_store(url, url)
    with pytest.raises(InvalidSetting, match=r"There is no file .*none\.sqlite"):
        source_url(str(tmp_path / "none.sqlite"))
    assert not list(tmp_path.iterdir())
