import colorsys
import importlib
import json
import sys

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from scipy.special import log_softmax, softmax
from torch.utils.data._utils.pin_memory import pin_memory

from babyvlm.data.frame_mix import Crops, FrameMix, MultiCrop, Views
from babyvlm.data.pair_mix import Source
from babyvlm.data.transforms import seeded
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.models.dino import DINO
from babyvlm.models.networks.vision import PLAYROOM_DINO, VisionEncoder
from babyvlm.training.non_finite_guard import StopOnNonFinite

SIZE, SMALL, LOCALS, PROTOTYPES = 32, 16, 3, 12
CROPS = Crops(local_count=LOCALS, local_size=SMALL)


@pytest.fixture(scope="module")
def stores(tiny_store, tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    splits = ["train" if number % 4 else "val" for number in range(28)]
    tiny_store(["look"] * 28, splits=splits, path=root / "a", size=40)
    tiny_store(["look"] * 6, path=root / "b", size=48)
    return root


def frames(stores, **options):
    small = {"batch_size": 4, "image_size": SIZE, "crops": CROPS, "seed": 5}
    return FrameMix("frames", stores, [Source("a"), Source("b")], **small | options)


def model(**options):
    torch.manual_seed(0)
    small = {"prototypes": PROTOTYPES, "head": {"hidden_dim": 16, "bottleneck_dim": 8, "freeze_last_layer": -1}}
    return DINO(VisionEncoder("test_resnet"), lambda p: torch.optim.AdamW(p, lr=1e-3), **small | options)


class Steps(Callback):
    def __init__(self):
        self.keys, self.losses = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.keys.append(batch.keys)
        self.losses.append(outputs["loss"].item())


def fit(folder, dino, data, *callbacks, steps=9, ckpt_path=None):
    seen = Steps()
    saved = ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)
    run = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        logger=False,
        callbacks=[seen, saved, *callbacks],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    run.fit(dino, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return seen


def test_fit_names_frames_of_non_finite_loss(stores, tmp_path):
    dino = model()
    dino.network.student_head.layers[0].weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="step 0: loss nan"):
        fit(tmp_path, dino, frames(stores), StopOnNonFinite())
    recorded = json.loads((tmp_path / "non-finite-rank0.json").read_text())["keys"]
    assert recorded == fit(tmp_path, model(), frames(stores), steps=1).keys[0]


@pytest.mark.parametrize("made_by", ["pillow", "opencv", "device"])
def test_views_depend_on_seed_epoch_and_key_only(stores, made_by):
    def batches(epoch, **options):
        data = frames(stores, views=made_by, **options)
        data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        loader = data.train_dataloader()
        loader.load_state_dict({"samples_used": epoch * loader.batch_sampler.samples_per_epoch})
        return [data.on_after_batch_transfer(batch, 0) for batch in loader]

    first = batches(0)
    assert len(first) == frames(stores).batches_per_epoch == (21 + 6) // 4
    assert first[0].large_VBCHW.shape == (2, 4, 3, SIZE, SIZE)
    assert first[0].small_VBCHW.shape == (LOCALS, 4, 3, SMALL, SMALL)
    for again in (batches(0), batches(0, num_workers=2)):
        for one, other in zip(first, again, strict=True):
            assert one.keys == other.keys
            assert one.large_VBCHW.dtype == torch.float32
            assert torch.equal(one.large_VBCHW, other.large_VBCHW)
            assert torch.equal(one.small_VBCHW, other.small_VBCHW)
    views = {}
    for batch in [*first, *batches(1), *batches(0, seed=6)]:
        for b, key in enumerate(batch.keys):
            views.setdefault(key, []).append(batch.large_VBCHW[0, b])
    assert all(not torch.equal(x, y) for seen in views.values() for i, x in enumerate(seen) for y in seen[:i])


def test_frame_mix_yields_each_training_frame_once_per_epoch(stores, tmp_path):
    seen = fit(tmp_path, model(), frames(stores, batch_size=27), steps=2)
    expected = sorted([f"k{n:05d}" for n in range(28) if n % 4] + [f"k{n:05d}" for n in range(6)])
    assert [sorted(keys) for keys in seen.keys] == [expected, expected]
    assert seen.keys[0] != seen.keys[1]


def hue(view_CHW):
    return [colorsys.rgb_to_hsv(*pixel)[0] for pixel in (view_CHW / 255).flatten(1).T.tolist()]


@pytest.mark.parametrize("made_by", ["pillow", "opencv", "device"])
def test_fit_without_small_views(stores, tmp_path, made_by):
    data = frames(stores, crops=Crops(local_count=0, local_size=SMALL), views=made_by)
    assert np.isfinite(fit(tmp_path, model(), data, steps=2).losses).all()


def test_views_are_pinned_with_their_draws(stores, monkeypatch):
    data = frames(stores, views="device")
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    batch = next(iter(data.train_dataloader()))
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    assert pin_memory(batch).keys == batch.keys
    assert len(pinned) == 1 + 2 * 8


