"""Tests of the shipped configs: each one is parsed by the parser of the command line, in the combinations it is for."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import capture_parser

from babyvlm.ablations.matrix import read_matrix
from babyvlm.cli.lightning import BabyVLMCLI
from babyvlm.config import restrict_imports

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
WORLDS = ("playroom", "saycam")
UNSCORED = ("clip", "language-gpt2", "language-llama")
MODELS = [
    (world, path.stem)
    for world in WORLDS
    for path in sorted((CONFIGS / world).glob("*.yaml"))
    if path.stem not in ("base", "ablations", "scaling", "stream", "workflow", "phase-1", "phase-2", "sharded")
]


@pytest.fixture(scope="module")
def parse():
    """``parse(command, *names)``: the parsed config of a command with the overlays of these names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["babyvlm"])
        restrict_imports()
        parser = capture_parser(BabyVLMCLI, ())

        def parse(command, *names):
            arguments = [part for name in names for part in ("--config", f"configs/{name}.yaml")]
            return parse.of([command, *arguments])

        parse.of = lambda arguments: parser.parse_args(arguments)[arguments[0]]
        yield parse


def class_names(config):
    return [callback.class_path.rpartition(".")[2] for callback in config.trainer.callbacks]


def benchmark_names(config):
    (callback,) = [one for one in config.trainer.callbacks if one.class_path.endswith("EvaluationCallback")]
    return [benchmark.class_path.rpartition(".")[2] for benchmark in callback.init_args.benchmarks]


def mixes_of(model):
    """The mixes that a model trains on; the clean scenes are CLIP's."""
    mixes = sorted(path.stem for path in (CONFIGS / "mix").glob("*.yaml"))
    return [mix for mix in mixes if (mix == "clean") == (model == "clip")]


def check_fit(parse, world, model, phase, mix):
    phases = [f"{world}/{phase}"] if phase else []
    scored = model not in UNSCORED
    config = parse("fit", f"{world}/base", f"{world}/{model}", *phases, f"mix/{mix}", *[f"benchmarks/{world}"] * scored)
    assert config.data.init_args.name == mix
    assert "ModelCheckpoint" in class_names(config)
    assert ("EvaluationCallback" in class_names(config)) == scored


PHASES = [
    (world, model, phase)
    for world, model in MODELS
    for phase in (("phase-1", "phase-2") if model.startswith("babyllava") else (None,))
]
# Every model in every phase with one mix, and every mix.
ONCE = [(*one, mixes_of(one[1])[number % len(mixes_of(one[1]))]) for number, one in enumerate(PHASES)]


def test_every_mix_is_parsed_with_a_model():
    assert {mix for *_, mix in ONCE} == {path.stem for path in (CONFIGS / "mix").glob("*.yaml")}


@pytest.mark.parametrize(("world", "model", "phase", "mix"), ONCE)
def test_model_config_parses_in_every_phase(parse, world, model, phase, mix):
    check_fit(parse, world, model, phase, mix)


@pytest.mark.soak
@pytest.mark.parametrize(("world", "model", "phase"), PHASES)
def test_model_config_parses_with_every_mix(parse, world, model, phase):
    for mix in mixes_of(model):
        check_fit(parse, world, model, phase, mix)


