"""The complete pipeline on the tiny world, from raw video to results table, by the commands that a user types."""

import csv
import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import babyvlm
from babyvlm.__main__ import main
from babyvlm.benchmarks.stamps import FOLDER
from babyvlm.cli import demo
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.workflow.corpus import curation, read_corpus
from support.docs_pages import of_make
from support.published_models import write
from support.small_meteor import small_meteor
from support.tiny_llava import save_tiny_llava

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
DATA = Path("data/playroom")
SMALL = [
    "--trainer.accelerator",
    "cpu",
    "--trainer.precision",
    "32",
    "--data.image_size",
    "64",
    "--data.num_workers",
    "0",
]
SMALL_TEXT = ["--trainer.accelerator", "cpu", "--trainer.precision", "32", "--data.max_tokens", "32"]
SMALL_TEXT += ["--trainer.val_check_interval", "1"]  # an epoch has one batch
SMALL_TEXT += [f"--model.shape.{size}" for size in ("width=32", "layers=2", "heads=4", "inner=64")]
SMALL_LLAVA = [*SMALL, *(f"--model.language.{size}" for size in ("width=32", "layers=2", "heads=4", "inner=64"))]
SMALL_VIT = ["--model.vision.backbone", "vit_tiny_patch16_224", "--model.vision.options", "{img_size: 64, depth: 2}"]
# A BabyLLaVA trains in phases; each overlay of a phase is run with one of the models.
PHASE_OF = {"babyllava-gpt2": "phase-1", "babyllava-llama": "phase-2"}
SMALL_CNN = ["--model.vision.backbone", "test_resnet"]
SMALL_HEAD = ["--model.prototypes", "64"]
QUICK = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--data.batch_size", "4"]
TRAINED = Path("trained/CVCL-filtered/version_0")


def curate(stage, **arguments):
    flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    main(["curate", stage, *flags])


@pytest.fixture(scope="module")
def world(tmp_path_factory, copy_world):
    """A folder as `make data` leaves it, tiny, with the controls and the scenes for CLIP; the tests run inside it."""
    root = tmp_path_factory.mktemp("slice")
    before = Path.cwd()
    os.chdir(root)
    (root / "configs").symlink_to(CONFIGS)
    DATA.mkdir(parents=True)
    Path("data/saycam").symlink_to("playroom")  # the configs of the real data differ only by the folder's name
    copy_world(DATA / "world")  # as an earlier `make data` leaves it
    (DATA / "trials").symlink_to("world/trials")
    Path("data/playroom-clean").symlink_to("playroom/world")  # a tiny world has everything
    # The threshold of CLIP is lower than in the demo: a tiny world has few pairs.
    corpus = replace(read_corpus(demo.WORKFLOW), playroom={"size": "tiny"}, filter={}, controls=True)
    for words in [*(list(job.command) for job in curation(corpus)), *of_make("playroom-clip")[1:3]]:
        main(words)
    (DATA / "trials/SAYCam_caption.csv").symlink_to("caption.csv")  # the authors' name
    with small_meteor(tmp_path_factory.mktemp("meteor")):
        yield root
    os.chdir(before)


def overlays(*names, world="playroom", benchmarks=True):
    names = (f"{world}/base", *names, *[f"benchmarks/{world}"] * benchmarks)
    return [part for name in names for part in ("--config", f"configs/{name}.yaml")]


def fit(*names, extra=(), **options):
    main(["fit", *overlays(*names, **options), *QUICK, *extra])


def newest(row):
    return max(Path("lightning_logs", row).iterdir(), key=lambda path: int(path.name.split("_")[1]))


@pytest.fixture(scope="module")
def trained(world):
    """A run of CVCL on the filtered pairs in ``TRAINED``, and what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        fit("playroom/cvcl", "mix/filtered", extra=["--log_dir", "trained"])
    return printed.getvalue()


def final_weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_complete_stage_is_skipped(world, capsys):
    before = (DATA / "stores/filtered/store.json").stat().st_mtime_ns
    curate("filter", store=DATA / "stores/frames", embeddings=DATA / "embeddings/frames", out=DATA / "stores/filtered")
    assert "already complete" in capsys.readouterr().out
    assert (DATA / "stores/filtered/store.json").stat().st_mtime_ns == before


def _letters(text):
    """Return the letters of an utterance, which the tokenizer and the transcriber's punctuation do not change."""
    return re.sub(r"[^a-z]", "", text.lower())


