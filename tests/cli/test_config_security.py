"""No config, overlay, saved run, matrix, model folder, profile or hub model executes code or writes a file.

Every case is a file that somebody else could have written. Its payload is a file named PWNED in the working folder.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonargparse
import pytest
import torch
import yaml

import babyvlm
from babyvlm import allowed
from babyvlm.__main__ import main
from babyvlm.ablations.plan import Plan
from babyvlm.config import CheckedParser, restrict_imports
from babyvlm.curation.clip import load_clip
from babyvlm.errors import UserError
from babyvlm.io import hub
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.models.zero_shot import HFVisionLanguage
from support.gadgets import GADGETS, PAYLOAD, PLACES, TOUCH, at, merge, write_evil, write_json, write_yaml
from support.killing import tree

COMMANDS = ("fit", "validate", "test", "predict")
POPEN = GADGETS["subprocess.Popen"]

TEXTS = [f"{verb} the {noun}" for verb in ("see", "wash") for noun in ("ball", "dog", "cup", "car")]


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_store, make_vocabulary):
    """A folder with a small store, and the config of a run on it that works."""
    folder = tmp_path_factory.mktemp("gadgets")
    store = tiny_store(TEXTS, path=folder / "stores" / "home", splits=["train"] * 4 + ["val"] * 2 + ["test"] * 2)
    write_evil(folder)
    vision = {"class_path": "babyvlm.models.networks.vision.VisionEncoder", "init_args": {"backbone": "test_resnet"}}
    data = {"name": "tiny", "stores": "stores", "sources": [{"store": "home"}], "validation": "home"}
    data |= {"vocabulary": str(make_vocabulary(store)), "batch_size": 2, "image_size": 64, "max_tokens": 9}
    config = {
        "name": "CVCL",
        "trainer": {"accelerator": "cpu", "max_steps": 2, "logger": False, "enable_checkpointing": False},
        "model": {"class_path": "babyvlm.models.cvcl.CVCL", "init_args": {"vision": vision, "width": 8}},
        "data": {"class_path": "babyvlm.data.pair_mix.PairMix", "init_args": data},
    }
    write_yaml(folder / "base.yaml", config)
    write_yaml(folder / "gadget.yaml", {})
    return folder, config


def files(folder):
    """What is in a folder, but for the locks of runs and the cache of a store that training reads."""
    found = tree(folder)
    return {name: found[name] for name in found if not name.endswith(".lock") and "/arrow" not in name}


@pytest.fixture
def refused(base, monkeypatch, capfd):
    """``refused(args)``: the message with which a command line is refused, in which nothing ran or was written."""
    folder, _ = base
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv(allowed.VARIABLE, raising=False)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))

    def run(args):
        before = files(folder)
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        check(before)
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert end.value.code == 2
        assert len(lines) == 1
        return lines[0]

    def check(before):
        assert not (folder / PAYLOAD).exists()
        assert files(folder) == before
        assert "evil_module" not in sys.modules

    run.check = check
    return run


def refused_call(refused, base, function, *args, **kwargs):
    """The same of a call in a program."""
    before = files(base[0])
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    refused.check(before)
    return str(error.value)


def one_in(step, names):
    """Every ``step``-th case in the short form of the tests, the others in soak."""
    return [
        pytest.param(name, marks=[] if number % step == 0 else pytest.mark.soak) for number, name in enumerate(names)
    ]


# Every gadget once and every place once, through a command that changes from one to the next.
BY_GADGET = list(zip(GADGETS, itertools.cycle(PLACES), itertools.cycle(COMMANDS)))


def test_every_place_has_a_gadget():
    assert {place for _, place, _ in BY_GADGET} == set(PLACES)


@pytest.mark.parametrize(("gadget", "place", "command"), BY_GADGET)
def test_overlay_with_gadget_is_refused(refused, base, gadget, place, command):
    overlay = write_yaml(base[0] / "gadget.yaml", PLACES[place](GADGETS[gadget]))
    refused([command, "--config", "base.yaml", "--config", overlay.name])


@pytest.mark.soak
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("gadget", GADGETS)
def test_gadget_is_refused_at_every_place(refused, base, gadget, place):
    overlay = write_yaml(base[0] / "gadget.yaml", PLACES[place](GADGETS[gadget]))
    for command in ("fit", "test"):
        refused([command, "--config", "base.yaml", "--config", overlay.name])


@pytest.mark.parametrize("place", one_in(4, PLACES))
def test_gadget_as_a_bare_name_is_refused(refused, base, place):
    """A class or function may be named by a string alone."""
    overlay = write_yaml(base[0] / "gadget.yaml", PLACES[place]("evil_module.function"))
    if place in ("name", "data.name", "log_dir", "dirpath"):
        pytest.skip("a string is a name here")
    refused(["fit", "--config", "base.yaml", "--config", overlay.name])


@pytest.mark.parametrize("gadget", one_in(4, list(GADGETS)[:12]))
def test_gadget_on_the_command_line_is_refused(refused, gadget):
    """An ablation's options reach the command line out of a file."""
    refused(["fit", "--config", "base.yaml", "--model", gadget])
    refused(["fit", "--config", "base.yaml", "--trainer.callbacks+", gadget])


