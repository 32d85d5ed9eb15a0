"""Kill or signal real processes at random moments: after resuming, the run ends like an undisturbed one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.data.feature_cache import PART_ROWS
from babyvlm.training.recovery import checkpoints
from babyvlm.training.run_folder import lock_run
from babyvlm.training.signals import asks_to_requeue, exit_code, requeue
from support.warm import WarmParent

STEPS = 14  # an epoch has 10
ROWS = 14  # that every run logs, at least
TRUNK = {"class_path": "babyvlm.models.networks.vision.VisionEncoder", "init_args": {"backbone": "test_resnet"}}
FROZEN = TRUNK | {"init_args": {"backbone": "test_resnet", "frozen": True}}
SHAPE = {"family": "gpt2", "width": 16, "layers": 1, "heads": 2, "inner": 16, "positions": 32}  # it has dropout
LLAVA = {"vision": FROZEN, "language": SHAPE}
PAIRS = {
    "class_path": "babyvlm.data.pair_mix.PairMix",
    "init_args": {
        "name": "tiny",
        "stores": "stores",
        "sources": [{"store": "pairs"}],
        "validation": "pairs",
        "vocabulary": "vocabulary",
        "batch_size": 4,
        "image_size": 32,
        "max_tokens": 8,
    },
}
TEXTS = {
    "class_path": "babyvlm.data.text_mix.TextMix",
    "init_args": {name: value for name, value in PAIRS["init_args"].items() if name != "image_size"},
}
LIST = {"class_path": "babyvlm.benchmarks.VTWT", "init_args": {"trials": "vtwt.csv", "dev_fraction": 0.5}}
VTWT = {"class_path": "babyvlm.benchmarks.EvaluationCallback", "init_args": {"benchmarks": [LIST]}}
CONFIG = {
    "seed_everything": 3,
    "name": "run",
    "trainer": {
        "accelerator": "cpu",
        "max_steps": STEPS,
        "val_check_interval": 5,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"monitor": "val_loss", "enable_version_counter": False},
            },
            {
                "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                "init_args": {"monitor": "val_loss", "patience": 50},
            },
        ],
    },
    "recovery": {"every_seconds": 0},
    "data": PAIRS,
}
MODELS = {
    "CVCL": {
        "model": {
            "class_path": "babyvlm.models.cvcl.CVCL",
            "init_args": {
                "vision": TRUNK,
                "width": 8,
                "text": "babyvlm.models.networks.text.TransformerText",  # it has dropout
                "scheduler": {
                    "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
                    "init_args": {"T_max": STEPS},
                },
            },
        }
    },
    "BabyLLaVA-1": {"model": {"class_path": "babyvlm.models.babyllava.BabyLLaVA", "init_args": LLAVA}},
    "BabyLLaVA-2": {
        "model": {"class_path": "babyvlm.models.babyllava.BabyLLaVA", "init_args": LLAVA | {"train_language": True}},
        "accumulate_grad_batches": 3,
    },
    "Language": {
        "model": {"class_path": "babyvlm.models.language.LanguageModel", "init_args": {"shape": SHAPE}},
        "data": TEXTS,
        "accumulate_grad_batches": 2,
    },
}


def config_of(model, **trainer):
    """What runs a model."""
    config = CONFIG | MODELS[model]
    trainer = {"accumulate_grad_batches": config.pop("accumulate_grad_batches", 1)} | trainer
    looks = [] if model == "Language" else [VTWT]
    callbacks = CONFIG["trainer"]["callbacks"] + looks
    return config | {"trainer": CONFIG["trainer"] | {"callbacks": callbacks} | trainer}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_store, make_vocabulary):
    """``place(name)``: a folder where the config runs."""
    root = tmp_path_factory.mktemp("kills")
    words = ["look", "red", "ball", "dog", "cup", "runs", "wash"]
    texts = [f"{words[i % 7]} the {words[i // 7]}" for i in range(49)]
    store = tiny_store(texts, splits=["train"] * 40 + ["val"] * 5 + ["test"] * 4, path=root / "stores/pairs")
    vocabulary = make_vocabulary(store)

    def make(name, model="CVCL", **trainer):
        folder = root / name
        folder.mkdir()
        (folder / "stores").symlink_to(root / "stores")
        (folder / "vocabulary").symlink_to(vocabulary)
        for number in range(6):
            Image.new("RGB", (32, 32), (number * 40, 90, 10)).save(folder / f"{number}.png")
        lines = [f"{number}.png,red ball,wash dog" for number in range(6)]
        (folder / "vtwt.csv").write_text("\n".join(["image,positive_phrase,negative_phrase", *lines]) + "\n")
        (folder / "run.yaml").write_text(yaml.safe_dump(config_of(model, **trainer)))
        return folder

    return make


@pytest.fixture(scope="module")
def parent(place):
    modules = ["support.ending", "babyvlm.models.cvcl", "babyvlm.models.babyllava", "babyvlm.benchmarks"]
    warm = WarmParent(
        *modules, first=["fit", "--config", "run.yaml", "--trainer.max_steps", "5"], folder=place("first")
    )
    yield warm
    warm.close()


def command(folder):
    """Return the command that starts or resumes the run."""
    run = folder / "lightning_logs/run-tiny/version_0"
    return ["resume", run] if (run / "config.yaml").exists() else ["fit", "--config", "run.yaml"]


def outcome(folder):
    """All that may not depend on having been killed."""
    (run,) = (folder / "lightning_logs/run-tiny").iterdir()
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    best = sorted(path.name for path in (run / "checkpoints").iterdir())
    results = {path.name: path.read_bytes() for path in run.glob("results/*")}
    return (run / "metrics.csv").read_text(), best, results, weights["state_dict"], weights["optimizer_states"]


def wait_for_rows(folder, count):
    """Until the run has logged that many rows or has ended."""
    run = folder / "lightning_logs/run-tiny/version_0"
    end = time.monotonic() + 100
    while not (run / "metrics.csv").exists() or len((run / "metrics.csv").read_text().splitlines()) <= count:
        assert time.monotonic() < end, (folder / "output.txt").read_text()
        time.sleep(0.005)


def end_at(parent, folder, place):
    """Let the run end itself at a place, if it comes there."""
    parent.start(command(folder), folder, END_AT=place)
    return parent.wait() == -signal.SIGKILL


def kill_at_random(parent, folder, draw):
    """Kill the run at a random moment; whether the kill met it alive."""
    child = parent.start(command(folder), folder)
    wait_for_rows(folder, draw.randrange(ROWS))
    time.sleep(draw.uniform(0, 0.1))  # a few batches, a checkpoint or a validation
    with suppress(ProcessLookupError):  # it may have ended
        os.kill(child, signal.SIGKILL)
    return parent.wait() == -signal.SIGKILL


def finish(parent, folder):
    parent.start(command(folder), folder)
    assert parent.wait() == 0, (folder / "output.txt").read_text()
    return outcome(folder)


@pytest.fixture(scope="module")
def unbroken(parent, place):
    """``unbroken(model)``: what comes out undisturbed."""
    known = {}

    def run(model):
        if model not in known:
            known[model] = finish(parent, place(f"{model}-unbroken", model))
        return known[model]

    return run


def same(found, expected):
    """Whether two outcomes agree, weights to the last bit."""
    if found[:3] != expected[:3]:
        return False
    try:
        torch.testing.assert_close(found[3:], expected[3:], rtol=0, atol=0)
    except AssertionError:
        return False
    return True


def assert_same(found, expected):
    assert found[:3] == expected[:3]
    torch.testing.assert_close(found[3:], expected[3:], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "places"),
    [("CVCL", ["save:2", "validation:1", "epoch:1"]), ("BabyLLaVA-2", ["accumulation:4", "accumulation:3"])],
)
def test_fit_resumes_exactly_after_kill_at_given_place(parent, place, unbroken, model, places):
    folder = place(f"{model}-places", model)
    for where in places:
        assert end_at(parent, folder, where), (folder / "output.txt").read_text()
    assert_same(finish(parent, folder), unbroken(model))
    assert not list(folder.rglob("*.partial"))


@pytest.mark.soak
def test_fit_resumes_exactly_after_five_kills_in_one_epoch(parent, place, unbroken):
    folder = place("CVCL-five")
    assert all(end_at(parent, folder, "save:3") for _ in range(4))  # each life takes two steps, of the epoch's ten
    assert end_at(parent, folder, "epoch:1")
    assert_same(finish(parent, folder), unbroken("CVCL"))


PLACES = ["save", "validation", "epoch", "accumulation"]


@pytest.mark.soak
@pytest.mark.parametrize("model", MODELS)
def test_fit_resumes_exactly_after_thirty_kills(parent, place, unbroken, model):
    """Kill each run five times, at random moments and exact places; start a run again that ends before its kill."""
    draw = random.Random(model)
    accumulates = "accumulate_grad_batches" in MODELS[model]
    survived = mismatches = runs = 0
    while survived < 30:
        folder = place(f"{model}-{runs}", model)
        for _ in range(5):
            where = draw.choice(PLACES if accumulates else PLACES[:-1])
            if draw.random() < 0.5:
                survived += kill_at_random(parent, folder, draw)
            else:
                survived += end_at(parent, folder, f"{where}:{draw.randint(1, 4)}")
        mismatches += not same(finish(parent, folder), unbroken(model))
        runs += 1
    print(f"{model}: {survived} kills survived in {runs} runs, {mismatches} mismatches")
    assert mismatches == 0


def end_by(parent, folder, number, where, **environment):
    """Let the run send itself a signal at a place; its exit code, and what it printed."""
    output = folder / "output.txt"
    before = len(output.read_text()) if output.exists() else 0
    parent.start(command(folder), folder, END_AT=where, END_BY=number.name, **environment)
    code, printed = parent.wait(), output.read_text()[before:]
    assert "Traceback" not in printed
    return code, printed


def test_fit_saves_state_on_signal(parent, place, unbroken):
    folder = place("signals")
    config = yaml.safe_load((folder / "run.yaml").read_text()) | {"recovery": {"every_seconds": 1000}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # each in a process that continues the last one
        code, printed = end_by(parent, folder, number, "batch:4")
        assert code == 128 + number  # 143 for SIGTERM
        assert "Continue with: python -m babyvlm resume" in printed
    assert_same(finish(parent, folder), unbroken("CVCL"))


AT_ONCE = "nothing had to be saved"


def test_fit_ends_immediately_on_sigterm_before_training(parent, place, unbroken):
    folder = place("before", num_sanity_val_steps=1)
    config = yaml.safe_load((folder / "run.yaml").read_text())
    config["data"] = PAIRS | {"init_args": PAIRS["init_args"] | {"num_workers": 1}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    for where in ("store:1", "sanity:1", "fork:1"):
        code, printed = end_by(parent, folder, signal.SIGTERM, where)
        assert (where, code, f"SIGTERM: {AT_ONCE}" in printed) == (where, 143, True)
    assert_same(finish(parent, folder), unbroken("CVCL"))


def test_fit_ends_on_signal_if_epoch_has_one_step(parent, place):
    folder = place("one-step", val_check_interval=2)
    config = yaml.safe_load((folder / "run.yaml").read_text())
    config["data"] = PAIRS | {"init_args": PAIRS["init_args"] | {"batch_size": 40}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    code, printed = end_by(parent, folder, signal.SIGTERM, "validation:2")
    assert code == 143
    assert "an epoch has only one step, so no state can be saved. Lower data.batch_size" in printed
    assert "SIGTERM: ended at step 5; nothing was saved" in printed


def with_scontrol(folder, code=0):
    """The environment of a SLURM job, with a ``scontrol`` that notes what it was asked for."""
    script = folder / "bin/scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\nexit {code}\n')
    script.chmod(0o755)
    return {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "1", "PATH": f"{script.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(("scontrol", "code"), [(0, 0), (1, 128 + signal.SIGUSR2)])
def test_fit_requeues_on_sigusr_before_training(parent, place, scontrol, code):
    folder = place(f"before-asked-{scontrol}")
    found, printed = end_by(parent, folder, signal.SIGUSR2, "store:1", **with_scontrol(folder, scontrol))
    assert (found, f"SIGUSR2: {AT_ONCE}" in printed) == (code, True)
    assert (folder / "asked").read_text() == "requeue 17\n"


def test_feature_cache_survives_signal(parent, place, tiny_store):
    folder = place("features", "BabyLLaVA-1")
    rows = 2 * PART_ROWS + 20
    splits = ["train"] * (rows - 10) + ["val"] * 5 + ["test"] * 5
    tiny_store([f"red ball {number % 7}" for number in range(rows)], splits=splits, path=folder / "many/pairs")
    config = yaml.safe_load((folder / "run.yaml").read_text())
    options = {"stores": "many", "features": "features", "augment": False}
    config["data"] = PAIRS | {"init_args": PAIRS["init_args"] | options}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    assert end_by(parent, folder, signal.SIGTERM, "features:3")[0] == 143
    (partial,) = folder.glob("features/pairs-*.partial")
    made = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.npy")}
    assert len(made) == 2
    finish(parent, folder)
    (complete,) = folder.glob("features/pairs-*/")
    kept = {path.name: path.stat().st_mtime_ns for path in complete.glob("*.npy")}
    assert len(kept) == 3
    assert made.items() <= kept.items()


@pytest.mark.parametrize("where", ["last:1", "test:1"])
def test_resume_runs_only_test_after_signal_at_end_of_training(parent, place, unbroken, where):
    """The signal at ``last`` comes in training, behind the last place where a state is saved."""
    folder = place(f"after-{where[:-2]}")
    code, printed = end_by(parent, folder, signal.SIGTERM, where)
    assert code == 143
    assert ("training had ended" if where == "last:1" else AT_ONCE) in printed
    run = folder / "lightning_logs/run-tiny/version_0"
    last = run / "checkpoints/last.ckpt"
    written = last.stat().st_mtime_ns
    assert not list(run.glob("results/*-test*"))
    found = finish(parent, folder)
    assert "training has ended" in (folder / "output.txt").read_text()
    assert last.stat().st_mtime_ns == written  # not trained again
    assert (run / "finished").is_file()
    assert_same(found, unbroken("CVCL"))
    results = {path: path.stat().st_mtime_ns for path in run.rglob("[!.]*") if path.is_file()}
    finish(parent, folder)
    assert "already complete, skipping" in (folder / "output.txt").read_text()
    assert results == {path: path.stat().st_mtime_ns for path in results}


def start(folder, *args):
    """Start a command in a process group of its own: with two devices it starts a second process itself."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, "-m", "babyvlm", *args]
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)


