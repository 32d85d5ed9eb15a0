"""Files that a killed process leaves in an unfinished artifact."""

from contextlib import suppress

from babyvlm.io import artifacts


def test_complete_artifact_has_no_unfinished_files_of_a_killed_process(tmp_path):
    arguments = {"arguments": {"command": "test"}}
    with (
        suppress(KeyboardInterrupt),
        artifacts.create(tmp_path / "out", "test", arguments, keep_partial=True) as partial,
    ):
        (partial / "lists").mkdir()
        for folder in (partial, partial / "lists"):
            (folder / ".pairs.csv.17995-1.partial").touch()  # as `atomic_write` names it
        raise KeyboardInterrupt
    with artifacts.create(tmp_path / "out", "test", arguments, keep_partial=True) as partial:
        assert (partial / ".pairs.csv.17995-1.partial").exists()
    assert not [*(tmp_path / "out").rglob("*.partial")]
