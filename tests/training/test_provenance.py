"""What a run says of its making, and what a list says of its licence."""

import json
import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import yaml
from lightning import LightningModule

import babyvlm
from babyvlm.__main__ import main
from babyvlm.benchmarks.results import licensed
from babyvlm.data.frame_mix import FrameMix
from babyvlm.data.pair_mix import Source
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.io.artifacts import sha256_file
from babyvlm.io.distributed import device_name
from babyvlm.models.networks.vision import VisionEncoder, save_trunk
from babyvlm.training.provenance import Provenance, inputs

VTWT = "image,positive_phrase,negative_phrase\n"


@pytest.mark.parametrize("free", [True, False])
def test_provenance_records_inputs_versions_and_samples(tiny_store, vocabulary, tmp_path, capsys, free):
    store = tiny_store(groups=["a", "a", "b", "c", "d", "e"], path=tmp_path / "stores" / "home", licensed=not free)
    config = {
        "model": {
            "class_path": "babyvlm.models.cvcl.CVCL",
            "init_args": {
                "vision": {
                    "class_path": "babyvlm.models.networks.vision.VisionEncoder",
                    "init_args": {"backbone": "resnet10t"},
                },
                "text": {"class_path": "babyvlm.models.networks.text.MeanEmbedding"},
                "width": 8,
                "optimizer": {"class_path": "torch.optim.AdamW"},
            },
        },
        "data": {
            "class_path": "babyvlm.data.pair_mix.PairMix",
            "init_args": {
                "name": "home",
                "stores": str(store.path.parent),
                "sources": [{"store": "home"}],
                "validation": "home",
                "vocabulary": str(vocabulary),
                "batch_size": 2,
                "image_size": 32,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 5,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "use_distributed_sampler": False,
        },
        "test_after_fit": False,
        "name": "tiny",
        "log_dir": str(tmp_path / "logs"),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(tmp_path / "config.yaml")])
    run = tmp_path / "logs" / "tiny-home" / "version_0"
    recorded = json.loads((run / "provenance.json").read_text())
    assert recorded["stores"] == {"home": {"fingerprint": store.fingerprint, "licensed": not free, "rows": 6}}
    assert recorded["vocabulary"] == Vocabulary(vocabulary).hash
    assert (recorded["steps"], recorded["samples"]) == (5, 10)
    assert recorded["devices"] == [f"1 x {device_name(torch.device('cpu'))}, precision 32-true"]
    assert f"devices: {recorded['devices'][0]}\n" in capsys.readouterr().out
    assert recorded["packages"]["torch"] == metadata.version("torch")
    assert recorded["code_version"] == babyvlm.__version__
    assert len(recorded["code_sha256"]) == 64
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    learned = {name for name in weights if not re.search("running_|num_batches|temperature", name)}
    counted = sum(weights[name].numel() for name in learned)
    assert recorded["parameters"] == {"total": counted, "trained": counted}
    # No utterance or image is logged: events, metrics and settings may be sent to a server.
    content = b"".join(file.read_bytes() for file in run.iterdir() if file.is_file())
    for row in store.rows():
        assert row["utterance"].encode() not in content
        assert row["image"] not in content


def test_weights_of_the_hub_are_recorded_with_their_commit(tmp_path, monkeypatch, capsys):
    """From the hub's cache, without a network: pinned or not, a local file, and a run that is resumed."""
    repository = tmp_path / "hub" / "models--lab--trunks"
    for commit in ("a" * 40, "b" * 40):
        file = repository / "snapshots" / commit / "best" / "teacher.safetensors"
        file.parent.mkdir(parents=True)
        save_trunk(VisionEncoder("test_resnet").trunk, file)  # other random weights each time
    (repository / "refs").mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def record(run, weights, newest="a" * 40):
        (repository / "refs" / "main").write_text(newest)
        model = LightningModule()
        model.vision = VisionEncoder("test_resnet", weights=weights)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        trainer = SimpleNamespace(
            is_global_zero=True, datamodule=None, world_size=1, strategy=strategy, precision="32-true"
        )
        monkeypatch.setattr("babyvlm.training.provenance.run_folder", lambda trainer: tmp_path / run)
        (tmp_path / run).mkdir(exist_ok=True)
        Provenance().on_fit_start(trainer, model)
        return json.loads((tmp_path / run / "provenance.json").read_text()).get("image_weights")

    source = "hf-hub:lab/trunks/best/teacher.safetensors"
    pinned = f"hf-hub:lab/trunks@{'b' * 40}/best/teacher.safetensors"
    sums = {letter: sha256_file(next(repository.glob(f"snapshots/{letter}*/best/*"))) for letter in "ab"}
    assert sums["a"] != sums["b"]
    assert record("newest", source) == [{"source": source, "commit": "a" * 40, "sha256": sums["a"]}]
    assert f"commit {'a' * 40}. To pin it, pass {pinned.replace('b' * 40, 'a' * 40)}" in capsys.readouterr().out
    assert record("pinned", pinned) == [{"source": pinned, "commit": "b" * 40, "sha256": sums["b"]}]
    assert "not pinned" not in capsys.readouterr().out
    assert record("newest", source, newest="b" * 40)[0]["commit"] == "a" * 40  # a run that is resumed
    local = str(next(repository.glob("snapshots/b*/best/*")))
    assert record("local", local) == [{"source": local, "commit": None, "sha256": sums["b"]}]
    assert record("random", None) is None


def test_inputs_of_frames_have_no_validation_and_no_vocabulary(tiny_store, tmp_path):
    store = tiny_store(path=tmp_path / "frames")
    mix = FrameMix("frames", tmp_path, [Source("frames")])
    assert inputs(SimpleNamespace(datamodule=mix)) == {
        "stores": {"frames": {"fingerprint": store.fingerprint, "licensed": False, "rows": 6}}
    }


def made(folder: Path, kind: str, **manifest):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{kind}.json").write_text(json.dumps(manifest))


def test_caption_list_is_licensed_by_default(tmp_path):
    trials = tmp_path / "some" / "trials" / "vtwt.csv"
    trials.parent.mkdir(parents=True)
    trials.write_text(VTWT)
    assert licensed(trials, trials.parent)  # nothing says anything
    made(tmp_path / "some", "playroom")
    assert not licensed(trials, trials.parent)
    assert licensed(trials, tmp_path / "frames")  # the images are others
    (trials.parent / "linked").symlink_to(tmp_path)
    assert licensed(trials, trials.parent / "linked")
    for recorded, expected in ((True, True), (None, True), ("false", True), (False, False)):
        made(trials.parent, "benchmark", world="playroom", licensed=recorded)
        assert licensed(trials, trials.parent) is expected
    made(trials.parent, "benchmark", world="playroom")
    assert licensed(trials, trials.parent)
