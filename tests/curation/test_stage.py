"""The decorator of all commands that build artifacts."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import pytest

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.stage import Artifact, Stage, UsualYield, stage
from babyvlm.errors import UserError
from babyvlm.io import artifacts


@dataclass(frozen=True)
class Source:
    """An input artifact."""

    fingerprint: str

    @property
    def lineage(self):
        return {f"{self.fingerprint}-parent": {"arguments": {}}, self.fingerprint: {"arguments": {}}}


@stage
def count(
    limit: int, out: Path, sources: list[Source] | None = None, fail: bool = False, resumable: bool = False
) -> Stage:
    """Count to a limit.

    Args:
        limit: last number.
        out: folder to create.
    """
    if limit < 1:
        raise UserError("--limit: too small")
    funnel = Funnel("count", unit="numbers")
    artifact = Artifact(
        "numbers",
        {"command": "count", "limit": limit, "sources": list(sources or [])},
        funnel,
        resumable=resumable,
        state=out.with_name(f"{out.name}.state"),
    )
    folder = yield artifact
    artifacts.create_marked(artifact.state)
    resumed = (folder / "numbers.txt").exists()
    (folder / "numbers.txt").write_text(" ".join(map(str, range(limit))))
    funnel.keep(limit)
    funnel.drop("odd", 2)
    artifact.manifest["resumed"] = resumed
    if fail:
        raise RuntimeError("disk on fire")
    return f"{limit} numbers"


def test_stage_keeps_signature_and_docstring():
    assert list(signature(count).parameters) == ["limit", "out", "sources", "fail", "resumable"]
    assert count.__doc__.startswith("Count to a limit.")


def test_stage_builds_once_and_records_funnel(tmp_path, capsys):
    out = tmp_path / "out"
    count(3, out)
    assert capsys.readouterr().out == (
        f"count: 5 numbers in, 3 kept (60.0%)\n  dropped         2  odd\n{out}: 3 numbers\n"
    )
    manifest = artifacts.read_manifest(out, "numbers")
    assert manifest["arguments"] == {"command": "count", "limit": 3, "sources": []}
    assert manifest["funnel"]["dropped"] == {"odd": 2}
    (tmp_path / "out.state").mkdir()  # as a process that was killed after the rename leaves it
    count(3, out)
    assert capsys.readouterr().out == f"{out}: already complete, skipping\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_stage_refuses_other_arguments(tmp_path):
    count(3, tmp_path / "out")
    with pytest.raises(UserError, match=r"built with different arguments: limit\. Delete it or pass a different --out"):
        count(4, tmp_path / "out")
    with pytest.raises(UserError, match="different arguments: sources"):
        count(3, tmp_path / "out", [Source("a")])


def test_stage_records_fingerprints_and_lineage_of_inputs(tmp_path):
    count(3, tmp_path / "out", [Source("a"), Source("b")])
    manifest = artifacts.read_manifest(tmp_path / "out", "numbers")
    assert manifest["arguments"]["sources"] == ["a", "b"]
    assert set(manifest["ancestors"]) == {"a-parent", "a", "b-parent", "b"}


def test_stage_checks_options_before_locking(tmp_path):
    with pytest.raises(UserError, match="too small"):
        count(0, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resumable", [False, True])
def test_stage_leaves_no_output_after_error(tmp_path, resumable):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="fire"):
        count(3, out, fail=True, resumable=resumable)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.partial"] * resumable + ["out.state"]
    count(3, out, resumable=resumable)
    assert artifacts.read_manifest(out, "numbers")["resumed"] == resumable
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_stage_discards_partial_folder_of_other_arguments(tmp_path):
    with pytest.raises(RuntimeError):
        count(4, tmp_path / "out", fail=True, resumable=True)
    count(3, tmp_path / "out", resumable=True)
    assert not artifacts.read_manifest(tmp_path / "out", "numbers")["resumed"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_stage_finds_complete_output_in_read_only_folder(tmp_path, capsys):
    count(3, tmp_path / "out")
    tmp_path.chmod(0o500)
    count(3, tmp_path / "out")
    tmp_path.chmod(0o700)
    assert "already complete, skipping" in capsys.readouterr().out


def test_stage_waits_for_other_process_and_skips(tmp_path):
    code = (
        "import sys, pathlib\nfrom babyvlm.curation.stage import Artifact, stage\n"
        "@stage\ndef build(out):\n    folder = yield Artifact('x', {})\n    print('building', flush=True)\n"
        "    sys.stdin.readline()\n    return 'built'\n"
        f"build(pathlib.Path({str(tmp_path / 'out')!r}))\n"
    )
    start = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-c", code], **start)
    assert first.stdout.readline() == "building\n"
    second = subprocess.Popen([sys.executable, "-c", code], **start)
    assert second.stderr.readline() == f"{tmp_path / 'out'}: another process is building it; waiting\n"
    assert first.communicate("go on\n", timeout=60)[0] == f"{tmp_path / 'out'}: built\n"
    assert second.communicate(timeout=60)[0] == f"{tmp_path / 'out'}: already complete, skipping\n"


def test_stage_can_be_killed_and_run_again(tmp_path, capsys):
    code = (
        "import os, signal, pathlib\nfrom babyvlm.curation.stage import Artifact, stage\n"
        "@stage\ndef build(out):\n    arguments = {'command': 'count', 'limit': 3, 'sources': []}\n"
        "    folder = yield Artifact('numbers', arguments, resumable=True)\n"
        "    (folder / 'numbers.txt').touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n    return ''\n"
        f"build(pathlib.Path({str(tmp_path / 'out')!r}))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    count(3, tmp_path / "out", resumable=True)
    assert artifacts.read_manifest(tmp_path / "out", "numbers")["resumed"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not capsys.readouterr().err


@stage
def read_some(kept: int, out: Path, min_fraction: float = 0.5, usual: UsualYield | None = None) -> Stage:
    """Keep some of 100 wanted numbers.

    Args:
        kept: how many.
        out: folder to create.
        min_fraction: minimum share.
        usual: usual share.
    """
    funnel = Funnel("read", unit="numbers", unwanted={"odd"})
    artifact = Artifact(
        "numbers",
        {"command": "read", "kept": kept},
        funnel,
        min_fraction=min_fraction,
        input_list=out.with_suffix(".csv"),
        usual_yield=usual,
    )
    yield artifact
    funnel.keep(kept)
    funnel.drop("damaged", 90 - kept)
    funnel.drop("empty", 10)
    funnel.drop("odd", 900)
    return "done"


def test_stage_builds_nothing_below_min_fraction(tmp_path):
    out = tmp_path / "out"
    message = (
        rf"{out}: only 49 of 100 numbers can be used \(41 damaged, 10 empty; all are listed in {out}\.csv\)\. "
        r"Fix the input, or accept the loss: --min_fraction 0\.49$"
    )
    with pytest.raises(UserError, match=message):
        read_some(49, out)
    assert not list(tmp_path.glob("out*"))
    read_some(50, out)
    with pytest.raises(UserError, match="only 50 of 100 numbers"):  # also of one that is complete
        read_some(50, out, min_fraction=0.51)
    read_some(49, tmp_path / "other", min_fraction=0.49)
    assert artifacts.read_manifest(tmp_path / "other", "numbers")["funnel"]["kept"] == 49


def test_stage_warns_of_unusual_yield(tmp_path, capsys):
    usual = UsualYield(0.2, 0.6, "Look at them")
    for kept, share in ((10, "10.0%"), (20, ""), (60, ""), (61, "61.0%")):
        read_some(kept, tmp_path / f"{kept}", min_fraction=0, usual=usual)
        printed = capsys.readouterr().err
        expected = f"warning: read kept {share} of the numbers; 20% to 60% are usual. Look at them\n"
        assert printed == (expected if share else "")