@pytest.mark.soak
def test_fit_on_two_ranks_stops_together_and_resumes(place):
    options = {"devices": 2, "strategy": "ddp"}
    complete, stopped = place("two-ranks", **options), place("two-ranks-stopped", **options)
    assert start(complete, "fit", "--config", "run.yaml").wait(200) == 0, (complete / "output.txt").read_text()
    process = start(stopped, "fit", "--config", "run.yaml")
    wait_for_rows(stopped, 6)
    process.terminate()  # the signal goes to the first rank only
    assert process.wait(100) == 143, (stopped / "output.txt").read_text()
    assert start(stopped, *map(str, command(stopped))).wait(200) == 0, (stopped / "output.txt").read_text()
    assert_same(outcome(stopped), outcome(complete))


SLURM = {
    "job": ({"SLURM_JOB_ID": "17"}, "requeue 17"),
    "array": ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "4"}, "requeue 17_4"),
}


@pytest.mark.parametrize("job", SLURM)
@pytest.mark.parametrize("scontrol", ["works", "fails", "absent"])
def test_requeue_calls_scontrol(monkeypatch, tmp_path, capsys, job, scontrol):
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
    printed_error = capsys.readouterr().err
    assert ("not requeued" in printed_error) is (scontrol != "works")
    if scontrol != "absent":
        assert (tmp_path / "asked").read_text() == asked + "\n"


