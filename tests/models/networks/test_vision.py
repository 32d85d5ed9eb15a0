import argparse
import builtins
import os
import pickle
import sys
import types
import zipfile

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models.resnet import Bottleneck, ResNet

from babyvlm.errors import UserError
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.vision import VisionEncoder, load_trunk

# The paper's trunk with one block a stage, and timm's twin of it.
TWIN = {"backbone": "resnext50_32x4d", "options": {"layers": [1, 1, 1, 1]}}
SMALL = "test_resnet"  # timm's own for tests, 0.4 million parameters


@pytest.fixture(scope="module")
def torchvision_trunk():
    torch.manual_seed(1)
    trunk = ResNet(Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4, num_classes=10)
    trunk(torch.randn(4, 3, 32, 32))  # so that the running statistics are not the defaults
    return trunk.eval()


def scrambled(state):
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def as_plain(trunk):
    return trunk.state_dict()


def as_dino(trunk):
    """facebookresearch/dino, main_dino.py: a MultiCropWrapper whose backbone has no fc, DDP around the student."""
    backbone = {name: tensor for name, tensor in trunk.state_dict().items() if not name.startswith("fc.")}
    head = {"head.mlp.0.weight": torch.randn(4, 8), "head.last_layer.weight_g": torch.ones(4, 1)}
    return {
        "student": prefixed("module.", prefixed("backbone.", scrambled(backbone)) | head),
        "teacher": prefixed("backbone.", backbone) | head,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="resnext50_32x4d", lr=0.0005, use_fp16=True),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


def as_dino_of_two_gpus(trunk):
    content = as_dino(trunk)
    return content | {"teacher": prefixed("module.", content["teacher"])}


def as_cvcl(trunk):
    """wkvong/multimodal-baby: every encoder is registered twice, and hyperparameters hold the modules themselves."""
    state = trunk.state_dict()
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "1.6.0",
        "state_dict": prefixed("vision_encoder.model.", state)
        | {"text_encoder.embedding.weight": torch.randn(7, 10)}
        | prefixed("model.image_embed.model.", state)
        | {"model.logit_neg_log_temperature": torch.tensor(2.66)},
        "hyper_parameters": {"args": argparse.Namespace(optimizer=torch.optim.AdamW, lr=1e-4), "vision_encoder": None},
    }


def save_with_foreign_modules(content, path):
    """Write a file as torch.save does where the package ``multimodal`` can be imported, which it cannot be here."""
    package, module = types.ModuleType("multimodal"), types.ModuleType("multimodal.multimodal")
    foreign = type("VisionEncoder", (torch.nn.Linear,), {"__module__": module.__name__})
    module.VisionEncoder = foreign
    sys.modules |= {"multimodal": package, module.__name__: module}
    try:
        content["hyper_parameters"]["vision_encoder"] = foreign(2, 3)
        torch.save(content, path)
    finally:
        del sys.modules["multimodal"], sys.modules[module.__name__]


def assert_same_features(source, trunk):
    encoder = VisionEncoder(**TWIN, weights=str(source)).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    headless = torch.nn.Sequential(*list(trunk.children())[:-1], torch.nn.Flatten())
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), headless(images), atol=1e-5, rtol=1e-4)


def as_run_of_dino(trunk):
    """A checkpoint of our own DINO, which holds the student's trunk too."""
    state = trunk.state_dict()
    return {"state_dict": prefixed("student.trunk.", scrambled(state)) | prefixed("teacher.trunk.", state)}


@pytest.mark.parametrize("layout", [as_plain, as_dino, as_dino_of_two_gpus, as_cvcl, as_run_of_dino])
def test_vision_encoder_reads_common_checkpoint_layouts(tmp_path, torchvision_trunk, layout):
    path = tmp_path / "weights.pth"
    torch.save(layout(torchvision_trunk), path)
    assert_same_features(path, torchvision_trunk)


def test_vision_encoder_reads_checkpoint_that_names_missing_package(tmp_path, torchvision_trunk):
    path = tmp_path / "cvcl.ckpt"
    save_with_foreign_modules(as_cvcl(torchvision_trunk), path)
    with pytest.raises(pickle.UnpicklingError):  # the file does contain foreign modules
        torch.load(path, weights_only=True)
    assert_same_features(path, torchvision_trunk)