@pytest.mark.parametrize("gadget", one_in(4, list(GADGETS)[::4]))
def test_printing_a_config_executes_nothing(base, refused, gadget, capfd):
    overlay = write_yaml(base[0] / "gadget.yaml", PLACES["an option"](GADGETS[gadget]))
    before = files(base[0])
    with pytest.raises(SystemExit):
        main(["fit", "--config", "base.yaml", "--config", overlay.name, "--print_config"])
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", gadget])
    refused.check(before)


VALUES = {
    "a checkpoint by http": {"ckpt_path": "http://127.0.0.1:9/x.ckpt"},
    "a checkpoint by https": {"ckpt_path": "https://127.0.0.1:9/x.ckpt"},
    "a checkpoint by file": {"ckpt_path": "file:///evil.ckpt"},
    "a checkpoint by s3": {"ckpt_path": "s3://bucket/x.ckpt"},
    "a checkpoint by gs": {"ckpt_path": "gs://bucket/x.ckpt"},
    "a checkpoint by hf": {"ckpt_path": "hf://org/name/x.ckpt"},
    "a checkpoint by a chain": {"ckpt_path": "simplecache::file://evil.ckpt"},
    "a registered checkpoint": {"ckpt_path": "registry:evil"},
    "the best of no run": {"ckpt_path": "best"},
    "the last of another run": {"ckpt_path": "last"},
    "a slurm checkpoint": {"ckpt_path": "hpc"},
    "a folder as checkpoint": {"ckpt_path": "stores"},
    "weights_only false": {"weights_only": False},
    "weights_only false with a checkpoint": {"ckpt_path": "evil.ckpt", "weights_only": False},
    "a pickled checkpoint": {"ckpt_path": "evil.ckpt"},
    "init_from a pickle": at("model", "init_args", "init_from")("evil.ckpt"),
    "init_from a URL": at("model", "init_args", "init_from")("http://127.0.0.1:9/x.ckpt"),
    "weights from a pickle": at("model", "init_args", "vision", "init_args", "weights")("evil.ckpt"),
    "weights from a URL": at("model", "init_args", "vision", "init_args", "weights")("http://127.0.0.1:9/x.pt"),
    "a backbone from a folder": at("model", "init_args", "vision", "init_args", "backbone")("local-dir:."),
    "a backbone from a hub": at("model", "init_args", "vision", "init_args", "backbone")("hf-hub:org/evil"),
    "pretrained_cfg": at("model", "init_args", "vision", "init_args", "options", "pretrained_cfg")({"url": "file:x"}),
    "checkpoint_path": at("model", "init_args", "vision", "init_args", "options", "checkpoint_path")("evil.ckpt"),
    "cache_dir": at("model", "init_args", "vision", "init_args", "options", "cache_dir")(PAYLOAD),
    "scriptable": at("model", "init_args", "vision", "init_args", "options", "scriptable")(True),
    "logs at a URL": {"log_dir": "file://x"},
    "a root folder": at("trainer", "default_root_dir")("."),
    "a registry": at("trainer", "model_registry")("org/name"),
    "a name above": {"name": "../../x"},
    "an absolute name": {"name": f"/{PAYLOAD}"},
    "a mix above": at("data", "init_args", "name")("../../x"),
    "a run folder above": {"run_folder": "../x"},
    "an allowed module": {"allow": "evil_module"},
    "the environment": {"env": {"BABYVLM_ALLOW": "evil_module"}},
}