def test_filter_raises_share_of_matching_pairs(world):
    """Pairs whose object is in view are much more frequent among the kept pairs than among the dropped ones."""
    with (DATA / "world/truth.csv").open() as file:
        in_view = {_letters(row["utterance"]): row["in_view"] == "1" for row in csv.DictReader(file)}
    similarity = np.load(DATA / "embeddings/frames/image.npy").astype(np.float32)
    similarity = (similarity * np.load(DATA / "embeddings/frames/text.npy")).sum(1)
    table = PairStore(DATA / "stores/frames").columns("utterance")["utterance"]
    spoken = [_letters(text) for text in table.to_pylist()]
    known = [(score, in_view[text]) for score, text in zip(similarity, spoken, strict=True) if text in in_view]
    seen = [score for score, truth in known if truth]
    unseen = [score for score, truth in known if not truth]
    assert len(seen) > 10
    assert len(unseen) > 10
    assert np.mean(seen) > np.mean(unseen) + 0.1


def test_mixes_have_equal_size(world):
    sizes = {name: len(PairStore(DATA / "stores" / name)) for name in ("filtered", "aug", "random")}
    assert len(set(sizes.values())) == 1


# Run by test_runner.py, test_workflow.py and test_stream.py, and, on two processes, by test_sharding.py.
ELSEWHERE = ("ablations.yaml", "sweeps.yaml", "scaling.yaml", "stream.yaml", "workflow.yaml", "sharded.yaml")
OVERLAYS = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml") if path.name not in ELSEWHERE)


def evaluated(name):
    """Return the local model that is tested in place of one that is only available from a hub."""
    if name == "trained":
        return ["--model.source", str(TRAINED)]
    if name == "published":
        return ["--model.source", str(write(Path("published"), "babyllava_vit_tinyllama_bpe"))]
    if name.startswith("llava"):
        return ["--model.model", str(save_tiny_llava(Path("tiny-llava"))), "--model.precision", "float32"]
    return [] if name in ("color-histogram", "pixels") else ["--model.clip", "playroom"]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=str)
def test_shipped_config_runs(trained, overlay):
    folder, name = overlay.parent.name, overlay.stem
    assert len((CONFIGS / overlay).read_text().splitlines()) <= 40
    if folder == "eval":
        configs = ["--config", f"configs/{overlay}", "--config", "configs/benchmarks/playroom.yaml"]
        main(["test", *configs, "--trainer.accelerator", "cpu", *evaluated(name)])
        results = newest(yaml.safe_load((CONFIGS / overlay).read_text())["name"]) / "results"
        assert (results / "vtwt-test.parquet").is_file()
        if name == "trained":  # same results as at the end of the run
            again = [pq.read_table(path / "vtwt-test.parquet") for path in (results, TRAINED / "results")]
            assert again[0].equals(again[1], check_metadata=True)
    elif folder == "mix":
        clean, scored = name == "clean", name == "filtered"
        if not scored:
            fit("playroom/clip" if clean else "playroom/cvcl", f"mix/{name}", benchmarks=False)
        run = TRAINED if scored else newest(f"{'CLIP' if clean else 'CVCL'}-{name}")
        logged = set((run / "metrics.csv").read_text().splitlines()[0].split(","))
        assert "val_loss" in logged
        assert {"labeled_s_dev", "vtwt_dev", "baby_winoground_dev"} <= logged or not scored
    elif (
        folder in ("benchmarks", "controls")
        or name == "base"
        or name in PHASE_OF.values()
        or overlay == Path("playroom/cvcl.yaml")
    ):
        pass  # part of the runs of the models
    else:
        scored = not name.startswith(("language", "clip"))
        names = [f"{folder}/{name}", *([f"{folder}/{PHASE_OF[name]}"] if name in PHASE_OF else [])]
        extra = ["--data.max_tokens", "32"] * name.startswith("language")
        if folder == "saycam":
            small = SMALL_TEXT if name.startswith("language") else SMALL_LLAVA if name in PHASE_OF else SMALL
            extra = ["--trainer.max_epochs", "1", *small]
            extra += SMALL_VIT if name == "babyllava-llama" else [] if name.startswith("language") else SMALL_CNN
            extra += SMALL_HEAD * (name == "dino")
            if name.startswith(("babyllava", "cvcl")):  # instead of the published weights, which are on the hub only
                extra += ["--model.vision.weights", "null"]
        if folder == "study":  # an overlay over those of BabyLLaVA
            folder, names = "playroom", ["playroom/babyllava-gpt2", "playroom/phase-1", *names]
        mix = "mix/clean" if name == "clip" else "mix/filtered"
        fit(*names, mix, world=folder, benchmarks=scored, extra=extra)


