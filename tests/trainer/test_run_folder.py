"""A run's folder holds conversations, so none is left behind."""

from pathlib import Path

from trainer.run_folder import clear, run_folder


def test_the_folder_goes_with_the_run(tmp_path: Path) -> None:
    with run_folder(tmp_path, 1) as folder:
        (folder / "job.json").write_text("words")

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nobody_else_on_the_machine_may_read_it(tmp_path: Path) -> None:
    with run_folder(tmp_path, 1) as folder:
        assert folder.stat().st_mode & 0o077 == 0


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "runs" / "1" / "trainer").mkdir(parents=True)
    (tmp_path / "models").mkdir()

    with run_folder(tmp_path, 2) as folder:
        assert list((tmp_path / "runs").iterdir()) == [folder]
        assert (tmp_path / "models").exists()


def test_what_a_run_left_is_cleared_beside_another_that_is_under_way(tmp_path: Path) -> None:
    with run_folder(tmp_path, 2) as folder:
        clear(tmp_path, 1)
        assert folder.exists()
