import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import babyvlm
from babyvlm.__main__ import main
from babyvlm.data.transforms import eval_transform
from babyvlm.errors import UserError
from babyvlm.io.hub import asked_once
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.checkpoints import best_checkpoint
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.babyllava import processor
from babyvlm.models.networks.vision import VisionEncoder

LANGUAGE = {"family": "gpt2", "width": 16, "layers": 1, "heads": 2, "inner": 32, "positions": 64}
LLAMA = LANGUAGE | {"family": "llama", "kv_heads": 1, "dropout": 0}
FROZEN = {
    "class_path": "babyvlm.models.networks.vision.VisionEncoder",
    "init_args": {"backbone": "test_resnet", "frozen": True},
}
MODELS = {
    "CVCL": {"class_path": "babyvlm.models.cvcl.CVCL", "init_args": {"vision": FROZEN, "width": 8}},
    "BabyLLaVA": {
        "class_path": "babyvlm.models.babyllava.BabyLLaVA",
        "init_args": {"vision": FROZEN, "language": LANGUAGE, "train_language": True},
    },
    "BabyLlama": {
        "class_path": "babyvlm.models.babyllava.BabyLLaVA",
        "init_args": {"vision": FROZEN, "language": LLAMA, "likelihood": "total"},
    },
}
CLIP = {
    "class_path": "babyvlm.models.clip.ClipTraining",
    "init_args": {
        "embed_dim": 8,
        "vision": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text": {"context_length": 9, "width": 16, "heads": 2, "layers": 1},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    },
}
TEXTS = ["look at the ball", "the dog runs"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_store, make_vocabulary):
    """Real runs of two steps, by the command line, moved away from their inputs."""
    made, moved = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("moved")
    (made / "stores").mkdir()
    splits = ["train", "train", "train", "train", "val", "val", "test", "test"]
    texts = ["look at the ball", "the ball is red", "look at the dog", "the dog runs", "wash the cup", "a red cup"]
    store = tiny_store([*texts, *texts[-2:]], splits=splits, path=made / "stores" / "home")
    shutil.move(make_vocabulary(store), made / "vocabulary")
    data = {
        "name": "tiny",
        "stores": str(made / "stores"),
        "sources": [{"store": "home"}],
        "validation": "home",
        "vocabulary": str(made / "vocabulary"),
        "batch_size": 2,
        "image_size": 64,
        "max_tokens": 9,
    }
    trainer = {
        "accelerator": "cpu",
        "max_steps": 2,
        "val_check_interval": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"monitor": "val_loss", "save_last": True},
            }
        ],
    }
    for name, model in (MODELS | {"CLIP": CLIP}).items():
        config = {
            "name": name,
            "log_dir": str(made / "logs"),
            "test_after_fit": False,
            "trainer": trainer,
            "model": model,
            "data": {"class_path": "babyvlm.data.pair_mix.PairMix", "init_args": data},
        }
        (made / "config.yaml").write_text(yaml.safe_dump(config))
        main(["fit", "--config", str(made / "config.yaml")])
    shutil.move(made / "logs", moved / "logs")
    shutil.rmtree(made)
    return {name: moved / "logs" / f"{name}-tiny" / "version_0" for name in (*MODELS, "CLIP")}


