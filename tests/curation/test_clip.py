"""CLIP models from files: safe loading, the right activation, and hashes of weights."""

import json
import pickle

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

from babyvlm.curation.clip import create_trainer, load_clip
from babyvlm.curation.embed import embed
from babyvlm.curation.embeddings import Embeddings
from babyvlm.errors import UserError

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NAMES = {False: "tiny-clip", True: "tiny-clip-quickgelu"}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory):
    """Register a small architecture with either activation in open_clip."""
    folder = tmp_path_factory.mktemp("architectures")
    for quick, name in NAMES.items():
        (folder / f"{name}.json").write_text(json.dumps(CONFIG | {"quick_gelu": quick}))
    open_clip.add_model_config(folder)
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return open_clip.create_model(NAMES[False]).eval()


@pytest.fixture
def folder(tmp_path, model):
    """Checkpoints of one model in the usual formats."""
    weights = model.state_dict()
    torch.save(weights, tmp_path / "bare.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": t for key, t in weights.items()}}, tmp_path / "epoch_3.pt")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("file", ["bare.pt", "epoch_3.pt", "model.safetensors"])
def test_load_clip_reads_checkpoint_of_named_architecture(folder, model, images, file):
    clip = load_clip(f"tiny-clip/{folder / file}")
    with torch.no_grad():
        torch.testing.assert_close(clip.model.encode_image(images), model.encode_image(images))
        tokens = clip.tokenize(["a red ball"])
        torch.testing.assert_close(clip.model.encode_text(tokens), model.encode_text(tokens))
    assert not clip.model.training


@pytest.mark.parametrize("trained", [False, True])
def test_load_clip_reads_activation_from_config_beside_checkpoint(folder, images, trained):
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG | {"quick_gelu": trained}}))
    clip = load_clip(f"{NAMES[trained]}/{folder / 'bare.pt'}")
    with pytest.raises(UserError, match=rf"QuickGELU mismatch: {NAMES[not trained]} has"):
        load_clip(f"{NAMES[not trained]}/{folder / 'bare.pt'}")
    (folder / "open_clip_config.json").unlink()
    other = load_clip(f"{NAMES[not trained]}/{folder / 'bare.pt'}")  # nothing to check against, and the features differ
    with torch.no_grad():
        assert (clip.images(images) - other.images(images)).abs().max() > 1e-4


@pytest.mark.parametrize("trained", [False, True])
def test_load_clip_reads_activation_from_folder(tmp_path, model, images, trained):
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIG | {"quick_gelu": trained}, "preprocess_cfg": {"mean": [0.1] * 3}})
    )
    safetensors.torch.save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    wanted = open_clip.create_model(NAMES[trained])
    wanted.load_state_dict(model.state_dict())
    clip = load_clip(f"local-dir:{tmp_path}")
    with torch.no_grad():
        torch.testing.assert_close(clip.model.encode_image(images), wanted.eval().encode_image(images))
    assert clip.model.visual.preprocess_cfg["mean"] == [0.1] * 3


@pytest.mark.parametrize(
    "name", ["ViT-B-32/openai", "ViT-L-14/openai", "ViT-H-14/dfn5b", "roberta-ViT-B-32/laion2b_s12b_b32k"]
)
def test_load_clip_rejects_other_activation_before_download(name, monkeypatch):
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(UserError, match=f"--clip {name}: .*QuickGELU mismatch"):
        load_clip(name)


class Evil:
    def __reduce__(self):
        return (open, ("evil.txt", "w"))


@pytest.mark.parametrize("kind", ["evil", "torn", "empty", "text", "other", "script"])
def test_load_clip_reports_hostile_or_broken_checkpoint_in_one_line(folder, model, kind, monkeypatch):
    monkeypatch.chdir(folder)
    path = folder / "bad.pt"
    if kind == "script":
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    elif kind == "other":
        torch.save({"weight": torch.zeros(2)}, path)
    else:
        torn = (folder / "bare.pt").read_bytes()[:5000]
        path.write_bytes({"evil": pickle.dumps(Evil()), "torn": torn, "empty": b"", "text": b"<html>"}[kind])
    with pytest.raises(UserError, match=r"bad\.pt: open_clip cannot load it") as refusal:
        load_clip(f"tiny-clip/{path}")
    assert "\n" not in str(refusal.value)
    assert not (folder / "evil.txt").exists()


def test_clip_sha256_does_not_depend_on_file_format(folder):
    hashes = {load_clip(f"tiny-clip/{folder / file}").sha256 for file in ("bare.pt", "epoch_3.pt", "model.safetensors")}
    assert len(hashes) == 1
    weights = torch.load(folder / "bare.pt", weights_only=True)
    weights["visual.proj"][0, 0] += 1e-6
    torch.save(weights, folder / "bare.pt")
    assert load_clip(f"tiny-clip/{folder / 'bare.pt'}").sha256 not in hashes


def test_embed_refuses_changed_weights_of_same_name(folder, tiny_store, tmp_path):
    store, name = tiny_store(), f"tiny-clip/{folder / 'bare.pt'}"
    embed(store.path, tmp_path / "e", name, accelerator="cpu")
    assert Embeddings(tmp_path / "e").clip_sha256 == load_clip(name).sha256
    before = np.array(Embeddings(tmp_path / "e").image)
    weights = torch.load(folder / "bare.pt", weights_only=True)
    weights["visual.proj"] = weights["visual.proj"].flip(0)
    torch.save(weights, folder / "bare.pt")
    with pytest.raises(UserError, match="built with different arguments: clip_sha256"):
        embed(store.path, tmp_path / "e", name, accelerator="cpu")
    embed(store.path, tmp_path / "f", name, accelerator="cpu")
    assert not np.allclose(before, Embeddings(tmp_path / "f").image, atol=1e-2)


@pytest.mark.parametrize(("licensed", "clip", "warned"), [(True, "playroom", 1), (False, "playroom", 0), (True, "", 0)])
def test_embed_warns_about_playroom_clip_on_licensed_store(
    folder, tiny_store, tmp_path, capsys, licensed, clip, warned
):
    store = tiny_store(licensed=licensed)
    embed(store.path, tmp_path / "e", clip or f"tiny-clip/{folder / 'bare.pt'}", accelerator="cpu")
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == warned
    assert all(str(store.path) in line and "--clip ViT-L-14-quickgelu/openai" in line for line in warnings)


@pytest.mark.parametrize(("tasks", "devices", "step"), [(1, 2, True), (1, 2, False), (2, 2, False)])
def test_processes_that_slurm_does_not_start_are_refused(monkeypatch, tasks, devices, step):
    """Otherwise one process would do the work of two, or wait for the other forever."""
    variables = {"JOB_ID": "17", "NTASKS": str(tasks), "JOB_NAME": "chain"}
    variables |= {"NTASKS_PER_NODE": str(tasks), "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "a")
    monkeypatch.setenv("SLURM_STEP_ID", "0") if step else monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    with pytest.raises(UserError, match=rf"--devices {devices}.* SLURM runs 1 of {devices} processes.*srun"):
        create_trainer("cpu", devices, 1)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")
    assert create_trainer("cpu", 1, 1).world_size == 1
