"""Stores that are written in parts: processes that crash, are killed, or end with their parent."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.stage import Artifact, parts_folder, stage
from babyvlm.curation.store.chunked_writer import UnusableInputError, part_name, write_parts, write_share
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError


@dataclass(frozen=True)
class Act:
    """A part of three rows that runs an action after the second."""

    number: int
    act: str
    folder: Path = Path()

    @property
    def arguments(self):
        return {"number": self.number, "act": self.act}

    def rows(self, log):
        for index in range(3):
            if index == 2:
                getattr(self, f"_{self.act}")()
            log.funnel.keep()
            key = f"{self.number}_{index}"
            yield {"key": key, "image": b"x", "utterance": "a", "source": "s", "group": key, "split": "train"}

    def record_failure(self, reason, log):
        log.funnel.drop(reason, 3)
        log.lines.append([str(self.number), reason])
        log.warnings.append(f"{self.number}: {reason}")

    def _nothing(self):
        pass

    def _crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def _end(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def _reject(self):
        raise UnusableInputError("no good")

    def _complain(self):
        raise UserError("row 3: fix it")

    def _linger(self):
        (self.folder / str(os.getpid())).touch()
        time.sleep(600)


@stage
def build(out, parts, num_workers):
    """Build a store from parts."""
    funnel = Funnel("acts")
    artifact = Artifact("store", {"a": 1}, funnel, state=parts_folder(out))
    folder = yield artifact
    artifact.manifest |= write_parts(
        folder,
        parts,
        funnel=funnel,
        raw={},
        licensed=False,
        num_workers=num_workers,
        input_list=out.with_name("store.acts.csv"),
        heading=["part", "problem"],
    )
    return "built"


def run(folder, parts, num_workers):
    build(folder / "store", parts, num_workers)
    return PairStore(folder / "store")


def test_write_parts_loses_only_the_part_whose_decoder_crashes(tmp_path, capsys):
    store = run(tmp_path, [Act(0, "nothing"), Act(1, "crash"), Act(2, "reject"), Act(3, "nothing")], 2)
    assert store.columns("key")["key"].to_pylist() == ["0_0", "0_1", "0_2", "3_0", "3_1", "3_2"]
    funnel = {
        "stage": "acts",
        "unit": "rows",
        "in": 12,
        "kept": 6,
        "dropped": {"decoder crashed (SIGSEGV)": 3, "no good": 3},
    }
    assert store.manifest["funnel"] == funnel
    assert (tmp_path / "store.acts.csv").read_text().split() == [
        "part,problem",
        "1,decoder",
        "crashed",
        "(SIGSEGV)",
        "2,no",
        "good",
    ]
    assert "1: decoder crashed (SIGSEGV)\n2: no good\n" in capsys.readouterr().err
    assert not (tmp_path / "store.parts").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_write_parts_raises_error_of_a_part_and_keeps_other_parts(tmp_path, workers):
    parts = [Act(0, "nothing"), Act(1, "nothing"), Act(2, "complain")]
    with pytest.raises(UserError, match="row 3: fix it"):
        run(tmp_path, parts, workers)
    assert not (tmp_path / "store").exists()
    assert any((tmp_path / "store.parts" / part_name(part)).exists() for part in parts[:2])


def test_write_parts_does_not_blame_input_when_worker_is_killed(tmp_path):
    parts = [Act(0, "nothing"), Act(1, "end")]
    with pytest.raises(UserError, match=r"killed from outside.*smaller --num_workers"):
        run(tmp_path, parts, 2)
    assert not (tmp_path / "store.parts" / part_name(parts[1])).exists()


def test_part_name_depends_on_arguments_only(tmp_path):
    assert part_name(Act(0, "nothing")) == part_name(Act(0, "nothing", tmp_path)) != part_name(Act(1, "nothing"))


def test_write_parts_reuses_parts_of_earlier_call(tmp_path, capsys):
    with pytest.raises(UserError):
        run(tmp_path, [Act(0, "nothing"), Act(1, "complain")], 1)
    kept = tmp_path / "store.parts" / part_name(Act(0, "nothing"))
    before = kept.stat().st_mtime_ns, pq.read_metadata(kept).num_rows
    (tmp_path / "store.parts" / ".123.partial").touch()
    with pytest.raises(UserError):  # with a part more, and in another order
        run(tmp_path, [Act(2, "nothing"), Act(0, "nothing"), Act(1, "complain")], 1)
    assert (kept.stat().st_mtime_ns, pq.read_metadata(kept).num_rows) == before
    assert not (tmp_path / "store.parts" / ".123.partial").exists()
    assert "resuming, 1 of 3 parts" in capsys.readouterr().out


def test_shares_build_each_part_once_and_the_last_call_assembles_them(tmp_path, capsys):
    parts = [Act(number, "nothing") for number in range(5)]
    for number in (2, 1, 3):
        write_share(tmp_path / "store", parts, f"{number}/3", stage="acts", num_workers=1)
    built = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store.parts").glob("*.parquet")}
    assert built.keys() == {part_name(part) for part in parts}
    write_share(tmp_path / "store", parts, "2/3", stage="acts", num_workers=1)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store.parts").glob("*.parquet")} == built
    assert not (tmp_path / "store").exists()
    shared = run(tmp_path, parts, 1)
    assert "resuming, 5 of 5 parts are complete" in capsys.readouterr().out
    (tmp_path / "alone").mkdir()
    assert shared.fingerprint == run(tmp_path / "alone", parts, 1).fingerprint
    assert write_share(tmp_path / "store", parts, "2/3", stage="acts", num_workers=1) == "already complete, skipping"


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "1/", "a/b", "-1/3"])
def test_share_out_of_range_is_refused(tmp_path, share):
    with pytest.raises(UserError, match=r"--share .*: expected NUMBER/COUNT"):
        write_share(tmp_path / "store", [Act(0, "nothing")], share, stage="acts", num_workers=1)


def test_write_parts_workers_end_with_their_parent(tmp_path):
    context = multiprocessing.get_context("spawn")
    parent = context.Process(target=run, args=(tmp_path, [Act(n, "linger", tmp_path) for n in range(2)], 2))
    parent.start()
    deadline = time.monotonic() + 200
    while len(pids := [path.name for path in tmp_path.iterdir() if path.name.isdigit()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.join()
    while any(Path("/proc", pid).exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