@pytest.mark.parametrize("colored", [True, False])
def test_views_keep_colors_on_request(colored):
    """Color words can be learned only from views that keep colors."""
    colours = {"jitter": (0.4, 0.4, 0.2, 0.0), "grayscale": 0.0, "solarize": 0.0} if colored else {}
    crop = MultiCrop(SIZE, Crops(LOCALS, SMALL, **colours))
    orange = Image.new("RGB", (40, 40), (220, 120, 20))
    views = [view for seed in range(8) for group in seeded(crop, orange, seed) for view in group]
    off = max(abs(found - 0.083) for view in views for found in hue(view))
    assert (off < 0.03) is colored


def by_hand(teacher_NK, student_NK, center, views, teacher_temperature=0.04, student_temperature=0.1):
    """Return DINO's loss by numpy: all pairs of a large view of the teacher and another view of the student."""
    teacher = softmax((teacher_NK - center) / teacher_temperature, -1).reshape(2, -1, PROTOTYPES)
    student = log_softmax(student_NK / student_temperature, -1).reshape(views, -1, PROTOTYPES)
    terms = [-(teacher[t] * student[s]).sum(-1).mean() for t in range(2) for s in range(views) if s != t]
    return np.mean(terms)


def test_loss_equals_dino_and_center_follows_teacher(tmp_path, stores):
    dino = model(loss={"center_momentum": 0.75})
    dino.log = lambda *_, **__: None
    batch = Views(["a", "b"], torch.randn(2, 2, 3, SIZE, SIZE), torch.randn(LOCALS, 2, 3, SMALL, SMALL))
    large, small = batch.large_VBCHW.flatten(0, 1), batch.small_VBCHW.flatten(0, 1)
    with torch.no_grad():
        teacher = dino.network.teacher_head(dino.network.teacher(large)).double().numpy()
        student = (
            torch.cat([dino.network.student_head(dino.network.student(x)) for x in (large, small)]).double().numpy()
        )
    center = np.zeros(PROTOTYPES)
    for _ in range(2):
        assert dino.training_step(batch, 0).item() == pytest.approx(by_hand(teacher, student, center, 5), rel=1e-4)
        center = 0.75 * center + 0.25 * teacher.mean(0)
        np.testing.assert_allclose(dino.loss.center[0, 0].numpy(), center, atol=1e-6)
    assert abs(center).max() > 1e-3


def test_sinkhorn_targets_use_prototypes_evenly_and_give_loss_by_hand(tmp_path, stores):
    dino = model(centering="sinkhorn", loss={"warmup_teacher_temp": 0.1, "teacher_temp": 0.04})
    dino.log = lambda *_, **__: None
    batch = Views([*"abcd"], torch.randn(2, 4, 3, SIZE, SIZE), torch.randn(LOCALS, 4, 3, SMALL, SMALL))
    large, small = batch.large_VBCHW.flatten(0, 1), batch.small_VBCHW.flatten(0, 1)
    with torch.no_grad():
        teacher_VBK = dino.network.teacher_head(dino.network.teacher(large)).double().numpy().reshape(2, 4, PROTOTYPES)
        parts = [dino.network.student_head(dino.network.student(views)) for views in (large, small)]
    student_VBK = log_softmax(torch.cat(parts).double().numpy() / 0.1, -1).reshape(2 + LOCALS, 4, PROTOTYPES)
    targets = []
    for view_BK in teacher_VBK:
        target_BK = np.exp(view_BK / 0.1)  # of the first epoch
        for _ in range(3):
            target_BK = target_BK / target_BK.sum(0) / PROTOTYPES
            target_BK = target_BK / target_BK.sum(1, keepdims=True) / 4
        targets.append(4 * target_BK)
    terms = [-(targets[t] * student_VBK[s]).sum(-1).mean() for t in range(2) for s in range(2 + LOCALS) if s != t]
    assert dino.training_step(batch, 0).item() == pytest.approx(np.mean(terms), rel=1e-4)
    assert not dino.loss.center.any()


def test_teacher_is_moving_average_of_student(tmp_path, stores):
    dino = model(momentum=0.9)
    start = {name: tensor.clone() for name, tensor in dino.state_dict().items()}
    logged = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            self.before = [
                p.clone() for p in [*dino.network.teacher.parameters(), *dino.network.teacher_head.parameters()]
            ]

        def on_train_batch_end(self, trainer, pl_module, *_):
            momentum = float(trainer.callback_metrics["momentum"])
            logged.append(momentum)
            student = [*dino.network.student.parameters(), *dino.network.student_head.parameters()]
            teacher = [*dino.network.teacher.parameters(), *dino.network.teacher_head.parameters()]
            for before, mine, now in zip(self.before, student, teacher, strict=True):
                torch.testing.assert_close(now, momentum * before + (1 - momentum) * mine)
                assert now.grad is None

    Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=6,
        logger=False,
        callbacks=[Watch()],
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(dino, datamodule=frames(stores))
    assert logged[0] < 0.92
    assert logged == sorted(logged)
    assert logged[-1] == 1
    moved = {name for name, tensor in dino.state_dict().items() if not torch.equal(tensor, start[name])}
    for part in (
        "network.student.",
        "network.student_head.",
        "network.teacher.",
        "network.teacher_head.",
        "loss.center",
    ):
        assert any(name.startswith(part) for name in moved)
    assert "network.student_head.last_layer.weight_v" in moved
    assert "network.student_head.last_layer.weight_g" not in moved