@pytest.mark.parametrize("path", sorted((CONFIGS / "eval").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("world", WORLDS)
def test_eval_config_parses_with_benchmarks(parse, path, world):
    config = parse("test", f"eval/{path.stem}", f"benchmarks/{world}")
    natural = ["NaturalVTWT"] if world == "playroom" else []
    assert benchmark_names(config) == ["LabeledS", "VTWT", *natural, "BabyWinoground", "SAYCamCaption"]


@pytest.mark.parametrize("world", WORLDS)
def test_suites_overlay_parses_after_benchmarks(parse, world):
    config = parse("test", "eval/trained", f"benchmarks/{world}", f"benchmarks/{world}-suites", "benchmarks/stamps")
    callbacks = [one for one in config.trainer.callbacks if one.class_path.endswith("EvaluationCallback")]
    assert len(callbacks) == 3
    names = [one.class_path.rpartition(".")[2] for one in callbacks[1].init_args.benchmarks]
    assert {"ObjectTrials", "DevCV", "DevCVMatching", "MachineDevBenchGrammatical"} <= set(names)
    fifteen = [one.init_args for one in callbacks[1].init_args.benchmarks if one.class_path.endswith(".LabeledS")]
    assert [len(set(one.categories)) for one in fifteen] == ([15] if world == "saycam" else [])


@pytest.mark.parametrize("path", sorted((CONFIGS / "controls").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("world", WORLDS)
def test_control_changes_one_setting_of_cvcl(parse, world, path):
    names = [f"{world}/base", f"{world}/cvcl", "mix/filtered"]
    plain, control = parse("fit", *names), parse("fit", *names, f"controls/{path.stem}")
    data, model = control.data.init_args, control.model.init_args
    changed = {name for name, value in vars(data).items() if value != vars(plain.data.init_args)[name]}
    changed |= {name for name, value in vars(model).items() if value != vars(plain.model.init_args)[name]}
    expected = {
        "first-frames": {"sample"},
        "lstm": {"text"},
        "no-augmentation": {"augment"},
        "random-trunk": {"vision"},
        "shuffled-utterances": {"shuffle_utterances"},
        "transformer": {"text"},
    }
    assert changed == expected[path.stem]
    if path.stem == "random-trunk":
        assert (model.vision.init_args.frozen, model.vision.init_args.weights) == (True, None)
        assert model.vision.init_args.backbone == plain.model.init_args.vision.init_args.backbone


def test_sharded_config_parses_on_a_llama(parse):
    config = parse("fit", "saycam/base", "saycam/language-llama", "mix/frames", "saycam/sharded")
    assert config.model.init_args.gradient_checkpointing


def test_saycam_trains_as_the_authors_and_playroom_as_we_do(parse):
    """Values read in ShawnKing98/BabyLLaVA @45d046e, wkvong/multimodal-baby @d64c1bb and its fork @2bd8989."""
    dino = "hf-hub:eminorhan/{0}/{0}.pth"
    for model, backbone, image_tokens in (("gpt2", "dino_sfp_resnext50", 49), ("llama", "dino_say_vitl16", 197)):
        for phase in (1, 2):
            names = [f"saycam/{name}" for name in ("base", f"babyllava-{model}", f"phase-{phase}")]
            config = parse("fit", *names, "mix/filtered-aug")
            one, data = config.model.init_args, config.data.init_args
            assert (one.template, one.unknown_words, one.frozen_dropout) == ("plain", "drop", phase == 1)
            assert one.language.positions == data.max_tokens + image_tokens == 2048
            assert one.vision.init_args.weights == dino.format(backbone)
            assert data.sample == "pairs"
    for name, sample in (("cvcl", "pairs"), ("cvcl-frozen", "utterances")):
        config = parse("fit", "saycam/base", f"saycam/{name}", "mix/filtered-aug")
        data = config.data.init_args
        assert (data.sample, data.max_tokens, data.keep_eos) == (sample, 25, False)
        assert (data.batch_size, data.val_batch_size, data.resize) == (8, 16, "squeeze")
        assert config.model.init_args.vision.init_args.weights == dino.format("dino_sfp_resnext50")
    config = parse("fit", "saycam/base", "saycam/language-gpt2", "mix/frames")
    assert config.model.init_args.predict_sos
    config = parse("fit", "playroom/base", "playroom/babyllava-gpt2", "playroom/phase-1", "mix/filtered")
    one = config.model.init_args
    assert (one.template, one.unknown_words, one.frozen_dropout) == ("sos_eos", "learn", False)


CALLBACKS = "lightning.pytorch.callbacks."
LOGGERS = "lightning.pytorch.loggers."
BASE = {
    "trainer": {
        "callbacks": [
            {"class_path": CALLBACKS + "ModelCheckpoint", "init_args": {"monitor": "val_loss", "save_top_k": 3}},
            {"class_path": CALLBACKS + "EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 7}},
        ],
        "logger": [{"class_path": LOGGERS + "CSVLogger", "init_args": {"save_dir": "logs", "name": "base"}}],
    },
    "data": {
        "class_path": "babyvlm.PairMix",
        "init_args": {"name": "mix", "stores": "s", "validation": "v", "vocabulary": "w"}
        | {"sources": [{"store": "a", "utterances": 7}]},
    },
}
ITEMS = [
    {"class_path": CALLBACKS + "EarlyStopping", "init_args": {"monitor": "vtwt_dev"}},
    CALLBACKS + "ModelCheckpoint",
]


@pytest.fixture
def lists(parse, tmp_path):
    """``lists(*options, overlay=None)``: lists of classes in the parsed config of ``BASE``, an overlay, and options."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))

    def parsed(*options, overlay=None):
        (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay or {"name": "x"}))
        files = [part for name in ("base", "overlay") for part in ("--config", str(tmp_path / f"{name}.yaml"))]
        config = parse.of(["fit", *files, "--config", str(ROOT / "configs/playroom/cvcl.yaml"), *options])
        return config.trainer.callbacks, config.trainer.logger, config.data.init_args.sources

    return parsed


@pytest.mark.parametrize("place", ["command line", "overlay"])
def test_given_list_inherits_nothing_from_the_list_it_replaces(lists, place):
    """Whether the class at a position is the same or another one, in lists of equal length."""
    logger = [{"class_path": LOGGERS + "CSVLogger", "init_args": {"save_dir": "mine"}}]
    given = {"trainer.callbacks": ITEMS, "trainer.logger": logger, "data.sources": [{"store": "b"}]}
    if place == "overlay":
        nested = {
            "trainer": {"callbacks": ITEMS, "logger": logger},
            "data": {"init_args": {"sources": [{"store": "b"}]}},
        }
        callbacks, loggers, sources = lists(overlay=nested)
    else:
        flags = [part for name, value in given.items() for part in (f"--{name}", json.dumps(value))]
        callbacks, loggers, sources = lists(*flags)
    stop, save = (one.init_args for one in callbacks)
    assert (stop.monitor, stop.patience) == ("vtwt_dev", 3)
    assert (save.monitor, save.save_top_k) == (None, 1)
    assert (loggers[0].init_args.save_dir, loggers[0].init_args.name) == ("mine", "lightning_logs")
    assert [(source.store, source.utterances) for source in sources] == [("b", None)]


@pytest.mark.parametrize("place", ["command line", "overlay"])
def test_plus_appends_to_a_list_and_changes_no_item(lists, place):
    if place == "overlay":
        nested = {"trainer": {"callbacks+": ITEMS}, "data": {"init_args": {"sources+": [{"store": "b"}]}}}
        callbacks, _, sources = lists(overlay=nested)
    else:
        callbacks, _, sources = lists("--trainer.callbacks+", json.dumps(ITEMS), "--data.sources+", "{store: b}")
    assert [one.init_args.monitor for one in callbacks] == ["val_loss", "val_loss", "vtwt_dev", None]
    assert [callbacks[0].init_args.save_top_k, callbacks[1].init_args.patience] == [3, 7]
    assert callbacks[3].init_args.save_top_k == 1
    assert [(source.store, source.utterances) for source in sources] == [("a", 7), ("b", None)]


def test_option_of_a_list_changes_its_last_item(lists):
    callbacks, *_ = lists("--trainer.callbacks.patience", "9")
    assert [callbacks[1].init_args.patience, callbacks[1].init_args.monitor] == [9, "val_loss"]
    callbacks, *_ = lists(f"--trainer.callbacks+={CALLBACKS}ModelCheckpoint", "--trainer.callbacks.filename=x")
    assert [callbacks[2].init_args.filename, callbacks[2].init_args.monitor] == ["x", None]


@pytest.mark.parametrize("world", WORLDS)
def test_dino_monitors_no_validation_loss(parse, world):
    callbacks = parse("fit", f"{world}/base", f"{world}/dino", "mix/frames").trainer.callbacks
    assert callbacks[-1].class_path.endswith("ModelCheckpoint")
    assert callbacks[-1].init_args.monitor is None


def test_worlds_have_the_same_configs():
    names = [{path.stem for path in (CONFIGS / world).glob("*.yaml")} for world in WORLDS]
    assert names[1] - names[0] == {"sharded"}
    assert names[0] - names[1] == {"clip"}  # on SAYCam it is OpenAI's


@pytest.mark.parametrize("world", WORLDS)
def test_stream_overlay_passes_once(parse, world):
    config = parse("fit", f"{world}/base", f"{world}/cvcl", "mix/filtered", f"benchmarks/{world}", f"{world}/stream")
    assert (config.data.init_args.order, config.trainer.max_epochs, config.trainer.max_steps) == ("date", 1, -1)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["ablations", "scaling"])
def test_matrix_names_configs_that_exist(monkeypatch, world, name):
    monkeypatch.chdir(ROOT)
    matrix = read_matrix(CONFIGS / world / f"{name}.yaml")
    mixes = {mix for model in matrix.models.values() for mix in model.mixes}
    named = [*matrix.base, *(file for files in matrix.upper_bounds.values() for file in files)]
    for step in matrix.steps.values():
        named += [config.replace("{mix}", mix) for config in step.configs for mix in mixes]
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_config_says_what_it_is(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert isinstance(yaml.safe_load(text), dict)
