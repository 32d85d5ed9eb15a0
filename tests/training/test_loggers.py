"""A run keeps its files in its own folder, whatever logs."""

import csv
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from babyvlm import allowed
from babyvlm.__main__ import main
from babyvlm.io.runs import run_folder
from babyvlm.training.recovery import SeedEachBatch
from babyvlm.training.run_folder import claim_version, discard
from support.small_run import CONFIG, STEPS, enter, fit, lay_out

RUN = Path("lightning_logs/run-tiny/version_0")
FILES = {"config.yaml", "metrics.csv", "provenance.json", "results", "checkpoints", "vocabulary", "finished", ".lock"}
NOTES = "# my own notes\nseed_everything: 3\n"
# A logger as W&B's is: it does not name a folder of its own, and its id comes from a server.
TRACKER = """
from pathlib import Path
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class Tracker(Logger):
    def __init__(self, save_dir: str = ".", version: str | None = None):
        super().__init__()
        self._save_dir, self._id, self._run = save_dir, version, None

    @property
    def experiment(self):
        if self._run is None:
            self._id = self._id or f"id{len(list(Path().glob('tracked-*')))}"
            self._run = Path(f"tracked-{self._id}").open("a")
        return self._run

    @property
    def name(self):
        return "project"

    @property
    def save_dir(self):
        return self._save_dir

    @property
    def version(self):
        return self._id

    def log_hyperparams(self, *_):
        pass

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        self.experiment.write(f"{step} {sorted(metrics)}\\n")
        self.experiment.flush()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_store, make_vocabulary):
    folder = tmp_path_factory.mktemp("loggers")
    lay_out(folder, tiny_store, make_vocabulary)
    (folder / "tracker_of_mine.py").write_text(TRACKER)
    return folder


@pytest.fixture
def place(root, tmp_path, monkeypatch):
    """A working directory with the tiny run, where the user has files of the same names as a run's."""
    enter(root, tmp_path, monkeypatch)
    (tmp_path / "config.yaml").write_text(NOTES)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/vtwt-test.parquet").write_text("mine")
    monkeypatch.setenv(allowed.VARIABLE, "tracker_of_mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("tracker_of_mine", None)


TENSORBOARD = ["lightning.pytorch.loggers.TensorBoardLogger", "--trainer.logger.save_dir", "logs"]
SEVERAL = """[{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: logs, name: mine}},
    {class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {save_dir: logs, name: board}},
    {class_path: tracker_of_mine.Tracker}]"""
LOGGERS = {"none": ["false"], "several": [SEVERAL]}
ALONE = {"tracker": ["tracker_of_mine.Tracker"], "TensorBoard": TENSORBOARD}  # both are among the several


@pytest.mark.parametrize("name", [*LOGGERS, *(pytest.param(name, marks=pytest.mark.soak) for name in ALONE)])
def test_run_keeps_its_files_in_its_folder_whatever_logs(place, name):
    before = {path.name for path in place.iterdir()}
    fit("--trainer.logger", *(LOGGERS | ALONE)[name])
    assert {path.name for path in RUN.iterdir()} >= FILES
    with (RUN / "metrics.csv").open() as file:
        assert max(int(row["step"]) for row in csv.DictReader(file)) >= STEPS - 1
    assert {path.name for path in (RUN / "checkpoints").iterdir()} >= {"last.ckpt"}
    assert not list(RUN.glob("events*"))
    assert Path("config.yaml").read_text() == NOTES
    assert Path("results/vtwt-test.parquet").read_text() == "mine"
    new = {path.name for path in place.iterdir()} - before - {"__pycache__"}
    own = {"none": set(), "tracker": {"tracked-id0"}, "TensorBoard": {"logs"}, "several": {"tracked-id0", "logs"}}
    assert new == own[name] | {"lightning_logs"}
    if name == "several":  # a second run, which overwrites nothing of the first
        first = (RUN / "config.yaml").read_bytes()
        fit("--trainer.logger", *LOGGERS[name], "--seed_everything", 7)
        assert {path.name for path in RUN.with_name("version_1").iterdir()} >= FILES
        assert (RUN / "config.yaml").read_bytes() == first
        assert Path("tracked-id1").is_file()


def test_resume_after_ctrl_c_continues_in_the_same_logs(place, monkeypatch, capsys):
    def press(self, trainer, *_):
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(SeedEachBatch, "on_train_batch_start", press)
        with pytest.raises(SystemExit) as end:
            fit("--trainer.logger", SEVERAL)
    assert end.value.code == 130
    message = f"SIGINT: saved at step 4. Interrupted. Continue with: python -m babyvlm resume {RUN}"
    assert message in capsys.readouterr().err
    main(["resume", str(RUN)])
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert sorted(path.name for path in place.glob("tracked-*")) == ["tracked-id0"]
    assert Path("tracked-id0").read_text().count("train_loss") == STEPS
    for folder in (Path("logs/mine/version_0"), RUN):
        with (folder / "metrics.csv").open() as file:
            rows = [int(row["step"]) for row in csv.DictReader(file) if row["train_loss"]]
        assert rows == list(range(STEPS))
    for name in ("mine", "board"):
        assert [path.name for path in Path("logs", name).iterdir()] == ["version_0"]
    assert (RUN / "finished").is_file()


def test_refused_run_leaves_no_folder(place, capsys):
    Path("config.yaml").unlink()
    with pytest.raises(SystemExit) as end:
        fit("--data.batch_size", "64")
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not Path("lightning_logs").exists()
    fit()
    with pytest.raises(SystemExit):
        fit("--data.batch_size", "64")
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


@pytest.mark.parametrize("folder", ["logs", "lightning_logs"])
def test_csv_logger_never_deletes_rows_of_another_file(place, capsys, folder):
    """Rows of a finished run, or of the run's own file."""
    options = ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", folder]
    options += ["--trainer.logger.name", RUN.parent.name]
    file = Path(folder, *RUN.parts[1:], "metrics.csv")
    if folder == "logs":
        options += ["--trainer.logger.version", "0"]
        file.parent.mkdir(parents=True)
        file.write_text("step,train_loss\n0,1.5\n")
    with pytest.raises(SystemExit) as end:
        fit(*options)
    assert end.value.code == 2
    assert f"error: trainer.logger: CSVLogger: {file} " in capsys.readouterr().err
    assert not Path("lightning_logs").exists()
    assert folder != "logs" or file.read_text() == "step,train_loss\n0,1.5\n"


def test_fast_dev_run_leaves_no_folder(place):
    fit(fast_dev_run=True)
    assert not Path("lightning_logs").exists()
    assert Path("config.yaml").read_text() == NOTES


def test_single_device_run_of_second_slurm_task_writes_metrics(place, monkeypatch):
    slurm = {"JOB_ID": 7, "JOB_NAME": "x", "NTASKS": 2, "NTASKS_PER_NODE": 2, "PROCID": 1, "LOCALID": 1, "NODEID": 0}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    fit()
    assert {path.name for path in RUN.iterdir()} >= FILES
    assert list(RUN.glob("events*"))


def test_processes_that_start_together_get_different_folders(tmp_path):
    row = tmp_path / "logs/row"
    read, write = os.pipe()
    held, release = os.pipe()
    for _ in range(8):
        if os.fork() == 0:
            os.close(release)
            os.write(write, f"{claim_version(row).name} ".encode())
            os.read(held, 1)  # holds the lock until the other end is closed
            os._exit(0)
    names = ""
    while names.count(" ") < 8:
        names += os.read(read, 100).decode()
    assert sorted(names.split()) == [f"version_{number}" for number in range(8)]
    os.close(release)
    for _ in range(8):
        os.wait()
    (row / "version_7/config.yaml").touch()
    assert claim_version(row).name == "version_8"
    discard(row / "version_8")
    assert claim_version(row).name == "version_8"  # the number is free again


def test_folder_left_by_killed_process_is_used_again(tmp_path):
    (tmp_path / "version_3").mkdir()
    (tmp_path / "version_3/.lock").write_text("1 on elsewhere")
    assert claim_version(tmp_path).name == "version_3"


class Nothing(LightningModule):
    pass


def test_run_folder_of_own_trainer_is_never_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tracker_of_mine.py").write_text(TRACKER)
    from tracker_of_mine import Tracker

    options = {"accelerator": "cpu", "enable_checkpointing": False}
    assert run_folder(Trainer(logger=False, **options)) is None
    assert run_folder(Trainer(logger=False, default_root_dir="kept", **options)) == Path("kept")
    assert run_folder(Trainer(logger=CSVLogger("logs", "row"), **options)) == Path("logs/row/version_0")
    assert run_folder(Trainer(logger=Tracker(version="a1"), **options)) == Path("project/a1")
    assert run_folder(Trainer(fast_dev_run=True, logger=CSVLogger("logs"), **options)) is None
    sys.modules.pop("tracker_of_mine", None)


@pytest.mark.soak  # the test of resume uses the record
def test_loggers_of_run_are_recorded(place):
    fit("--trainer.logger", "tracker_of_mine.Tracker", "--trainer.logger.version", "abc")
    assert json.loads((RUN / "loggers.json").read_text()) == ["abc"]
    assert CONFIG["trainer"]["max_steps"] == STEPS
