"""A run's folder holds conversations: none is left behind."""

from pathlib import Path

from trainer.workplace import run_folder


def test_the_folder_goes_with_the_run(tmp_path: Path) -> None:
    with run_folder(tmp_path) as folder:
        (folder / "job.json").write_text("words")

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "run-lost" / "trainer").mkdir(parents=True)
    (tmp_path / "models").mkdir()

    with run_folder(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, "models"}