@pytest.mark.parametrize("name", ["shuffled-utterances", "random-trunk", "transformer"])
def test_control_trains(world, name):
    """The other ones change a setting that other tests train with."""
    fit("playroom/cvcl", "mix/filtered", f"controls/{name}", benchmarks=False, extra=["--test_after_fit", "false"])
    saved = yaml.safe_load((newest("CVCL-filtered") / "config.yaml").read_text())
    assert saved["data"]["init_args"]["shuffle_utterances"] == (name == "shuffled-utterances")
    assert saved["model"]["init_args"]["vision"]["init_args"]["frozen"] == (name == "random-trunk")


def test_suites_run_on_playroom(world):
    build = ["benchmark", "build"]
    pictures = ["--category_folders", str(DATA / "world/trials/labeled_s"), "--exclude", "[]", "--items", "6"]
    main([*build, "stand-ins", *pictures, "--out", str(DATA / "suites"), "--licensed", "false"])
    pairs = ["--store", str(DATA / "stores/filtered"), "--out", str(DATA / "frequency-pairs")]
    main([*build, "frequency-pairs", *pairs])
    overlay = "configs/benchmarks/playroom-suites.yaml"
    configs = ["--config", "configs/eval/playroom-clip.yaml", "--config", overlay]
    main(["test", *configs, "--name", "suites", "--log_dir", "suites-logs"])
    (callback,) = yaml.safe_load(Path(overlay).read_text())["trainer"]["callbacks+"]
    (run,) = Path("suites-logs/suites").iterdir()
    assert len(list((run / "results").iterdir())) == len(callback["init_args"]["benchmarks"])
    main(["report", "suites-logs", "--out", "suites-report"])
    text = Path("suites-report/report.md").read_text()
    assert all(suite in text for suite in ("### CVCL", "### DevCV Toolbox", "### Machine-DevBench", "### DevBench"))


def test_held_out_utterances_and_photographs_are_scored(world):
    """`configs/benchmarks/held-out.yaml`, and `stamps.yaml` where Tux Paint's photographs are installed."""
    store = ["--store", str(DATA / "stores/frames"), "--months", "24", "--out", str(DATA / "held-out")]
    main(["benchmark", "build", "held-out", *store])
    names = ["held-out", *(["stamps"] if FOLDER.is_dir() else [])]
    overlays = [part for name in names for part in ("--config", f"configs/benchmarks/{name}.yaml")]
    main(["test", "--config", "configs/eval/playroom-clip.yaml", *overlays, "--log_dir", "held-out-logs"])
    (run,) = Path("held-out-logs/Playroom-CLIP").iterdir()
    assert any((run / "results").glob("held_out*-test.parquet"))
    assert bool(list((run / "results").glob("stamps*-test.parquet"))) == FOLDER.is_dir()


def test_weights_depend_on_seed_not_on_workers(world):
    def weights(*extra):
        fit("playroom/cvcl", "mix/filtered", benchmarks=False, extra=["--test_after_fit", "false", *extra])
        return final_weights(newest("CVCL-filtered"))

    runs = [weights("--data.num_workers", str(workers)) for workers in (0, 1)]
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    other = weights("--seed_everything", "1")
    assert not torch.equal(runs[0]["network.projection.weight"], other["network.projection.weight"])


NEWEST = """{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args":
    {"filename": "newest", "every_n_train_steps": 1, "enable_version_counter": false}}"""