def test_vision_encoder_reads_legacy_torch_format(tmp_path, torchvision_trunk):
    path = tmp_path / "dino.pth"
    torch.save(as_dino(torchvision_trunk), path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    assert_same_features(path, torchvision_trunk)


def test_vision_encoder_reads_dino_vision_transformer(tmp_path):
    """facebookresearch/dino's ViT has timm's names, and its classification token's output is what a head reads."""
    shape = {"backbone": "vit_tiny_patch16_224", "options": {"img_size": 32, "depth": 1, "global_pool": "token"}}
    torch.manual_seed(3)
    vit = VisionEncoder(**shape).eval()
    dino_names = {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"}
    assert dino_names <= vit.trunk.state_dict().keys()
    torch.save(as_dino(vit.trunk), tmp_path / "dino_vit.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = VisionEncoder(**shape, weights=str(tmp_path / "dino_vit.pth")).eval()(images)
        torch.testing.assert_close(found, vit(images))


def test_vision_encoder_reads_safetensors(tmp_path, torchvision_trunk):
    save_file(prefixed("vision.trunk.", torchvision_trunk.state_dict()), tmp_path / "run.safetensors")
    assert_same_features(tmp_path / "run.safetensors", torchvision_trunk)


def test_vision_encoder_reads_hub_cache_offline(tmp_path, monkeypatch, torchvision_trunk):
    snapshot = tmp_path / "models--lab--trunks" / "snapshots" / ("0" * 40)
    blob, file = tmp_path / "models--lab--trunks" / "blobs" / "f00d", snapshot / "best" / "teacher.pth"
    blob.parent.mkdir(parents=True)
    file.parent.mkdir(parents=True)
    torch.save(as_dino(torchvision_trunk), blob)
    file.symlink_to(blob)
    (tmp_path / "models--lab--trunks" / "refs").mkdir()
    (tmp_path / "models--lab--trunks" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert_same_features("hf-hub:lab/trunks/best/teacher.pth", torchvision_trunk)
    assert_same_features(f"hf-hub:lab/trunks@{'0' * 40}/best/teacher.pth", torchvision_trunk)
    assert_same_features(str(file.parent), torchvision_trunk)
    (tmp_path / "two").mkdir()
    for name in ("a.pth", "b.safetensors"):
        (tmp_path / "two" / name).touch()
    for source, message in [
        (f"hf-hub:lab/trunks@{'1' * 40}/best/teacher.pth", "download failed .*hf download lab/trunks best/teacher.pth"),
        ("hf-hub:lab/trunks@main/best/teacher.pth", "'main' is not a commit"),
        (str(tmp_path / "two"), "contains 2 weights files"),
        ("hf-hub:lab/trunks/other.pth", "download failed"),
        ("hf-hub:lab/trunks", "expected hf-hub:ORG/NAME/FILE"),
        ("hf-hub:no lab/trunks/x.pth", "download failed"),
    ]:
        with pytest.raises(UserError, match=f"^{source}: {message}"):
            VisionEncoder(SMALL, weights=source)


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "torch"])
def test_vision_encoder_executes_nothing_from_hostile_file(tmp_path, zipped, name):
    witness, path = tmp_path / "witness", tmp_path / "weights.pt"
    payload = {
        "os.system": Payload(os.system, f"touch {witness}"),
        "builtins.exec": Payload(builtins.exec, f"open({str(witness)!r}, 'w')"),
        "torch": Payload(torch.save, {}, str(witness)),
    }[name]
    trunk = timm.create_model(SMALL, num_classes=0)
    torch.save({"state_dict": trunk.state_dict(), "x": payload}, path, _use_new_zipfile_serialization=zipped)
    if name == "torch" and zipped:  # an object beside the weights is skipped
        VisionEncoder(SMALL, weights=str(path))
    else:
        with pytest.raises(UserError, match="cannot be read as weights") as refusal:
            VisionEncoder(SMALL, weights=str(path))
        assert "\n" not in str(refusal.value)
    assert not witness.exists()
    torch.load(path, weights_only=False)
    assert witness.exists()  # the file does execute code in an unsafe loader


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "shape",
            lambda s: s | {"layer1.0.bn1.weight": torch.ones(2, 2)},
            r"bn1\.weight is \(2, 2\), but the",
        ),
        ("missing", lambda s: {n: s[n] for n in s if n != "layer3.0.bn1.bias"}, r"layer3\.0\.bn1\.bias is missing"),
        ("prefix", lambda s: prefixed("a.", s) | {"a.conv1.0.weight": None}, "no state dict found"),
        ("empty", lambda s: {}, r"conv1\.0\.weight is missing"),
        ("list", lambda s: [1, 2], "no state dict found"),
        ("tensor", lambda s: torch.ones(3), "no state dict found"),
    ],
)
def test_vision_encoder_refuses_weights_of_other_architecture(tmp_path, name, change, message):
    path = tmp_path / f"{name}.pt"
    torch.save(change(timm.create_model(SMALL, num_classes=0).state_dict()), path)
    with pytest.raises(UserError, match=message) as refusal:
        VisionEncoder(SMALL, weights=str(path))
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        ({"weights": "none.pt"}, None, "weights file not found"),
        ({"weights": "empty.pt"}, b"", "cannot be read as weights"),
        ({"weights": "text.pt"}, b"hello", "cannot be read as weights"),
        ({"weights": "text.safetensors"}, b"hello", "cannot be read as weights"),
        ({"backbone": "resnot50"}, None, "vision backbone resnot50: timm cannot build it"),
        ({"backbone": "web:resnet"}, None, "not a name in timm's list"),
        ({"options": {"legs": 4}}, None, "options.legs is not allowed. Choose from"),
    ],
)
def test_vision_encoder_reports_mistakes_in_one_line(tmp_path, monkeypatch, arguments, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / arguments["weights"]).write_bytes(content)
    with pytest.raises(UserError, match=message) as refusal:
        VisionEncoder(**{"backbone": SMALL} | arguments)
    assert "\n" not in str(refusal.value)


