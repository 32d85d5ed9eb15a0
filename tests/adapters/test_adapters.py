"""Models in transformers, timm and the evaluation harnesses of others: the same numbers as here."""

import importlib
import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import babyvlm
from babyvlm.adapters import lmms_eval_tasks as tasks
from babyvlm.adapters.extractor import FeatureExtractor
from babyvlm.adapters.submission import submission
from babyvlm.cli.main import main
from babyvlm.errors import UserError
from babyvlm.io.artifacts import create
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.cvcl import CVCL
from babyvlm.models.hub import EXPORT, build, save, save_timm
from babyvlm.models.networks.auto_classes import CVCLConfig
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.text import LSTMText, MeanEmbedding, TransformerText
from babyvlm.models.networks.vision import VisionEncoder
from support.scorers import Oracle, draw_things
from support.small_meteor import small_meteor

ROOT = Path(__file__).parents[2]
TEXTS = ["look at the ball", "the dog runs", "a zebra"]
TRUNK = {"class_path": "babyvlm.models.networks.vision.VisionEncoder", "init_args": {"backbone": "test_resnet"}}


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(1)
    pixels = (torch.rand(4, 40, 52, 3, generator=draw) * 255).byte().numpy()
    return [Image.fromarray(one) for one in pixels]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, vocabulary):
    """A CVCL as ``export`` writes it, and the model."""
    torch.manual_seed(0)
    init_args = {"vision": TRUNK, "width": 16, "image_size": 32, "max_tokens": 9}
    recipe = {"class_path": "babyvlm.models.cvcl.CVCL", "init_args": init_args | {"vocabulary": str(vocabulary)}}
    model = build(recipe, Path("test")).eval()
    out = tmp_path_factory.mktemp("exported") / "cvcl"
    manifest = {"arguments": {}, "licensed": False, "model": recipe | {"init_args": init_args}}
    with create(out, EXPORT, manifest) as folder:
        save(model, folder)
        (folder / "README.md").write_text("# x\n- mix: filtered\\-aug (filtered, aug)\n")
    return out, model