def test_resume_in_mid_epoch_has_equal_weights(world):
    extra = ["--trainer.val_check_interval", "3", "--data.num_workers", "0", "--trainer.callbacks+", NEWEST]
    extra += ["--test_after_fit", "false"]

    def newest_checkpoint(*options):
        fit("playroom/cvcl", "mix/filtered", benchmarks=False, extra=[*extra, *options])
        return newest("CVCL-filtered") / "checkpoints/newest.ckpt"

    complete = torch.load(newest_checkpoint("--trainer.max_steps", "7"), weights_only=True)
    stopped = newest_checkpoint("--trainer.max_steps", "2")
    resumed = newest_checkpoint("--trainer.max_steps", "7", "--ckpt_path", str(stopped))
    resumed = torch.load(resumed, weights_only=True)
    assert complete["global_step"] == resumed["global_step"] == 7
    assert all(
        torch.equal(complete["state_dict"][name], resumed["state_dict"][name]) for name in complete["state_dict"]
    )


def test_stream_is_one_pass_by_date_and_resumes(world):
    """`configs/playroom/stream.yaml`, by the command line."""
    extra = ["--data.batch_size", "4", "--data.num_workers", "0", "--trainer.callbacks+", NEWEST]
    extra += ["--test_after_fit", "false", "--name", "CVCL-stream"]

    def newest_checkpoint(*options):
        names = ("playroom/cvcl", "mix/filtered", "playroom/stream")
        main(["fit", *overlays(*names, benchmarks=False), *extra, *options])
        return newest("CVCL-stream-filtered") / "checkpoints/newest.ckpt"

    complete = torch.load(newest_checkpoint(), weights_only=True)
    train = PairStore(DATA / "stores/filtered").columns("split")["split"].to_pylist().count("train")
    assert complete["global_step"] in (train // 4, -(-train // 4))
    assert (
        yaml.safe_load((newest("CVCL-stream-filtered") / "config.yaml").read_text())["data"]["init_args"]["order"]
        == "date"
    )
    stopped = newest_checkpoint("--trainer.max_steps", "2")
    assert torch.load(stopped, weights_only=True)["global_step"] == 2
    resumed = torch.load(newest_checkpoint("--ckpt_path", str(stopped)), weights_only=True)
    assert resumed["global_step"] == complete["global_step"]
    weights = complete["state_dict"]
    assert all(torch.equal(weights[name], resumed["state_dict"][name]) for name in weights)


def test_predict_writes_held_out_embeddings(trained):
    checkpoint = TRAINED / "checkpoints" / "last.ckpt"
    main(["predict", *overlays("playroom/cvcl", "mix/filtered"), "--ckpt_path", str(checkpoint)])
    table = pq.read_table(newest("CVCL-filtered") / "embeddings-rank0.parquet").to_pydict()
    rows = PairStore(DATA / "stores/filtered").columns("key", "split").to_pylist()
    assert sorted(table["key"]) == sorted(row["key"] for row in rows if row["split"] == "test")
    assert np.allclose(np.linalg.norm(table["image"], axis=1), 1, atol=1e-5)
    assert np.shape(table["text"]) == np.shape(table["image"])


def test_fit_ends_with_test_results_and_table(trained, capsys):
    names = ("labeled_s", "vtwt", "baby_winoground")
    assert {f"{name}-test.parquet" for name in names} <= {path.name for path in (TRAINED / "results").iterdir()}
    assert "Labeled-S" in trained.split("stand-in for SAYCam")[1]
    main(["report", str(TRAINED.parents[1]), "--out", "report"])
    out = capsys.readouterr().out
    assert str(TRAINED) in out
    text = Path("report/report.md").read_text()
    assert "| chance | - | - | - | 0.250 | 0.500 | 0.167 | - |" in text
    assert "| CVCL-filtered | 1 | 1 | 2 |" in text  # its trunk is initialized from DINO
    assert "filtered " + PairStore(DATA / "stores" / "filtered").fingerprint[:12] in text


def test_phase_starts_from_previous_phase_with_equal_vocabulary(world, capsys):
    stores = f"[{DATA}/stores/filtered,{DATA}/stores/aug,{DATA}/stores/random]"
    curate("vocabulary", stores=stores, out=DATA / "bpe", kind="bpe", vocabulary_size=400, min_count=2)
    small = ["--data.max_tokens", "32", "--data.vocabulary", str(DATA / "bpe")]
    fit("playroom/language-gpt2", "mix/filtered", benchmarks=False, extra=small)
    run = newest("Language-GPT2-filtered")
    assert (run / "vocabulary/tokenizer.json").read_bytes() == (DATA / "bpe/tokenizer.json").read_bytes()
    fit("playroom/language-gpt2", "mix/filtered", benchmarks=False, extra=[*small, "--model.init_from", str(run)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        fit(
            "playroom/language-gpt2",
            "mix/filtered",
            benchmarks=False,
            extra=[*small[:2], "--model.init_from", str(run)],
        )
    assert exit_info.value.code == 2
    assert "Use the same vocabulary for all phases of a model" in capsys.readouterr().err
    loaded = babyvlm.load(run)  # from the files in the run's folder only
    assert loaded.vocabulary.hash == Vocabulary(DATA / "bpe").hash
    main(["export", "--run", str(run), "--out", "exported-language"])
    exported = babyvlm.load("exported-language").state_dict()
    assert all(torch.equal(tensor, exported[name]) for name, tensor in loaded.state_dict().items())


USER_ERRORS = [
    (["fit", "--config", "nope.yaml"], "nope.yaml"),
    (["fit", *overlays("playroom/cvcl", "mix/filtered"), "--trainer.max_epoch", "3"], "max_epoch"),
    (["fit", *overlays("playroom/cvcl", "mix/filtered"), "--trainer.accelerator", "abacus"], "abacus"),
    (["fit", *overlays("playroom/cvcl", "mix/filtered"), "--data.vocabulary", "nowhere"], "nowhere"),
    (["fit", *overlays("playroom/cvcl", "mix/filtered"), "--data.batch_size", "5000"], "5000"),
    (["fit", *overlays("playroom/cvcl", "mix/filtered"), "--model.vision.backbone", "resnet1"], "resnet1"),
    (["fit", *overlays("playroom/cvcl")], "sources"),
    (["fit", "--config", "configs/playroom/base.yaml", "--data.batch_size", "many"], "batch_size"),
    (["fit", "--config", "configs/playroom/base.yaml", "--model", "evil_module.Model"], "evil_module"),
    (["fit", "--config", "bad.yaml"], "bad.yaml"),
    (["test", "--config", "configs/eval/playroom-clip.yaml"], "no benchmarks to evaluate OpenClip on"),
    (["curate", "filter", "--store", "nowhere", "--embeddings", "nowhere", "--out", "x"], "nowhere"),
    (["curate", "nothing"], "nothing"),
    (["curate", "embed", "--store", str(DATA / "stores/frames"), "--out", "x", "--clip", "ViT-L-14"], "ViT-L-14"),
    (["curate", "match", "--targets", "nowhere"], "required"),
    (["report", "nowhere"], "nowhere"),
    (["report", "--log", "nowhere"], "--log"),
    (["playroom", "--out", "w", "--size", "huge"], "huge"),
]


@pytest.mark.parametrize(
    ("args", "named"), USER_ERRORS, ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else ""
)
def test_main_reports_mistake_in_one_line_with_exit_code_2(world, args, named, capsys):
    Path("bad.yaml").write_text("trainer: [1, 2\n")
    sys.modules.pop("evil_module", None)
    Path("evil_module.py").write_text("open('evil.txt', 'w')")
    with pytest.raises(SystemExit) as exit_info:
        main(args)
    err = capsys.readouterr().err.strip()
    assert exit_info.value.code == 2
    assert named in err
    noise = ("━", "Generating", "warning: ")  # warnings about benchmarks come first
    assert len([line for line in err.splitlines() if not any(word in line for word in noise)]) == 1
    assert "Traceback" not in err
    assert not Path("evil.txt").exists()  # refused before it was imported


def test_main_reports_mistake_in_new_process(world):
    command = [sys.executable, "-m", "babyvlm", "store", "info", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nowhere" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