def test_vision_encoder_loads_all_weights_and_statistics(torchvision_trunk, tmp_path):
    torch.save(as_dino(torchvision_trunk), tmp_path / "dino.pth")
    trunk = timm.create_model(TWIN["backbone"], num_classes=0, **TWIN["options"])
    load_trunk(trunk, str(tmp_path / "dino.pth"))
    expected = torchvision_trunk.state_dict()
    for name, tensor in trunk.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_encoder_does_not_change(frozen):
    torch.manual_seed(0)
    encoder = VisionEncoder(SMALL, frozen=frozen)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for call_train in (False, True):
        if call_train:
            encoder.train()
        out = encoder(torch.randn(2, 3, 32, 32))
        assert out.shape == (2, encoder.width)
        assert out.requires_grad is not frozen
    assert encoder.training
    assert all(parameter.requires_grad is not frozen for parameter in encoder.parameters())
    moved = [name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])]
    assert bool(moved) is not frozen
    assert all("running" in name or "batches" in name for name in moved)
    encoder.eval()
    assert not any(module.training for module in encoder.modules())


def test_frozen_trunk_can_update_its_batch_norm():
    """As torch computes it: batch statistics in training, running averages with momentum 0.1 in evaluation."""
    torch.manual_seed(0)
    encoder = VisionEncoder(SMALL, frozen=True, update_batch_norm=True)
    first = next(module for module in encoder.trunk.modules() if isinstance(module, torch.nn.BatchNorm2d))
    seen = []
    first.register_forward_hook(lambda module, args, out: seen.append(args[0].detach()))
    before = first.running_mean.clone()
    weights = {name: tensor.clone() for name, tensor in encoder.trunk.named_parameters()}
    features = encoder.train()(torch.randn(4, 3, 64, 64))
    torch.testing.assert_close(first.running_mean, 0.9 * before + 0.1 * seen[0].mean((0, 2, 3)))
    assert not features.requires_grad
    assert not encoder.is_constant
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.trunk.named_parameters())
    kept = first.running_mean.clone()
    encoder.eval()(torch.randn(4, 3, 64, 64))
    assert torch.equal(first.running_mean, kept)
    fixed = VisionEncoder(SMALL, frozen=True).train()
    assert fixed.is_constant
    assert not any(module.training for module in fixed.trunk.modules())


SHALLOW = [1, 1, 1, 1]
FAMILIES = [
    ("resnet10t", {}),
    ("resnext50_32x4d", {"layers": SHALLOW}),
    ("mobilenetv3_small_050", {}),
    ("mobilenetv4_conv_small_035", {}),
    ("efficientnet_b0", {}),
    ("efficientvit_b0", {}),
    ("vit_tiny_patch16_224", {"img_size": 64, "depth": 1}),
    ("vit_tiny_patch16_224", {"dynamic_img_size": True, "depth": 1}),
    ("convnext_atto", {"depths": SHALLOW}),
    ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, "depths": SHALLOW}),
    ("maxvit_rmlp_pico_rw_256", {"img_size": 64}),
    ("regnetx_002", {}),
    ("densenet121", {}),
    ("repvgg_a0", {}),
    ("mobileone_s0", {}),
    ("poolformer_s12", {}),
    ("levit_128s", {}),
]


REFUSE_64 = {"levit_128s"}  # of 224 pixels only


@pytest.mark.parametrize(("backbone", "options"), FAMILIES)
def test_backbone_takes_training_step_or_is_refused(backbone, options):
    """The width is that of the output, whatever timm's attributes say."""
    encoder = VisionEncoder(backbone, options)
    images = torch.randn(2, 3, 64, 64)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    if backbone in REFUSE_64:
        with pytest.raises(UserError, match=rf"{backbone} does not accept images of 64 pixels \(.+\)\. Change"):
            encoder.probe(64)
        return
    width = encoder.probe(64)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(module.training for module in encoder.modules())
    projection = torch.nn.Linear(encoder.width, 8)
    optimizer = torch.optim.SGD([*encoder.parameters(), *projection.parameters()], 0.1)
    features = encoder(images)
    assert features.shape == (2, width) == (2, encoder.width)
    projection(features).square().sum().backward()
    optimizer.step()
    assert any(not torch.equal(parameter, before[name]) for name, parameter in encoder.named_parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("backbone", "options", "size", "message"),
    [
        ("vit_tiny_patch16_224", {"depth": 1}, 64, r"does not accept images of 64 pixels .* data\.image_size"),
        (
            "test_resnet",
            {"global_pool": ""},
            64,
            r"of shape \(2, 96, 2, 2\) for two images, not two vectors",
        ),
        ("test_resnet", {"in_chans": 1}, 64, "does not accept images of 64 pixels"),
    ],
)
def test_cvcl_refuses_backbone_in_one_line(vocabulary, backbone, options, size, message):
    with pytest.raises(UserError, match=message) as refusal:
        CVCL(vocabulary, VisionEncoder(backbone, options), image_size=size)
    assert "\n" not in str(refusal.value)