@pytest.fixture(scope="module")
def folders(runs, tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    for name in MODELS:
        main(["export", "--run", str(runs[name]), "--out", str(root / name)])
    return {name: root / name for name in MODELS}


def cup():
    pil_image = Image.new("RGB", (90, 70), "teal")
    pil_image.paste("orange", (20, 30, 60, 70))
    return pil_image


def answers(model):
    image = model.preprocess(cup())[None]
    with torch.no_grad():
        return model.score(image, TEXTS)


@pytest.mark.parametrize("name", MODELS)
def test_load_returns_model_of_run(runs, name):
    model = babyvlm.load(runs[name])
    assert type(model) is (CVCL if name == "CVCL" else BabyLLaVA)
    assert not model.training
    assert (model.max_tokens, tuple(model.preprocess(cup()).shape)) == (9, (3, 64, 64))
    state = torch.load(best_checkpoint(runs[name]), weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert answers(model).isfinite().all()
    if name != "CVCL":
        assert set(model.caption(model.preprocess(cup())[None])[0].split()) <= set(model.vocabulary.words)
        assert model.likelihood == ("total" if name == "BabyLlama" else "mean")


def test_load_returns_clip_of_run(runs):
    model = babyvlm.load(runs["CLIP"])
    state = torch.load(best_checkpoint(runs["CLIP"]), weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert answers(model).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_load_of_export_equals_run(runs, folders, name):
    model = babyvlm.load(str(folders[name]))
    expected = babyvlm.load(runs[name])
    assert model.state_dict().keys() == expected.state_dict().keys()
    assert torch.equal(answers(model), answers(expected))
    written = [path.relative_to(folders[name]) for path in folders[name].rglob("*") if path.is_file()]
    assert not [path for path in written if path.suffix not in (".json", ".jinja", ".md", ".safetensors", ".sha256")]
    assert str(runs[name].parents[1]) not in (folders[name] / "babyvlm.json").read_text()


def test_export_is_skipped_if_complete_and_rebuilt_if_not(runs, folders, capsys):
    main(["export", "--run", str(runs["CVCL"]), "--out", str(folders["CVCL"])])
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["export", "--run", str(runs["BabyLLaVA"]), "--out", str(folders["CVCL"])])
    assert "different arguments: checkpoint" in capsys.readouterr().err


def code_in(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


BEFORE_REGISTRATION = """
import babyvlm
from transformers import CONFIG_MAPPING, LlavaForConditionalGeneration
assert LlavaForConditionalGeneration.__name__ == "LlavaForConditionalGeneration"
assert "babyllava" not in CONFIG_MAPPING
"""
AFTER_REGISTRATION = """
from transformers import AutoConfig
for _ in range(2):
    babyvlm.register_auto_classes()
assert AutoConfig.for_model("babyllava").model_type == "babyllava"
"""


def test_model_card_code_captions_an_image_in_a_new_process(folders, tmp_path):
    """Also: transformers is imported after babyvlm, and registration is explicit and can be repeated."""
    cup().save(tmp_path / "cup.jpg")
    ours, theirs = code_in(folders["BabyLLaVA"] / "README.md")
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_REGISTRATION + theirs + ours + AFTER_REGISTRATION],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    model = babyvlm.load(folders["BabyLLaVA"])
    with Image.open(tmp_path / "cup.jpg") as pil_image:
        image = model.preprocess(pil_image.convert("RGB"))[None]
    caption, scores = done.stdout.strip().split("\n", 1)
    assert caption == model.caption(image)[0]
    assert scores == str(model.score(image, ["cup", "ball"]))


def test_transformers_example_in_docs_is_that_of_the_model_card(folders):
    """Which the test above runs."""
    page = Path(__file__).parents[2] / "docs/models/babyllava.md"
    (example,) = [code for code in code_in(page) if "from_pretrained" in code]
    _, card = code_in(folders["BabyLLaVA"] / "README.md")
    card = re.sub(r"from_pretrained\(.*?\)", 'from_pretrained("FOLDER")', card)
    assert example.split() == card.split()


def test_exported_processor_equals_training_transform(folders):
    model, processor = babyvlm.load(folders["BabyLLaVA"]), AutoProcessor.from_pretrained(folders["BabyLLaVA"])
    for size in ((90, 70), (64, 64), (132, 400)):
        pil_image = cup().resize(size)
        inputs = processor(images=pil_image, text="<image><sos>look at", return_tensors="pt")
        torch.testing.assert_close(inputs.pixel_values[0], model.preprocess(pil_image), atol=1.01 / 255 / 0.224, rtol=0)
    words = model.vocabulary.words
    assert [words[token] for token in inputs.input_ids[0]] == ["<image>"] * 4 + ["<sos>", "look", "at"]


@pytest.mark.parametrize("name", ["BabyLLaVA", "BabyLlama"])
def test_exported_processor_batches_prompts_of_conversations(folders, name):
    """Prompts of different lengths give in a batch, padded on the left, what each gives alone."""
    processor = AutoProcessor.from_pretrained(folders[name])
    vlm = AutoModelForImageTextToText.from_pretrained(folders[name]).eval()
    starts = ["", "look at", "the dog runs"]
    talks = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for text in starts]
    prompts = processor.apply_chat_template(talks, tokenize=False, add_generation_prompt=True)
    assert prompts == [f"<image><sos>{text}" for text in starts]
    images = [cup().resize((70, 64)).rotate(90 * number) for number in range(3)]
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    together = vlm.generate(**processor(images=images, text=prompts, padding=True, return_tensors="pt"), **options)
    for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        alone = vlm.generate(**processor(images=image, text=prompt, return_tensors="pt"), **options)
        for step, logits in enumerate(alone.logits):
            torch.testing.assert_close(together.logits[step][number], logits[0], atol=1e-4, rtol=1e-4)
        new = alone.sequences[0, -len(alone.logits) :]
        first = together.sequences.shape[1] - len(together.logits)
        assert torch.equal(together.sequences[number, first : first + len(new)], new)
    with pytest.raises(Exception, match="a prompt has exactly one image"):
        processor.apply_chat_template([{"role": "user", "content": "look"}], tokenize=False)


@pytest.mark.parametrize("size", [(90, 70), (64, 64), (132, 400)])
def test_processor_squeezes_as_training(folders, size):
    squeeze = processor(folders["BabyLLaVA"] / "tokenizer.json", 64, 4, "squeeze")
    pil_image = cup().resize(size)
    found = squeeze(images=pil_image, text="<image>", return_tensors="pt").pixel_values[0]
    expected = eval_transform(64, "squeeze")(pil_image)
    torch.testing.assert_close(found, expected, atol=3.01 / 255 / 0.224, rtol=0)  # bicubic overshoots at edges


def test_transformers_loads_trained_language_model(folders):
    vlm = AutoModelForImageTextToText.from_pretrained(folders["BabyLLaVA"])
    expected = babyvlm.load(folders["BabyLLaVA"]).network.llava
    state = vlm.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.state_dict().items())
    assert vlm.lm_head.weight is vlm.get_input_embeddings().weight


