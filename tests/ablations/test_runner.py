"""The ablation runner with real processes: shared phases, kills, signals, failures, two runners at once."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from babyvlm.__main__ import main
from babyvlm.ablations.plan import Plan
from babyvlm.ablations.status import JOB_NAME
from support import fake_slurm, forking
from support.tiny_world import MATRIX, ROOT

GPT2 = "BabyLLaVA-GPT2-filtered"


@pytest.fixture(scope="module")
def launcher(tmp_path_factory, laid_out):
    """A command prefix that starts commands in a process with everything imported."""
    folder = tmp_path_factory.mktemp("forking")
    shutil.copytree(laid_out, folder, dirs_exist_ok=True)
    overlays = ["base", "configs/playroom/cvcl", "configs/mix/filtered", "configs/benchmarks/playroom"]
    first = ["fit", *(f"--config={overlay}.yaml" for overlay in overlays), "--data.num_workers=0"]
    with forking.server(folder, first) as command:
        yield command


@pytest.fixture
def place(tmp_path, monkeypatch, laid_out):
    """Change into a folder where the matrix runs in seconds."""
    shutil.copytree(laid_out, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ablate(place, launcher):
    """``ablate(*rows, **environment)`` starts a runner for rows with seed 0."""
    started = []

    def start(*rows, options=(), **environment):
        command = [*launcher, "python", "-m", "babyvlm", "ablations", "run", "--matrix", str(MATRIX)]
        command += ["--launcher", " ".join(launcher), "--seeds", "[0]", *options]
        command += ["--rows", f"[{','.join(rows)}]"] if rows else []
        output = (place / f"output-{len(started)}.txt").open("w")
        started.append(subprocess.Popen(command, cwd=place, stdout=output, stderr=output, env=os.environ | environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def end(process, code=0, within=200):
    """Wait for a runner and return what all runners printed."""
    found = process.wait(within)
    printed = [file.read_text() for file in sorted(Path.cwd().glob("output-*.txt"))]
    assert found == code, "\n".join(printed)
    return printed


def until(condition):
    """Wait until a condition holds."""
    limit = time.monotonic() + 200  # a loaded machine
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def lengthen(step, steps=60):
    """Make a step long enough to be interrupted while it runs."""
    matrix = yaml.safe_load(MATRIX.read_text())
    matrix["steps"][step]["options"].update({"trainer.max_steps": steps, "trainer.val_check_interval": steps})
    MATRIX.write_text(yaml.safe_dump(matrix, sort_keys=False))


def logged(run, rows=3):
    """Return whether a run has logged some rows."""
    return any(len(file.read_text().splitlines()) > rows for file in Path("lightning_logs").glob(f"{run}/metrics.csv"))


def kill(*numbers):
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def last_weights(run):
    return torch.load(Path("lightning_logs", run, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]


def leaves(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    else:
        yield name, value


def test_ablations_run_shares_phase_0_between_runners(place, ablate, capsys):
    first, second = ablate(GPT2, "Playroom-CLIP"), ablate("BabyLLaVA-GPT2-aug-only", "CVCL-filtered")
    end(first)
    printed = "".join(end(second))
    assert printed.count("gpt2-language in lightning_logs/phases/gpt2-language-") == 1
    assert len(list(Path("lightning_logs/phases").glob("gpt2-language-*"))) == 1
    assert len(list(Path("lightning_logs/phases").glob("gpt2-phase-1-*"))) == 2
    assert (len(forking.started(place, "fit")), len(forking.started(place, "test"))) == (6, 1)
    assert "2 done" in end(ablate(GPT2, "CVCL-filtered"))[-1]
    assert len(forking.started(place, "fit", "resume", "test")) == 7  # none is repeated
    main(["ablations", "status", "--matrix", str(MATRIX)])
    assert "28 rows and seeds: 4 done, 24 missing" in capsys.readouterr().out
    assert_record_matches_saved_config(Path("lightning_logs", GPT2, "seed_0"))


def assert_record_matches_saved_config(run):
    """Check that the recorded settings are those that LightningCLI merged and saved."""
    recorded = json.loads((run / "ablation.json").read_text())["settings"]["config"]
    saved = dict(leaves(yaml.safe_load((run / "config.yaml").read_text())))
    given = dict(leaves(recorded))
    assert len(given) > 20
    full = {".trainer.callbacks", ".data.init_args.sources"}  # lists, saved with defaults filled in
    assert {name for name, value in given.items() if saved.get(name) != value} <= full


@pytest.mark.soak  # in short: test_training_outlives_killed_runner, and test_fit_kill.py for the weights
def test_killed_runner_resumes_to_same_weights(place, ablate):
    lengthen("gpt2-phase-2")
    end(ablate(GPT2))
    run = f"{GPT2}/seed_0"
    unbroken = last_weights(run)
    Path("lightning_logs", GPT2).rename("unbroken")  # phases 0 and 1 stay
    runner = ablate(GPT2)
    until(lambda: logged(run))
    kill(*forking.started(place, "ablations")[-1:], *forking.started(place, "fit")[-1:])
    end(runner, -signal.SIGKILL)
    assert not Path("lightning_logs", run, "finished").exists()
    end(ablate(GPT2))
    assert (len(forking.started(place, "fit")), len(forking.started(place, "resume"))) == (4, 1)
    torch.testing.assert_close(last_weights(run), unbroken, rtol=0, atol=0)


def test_training_outlives_killed_runner(place, ablate, capsys):
    lengthen("cvcl", 100)
    runner = ablate("CVCL-filtered")
    until(lambda: logged("CVCL-filtered/seed_0"))
    kill(*forking.started(place, "ablations"))
    end(runner, -signal.SIGKILL)
    main(["ablations", "status", "--matrix", str(MATRIX)])
    assert "running: cvcl, step" in capsys.readouterr().out
    end(ablate("CVCL-filtered"))
    assert len(forking.started(place, "fit", "resume")) == 1


def test_failed_rows_and_phases_do_not_stop_others(place, ablate, capsys):
    small = yaml.safe_load(Path("configs/mix/aug-only.yaml").read_text())
    small["data"]["init_args"]["batch_size"] = 5000
    Path("configs/mix/aug-only.yaml").write_text(yaml.safe_dump(small))
    matrix = yaml.safe_load(MATRIX.read_text())
    del matrix["steps"]["cvcl"]["options"]["data.batch_size"]
    matrix["steps"]["gpt2-language"]["options"]["trainer.max_steps"] = -2  # invalid
    MATRIX.write_text(yaml.safe_dump(matrix))
    printed = end(ablate("CVCL-aug-only", "CVCL-filtered", GPT2, "BabyLLaVA-GPT2-aug-only"), 1)[-1]
    assert "1 done, 3 failed" in printed
    assert "CVCL-aug-only seed 0: failed: exit code 2: error:" in printed
    assert "BabyLLaVA-GPT2-aug-only seed 0: failed: gpt2-language, which it starts from: exit code 2" in printed
    assert len(forking.started(place, "fit")) == 3  # the phase of two rows is tried once
    main(["ablations", "status", "--matrix", str(MATRIX)])
    out = capsys.readouterr().out
    assert "failed: exit code 2: error:" in out
    assert "5000" in out
    assert "ROWS DIFFER" in out


def test_step_stops_after_a_shared_phase(place, ablate):
    end(ablate(GPT2, options=["--step", "gpt2-language"]))
    assert [path.name.rpartition("-")[0] for path in Path("lightning_logs/phases").glob("g*")] == ["gpt2-language"]
    assert not Path("lightning_logs", GPT2).exists()
    assert (
        "--step gpt2-language: its steps are cvcl"
        in end(ablate("CVCL-filtered", options=["--step", "gpt2-language"]), 1)[-1]
    )


def test_missing_launcher_is_reported(place, launcher):
    command = [*launcher, "python", "-m", "babyvlm", "ablations", "run", "--matrix", str(MATRIX), "--launcher", "nope"]
    done = subprocess.run([*command, "--task", "0"], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "CVCL-filtered seed 0: failed: [Errno 2] No such file or directory: 'nope'" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_trains_on_the_data_of_its_world(place, ablate):
    folders = ["data/first", "data/second"]
    matrix = yaml.safe_load(MATRIX.read_text()) | {"corpus": "configs/playroom/workflow.yaml"}
    matrix["worlds"] = [{"folder": folder, "playroom": {"seed": seed}} for seed, folder in enumerate(folders)]
    MATRIX.write_text(yaml.safe_dump(matrix, sort_keys=False))
    for folder in folders:
        Path(folder).symlink_to("playroom")
    end(ablate("CVCL-filtered", options=["--worlds", "[1]"]))
    run = Path("lightning_logs/CVCL-filtered/world_1-seed_0")
    assert (run / "finished").is_file()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["stores"] == "data/second/stores"
    assert config["data"]["init_args"]["vocabulary"] == "data/second/vocabulary"


def test_stale_run_is_kept_or_replaced(place, ablate, capsys):
    end(ablate("CVCL-filtered"))
    before = last_weights("CVCL-filtered/seed_0")
    lengthen("cvcl", 6)
    main(["ablations", "status", "--matrix", str(MATRIX)])
    stale = "stale: different config.trainer.max_steps, config.trainer.val_check_interval"
    assert stale in capsys.readouterr().out
    assert "pass --replace true" in end(ablate("CVCL-filtered"), 1)[-1]
    torch.testing.assert_close(last_weights("CVCL-filtered/seed_0"), before, rtol=0, atol=0)
    end(ablate("CVCL-filtered", options=["--replace", "true"]))
    (old,) = Path("lightning_logs/CVCL-filtered").glob("replaced-seed_0-*")
    assert (old / "finished").is_file()
    assert not torch.equal(
        last_weights("CVCL-filtered/seed_0")["network.projection.weight"], before["network.projection.weight"]
    )


def test_foreign_run_is_kept(place, ablate):
    folder = Path("lightning_logs/CVCL-filtered/seed_0")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("by: hand\n")
    assert "the folder holds a run that is not of this matrix" in end(ablate("CVCL-filtered"), 1)[-1]
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def test_ctrl_c_saves_before_exit(place, ablate):
    lengthen("cvcl", 100)
    runner = ablate("CVCL-filtered")
    until(lambda: logged("CVCL-filtered/seed_0"))
    os.kill(forking.started(place, "ablations")[0], signal.SIGINT)
    assert "Interrupted. Run the same command again to continue." in end(runner, 130)[0]
    assert ": saved at step" in Path("lightning_logs/CVCL-filtered/seed_0/log.txt").read_text()


SMALL = {
    "trainer.accelerator": "cpu",
    "trainer.precision": "32",
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 1,
    "trainer.max_epochs": 1,
    "data.batch_size": 4,
}
SMALL_IMAGES = SMALL | {"data.image_size": 64, "data.num_workers": 0}
SMALL_LM = {"width": 32, "layers": 2, "heads": 4, "inner": 64}
SMALL_VIT = {"model.vision.backbone": "vit_tiny_patch16_224"}


@pytest.mark.soak
def test_saycam_matrix_runs_completely(place, ablate):
    """Run one seed of every row at small sizes, each in a new interpreter, starting from a DINO of its own."""
    (place / "data/saycam").symlink_to("playroom")
    matrix = yaml.safe_load((ROOT / "configs/saycam/ablations.yaml").read_text())
    matrix |= {"base": ["base.yaml"], "upper_bounds": {}}
    for name, dino in {"cvcl": "dino", "gpt2-phase-1": "dino", "llama-phase-1": "dino-vit"}.items():
        own = {"model.vision.weights": f"{dino}/backbone.safetensors"}
        matrix["steps"][name]["start_from"] = matrix["steps"][name].get("start_from", {}) | own
    for name, step in matrix["steps"].items():
        options, shape = dict(SMALL_IMAGES), SMALL_LM | ({"kv_heads": 2} if "llama" in name else {})
        if "language" in name:
            options = SMALL | {"data.max_tokens": 8} | {f"model.shape.{key}": value for key, value in shape.items()}
        elif "phase" in name:
            options |= {f"model.language.{key}": value for key, value in shape.items()} | {"data.max_tokens": 25}
            options |= {"model.vision.weights": None} if "phase-2" in name else {}
        if "vit" in name:
            options |= SMALL_VIT | {"model.vision.options": {"img_size": 64, "depth": 2, "dynamic_img_size": True}}
        elif "llama-phase" in name:
            options |= SMALL_VIT | {"model.vision.options": {"img_size": 64, "depth": 2}}
        step["options"] = step.get("options", {}) | options
    MATRIX.write_text(yaml.safe_dump(matrix, sort_keys=False))
    command = [sys.executable, "-m", "babyvlm", "ablations", "run", "--matrix", str(MATRIX), "--seeds", "[0]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "9 rows and seeds: 9 done" in done.stdout, done.stderr
    phases = [path.name.rpartition("-")[0] for path in Path("lightning_logs/phases").glob("[!.]*")]
    assert Counter(phases) == Counter(
        ["dino", "dino-vit", "gpt2-language", "llama-language", "llama-phase-1"] + 4 * ["gpt2-phase-1"]
    )


@pytest.mark.soak
def test_random_kills_do_not_change_result(place, ablate):
    """Kill the runner, its training, or both, in all phases; the next runner waits for what is still alive."""
    for step in ("gpt2-language", "gpt2-phase-1", "gpt2-phase-2"):
        lengthen(step, 20)
    began = time.monotonic()
    end(ablate(GPT2), within=1000)
    seconds = time.monotonic() - began
    run = Path(GPT2, "seed_0")
    unbroken = last_weights(run), (Path("lightning_logs") / run / "metrics.csv").read_text()
    Path("lightning_logs").rename("unbroken")
    draw, alive = random.Random(0), 0
    for _ in range(20):
        runner = ablate(GPT2)
        time.sleep(draw.uniform(0, seconds / 6))
        alive += runner.poll() is None
        trainings = forking.started(place, "fit", "resume")[-1:] if draw.random() < 0.7 else []
        kill(*trainings, *(forking.started(place, "ablations")[-1:] if draw.random() < 0.7 else []))
        if not trainings:
            runner.kill()
    end(ablate(GPT2), within=1000)
    torch.testing.assert_close(last_weights(run), unbroken[0], rtol=0, atol=0)
    assert (Path("lightning_logs") / run / "metrics.csv").read_text() == unbroken[1]
    print(f"{alive} kills survived, 0 mismatches")
    assert alive >= 5  # finished steps are not repeated


@pytest.fixture
def slurm(place, launcher):
    """``slurm(*args)`` submits the shipped job for one task (0: CVCL-filtered, seed 0) to a fake SLURM."""
    environment = os.environ | fake_slurm.install(place / "bin", launcher) | {"MATRIX": str(MATRIX)}
    (place / "slurm").symlink_to(ROOT / "slurm")
    (place / "lightning_logs").mkdir()

    def submit(*args, task=0):
        command = ["bin/sbatch", f"--array={task}", *args, "slurm/ablations.sbatch"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "Submitted batch job 17\n"
        return int((place / "tasks.txt").read_text().split()[-1])

    return submit


def wait_for_job(task=0):
    """Wait for the job of a task to end and return its log."""
    log = Path(f"lightning_logs/slurm-17_{task}.log")
    until(lambda: log.is_file() and re.search(r"^1 rows and seeds:|^error", log.read_text(), re.M))
    return log.read_text()


def requeued():
    calls = Path("scontrol.txt").read_text().splitlines() if Path("scontrol.txt").exists() else []
    return [call for call in calls if call.startswith("requeue")]


def test_job_out_of_time_is_requeued_and_resumes(place, slurm):
    lengthen("cvcl", 100)
    job = slurm()
    until(lambda: logged("CVCL-filtered/seed_0"))
    os.kill(job, signal.SIGUSR1)  # as --signal=B:USR1@300 does
    assert "1 stopped" in wait_for_job()
    assert requeued() == ["requeue 17_0"]  # once
    assert "SIGUSR1: saved at step" in Path("lightning_logs/CVCL-filtered/seed_0/log.txt").read_text()
    Path("lightning_logs/slurm-17_0.log").unlink()
    slurm()
    assert "1 done" in wait_for_job()
    assert forking.started(place, "fit", "resume") == forking.started(place, "fit") + forking.started(place, "resume")
    assert (len(forking.started(place, "fit")), len(forking.started(place, "resume"))) == (1, 1)
    assert not list(place.glob("hpc_ckpt*"))  # Lightning's own requeueing is off


def test_job_out_of_time_during_start_is_requeued_once(place, slurm):
    job = slurm()
    until(lambda: (place / "pids.txt").exists() and forking.started(place, "fit"))
    os.kill(job, signal.SIGUSR1)  # the training cannot save yet and ends
    assert "1 stopped" in wait_for_job()
    assert requeued() == ["requeue 17_0"]


def test_signal_to_training_only_stops_job(place, slurm):
    """As without `B:` in --signal: SLURM signals the tasks of srun and not the job's own process."""
    lengthen("cvcl", 100)
    slurm()
    until(lambda: logged("CVCL-filtered/seed_0"))
    os.kill(forking.started(place, "fit")[0], signal.SIGUSR1)
    assert "1 stopped" in wait_for_job()
    assert requeued() == ["requeue 17_0"]


