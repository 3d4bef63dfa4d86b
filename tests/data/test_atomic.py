from pathlib import Path

import pytest

from exlstm.data.atomic import new_folder


def test_an_error_leaves_no_folder(tmp_path: Path) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "a") as partial:
            (partial / "b").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_taken_away(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as partial:
        pass
    (tmp_path / "a").rename(partial)
    (partial / "old").write_text("half")
    with new_folder(tmp_path / "a") as partial:
        (partial / "new").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"), new_folder(tmp_path):
        pass