def test_prototypes_are_frozen_in_first_epochs(tmp_path, stores):
    dino = model(head={"hidden_dim": 16, "bottleneck_dim": 8})
    before = dino.network.student_head.last_layer.weight_v.clone()
    fit(tmp_path, dino, frames(stores), steps=6)  # one epoch
    assert torch.equal(dino.network.student_head.last_layer.weight_v, before)
    fit(tmp_path, dino, frames(stores), steps=7)
    assert not torch.equal(dino.network.student_head.last_layer.weight_v, before)


def test_fit_resumed_in_mid_epoch_has_equal_weights(tmp_path, stores):
    complete = model()
    seen = fit(tmp_path / "complete", complete, frames(stores))
    resumed = model()
    rest = fit(tmp_path / "rest", resumed, frames(stores), ckpt_path=tmp_path / "complete" / "step=4.ckpt")
    assert rest.losses == seen.losses[4:]
    assert rest.keys == seen.keys[4:]
    expected = complete.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.state_dict().items())


@pytest.mark.parametrize("half", [True, False])
def test_saved_backbone_is_teacher(tmp_path, stores, half):
    dino = model(half_precision=half)
    fit(tmp_path, dino, frames(stores))
    written = VisionEncoder("test_resnet", weights=str(tmp_path / "backbone.safetensors")).eval()
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        found, teacher, student = (
            encoder.eval()(images) for encoder in (written, dino.network.teacher, dino.network.student)
        )
    scale = teacher.abs().max()
    assert (found - teacher).abs().max() < (1e-2 if half else 1e-6) * scale
    assert (found - student).abs().max() > 2e-2 * scale
    manifest = json.loads((tmp_path / "backbone.json").read_text())
    assert manifest["backbone"] == "test_resnet"
    assert (manifest["steps"], manifest["seed"], manifest["width"]) == (9, 5, dino.network.teacher.width)
    assert manifest["sha256"] == artifacts.sha256_file(tmp_path / "backbone.safetensors")


@pytest.mark.skipif(not PLAYROOM_DINO.exists(), reason="not yet trained")
def test_shipped_backbone_matches_papers():
    manifest = json.loads(PLAYROOM_DINO.with_suffix(".json").read_text())
    assert manifest["sha256"] == artifacts.sha256_file(PLAYROOM_DINO)
    assert PLAYROOM_DINO.stat().st_size < 10e6
    assert not any(word.startswith(("/", "~", "..")) for word in manifest["command"].split())  # no paths of a machine
    encoder = VisionEncoder(manifest["backbone"], manifest["options"], weights="playroom", frozen=True)
    assert encoder.width == manifest["width"]
    with pytest.raises(UserError, match=r"playroom: .* but the backbone needs|playroom: no weights for this backbone"):
        VisionEncoder("test_resnet", weights="playroom")


def test_dino_reports_mistakes_in_one_line(stores):
    for make, message in [
        (lambda: DINO(VisionEncoder("test_resnet", frozen=True), torch.optim.AdamW), r"model\.vision\.frozen"),
        (lambda: model(head={"depth": 3}), r"not accepted by lightly .*depth"),
        (lambda: model(loss={"temperature": 3}), r"not accepted by lightly .*temperature"),
        (lambda: frames(stores, crops=CROPS).__class__("x", stores, [Source("c")]), "c: no such folder"),
    ]:
        with pytest.raises(UserError, match=message) as refusal:
            make()
        assert "\n" not in str(refusal.value)


def test_dino_names_extra_of_missing_lightly(monkeypatch):
    monkeypatch.delitem(sys.modules, "babyvlm.models.dino")
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    with pytest.raises(UserError, match=r"pip install 'lightly>="):
        importlib.import_module("babyvlm.models.dino")


def test_dino_loss_is_computed_in_float32_under_autocast(stores):
    dino = model().train()
    dino.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    dino.log = lambda *_, **__: None
    given = []
    dino.loss.register_forward_pre_hook(lambda _, args: given.append((args, torch.is_autocast_enabled("cpu"))))
    batch = next(iter(frames(stores).train_dataloader()))
    with torch.autocast("cpu", torch.bfloat16):
        loss = dino.training_step(batch, 0)
    (((teacher, student), autocast),) = given
    assert not autocast
    assert {tensor.dtype for tensor in (*teacher, *student, loss)} == {torch.float32}
    loss.backward()


def test_dino_refuses_views_that_backbone_does_not_accept(tmp_path, stores):
    vision = VisionEncoder("vit_tiny_patch16_224", {"img_size": SIZE, "depth": 1})
    dino = DINO(vision, lambda p: torch.optim.AdamW(p, lr=1e-3), PROTOTYPES, {"hidden_dim": 16, "bottleneck_dim": 8})
    with pytest.raises(UserError, match=r"does not accept images of 16 pixels .* dynamic_img_size"):
        fit(tmp_path, dino, frames(stores))