@pytest.mark.parametrize(("shown", "asks"), [("2026-11-28T01:00:00", True), ("None", False), ("", False)])
def test_sigterm_requeues_only_a_preempted_job(monkeypatch, tmp_path, shown, asks):
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" "PreemptEligibleTime=2026-11-28T00:00:00 PreemptTime={shown}"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert asks_to_requeue(signal.SIGTERM) is asks
    assert asks_to_requeue(signal.SIGUSR1)
    assert not asks_to_requeue(signal.SIGINT)
    monkeypatch.delenv("SLURM_JOB_ID")
    assert not asks_to_requeue(signal.SIGTERM)


def test_requeue_does_nothing_without_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert not requeue()
    assert [exit_code(signal.SIGTERM, False), exit_code(signal.SIGUSR1, True)] == [143, 0]


def test_resume_reports_damaged_checkpoint_and_uses_previous(parent, place, unbroken):
    folder = place("torn")
    assert end_at(parent, folder, "batch:7")
    newest, before = checkpoints(folder / "lightning_logs/run-tiny/version_0")[:2]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 255  # one byte, deep inside
    newest.write_bytes(content)
    expected = unbroken("CVCL")
    found = finish(parent, folder)
    output = (folder / "output.txt").read_text()
    assert f"{newest.name}: damaged" in output
    assert f"resuming from {before.name}" in output
    assert_same(found, expected)