@pytest.mark.parametrize("text", [MeanEmbedding, LSTMText, TransformerText])
def test_exported_cvcl_is_model_of_transformers(tmp_path, vocabulary, images, text):
    """Features, logits, loss and processor."""
    babyvlm.register_auto_classes()
    torch.manual_seed(0)
    model = CVCL(vocabulary, VisionEncoder("test_resnet"), text, 16, image_size=32, max_tokens=25).eval()
    save(model, tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, use_safetensors=True)
    assert type(loaded).__name__ == "CVCLModel"
    assert not loaded.training
    processor = AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(images=images, text=TEXTS, return_tensors="pt", padding=True)
    expected_BCHW = torch.stack([model.preprocess(image) for image in images])
    assert (inputs["pixel_values"] - expected_BCHW).abs().max() < 0.05  # 1/255 before the division by STD
    with torch.no_grad():
        image_BD = loaded.get_image_features(pixel_values=expected_BCHW)
        text_TD = loaded.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        out = loaded(inputs["input_ids"], expected_BCHW, inputs["attention_mask"])
    torch.testing.assert_close(image_BD @ text_TD.T, model.score(expected_BCHW, TEXTS))
    torch.testing.assert_close(out.logits_per_image * model.network.temperature, image_BD @ text_TD.T)
    torch.testing.assert_close(out.logits_per_text, out.logits_per_image.T)
    torch.testing.assert_close(image_BD.norm(dim=1), torch.ones(4))
    again = loaded(inputs["input_ids"], expected_BCHW[:3], inputs["attention_mask"], return_loss=True)
    again.loss.backward()
    assert loaded.network.projection.weight.grad.abs().sum() > 0
    loaded.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(AutoModel.from_pretrained(tmp_path / "again").state_dict(), loaded.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_encoder": "os.system"}, r"text_encoder 'os\.system': choose from mean, lstm, transformer"),
        ({"backbone": "hf-hub:x/y"}, "not a name in timm's list"),
        ({"backbone_options": {"checkpoint_path": "x"}}, r"options\.checkpoint_path is not allowed"),
    ],
)
def test_cvcl_in_transformers_refuses_foreign_config(tmp_path, exported, change, message):
    babyvlm.register_auto_classes()
    config = json.loads((exported[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        AutoModel.from_config(CVCLConfig.from_pretrained(tmp_path))


@pytest.mark.parametrize("kind", ["CVCL", "BabyLLaVA"])
def test_save_timm_writes_trunk_that_timm_loads(tmp_path, vocabulary, kind):
    torch.manual_seed(0)
    trunk = VisionEncoder("resnet10t", {"channels": [8, 16, 24, 32], "stem_width": 8})
    if kind == "CVCL":
        model = CVCL(vocabulary, trunk, width=16, image_size=64)
    else:
        shape = LanguageShape(width=16, layers=1, heads=2, inner=16, positions=40)
        model = BabyLLaVA(vocabulary, trunk, shape, image_size=64)
    save_timm(model, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images_BCHW = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images_BCHW), trunk.trunk.eval()(images_BCHW))
    config = timm.data.resolve_model_data_config(loaded)
    assert tuple(config["input_size"]) == (3, 64, 64)
    assert config["mean"] == pytest.approx((0.485, 0.456, 0.406))


def test_extractor_has_methods_of_egobabyvlm(exported, images):
    folder, model = exported
    extractor = FeatureExtractor(folder)
    assert (extractor.feature_dim, extractor.input_size) == (16, (32, 32))
    assert set(extractor.normalize_params) == {"mean", "std"}
    found = extractor.extract_features({"image": images, "text": TEXTS, "id": [1]})
    assert set(found) == {"image_features", "text_features"}
    images_BCHW = torch.stack([model.preprocess(image) for image in images])
    scores = extractor.compute_similarity(found["image_features"], found["text_features"], normalize=True)
    torch.testing.assert_close(scores, model.score(images_BCHW, TEXTS))
    torch.testing.assert_close(extractor.extract_features(images_BCHW), found["image_features"])
    torch.testing.assert_close(extractor.extract_features(TEXTS), found["text_features"])
    tokens = extractor.tokenize(TEXTS)
    torch.testing.assert_close(extractor.extract_features(tokens["input_ids"]), found["text_features"])
    assert tokens["attention_mask"].sum(1).tolist() == [6, 5, 4]
    torch.testing.assert_close(extractor.compute_similarity(2 * scores, scores, normalize=False), 2 * scores @ scores.T)


@pytest.fixture(scope="module")
def lists(tmp_path_factory, images):
    """The four lists on some pictures."""
    folder = tmp_path_factory.mktemp("lists")
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    tags = ("positive", "negative")
    rows = {
        "labeled_s": [
            "trial_id,target_category,real_category,image",
            *(f"{t},{w},{w if n == t else 'cup'},{n}.png" for t, w in enumerate(("ball", "dog")) for n in range(4)),
        ],
        "vtwt": [
            "image,positive_phrase,negative_phrase",
            *("0.png,red ball,wash dog", "1.png,the dog,a cup", "2.png,look ball,dog runs", "3.png,is red,the ball"),
        ],
        "baby_winoground": [
            "instance_id,positive_phrase,negative_phrase,image,image_tag",
            *(f"{n},red ball,wash dog,{2 * n + k}.png,{tag}" for n in range(2) for k, tag in enumerate(tags)),
        ],
        "saycam_caption": ["image,text", "0.png,a red ball", "0.png,look at the ball", "1.png,the dog"],
    }
    for name, lines in rows.items():
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return folder


FUNCTIONS = {
    "labeled_s": tasks.labeled_s_accuracy,
    "vtwt": tasks.vtwt_accuracy,
    "baby_winoground": tasks.winoground_overall,
}


@pytest.fixture(scope="module")
def written(lists, tmp_path_factory):
    out = tmp_path_factory.mktemp("tasks") / "tasks"
    given = [part for name in (*FUNCTIONS, "saycam_caption") for part in (f"--{name}", str(lists / f"{name}.csv"))]
    main(["lmms-eval-tasks", "--out", str(out), *given])
    return out


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tasks_judge_as_evaluate(written, lists, exported, name):
    model = exported[1]
    documents = [json.loads(line) for line in (written / f"{name}.json").read_text().splitlines()]
    entries = []
    for document in documents:
        image_BCHW = model.preprocess(tasks.visual(document)[0])[None]
        loss = -model.score(image_BCHW, [tasks.target(document)])[0, 0].item()
        entries.append(tasks.answered(document, [(loss, False)])["accuracy"])
    expected = babyvlm.evaluate(model, name, trials=lists / f"{name}.csv", controls=False)
    assert FUNCTIONS[name](entries) == pytest.approx(expected.mean)
    constant = [(*entry[:4], 0.5) for entry in entries]
    chance = {"labeled_s": 0.25, "vtwt": 0.5, "baby_winoground": 0.0}[name]
    assert FUNCTIONS[name](constant + constant[:1]) == chance  # a document that a sampler repeats
    with pytest.raises(UserError, match=r"no trial of .* is complete"):
        FUNCTIONS[name](entries[:1])


def test_write_tasks_refuses_mistakes(written, lists):
    with pytest.raises(UserError, match="pass at least one list"):
        tasks.write_tasks(written / "new")
    with pytest.raises(UserError, match="already exists"):
        tasks.write_tasks(written, vtwt=lists / "vtwt.csv")
    texts = {file.name: file.read_text() for file in written.glob("*.yaml")}
    assert set(texts) == {f"babyvlm_{name}.yaml" for name in (*FUNCTIONS, "saycam_caption")}
    assert not any("DOCUMENTS}" in text for text in texts.values())


def test_submission_has_format_of_leaderboard(tmp_path, exported):
    folder = exported[0]
    submission(folder, "me/cvcl", tmp_path / "s", "my-cvcl", "a CVCL", "data")
    content = json.loads((tmp_path / "s" / "submission.json").read_text())
    fields = "model_name checkpoint registered_model conv_template hf_model_url metadata"
    assert set(content) == set(fields.split())
    described = "model_type vision_encoder language_model training_data num_parameters main_contributions"
    assert set(content["metadata"]) == {*described.split(), "model_description"}
    assert (content["registered_model"], content["metadata"]["model_type"]) == ("my_cvcl", "CVCL")
    assert content["metadata"]["vision_encoder"] == "test_resnet"
    assert content["metadata"]["training_data"] == "filtered-aug (filtered, aug)"
    expected = sum(tensor.numel() for tensor in exported[1].state_dict().values())
    assert content["metadata"]["num_parameters"] == expected
    code = (tmp_path / "s" / "model.py").read_text()
    compile(code, "model.py", "exec")
    assert '@register_model("my_cvcl")' in code
    for options, message in (
        ({"name": "../x"}, "use letters"),
        ({"checkpoint": "/home/me"}, "must be ORG/NAME"),
        ({"out": tmp_path / "s"}, "already exists"),
        ({"export": tmp_path / "s"}, r"babyvlm\.json"),
    ):
        given = {"export": folder, "checkpoint": "me/x", "out": tmp_path / "t", "name": "x"} | options
        with pytest.raises(UserError, match=message):
            submission(**given)


@pytest.fixture
def old_lmms_eval(monkeypatch):
    """A stub of lmms-eval 0.3: ``api.instance``, ``api.model`` and ``api.registry``. Yields the registered models."""
    registered = {}

    def register_model(name):
        return lambda one: registered.setdefault(name, one)

    class Base:
        def __init__(self):
            self.task_dict = {}

    contents = {"api.instance": {"Instance": object}, "api.model": {"lmms": Base}}
    contents |= {"": {}, "api": {}, "api.registry": {"register_model": register_model}}
    for name, content in contents.items():
        module = ModuleType(".".join(filter(None, ["lmms_eval", name])))
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("models", "models.registry_v2"):
        monkeypatch.setitem(sys.modules, f"lmms_eval.{name}", None)  # cannot be imported, also where 0.7 is installed
    plugin = "babyvlm.adapters.lmms_eval_model"
    monkeypatch.setitem(sys.modules, plugin, None)
    del sys.modules[plugin]  # imported anew; pytest restores what was there before, or removes it
    yield registered
    sys.modules.pop(plugin, None)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Four documents of each DevCV task of which stand-ins exist, with paths of images that can be opened."""
    folder = tmp_path_factory.mktemp("questions")
    given = ["--category_folders", str(draw_things(folder / "things")), "--items", "4", "--licensed", "false"]
    main(["benchmark", "build", "stand-ins", *given, "--out", str(folder / "lists")])
    found = {}
    for file in (folder / "lists" / "devcv").glob("*/data.json"):
        found[file.parent.name] = documents = json.loads(file.read_text())
        for one in documents:
            images = [one["image"]] if isinstance(one["image"], str) else one["image"]
            one["image"] = [file.parent / image for image in images]
    return found


def submitted(registered, folder, out):
    """The model of a bundle, as the leaderboard's runner loads it: a file that it copies into its lmms-eval."""
    submission(folder, "me/cvcl", out, "my-cvcl")
    exec(compile((out / "model.py").read_text(), "model.py", "exec"), {})
    return registered["my_cvcl"](pretrained=str(folder), device="cpu", batch_size=3, conv_template="")


def requests_of(model, task, documents, question=lambda one: one["conversations"][0]["value"]):
    """Requests for generated text with the arguments that lmms-eval gives."""
    model.task_dict[task] = {"test": documents}
    return [
        SimpleNamespace(
            args=(question(one), {}, lambda doc: [Image.open(image) for image in doc["image"]], number, task, "test")
        )
        for number, one in enumerate(documents)
    ]


def test_submission_answers_questions_by_likelihood(old_lmms_eval, questions, exported, tmp_path):
    """An oracle in place of the model answers all questions right, a CVCL answers all; neither raises."""
    model = submitted(old_lmms_eval, exported[0], tmp_path / "s")
    trained, model.model = model.model, Oracle()
    assert set(questions) == {"picture_vocabulary", "localize", "count", "compare_synthetic", "leftright"}
    for task, documents in questions.items():
        expected = [one["conversations"][1]["value"] for one in documents]
        assert len(set(expected)) > 1
        requests = requests_of(model, task, documents)
        assert model.generate_until(requests) == expected
        model.model = trained
        assert all(answer in [*"ABCD", *map(str, range(1, 13))] for answer in model.generate_until(requests))
        model.model = Oracle()


def test_submission_skips_what_it_cannot_answer(old_lmms_eval, questions, exported, tmp_path, capsys):
    model = submitted(old_lmms_eval, exported[0], tmp_path / "s")
    frames = questions["leftright"]
    asked = "does the lamp leave the frame through the right side of the frame or the left side of the frame?"
    assert model.generate_until(requests_of(model, "baby_vdr_binary", frames, lambda one: asked)) == [""] * 4
    turns = [{"from": one, "value": "A"} for one in ("human", "human", "gpt", "human", "gpt")]
    model.task_dict["baby_memory"] = {"test": [{"conversations": turns}]}
    request = SimpleNamespace(args=("", {}, None, None, 0, "baby_memory", "test"))
    assert [json.loads(answer) for answer in model.generate_until_multi_round([request] * 2)] == [["", ""]] * 2
    warnings = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[2].partition(":")[0] for line in warnings] == [
        " task baby_vdr_binary",
        " task baby_memory",
    ]
    model.model.caption = lambda images_BCHW, tokens: [f"{len(images_BCHW)} images"] * len(images_BCHW)
    captioned = requests_of(model, "caption", [{**one, "image": one["image"][:1]} for one in frames], lambda one: "")
    mixed = [*captioned[:2], *requests_of(model, "count", questions["count"][:1]), *captioned[2:]]
    assert [answer for answer in model.generate_until(mixed) if not answer.isdigit()] == ["2 images"] * 4


def test_plugin_refuses_what_it_cannot_answer(old_lmms_eval, questions, exported):
    """Unlike a submission, of which many tasks must not fail by one."""
    plugin = importlib.import_module("babyvlm.adapters.lmms_eval_model")
    model = plugin.BabyVLM(str(exported[0]))
    requests = requests_of(model, "x", questions["leftright"], lambda one: "Describe the images")
    with pytest.raises(UserError, match=r"task x: CVCL has no caption\(\) and answers DevCV questions only\. Leave it"):
        model.generate_until(requests)
    model.model.caption = lambda images_BCHW, tokens: []
    with pytest.raises(UserError, match="task x: shows 4 images at once; babyvlm models read one"):
        model.generate_until(requests)
    with pytest.raises(UserError, match="task x: is a conversation"):
        model.generate_until_multi_round(requests)
    with pytest.raises(ImportError):
        plugin.manifest()  # of lmms-eval 0.7 only


def test_entry_point_names_function_of_the_plugin():
    """By its source, since lmms-eval is not installed everywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["lmms_eval.models"]["babyvlm"].partition(":")
    assert f"def {function}(" in (ROOT / "src" / f"{module.replace('.', '/')}.py").read_text()


def test_lmms_eval_gives_the_same_numbers(written, lists, exported, tmp_path, monkeypatch):
    """With the real lmms-eval, where it is installed: the likelihood tasks, by its own evaluator."""
    pytest.importorskip("lmms_eval")
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    from babyvlm.adapters.lmms_eval_model import manifest

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    found = simple_evaluate(
        model="babyvlm",
        model_args=f"source={exported[0]}",
        tasks=[f"babyvlm_{name}" for name in FUNCTIONS],
        task_manager=TaskManager(include_path=str(written)),
        batch_size=4,
        device="cpu",
        bootstrap_iters=0,
    )["results"]
    for name in FUNCTIONS:
        measure = "overall" if name == "baby_winoground" else "accuracy"
        expected = babyvlm.evaluate(exported[1], name, trials=lists / f"{name}.csv", controls=False).mean
        assert found[f"babyvlm_{name}"][f"{measure},none"] == pytest.approx(expected)


@pytest.mark.usefixtures("wordnet")
def test_lmms_eval_scores_captions_as_evaluate(written, lists, vocabulary, tmp_path, monkeypatch):
    """With the real lmms-eval, where it is installed: captions of a BabyLLaVA."""
    pytest.importorskip("lmms_eval")
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    from babyvlm.adapters.lmms_eval_model import manifest

    torch.manual_seed(1)
    shape = {"width": 16, "layers": 1, "heads": 2, "inner": 16, "positions": 40}
    init_args = {"vision": TRUNK, "language": shape, "image_size": 64, "max_tokens": 9}
    recipe = {"class_path": "babyvlm.models.babyllava.BabyLLaVA", "init_args": init_args}
    model = build(recipe | {"init_args": init_args | {"vocabulary": str(vocabulary)}}, Path("test")).eval()
    with create(tmp_path / "llava", EXPORT, {"arguments": {}, "licensed": False, "model": recipe}) as folder:
        save(model, folder)
    (tmp_path / "meteor").mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    with small_meteor(tmp_path / "meteor"):
        found = simple_evaluate(
            model="babyvlm",
            model_args=f"source={tmp_path / 'llava'}",
            tasks=["babyvlm_saycam_caption"],
            task_manager=TaskManager(include_path=str(written)),
            batch_size=4,
            device="cpu",
            bootstrap_iters=0,
        )["results"]["babyvlm_saycam_caption"]
        expected = babyvlm.evaluate(model, "caption", trials=lists / "saycam_caption.csv", controls=False).means()
    assert any(expected.values())
    for measure, value in expected.items():
        assert found[f"{measure},none"] == pytest.approx(value)