def test_waiting_job_is_requeued(place, slurm):
    lengthen("gpt2-language", 400)
    first = slurm(task=12)  # BabyLLaVA-GPT2-filtered, seed 0
    until(lambda: logged("phases/gpt2-language-*"))
    second = slurm(task=15)  # filtered-aug: waits for the same phase 0
    until(lambda: "another process is running it; waiting" in Path("lightning_logs/slurm-17_15.log").read_text())
    os.kill(second, signal.SIGUSR1)
    assert "1 stopped" in wait_for_job(15)
    assert requeued() == ["requeue 17_15"]
    os.kill(first, signal.SIGTERM)  # scancel --full
    assert "1 stopped" in wait_for_job(12)
    (log,) = Path("lightning_logs/phases").glob("gpt2-language-*/log.txt")
    assert "saved at step" in log.read_text()
    assert requeued() == ["requeue 17_15"]


def test_ablations_run_trains_one_model_on_two_nodes(place, slurm):
    matrix = yaml.safe_load(MATRIX.read_text())
    matrix["steps"]["cvcl"]["options"] |= {"trainer.num_nodes": 2, "trainer.devices": 1}
    MATRIX.write_text(yaml.safe_dump(matrix, sort_keys=False))
    slurm("--nodes=2")
    assert "1 done" in wait_for_job(), Path("lightning_logs/CVCL-filtered/seed_0/log.txt").read_text()
    assert len(forking.started(place, "fit")) == 2
    checkpoint = torch.load("lightning_logs/CVCL-filtered/seed_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    printed = Path("lightning_logs/CVCL-filtered/seed_0/log.txt").read_text()
    assert "MEMBER: 2/2" in printed


def test_task_out_of_range_is_one_line_error(place, slurm):
    slurm(task=28)
    assert "error: --task 28: ablations.yaml has 28 tasks, numbered 0 to 27\n" in wait_for_job(28)


def test_slurm_array_matches_saycam_matrix():
    tasks = Plan(ROOT / "configs/saycam/ablations.yaml").tasks
    assert fake_slurm.directives(ROOT / "slurm/ablations.sbatch")["array"] == f"0-{len(tasks) - 1}"
    assert fake_slurm.directives(ROOT / "slurm/ablations.sbatch")["job-name"] == JOB_NAME


def test_status_shows_slurm_queue(place, slurm, monkeypatch, capsys):
    monkeypatch.setenv("PATH", f"{place}/bin:{os.environ['PATH']}")
    Path("queue.txt").write_text("3 PENDING\n27 RUNNING\nN/A PENDING\n")
    main(["ablations", "status", "--matrix", str(MATRIX)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].endswith("missing (SLURM: pending)")
    assert lines[28].endswith("missing (SLURM: running)")
    assert sum("SLURM" in line for line in lines) == 2
    Path("queue.txt").unlink()
    main(["ablations", "status", "--matrix", str(MATRIX)])
    assert "SLURM queue unknown" in capsys.readouterr().out
