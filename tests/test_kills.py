"""Real processes, killed or told to stop at random moments: the run ends as one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
import yaml
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.training.recovery import checkpoints
from babyvlm.training.signals import exit_code, requeue
from warm import WarmParent

STEPS = 40
ROWS = 19  # that every run logs: 20 steps, when gradients are accumulated, and a few validations
CONFIG = {
    "seed_everything": 3,
    "name": "CVCL",
    "trainer": {
        "accelerator": "cpu", "max_steps": STEPS, "val_check_interval": 5, "check_val_every_n_epoch": None,
        "log_every_n_steps": 1, "num_sanity_val_steps": 0, "use_distributed_sampler": False,
        "accumulate_grad_batches": 1, "enable_progress_bar": False, "enable_model_summary": False,
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
             "init_args": {"monitor": "val_loss", "enable_version_counter": False}},
            {"class_path": "lightning.pytorch.callbacks.EarlyStopping",
             "init_args": {"monitor": "val_loss", "patience": 50}},
            {"class_path": "babyvlm.benchmarks.VisualTwoWord",
             "init_args": {"trials": "vtwt.csv", "dev_fraction": 0.5}},
        ],
    },
    "recovery": {"every_seconds": 0},
    "model": {
        "class_path": "babyvlm.models.cvcl.CVCL",
        "init_args": {
            "vision": {"class_path": "babyvlm.models.vision.VisionEncoder", "init_args": {"backbone": "test_resnet"}},
            "text": "babyvlm.models.text.TransformerText",  # it has dropout
            "width": 8,
            "scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": STEPS}},
        },
    },
    "data": {
        "class_path": "babyvlm.data.mixes.PairMix",
        "init_args": {"name": "tiny", "stores": "stores", "sources": [{"store": "pairs"}], "validation": "pairs",
                      "vocabulary": "vocabulary", "batch_size": 4, "image_size": 32},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def parent():
    warm = WarmParent()
    yield warm
    warm.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_store, make_vocabulary):
    """``place(name)``: a folder where the config runs."""
    root = tmp_path_factory.mktemp("kills")
    words = ["look", "red", "ball", "dog", "cup", "runs", "wash"]
    texts = [f"{words[i % 7]} the {words[i // 7]}" for i in range(49)]
    store = tiny_store(texts, splits=["train"] * 40 + ["val"] * 5 + ["test"] * 4, path=root / "stores/pairs")
    vocabulary = make_vocabulary(store)

    def make(name, **trainer):
        folder = root / name
        folder.mkdir()
        (folder / "stores").symlink_to(root / "stores")
        (folder / "vocabulary").symlink_to(vocabulary)
        for number in range(6):
            Image.new("RGB", (32, 32), (number * 40, 90, 10)).save(folder / f"{number}.png")
        lines = [f"{number}.png,red ball,wash dog" for number in range(6)]
        (folder / "vtwt.csv").write_text("\n".join(["image,positive_phrase,negative_phrase", *lines]) + "\n")
        config = CONFIG | {"trainer": CONFIG["trainer"] | trainer}
        (folder / "run.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make


def command(folder):
    """What begins the run, or goes on with it."""
    run = folder / "lightning_logs/CVCL-tiny/version_0"
    return ["resume", run] if (run / "config.yaml").exists() else ["fit", "--config", "run.yaml"]


def outcome(folder):
    """All that may not depend on having been killed."""
    (run,) = (folder / "lightning_logs/CVCL-tiny").iterdir()
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    best = sorted(path.name for path in (run / "checkpoints").iterdir())
    results = {path.name: path.read_bytes() for path in (run / "results").iterdir()}
    return (run / "metrics.csv").read_text(), best, results, weights["state_dict"], weights["optimizer_states"]


def wait_for_rows(folder, count):
    """Until the run has logged that many rows or has ended."""
    run = folder / "lightning_logs/CVCL-tiny/version_0"
    end = time.monotonic() + 100
    while not (run / "metrics.csv").exists() or len((run / "metrics.csv").read_text().splitlines()) <= count:
        assert time.monotonic() < end, (folder / "output.txt").read_text()
        time.sleep(0.005)


def survive(parent, folder, draw, kills):
    """Kill the run at random moments, one after the other, then let it end; how many kills met it alive."""
    alive = 0
    for count in sorted(draw.randrange(ROWS) for _ in range(kills)):
        child = parent.start(command(folder), folder)
        wait_for_rows(folder, count)
        time.sleep(draw.uniform(0, 0.1))  # a few batches, a checkpoint or a validation
        with suppress(ProcessLookupError):  # it may have ended
            os.kill(child, signal.SIGKILL)
        alive += parent.wait() == -signal.SIGKILL
    parent.start(command(folder), folder)
    assert parent.wait() == 0, (folder / "output.txt").read_text()
    return alive


@pytest.fixture(scope="module", params=[1, pytest.param(3, marks=pytest.mark.soak)], ids=["each-batch", "accumulated"])
def unbroken(request, parent, place):
    """What comes out undisturbed, and the trainer's options."""
    options = {"accumulate_grad_batches": request.param}
    if request.param > 1:
        options |= {"max_steps": STEPS // 2}
    folder = place(f"unbroken-{request.param}", **options)
    parent.start(command(folder), folder)
    assert parent.wait() == 0, (folder / "output.txt").read_text()
    return outcome(folder), options


def assert_same(folder, expected):
    found = outcome(folder)
    assert found[:3] == expected[:3]
    torch.testing.assert_close(found[3:], expected[3:], rtol=0, atol=0)


def test_killed_at_random_moments(parent, place, unbroken):
    expected, options = unbroken
    draw = random.Random(0)
    folder = place(f"killed-{options['accumulate_grad_batches']}", **options)
    assert survive(parent, folder, draw, 4) >= 3
    assert_same(folder, expected)


@pytest.mark.soak
def test_killed_thirty_times(parent, place, unbroken):
    expected, options = unbroken
    draw = random.Random(1)
    alive = 0
    for number in range(6):
        folder = place(f"soak-{options['accumulate_grad_batches']}-{number}", **options)
        alive += survive(parent, folder, draw, 5)
        assert_same(folder, expected)
    print(f"{alive} kills survived, 0 mismatches")
    assert alive >= 25


ONCE_MORE = pytest.param(signal.SIGUSR2, marks=pytest.mark.soak)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, ONCE_MORE])
def test_a_signal_ends_the_run_in_a_state_from_which_it_goes_on(parent, place, unbroken, number):
    expected, options = unbroken
    folder = place(f"{number.name}-{options['accumulate_grad_batches']}", **options)
    config = yaml.safe_load((folder / "run.yaml").read_text()) | {"recovery": {"every_seconds": 1000}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    child = parent.start(command(folder), folder)
    wait_for_rows(folder, 6)
    os.kill(child, number)
    assert parent.wait() == 128 + number  # 143 for SIGTERM
    assert "go on by python -m babyvlm resume" in (folder / "output.txt").read_text()
    parent.start(command(folder), folder)
    assert parent.wait() == 0
    assert_same(folder, expected)


def begin(folder, *args):
    """Start a command in a process group of its own: with two devices it starts a second process itself."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, "-m", "babyvlm", *args]
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)


@pytest.mark.soak
def test_two_ranks_stop_together_and_go_on(place):
    options = {"devices": 2, "strategy": "ddp"}
    whole, stopped = place("two-ranks", **options), place("two-ranks-stopped", **options)
    assert begin(whole, "fit", "--config", "run.yaml").wait(200) == 0, (whole / "output.txt").read_text()
    process = begin(stopped, "fit", "--config", "run.yaml")
    wait_for_rows(stopped, 6)
    process.terminate()  # the first rank alone is told
    assert process.wait(100) == 143, (stopped / "output.txt").read_text()
    assert begin(stopped, *map(str, command(stopped))).wait(200) == 0, (stopped / "output.txt").read_text()
    assert_same(stopped, outcome(whole))


SLURM = {
    "job": ({"SLURM_JOB_ID": "17"}, "requeue 17"),
    "array": ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "4"}, "requeue 17_4"),
}


@pytest.mark.parametrize("job", SLURM)
@pytest.mark.parametrize("scontrol", ["works", "fails", "absent"])
def test_slurm_is_asked_to_requeue(monkeypatch, tmp_path, capsys, job, scontrol):
    environment, asked = SLURM[job]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    if scontrol != "absent":
        script = tmp_path / "scontrol"
        code = 0 if scontrol == "works" else 1
        script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho no such job >&2\nexit {code}\n')
        script.chmod(0o755)
    assert requeue() is (scontrol == "works")
    told = capsys.readouterr().err
    assert ("not requeued" in told) is (scontrol != "works")
    if scontrol != "absent":
        assert (tmp_path / "asked").read_text() == asked + "\n"


def test_nothing_is_asked_where_there_is_no_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert not requeue()
    assert [exit_code(signal.SIGTERM, False), exit_code(signal.SIGUSR1, True)] == [143, 0]


def test_a_torn_checkpoint_is_told_of_and_the_one_before_is_used(parent, place, unbroken):
    expected, options = unbroken
    folder = place(f"torn-{options['accumulate_grad_batches']}", **options)
    child = parent.start(command(folder), folder)
    wait_for_rows(folder, 6)
    os.kill(child, signal.SIGKILL)
    parent.wait()
    newest, before = checkpoints(folder / "lightning_logs/CVCL-tiny/version_0")[:2]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 255  # one byte, deep inside
    newest.write_bytes(content)
    parent.start(command(folder), folder)
    assert parent.wait() == 0
    output = (folder / "output.txt").read_text()
    assert f"{newest.name}: torn" in output
    assert f"going on from {before.name}" in output
    assert_same(folder, expected)


def test_resume_refuses_what_is_no_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["resume", str(tmp_path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
