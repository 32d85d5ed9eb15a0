"""The local runner gives each run its own GPUs. They are only numbers here; the processes are real."""

import stat
import sys
import threading
from pathlib import Path

import pytest
import yaml

from babyvlm.__main__ import main
from babyvlm.ablations.gpus import GpuPool, gpus_needed, gpus_of_machine
from babyvlm.errors import UserError
from support.tiny_world import MATRIX, lay_out

# Stands for `python -m babyvlm`: a run that fails if another one uses a GPU of its own at the same time.
RUN = """#!{python}
import os, sys, time
from pathlib import Path
options = dict(part.lstrip("-").split("=", 1) for part in sys.argv if "=" in part)
folder = Path(options["log_dir"], options["run_folder"])
ids = [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
for name in ids:
    os.close(os.open(f"in-use-{{name}}", os.O_CREAT | os.O_EXCL))
time.sleep(0.2)
for name in ids:
    os.unlink(f"in-use-{{name}}")
with open("used.txt", "a") as file:
    file.write(",".join(ids) + "\\n")
(folder / "finished").touch()
"""


def test_pool_waits_until_all_gpus_of_a_run_are_free():
    pool, held, order = GpuPool(["4", "7", "9"]), threading.Event(), []
    waited = threading.Event()

    def hold():
        with pool.take(2, lambda: None) as taken:
            order.append(taken)
            held.set()
            waited.wait(60)
            order.append("free")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    with pool.take(1, lambda: None) as taken:
        assert taken == ["9"]
    with pool.take(0, lambda: None) as taken:
        assert taken == []
    with pool.take(2, waited.set) as taken:
        assert order == [["4", "7"], "free"]
        assert len(taken) == 2
    thread.join()
    with pytest.raises(UserError, match=r"asks for 4 GPUs .* there are 3 \(CUDA_VISIBLE_DEVICES 4,7,9\)"):
        pool.take(4, lambda: None).__enter__()
    with pytest.raises(UserError, match="there are none"):
        GpuPool([]).take(1, lambda: None).__enter__()


def test_wait_for_gpu_ends_with_exception():
    pool = GpuPool(["0"])

    def stop():
        raise InterruptedError

    with pool.take(1, lambda: None), pytest.raises(InterruptedError):
        pool.take(1, stop).__enter__()


@pytest.mark.parametrize(
    ("trainer", "available", "needed"),
    [
        ({"accelerator": "gpu", "devices": 1}, 0, 1),
        ({"accelerator": "gpu", "devices": [0, 3]}, 8, 2),
        ({"accelerator": "cuda", "devices": "auto"}, 4, 4),
        ({"accelerator": "auto", "devices": 2}, 4, 2),
        ({"accelerator": "auto", "devices": 2}, 0, 0),
        ({"devices": -1}, 3, 3),
        ({"accelerator": "cpu"}, 3, 0),
    ],
)
def test_recipe_states_its_gpus(trainer, available, needed):
    assert gpus_needed(trainer, available) == needed


def test_gpus_are_those_that_are_visible_or_all(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8a")
    assert gpus_of_machine() == ["3", "GPU-8a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_of_machine() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_of_machine() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0; echo 1\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    assert gpus_of_machine() == ["0", "1"]


def test_runs_in_parallel_have_gpus_of_their_own(tmp_path, monkeypatch, tiny_store, make_vocabulary, capsys):
    lay_out(tmp_path, tiny_store, make_vocabulary)
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "run"
    program.write_text(RUN.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    matrix = yaml.safe_load(MATRIX.read_text())
    for name, step in matrix["steps"].items():
        devices = 2 if name == "gpt2-phase-2" else 1
        step.setdefault("options", {}).update({"trainer.accelerator": "gpu", "trainer.devices": devices})
    MATRIX.write_text(yaml.safe_dump(matrix, sort_keys=False))
    rows = "[CVCL-filtered,CVCL-aug-only,BabyLLaVA-GPT2-filtered,Playroom-CLIP]"
    command = ["ablations", "run", "--matrix", str(MATRIX), "--seeds", "[0]", "--rows", rows, "--num_workers", "4"]
    main(command)
    assert "4 rows and seeds: 4 done" in capsys.readouterr().out
    used = sorted(Path("used.txt").read_text().split("\n")[:-1])
    assert used.count("5,6") == 1
    assert used.count("") == 1  # the upper bound, on the CPU
    assert sorted(used)[1:] == sorted(["5,6", *(one for one in used if one in ("5", "6"))])
    assert {"5", "6"} <= set(used)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit):
        main([*command[:-4], "--rows", "[CVCL-filtered-aug]"])
    assert "asks for 1 GPUs (trainer.devices), but there are none" in capsys.readouterr().err