@pytest.mark.parametrize("name", VALUES)
def test_dangerous_value_is_refused(refused, base, name):
    overlay = write_yaml(base[0] / "gadget.yaml", VALUES[name])
    command = "fit" if list(VALUES).index(name) % 2 or "run_folder" in VALUES[name] else "test"
    refused([command, "--config", "base.yaml", "--config", overlay.name, "--trainer.logger", "true"])


@pytest.mark.soak
@pytest.mark.parametrize("name", VALUES)
def test_dangerous_value_is_refused_by_every_command(refused, base, name):
    overlay = write_yaml(base[0] / "gadget.yaml", VALUES[name])
    for command in ("fit",) if "run_folder" in VALUES[name] else COMMANDS:
        refused([command, "--config", "base.yaml", "--config", overlay.name, "--trainer.logger", "true"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.yaml", "file://gadget.yaml", "simplecache::file://gadget.yaml"])
def test_config_at_a_url_is_not_read(refused, url):
    refused(["fit", "--config", url])
    refused(["fit", "--config", "base.yaml", "--model", url])


def run_folder(base, overlay, name="run"):
    """A run whose saved config somebody has changed."""
    folder, config = base
    run = folder / "lightning_logs" / "row" / name
    run.mkdir(parents=True, exist_ok=True)
    saved = merge({"log_dir": "lightning_logs", "weights_only": None, "ckpt_path": None} | config, overlay)
    write_yaml(run / "config.yaml", saved)
    (run / ".lock").touch()
    return run


SAVED = [
    "model",
    "model.text",
    "model.vision",
    "vision.options",
    "an option",
    "vision.dict_kwargs",
    "model.dict_kwargs",
]


@pytest.mark.parametrize("place", one_in(4, PLACES))
def test_saved_config_with_gadget_is_not_resumed(refused, base, place):
    run = run_folder(base, PLACES[place](POPEN))
    refused(["resume", run])


@pytest.mark.parametrize("checkpoint", ["recovery/step-000000001.ckpt", "checkpoints/last.ckpt"])
def test_pickled_checkpoint_of_a_run_is_not_loaded(refused, base, checkpoint):
    run = run_folder(base, {}, "pickled")
    place = run / checkpoint
    place.parent.mkdir(exist_ok=True)
    place.write_bytes((base[0] / "evil.ckpt").read_bytes())
    refused(["export", "--run", run, "--out", "exported"])
    refused_call(refused, base, babyvlm.load, run)


@pytest.mark.parametrize("place", SAVED)
@pytest.mark.parametrize(
    "gadget", one_in(3, ["subprocess.Popen", "evil_module.Model", "torch.hub.download_url_to_file"])
)
def test_run_with_gadget_is_neither_loaded_nor_exported(refused, base, place, gadget):
    run = run_folder(base, PLACES[place](GADGETS[gadget]))
    refused_call(refused, base, babyvlm.load, run)
    refused(["export", "--run", run, "--out", "exported"])
    evaluation = {"model": {"class_path": "babyvlm.models.zero_shot.Trained", "init_args": {"source": str(run)}}}
    write_yaml(base[0] / "gadget.yaml", {"trainer": {"accelerator": "cpu", "logger": False}} | evaluation)
    refused(["test", "--config", "gadget.yaml"])


def exported(base, model, **files):
    """An exported folder that somebody has changed."""
    folder = base[0] / "exported-model"
    manifest = {"kind": "babyvlm", "version": 1, "arguments": {}, "model": model, "licensed": False}
    write_json(folder / "babyvlm.json", manifest)
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    return folder


@pytest.mark.parametrize("place", SAVED)
def test_exported_model_with_gadget_is_not_loaded(refused, base, place):
    recipe = merge(base[1], PLACES[place](POPEN))["model"]
    refused_call(refused, base, babyvlm.load, exported(base, recipe))


OTHER_MODELS = {
    "another program": POPEN,
    "a loader of other models": {
        "class_path": "babyvlm.models.zero_shot.Trained",
        "init_args": {"source": "evil/evil"},
    },
    "a hub model": {"class_path": "babyvlm.models.zero_shot.HFVisionLanguage", "init_args": {"model": "evil/evil"}},
    "a CLIP of another folder": {
        "class_path": "babyvlm.models.zero_shot.OpenClip",
        "init_args": {"clip": "hf-hub:e/e"},
    },
    "an unknown key": {"class_path": "babyvlm.models.cvcl.CVCL", "init_args": {}, "allow": "evil_module"},
    "no class": {"init_args": {}},
    "a class that is a list": {"class_path": ["subprocess.Popen"], "init_args": {}},
    "arguments that are a list": {"class_path": "babyvlm.models.cvcl.CVCL", "init_args": TOUCH},
    "a string": "subprocess.Popen",
    "nothing": None,
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_exported_folder_names_a_trained_model_only(refused, base, name):
    refused_call(refused, base, babyvlm.load, exported(base, OTHER_MODELS[name]))


AUTO_MAP = {"AutoModel": "evil_module.Model", "AutoConfig": "evil_module.Model", "AutoTokenizer": "evil_module.Model"}
ASKING = {
    "auto_map": {"config": {"model_type": "llava", "auto_map": AUTO_MAP}},
    "a nested auto_map": {"config": {"model_type": "llava", "text_config": {"model_type": "x", "auto_map": AUTO_MAP}}},
    "a tokenizer's auto_map": {"tokenizer_config": {"auto_map": {"AutoTokenizer": ["evil_module.Model", None]}}},
    "a processor's auto_map": {"processor_config": {"auto_map": {"AutoProcessor": "evil_module.Model"}}},
    "an image processor's auto_map": {"preprocessor_config": {"auto_map": {"AutoImageProcessor": "evil_module.Model"}}},
    "consent": {"config": {"model_type": "llava", "trust_remote_code": True}},
    "a kernel": {"config": {"model_type": "llava", "attn_implementation": "evil/kernel"}},
    "a trunk's checkpoint": {
        "config": {"vision_config": {"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "evil.ckpt"}}}
    },
    "a trunk's URL": {"config": {"vision_config": {"model_args": {"pretrained_cfg": {"url": "file:evil.ckpt"}}}}},
    "an adapter": {"adapter_config": {"base_model_name_or_path": "evil/evil"}},
    "a pipeline": {"config": {"custom_pipelines": {"x": {"impl": "evil_module.Model"}}}},
    "a part of another library": {"model_index": {"unet": ["evil_module", "Model"]}},
    "a pipeline of its own": {"model_index": {"_class_name": ["evil_module", "Model"]}},
}


@pytest.mark.parametrize("name", ASKING)
def test_model_folder_that_asks_for_code_is_refused_without_a_question(refused, base, name):
    folder = base[0] / "asking" / name.replace(" ", "-")
    for file, content in ASKING[name].items():
        write_json(folder / f"{file}.json", content)
    write_json(folder / "open_clip_config.json", {"model_cfg": {"text_cfg": {"hf_tokenizer_name": "x"}}})
    (folder / "evil_module.py").write_text((base[0] / "evil_module.py").read_text())
    refused_call(refused, base, HFVisionLanguage, str(folder), "float32")
    refused_call(refused, base, load_clip, f"local-dir:{folder}")
    files = ASKING[name]
    refused_call(refused, base, babyvlm.load, exported(base, base[1]["model"], **files))
    for file in files:
        (base[0] / "exported-model" / f"{file}.json").unlink()


CLIP_SETTINGS = {
    "consent": {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}, "hf_tokenizer_name": "."}},
    "another text model": {"text_cfg": {"hf_model_name": "evil/evil"}},
    "a trunk of another folder": {"vision_cfg": {"timm_model_name": "local-dir:."}, "text_cfg": {}},
}


@pytest.mark.parametrize("name", CLIP_SETTINGS)
def test_clip_folder_with_dangerous_settings_is_refused(refused, base, name):
    folder = base[0] / "clips" / name.replace(" ", "-")
    write_json(folder / "open_clip_config.json", {"model_cfg": CLIP_SETTINGS[name]})
    assert "from elsewhere" in refused_call(refused, base, load_clip, f"local-dir:{folder}")


def test_hub_model_that_asks_for_code_is_refused_after_its_configs_were_fetched(refused, base, monkeypatch):
    folder = base[0] / "hub"
    write_json(folder / "config.json", {"model_type": "llava", "auto_map": AUTO_MAP})
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: asked.append(options) or str(folder))
    assert "auto_map" in refused_call(refused, base, HFVisionLanguage, "org/evil")
    assert "auto_map" in refused_call(refused, base, babyvlm.load, "org/evil")
    assert "auto_map" in refused_call(refused, base, load_clip, "hf-hub:org/evil")
    assert len(asked) == 3
    assert all("*.py" in options["ignore_patterns"] for options in asked)


def test_torchscript_is_loaded_only_if_it_is_a_published_file(refused, base, monkeypatch):
    script = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(script, base[0] / "ViT-B-32.pt")
    message = refused_call(refused, base, load_clip, f"ViT-B-32-quickgelu/{base[0] / 'ViT-B-32.pt'}")
    assert "only OpenAI's published files" in message
    refused_call(refused, base, VisionEncoder, "test_resnet", None, str(base[0] / "ViT-B-32.pt"))
    (base[0] / "ViT-B-32.pt").unlink()


MATRIX = {
    "base": ["base.yaml"],
    "seeds": [0],
    "steps": {"cvcl": {"configs": ["gadget.yaml"], "options": {}}},
    "models": {"CVCL": {"step": "cvcl", "mixes": ["tiny"]}},
}
MATRIX_PLACES = {
    "the matrix": lambda gadget: gadget,
    "base": at("base"),
    "seeds": at("seeds"),
    "steps": at("steps"),
    "a step": at("steps", "cvcl"),
    "configs": at("steps", "cvcl", "configs"),
    "options": at("steps", "cvcl", "options"),
    "an option": at("steps", "cvcl", "options", "model"),
    "start_from": at("steps", "cvcl", "start_from"),
    "models": at("models"),
    "a model": at("models", "CVCL"),
    "upper_bounds": at("upper_bounds"),
    "quick": at("quick"),
    "quick options": lambda gadget: at("quick")({"seeds": [0], "options": {"cvcl": {"model": gadget}}}),
    "a launcher": lambda gadget: {"launcher": f"touch {PAYLOAD}"},
}


def options(**given):
    """A matrix with these options of its step."""
    return merge(MATRIX, at("steps", "cvcl", "options")(given))


# A matrix becomes folders, and command lines of other processes.
MATRIX_WORDS = {
    "an option that allows a module": options(allow="evil_module"),
    "a quick option that allows a module": MATRIX | {"quick": {"seeds": [0], "options": {"cvcl": {"allow": "os"}}}},
    "an option with its value": options(**{"allow=evil_module": ""}),
    "an option with a dash": options(**{"-allow": "evil_module"}),
    "an option that reads a config": options(config="gadget.yaml"),
    "an option that moves the run": options(log_dir=".."),
    "a source that allows a module": merge(MATRIX, at("steps", "cvcl", "start_from")({"allow": "cvcl"})),
    "a source above the run": merge(MATRIX, at("steps", "cvcl", "start_from")({"model.init_from": "cvcl/../../x"})),
    "a model above": MATRIX | {"models": {"../../CVCL": {"step": "cvcl", "mixes": ["tiny"]}}},
    "a mix above": MATRIX | {"models": {"CVCL": {"step": "cvcl", "mixes": ["x/../.."]}}},
    "an absolute model": MATRIX | {"models": {"/tmp/CVCL": {"step": "cvcl", "mixes": ["tiny"]}}},
    "an upper bound above": MATRIX | {"upper_bounds": {"../x": ["gadget.yaml"]}},
    "a step above": MATRIX | {"steps": {"cvcl": {"configs": []}, "../../x": {"configs": []}}},
}


@pytest.mark.parametrize("name", MATRIX_WORDS)
def test_matrix_with_dangerous_names_is_refused(refused, base, name):
    write_yaml(base[0] / "gadget.yaml", {"model": {"class_path": "evil_module.Model"}})
    matrix = write_yaml(base[0] / "matrix.yaml", MATRIX_WORDS[name])
    assert "matrix.yaml" in refused(["ablations", "run", "--matrix", matrix])


def test_values_of_a_matrix_are_not_taken_for_options(base, monkeypatch):
    monkeypatch.chdir(base[0])
    write_yaml(base[0] / "gadget.yaml", {})
    (base[0] / "--allow=evil_module").write_text("{}")
    write_yaml(base[0] / "matrix.yaml", options(name="--allow=evil_module") | {"base": ["--allow=evil_module"]})
    plan = Plan(Path("matrix.yaml"))
    command = plan.run(plan.tasks[0]).command
    (base[0] / "--allow=evil_module").unlink()
    assert "--config=--allow=evil_module" in command
    assert "--name=--allow=evil_module" in command
    assert not any(argument.startswith("--allow") for argument in command)


@pytest.mark.parametrize("place", MATRIX_PLACES)
@pytest.mark.parametrize("gadget", one_in(3, ["subprocess.Popen", "evil_module.Model", "babyvlm.ablations.runner.run"]))
def test_matrix_with_gadget_is_refused(refused, base, gadget, place):
    write_yaml(base[0] / "gadget.yaml", {})
    matrix = write_yaml(base[0] / "matrix.yaml", merge(MATRIX, MATRIX_PLACES[place](GADGETS[gadget])))
    for command in ("run", "status"):
        refused(["ablations", command, "--matrix", matrix])


@pytest.mark.parametrize("file", [f"launcher: touch {PAYLOAD}", f"run: {{launcher: touch {PAYLOAD}}}", "matrix: x"])
def test_command_reads_no_options_from_a_file(refused, base, file):
    (base[0] / "gadget.yaml").write_text(file)
    assert "--config" in refused(["ablations", "run", "--config", "gadget.yaml"])
    refused(["--config", "gadget.yaml", "ablations", "run"])


@pytest.mark.parametrize(
    "field", ["source", "utterance_column", "caregivers", "time_format", "strip_from_names", "rotation", ""]
)
@pytest.mark.parametrize("gadget", ["subprocess.Popen", "evil_module.Model"])
def test_profile_with_gadget_is_refused(refused, base, field, gadget):
    profile = {field: GADGETS[gadget]} if field else GADGETS[gadget]
    write_yaml(base[0] / "profile.yaml", profile)
    for folder in ("videos", "transcripts"):
        (base[0] / folder).mkdir(exist_ok=True)
    options = ["--videos", "videos", "--transcripts", "transcripts", "--profile", "profile.yaml"]
    refused(["curate", "frames", *options, "--out", "out"])
    refused(["check-data", *options])


def test_vocabulary_folder_that_asks_for_code_is_refused(refused, base):
    """A trained CLIP reads its tokenizer by transformers."""
    folder, config = base
    original = config["data"]["init_args"]["vocabulary"]
    asking = folder / "asking-words"
    asking.mkdir()
    for name in os.listdir(original):  # noqa: PTH208
        (asking / name).write_bytes(open(f"{original}/{name}", "rb").read())  # noqa: PTH123, SIM115
    write_json(asking / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil_module.Model", None]}})
    clip = {
        "class_path": "babyvlm.models.clip.ClipTraining",
        "init_args": {
            "embed_dim": 8,
            "vision": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
            "text": {"context_length": 9, "width": 16, "heads": 2, "layers": 1},
        },
    }
    data = {"init_args": {"vocabulary": str(asking)}}
    write_yaml(folder / "gadget.yaml", {"model": clip, "data": data})
    write_yaml(folder / "data-only.yaml", {key: value for key, value in config.items() if key != "model"})
    refused(["fit", "--config", "data-only.yaml", "--config", "gadget.yaml"])


@pytest.mark.parametrize("settings", [{"vision": {"timm_model_name": "x"}}, {"text": {"hf_model_name": "evil/evil"}}])
def test_trained_clip_takes_shapes_only(refused, base, settings):
    towers = {"vision": {"layers": 1, "width": 16}, "text": {"context_length": 9, "width": 16}}
    model = {"class_path": "babyvlm.models.clip.ClipTraining", "init_args": {"embed_dim": 8} | merge(towers, settings)}
    write_yaml(base[0] / "gadget.yaml", {"model": model})
    write_yaml(base[0] / "data-only.yaml", {key: value for key, value in base[1].items() if key != "model"})
    assert "not a setting" in refused(["fit", "--config", "data-only.yaml", "--config", "gadget.yaml"])


def test_hostile_checkpoint_state_deletes_nothing(tmp_path):
    from babyvlm.training.checkpoint_io import AtomicCheckpointIO

    (tmp_path / "checkpoints").mkdir()
    for name in ("mine.ckpt", "mine.txt"):
        (tmp_path / name).touch()
        AtomicCheckpointIO().remove_checkpoint(f"{tmp_path}/checkpoints/../{name}")
        assert (tmp_path / name).exists()
    AtomicCheckpointIO().remove_checkpoint(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").exists()
    AtomicCheckpointIO().remove_checkpoint(tmp_path / "mine.ckpt")
    assert not (tmp_path / "mine.ckpt").exists()


def test_gadgets_work_where_nothing_is_restricted(tmp_path):
    """Otherwise the tests above would show nothing."""
    write_evil(tmp_path)
    code = (
        "import jsonargparse, json, sys; from typing import Any\n"
        "jsonargparse.set_parsing_settings(import_path_allowlist=['evil_module'])\n"
        "parser = jsonargparse.ArgumentParser(); parser.add_argument('--x', type=Any)\n"
        "parser.instantiate_classes(parser.parse_object({'x': json.loads(sys.argv[1])}))\n"
    )
    for gadget in ("evil_module.Model", "evil_module.function"):
        command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(GADGETS[gadget])]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        assert (tmp_path / PAYLOAD).exists(), gadget
        (tmp_path / PAYLOAD).unlink()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert (tmp_path / PAYLOAD).exists()


# --- What is allowed


@pytest.mark.parametrize("path", [path for path in allowed.CLASSES if "Wandb" not in path])
def test_table_names_classes_where_they_are_defined(path):
    module, _, name = path.rpartition(".")
    found = getattr(__import__(module, fromlist=[name]), name)
    assert found.__module__ == (allowed.CLASSES[path] or module)


@pytest.mark.parametrize("path", [path for path in allowed.CLASSES if "Wandb" not in path])
def test_allowed_class_takes_no_function_and_no_object(path):
    """Every argument that is not refused is data, or a class of the table."""
    import typing

    from jsonargparse._parameter_resolvers import get_signature_parameters

    module, _, name = path.rpartition(".")
    found = getattr(__import__(module, fromlist=[name]), name)
    if not isinstance(found, type):
        return
    for parameter in get_signature_parameters(found, None):
        if parameter.name in (*allowed.REFUSED_ARGUMENTS.get(path, ()), "params", "optimizer", "scheduler", "text"):
            continue
        flat = [parameter.annotation]
        while flat:
            kind = flat.pop()
            flat += typing.get_args(kind) if typing.get_origin(kind) is not typing.Literal else []
            assert kind is not typing.Any, parameter.name
            assert kind is not object, parameter.name
            assert typing.get_origin(kind) is not typing.get_origin(typing.Callable[[], int]), parameter.name


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a model of the user's own, as a module beside the project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(allowed.VARIABLE, raising=False)
    code = "from torch.optim import SGD\nclass MyOptimizer(SGD):\n    pass\n"
    (tmp_path / "my_module.py").write_text(code)
    yield tmp_path
    sys.modules.pop("my_module", None)
    monkeypatch.delenv(allowed.VARIABLE, raising=False)
    restrict_imports()


def own_optimizer():
    from torch.optim import Optimizer

    parser = CheckedParser(exit_on_error=False)
    parser.add_subclass_arguments(Optimizer, "optimizer", skip={"params"}, instantiate=False)
    return parser.instantiate(parser.parse_object({"optimizer": {"class_path": "my_module.MyOptimizer"}}))


def test_module_is_allowed_by_the_environment_and_not_for_longer(own, monkeypatch):
    with pytest.raises(jsonargparse.ArgumentError):
        own_optimizer()
    assert "my_module" not in sys.modules
    monkeypatch.setenv(allowed.VARIABLE, "my_module")
    assert own_optimizer().optimizer.class_path == "my_module.MyOptimizer"
    monkeypatch.delenv(allowed.VARIABLE)
    with pytest.raises(jsonargparse.ArgumentError):
        own_optimizer()


def test_allow_option_reaches_child_processes(own, monkeypatch):
    monkeypatch.setenv(allowed.VARIABLE, "")
    with pytest.raises(SystemExit):
        main(["--allow", "my_module", "curate", "--help"])
    with pytest.raises(SystemExit):
        main(["--allow=other.module", "curate", "--help"])
    code = "import os; print(os.environ['BABYVLM_ALLOW'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "my_module,other.module"


@pytest.mark.parametrize("given", [["--allow", "my_module"], ["--allow=my_module"], ["--name", "--allow=my_module"]])
def test_allow_option_after_the_command_is_refused(own, capsys, monkeypatch, given):
    """A program or a file may have written those arguments."""
    monkeypatch.setenv(allowed.VARIABLE, "")
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "base.yaml", *given])
    assert end.value.code == 2
    assert "must come before the command" in capsys.readouterr().err
    assert not os.environ[allowed.VARIABLE]


@pytest.mark.parametrize("name", ["", "-x", "a b", "../a", "jsonargparse", "jsonargparse.typing"])
def test_allow_takes_names_of_modules_only(own, capsys, name):
    with pytest.raises(SystemExit) as end:
        main(["--allow", name, "curate"])
    assert end.value.code == 2
    assert "--allow" in capsys.readouterr().err


def test_shipped_configs_name_allowed_classes_only():
    from support.docs_pages import ROOT

    for file in (ROOT / "configs").rglob("*.yaml"):
        for _, value in allowed._walk(yaml.safe_load(file.read_text()), ""):
            if isinstance(value, dict) and "class_path" in value:
                assert allowed.is_allowed(value["class_path"]), file