def test_model_card_prompts_as_the_template(runs, tmp_path):
    run, config = altered(runs, tmp_path, "BabyLLaVA")
    for template, prompt in (("sos_eos", "<image><sos>"), ("plain", "<image>")):
        config["model"]["init_args"]["template"] = template
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        main(["export", "--run", str(run), "--out", str(tmp_path / template)])
        assert f'text="{prompt}"' in (tmp_path / template / "README.md").read_text()
        assert babyvlm.load(tmp_path / template).network.template == template


def test_model_card_has_no_empty_fields(folders, runs):
    card = (folders["BabyLLaVA"] / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["pipeline_tag"] == "image-text-to-text"
    assert "# BabyLLaVA-tiny" in card
    count = sum(parameter.numel() for parameter in babyvlm.load(runs["BabyLLaVA"]).parameters())
    assert f"{count:,} parameters" in card
    assert "mix: tiny (home)" in card
    assert "no test results" in card
    assert not re.search(r"[{}]", re.sub(r"```.*?```", "", card, flags=re.DOTALL))
    assert "pipeline_tag" not in (folders["CVCL"] / "README.md").read_text()


def altered(runs, tmp_path, name="CVCL"):
    shutil.copytree(runs[name], tmp_path / "run")
    return tmp_path / "run", yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())


@pytest.mark.parametrize("place", ["model", "vision", "text"])
def test_load_instantiates_nothing_from_hostile_config(runs, tmp_path, place, monkeypatch):
    run, config = altered(runs, tmp_path)
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'witness')!r}, 'w')\nclass Model: ...")
    monkeypatch.syspath_prepend(tmp_path)
    evil = {"class_path": "evil_module.Model"}
    if place == "model":
        config["model"] |= evil
    else:
        config["model"]["init_args"][place] = evil
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="evil_module"):
        babyvlm.load(run)
    assert not (tmp_path / "witness").exists()


def test_hub_that_cannot_be_reached_is_asked_once(monkeypatch, caplog):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with asked_once():
        assert constants.HF_HUB_OFFLINE  # what the hub's library obeys: no attempt, only the cache
    assert not constants.HF_HUB_OFFLINE
    with pytest.raises(UserError, match=r"download failed .*run `hf download lab/no-such-model a.pth"):
        VisionEncoder("resnet18", weights="hf-hub:lab/no-such-model/a.pth")
    assert "Retry" not in caplog.text  # otherwise five attempts take a minute


def test_load_reports_mistakes(runs, folders, tmp_path):
    with pytest.raises(
        UserError, match=r"nowhere: no such folder, and the hub does not provide it .*`hf download nowhere --local-dir"
    ):
        babyvlm.load("nowhere")
    with pytest.raises(UserError, match="neither a run, an exported model nor a published checkpoint"):
        babyvlm.load(tmp_path)
    run, config = altered(runs, tmp_path)
    config["model"]["init_args"]["width"] = 9
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"network.projection.weight is \(8,"):
        babyvlm.load(run)
    shutil.copytree(folders["CVCL"], tmp_path / "export")
    words = tmp_path / "export" / "vocabulary" / "tokenizer.json"
    words.write_text(json.dumps(json.loads(words.read_text())))
    with pytest.raises(UserError, match="changed since it was created"):
        babyvlm.load(tmp_path / "export")
