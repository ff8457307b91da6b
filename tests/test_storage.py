"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsight.storage import replacing, write_text


def test_a_file_is_replaced_when_the_draft_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text("old")
    with replacing(file) as draft:
        draft.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.txt"]


def _stopped(file: Path, error: type[BaseException]) -> None:
    with replacing(file) as draft:
        draft.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_was_there_outlives_a_failure_and_no_draft_stays(
    tmp_path: Path, error: type[BaseException]
) -> None:
    file = tmp_path / "rows.txt"
    write_text(file, "old")
    with pytest.raises(error):
        _stopped(file, error)
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.txt"]