def test_fit_names_key_of_corrupt_row(parent, place):
    """In a loader's worker, in mid-epoch; no neighbour takes its place."""
    folder = place("corrupt")
    stores = (folder / "stores").resolve()
    (folder / "stores").unlink()
    shutil.copytree(stores, folder / "stores", ignore=shutil.ignore_patterns("arrow"))
    (shard,) = (folder / "stores/pairs").glob("*.parquet")
    table = pq.read_table(shard)
    images = table["image"].to_pylist()
    images[7] = images[7][: len(images[7]) // 2]
    place_of_images = table.schema.get_field_index("image")
    pq.write_table(table.set_column(place_of_images, "image", pa.array(images, pa.binary())), shard)
    parent.start(["fit", "--config", "run.yaml", "--data.num_workers", "1"], folder)
    assert parent.wait() == 2
    output = (folder / "output.txt").read_text()
    assert "error: stores/pairs: image of k00007 cannot be read" in output
    assert "Traceback" not in output
    assert not list(folder.glob("lightning_logs/*/*/checkpoints/last.ckpt"))


@pytest.mark.soak
def test_run_on_two_ranks_resumes_as_one_rank(place):
    """On one device, and through a worker: what is shown and learned stays the same, but for dropout and rounding."""
    complete, changed = place("as-two", "BabyLLaVA-1"), place("as-one", "BabyLLaVA-1")
    for folder in (complete, changed):
        config = yaml.safe_load((folder / "run.yaml").read_text())
        config["model"]["init_args"] = LLAVA | {"language": SHAPE | {"dropout": 0.0}}
        config["trainer"] |= {"devices": 2, "strategy": "ddp"}
        (folder / "run.yaml").write_text(yaml.safe_dump(config))
    assert start(complete, "fit", "--config", "run.yaml").wait(200) == 0, (complete / "output.txt").read_text()
    process = start(changed, "fit", "--config", "run.yaml")
    wait_for_rows(changed, 6)
    process.terminate()
    assert process.wait(100) == 143, (changed / "output.txt").read_text()
    options = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--data.num_workers", "1"]
    code = start(changed, *map(str, command(changed)), *options).wait(200)
    assert code == 0, (changed / "output.txt").read_text()
    (_, names, _, weights, _), (_, expected_names, _, expected, _) = outcome(changed), outcome(complete)
    assert names == expected_names
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def killed(parent, place):
    """A folder with a run that was killed."""
    folder = place("killed")
    assert end_at(parent, folder, "save:2")
    return folder


@pytest.fixture
def stopped(killed, tmp_path):
    """A copy of the folder with the killed run."""
    return shutil.copytree(killed, tmp_path / "stopped", symlinks=True)


@pytest.mark.parametrize("changed", ["stores/pairs", "vocabulary"])
def test_resume_rejects_changed_data(parent, stopped, changed, tiny_store, make_vocabulary):
    (stopped / changed.split("/")[0]).unlink()
    words = [f"red ball dog {number}" for number in range(49)]
    other = tiny_store(words, splits=["train"] * 40 + ["val"] * 5 + ["test"] * 4, path=stopped / "other/pairs")
    (stopped / "stores").exists() or (stopped / "stores").symlink_to(stopped / "other")
    (stopped / "vocabulary").exists() or (stopped / "vocabulary").symlink_to(make_vocabulary(other))
    code, printed = end_by(parent, stopped, signal.SIGKILL, "nowhere:1")
    assert code == 2
    assert f"error: {changed}: not the data that the run was started with. Restore it and resume" in printed


def test_resume_rejects_changed_model(parent, stopped):
    file = stopped / "lightning_logs/run-tiny/version_0/config.yaml"
    file.write_text(file.read_text().replace("width: 8", "width: 16"))
    code, printed = end_by(parent, stopped, signal.SIGKILL, "nowhere:1")
    assert code == 2
    printed_error = printed.splitlines()[-1]
    assert f"error: {file}: model or optimizer differ from those of " in printed_error
    assert "size mismatch" in printed_error


def test_resume_rejects_run_of_another_process(parent, stopped):
    lock_run(stopped / "lightning_logs/run-tiny/version_0")
    code, printed = end_by(parent, stopped, signal.SIGKILL, "nowhere:1")
    assert (code, printed.count("\n")) == (2, 1)
    assert f"process {os.getpid()} on " in printed


def test_resume_accepts_options_that_do_not_change_the_result(monkeypatch, capsys):
    taken = []
    monkeypatch.setattr("babyvlm.cli.lightning.resume", lambda *args: taken.append(args))
    main(["resume", "run", "--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.num_workers", "0"])
    main(["resume", "run", "--trainer.num_nodes", "3", "--trainer.accelerator", "gpu", "--trainer.devices", "[0,1]"])
    main(["resume", "run"])
    given = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.num_workers", "0")
    more = ("--trainer.devices", "[0,1]", "--trainer.num_nodes", "3", "--trainer.accelerator", "gpu")
    assert taken == [(Path("run"), *given), (Path("run"), *more), (Path("run"),)]
    with pytest.raises(SystemExit):
        main(["resume", "run", "--trainer.max_steps", "2"])
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no run to resume"),
        ("a: [", "config.yaml: not YAML"),
        ("text", "config.yaml: contains no settings"),
        ("name: run", "config.yaml: `log_dir` is missing"),
        ("log_dir: elsewhere", "was created in elsewhere"),
    ],
)
def test_resume_rejects_folder_that_is_not_a_run(tmp_path, capsys, config, message):
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(SystemExit) as end:
        main(["resume", str(tmp_path)])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert (message in printed, printed.count("\n")) == (True, 1)


def test_fit_rejects_validation_interval_of_zero(parent, place):
    folder = place("interval", val_check_interval=0)
    code, printed = end_by(parent, folder, signal.SIGKILL, "nowhere:1")
    assert code == 2
    assert "error: trainer.val_check_interval: 0 is not an interval" in printed
