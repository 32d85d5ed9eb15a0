"""Every kind of licensed artifact at every exit from this machine: each is refused, and the same free artifact passes.

Kinds are stores, items, vocabularies, trunks, phases, exported models and benchmark lists, licensed by their own flag
or by that of an ancestor, or edited to seem free. Exits are exports, uploads, language and image servers, reports,
comparisons and loggers.
"""

import ast
import json
import shutil
from pathlib import Path

import pytest
import yaml

from babyvlm.__main__ import main
from babyvlm.benchmark_builder.items import Item, Items, write_items
from babyvlm.benchmark_builder.negatives import negatives
from babyvlm.benchmark_builder.phrase_pairs import phrase_pairs
from babyvlm.benchmark_builder.verdicts import VerdictFile
from babyvlm.benchmarks.results import licensed as list_is_licensed
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.stage import rewrite
from babyvlm.curation.store.export import export
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.data.vocabulary import FILES, Vocabulary, create_vocabulary
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.report.examples import caption_examples, changed_items
from babyvlm.report.license import trained_on_free
from babyvlm.report.runs import Row, Run
from support.made_runs import make_run

REMOTE = "https://llm.invalid/v1"  # a name that cannot exist (RFC 2606)
SAID = ["look a red ball", "wash the cup", "a blue ball", "fill the cup"]
SOURCE = Path(__file__).parents[2] / "src" / "babyvlm"


def derive(store, out, *sources):
    """A store as a stage derives it: rows of a free store, with other stores among its ancestors."""
    arguments = {"command": "derived", "sources": [source.fingerprint for source in sources]}
    ancestors = {name: manifest for source in sources for name, manifest in source.lineage.items()}
    return write_store(out, store.rows(), arguments=arguments, funnel=Funnel("x"), licensed=False, ancestors=ancestors)


def edit(file):
    """Set every flag in a manifest to free by hand."""
    file.write_text(file.read_text().replace('"licensed": true', '"licensed": false'))


@pytest.fixture
def home(tmp_path, tiny_store):
    """The path of a store, free or licensed in one of several ways."""

    def make(kind):
        path, free = tmp_path / "stores" / "home", tiny_store(SAID, splits=["test"] * 4)
        locked = tiny_store(SAID, splits=["test"] * 4, licensed=True)
        if kind == "free":
            derive(free, path, free)
        elif kind == "own flag":
            shutil.copytree(locked.path, path)
        elif kind == "parent":
            derive(free, path, locked)
        elif kind == "matched to licensed targets":
            derive(free, path, free, locked)
        elif kind == "grandparent":
            derive(free, path, derive(free, tmp_path / "between", locked))
        elif kind == "edited":
            shutil.copytree(locked.path, path)
            edit(path / "store.json")
        elif kind == "edited descendant":
            derive(free, path, locked)
            edit(path / "store.json")
        return path

    return make


STORES = ["own flag", "parent", "matched to licensed targets", "grandparent", "edited", "edited descendant"]
REFUSED = "must not leave|may leave this machine|was edited after it was written"


def store_exits(path, vocabulary, out):
    return {
        "export": lambda: export(path, out),
        "export as a folder": lambda: export(path, out, "folder"),
        "a language model that rewrites": lambda: rewrite(path, out, "llm", model="m", base_url=REMOTE),
        "a language model that proposes": lambda: phrase_pairs(
            path, vocabulary, out, method="llm", model="m", base_url=REMOTE, timeout=1
        ),
    }


@pytest.mark.parametrize("kind", STORES)
def test_licensed_store_is_refused_at_every_exit(home, vocabulary, tmp_path, kind):
    for leave in store_exits(home(kind), vocabulary, tmp_path / "out").values():
        with pytest.raises(UserError, match=REFUSED):
            leave()
        assert not (tmp_path / "out").exists()


def test_free_store_passes_every_exit(home, vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr("babyvlm.curation.rewrite.llm.client.START_SECONDS", 0.1)
    monkeypatch.setattr("babyvlm.curation.rewrite.llm.client.FIRST_WAIT", 0.1)
    for name, leave in store_exits(home("free"), vocabulary, tmp_path / "out").items():
        if name.startswith("export"):
            leave()
            shutil.rmtree(tmp_path / "out")
        else:
            with pytest.raises(UserError, match="no connection"):
                leave()


def test_permitted_export_is_recorded(home, tmp_path):
    export(home("parent"), tmp_path / "out", licensed_export=True)
    manifest = artifacts.read_manifest(tmp_path / "out", "export")
    assert manifest["licensed"] is True
    assert manifest["arguments"]["licensed_export"] is True
    export(home("free") if not (tmp_path / "stores").exists() else derive_free(tmp_path), tmp_path / "free")
    assert "licensed_export" not in artifacts.read_manifest(tmp_path / "free", "export")["arguments"]


def derive_free(folder):
    """The store from which ``home`` derived the licensed one, which is free itself."""
    store = PairStore(folder / "stores" / "home")
    return write_store(folder / "again", store.rows(), arguments={}, funnel=Funnel("x"), licensed=False).path


def make_items(folder, *, licensed, ancestors=None):
    manifest = {"arguments": {"pairs": list(ancestors or {})}, "licensed": licensed, "ancestors": ancestors or {}}
    with artifacts.create(folder, "items", manifest) as partial:
        (partial / "a.jpg").write_bytes(b"x")
        write_items(partial, [Item("a", "a.jpg", "red ball", "blue ball", "adjective")])
    with VerdictFile(folder.with_name(f"{folder.name}.verdicts"), "ann", Items(folder).fingerprint) as file:
        file.give("a", "yes")
    return folder


@pytest.mark.parametrize("kind", ["own flag", "parent", "edited"])
def test_phrases_of_licensed_items_are_not_sent_to_an_image_server(tmp_path, tiny_store, kind):
    ancestors = tiny_store(licensed=True).lineage if kind == "parent" else None
    items = make_items(tmp_path / "pairs", licensed=kind != "parent", ancestors=ancestors)
    if kind == "edited":
        edit(items / "items.json")
    with pytest.raises(UserError, match=REFUSED):
        negatives(items, tmp_path / "out", method="server", model="m", base_url=REMOTE, timeout=1)
    assert not (tmp_path / "out").exists()


def test_phrases_of_free_items_are_sent(tmp_path, monkeypatch):
    monkeypatch.setattr("babyvlm.curation.rewrite.llm.client.START_SECONDS", 0.1)
    monkeypatch.setattr("babyvlm.curation.rewrite.llm.client.FIRST_WAIT", 0.1)
    with pytest.raises(UserError, match="no connection"):
        negatives(
            make_items(tmp_path / "pairs", licensed=False),
            tmp_path / "out",
            method="server",
            model="m",
            base_url=REMOTE,
        )


# Runs


@pytest.fixture
def logs(tmp_path, tiny_store, monkeypatch):
    """A run whose store, vocabulary, trunk and list are free, and another to start from."""
    monkeypatch.chdir(tmp_path)
    store = tiny_store(path=tmp_path / "stores" / "home")
    create_vocabulary(tmp_path / "words", [store.path], 1)
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "playroom.json").write_text("{}")
    (tmp_path / "world" / "caption.csv").write_text("image,text\na.jpg,x\n")
    (tmp_path / "world" / "a.jpg").write_bytes(next(store.rows())["image"])
    test = {"class_path": "babyvlm.benchmarks.SAYCamCaption", "init_args": {"trials": "world/caption.csv"}}
    data = {"stores": "stores", "sources": [{"store": "home"}], "vocabulary": "words"}
    for row in ("Own", "Other"):
        vision = {"class_path": "x.VisionEncoder", "init_args": {"weights": "playroom"}}
        config = {
            "trainer": {"callbacks": [test]},
            "model": {"class_path": "x", "init_args": {"vision": vision, "init_from": None}},
            "data": {"init_args": data},
        }
        items = {"caption": ["2:a.jpg"]}
        run = make_run(
            tmp_path / "logs", row, 0, config=yaml.safe_dump(config), items=items, captions=["x"], caption=[1]
        )
        record(run, {"stores": {"home": {"fingerprint": store.fingerprint, "licensed": False, "rows": 6}}})
        Vocabulary(tmp_path / "words").copy_to(run / "vocabulary")
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "last.ckpt").write_bytes(b"x")
        (run / "backbone.safetensors").write_bytes(b"x")
    return tmp_path / "logs"


def record(run, facts):
    (run / "provenance.json").write_text(json.dumps(facts | {"sha256": artifacts.json_sha256(facts)}))


def set_model(run, **settings):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"] |= settings
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def license_store(run):
    record(run, {"stores": {"home": {"fingerprint": "0" * 64, "licensed": True, "rows": 6}}})


def edit_provenance(run):
    license_store(run)
    edit(run / "provenance.json")


def forget_provenance(run):
    """As in version 0.1: the stores of today decide."""
    (run / "provenance.json").unlink()
    store = PairStore("stores/home")
    rows = list(store.rows())
    shutil.rmtree("stores/home")
    write_store(Path("stores/home"), rows, arguments={}, funnel=Funnel("x"), licensed=True)


def license_words(run, tiny_store):
    create_vocabulary(run / "new", [tiny_store(licensed=True).path], 1)
    shutil.rmtree(run / "vocabulary")
    (run / "new").rename(run / "vocabulary")


def edit_words(run, tiny_store):
    license_words(run, tiny_store)
    edit(run / "vocabulary" / "vocabulary.json")


def publish_words(run):
    """Such as CVCL's, whose words are SAYCam's."""
    (run / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "<sos>": 2, "<eos>": 3, "ball": 4}))
    create_vocabulary(run / "new", from_json=run / "vocab.json")
    shutil.rmtree(run / "vocabulary")
    (run / "new").rename(run / "vocabulary")


def start_from(setting, change):
    def make(run):
        other = run.parents[1] / "Other" / "version_0"
        change(other)
        set_model(run, **{setting: str(other)})

    return make


def take_trunk(file, change):
    def make(run):
        other = run.parents[1] / "Other" / "version_0"
        change(other)
        set_model(run, vision={"class_path": "x.VisionEncoder", "init_args": {"weights": str(other / file)}})

    return make


def continue_from(change):
    """`fit --ckpt_path`: the checkpoint of another run has all weights."""

    def make(run):
        other = run.parents[1] / "Other" / "version_0"
        change(other)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["ckpt_path"] = str(other / "checkpoints" / "last.ckpt")
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return make


RUNS = {
    "store": license_store,
    "edited provenance": edit_provenance,
    "store without provenance": forget_provenance,
    "vocabulary": license_words,
    "edited vocabulary": edit_words,
    "published vocabulary": publish_words,
    "lost vocabulary": lambda run: (shutil.rmtree(run / "vocabulary"), shutil.rmtree("words")),
    "first phase": start_from("init_language", license_store),
    "earlier phase": start_from("init_from", license_store),
    "evaluated model": start_from("source", license_store),
    "lost vocabulary of a phase": start_from(
        "init_from", lambda run: (shutil.rmtree(run / "vocabulary"), shutil.rmtree("words"))
    ),
    "checkpoint of another run": continue_from(license_store),
    "trunk": take_trunk("backbone.safetensors", license_store),
    "checkpoint as trunk": take_trunk("checkpoints/last.ckpt", license_store),
    "run as trunk": take_trunk("", license_store),
    "trunk of unknown origin": lambda run: set_model(
        run, vision={"class_path": "x.VisionEncoder", "init_args": {"weights": "elsewhere.pth"}}
    ),
    "trunk of a hub": lambda run: set_model(run, vision={"init_args": {"weights": "hf-hub:org/name/file.pth"}}),
}
FREE_RUNS = {
    "free": lambda run: None,
    "free phase": start_from("init_from", lambda run: None),
    "free checkpoint": continue_from(lambda run: None),
    "free trunk": take_trunk("backbone.safetensors", lambda run: None),
    "pretrained trunk": lambda run: set_model(run, vision={"init_args": {"pretrained": True}}),
}


def make_kind(kinds, kind, run, tiny_store):
    arguments = (run, tiny_store) if kinds[kind] in (license_words, edit_words) else (run,)
    kinds[kind](*arguments)


@pytest.mark.parametrize("kind", RUNS)
def test_licensed_run_is_refused_at_every_exit(logs, tiny_store, capsys, kind):
    run = logs / "Own" / "version_0"
    make_kind(RUNS, kind, run, tiny_store)
    assert not trained_on_free(Run(run))
    if kind != "edited provenance":  # such a run is not reported at all
        assert "Own" in caption_examples([Row([Run(run)])]).left_out
    with pytest.raises(SystemExit) as end:
        main(["export", "--run", str(run), "--out", "exported", "--hub", "lab/model"])
    assert end.value.code == 2
    assert "may leave this machine" in capsys.readouterr().err
    assert not Path("exported").exists()


@pytest.mark.parametrize("kind", FREE_RUNS)
def test_free_run_passes(logs, tiny_store, capsys, monkeypatch, kind):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    run = logs / "Own" / "version_0"
    make_kind(FREE_RUNS, kind, run, tiny_store)
    assert trained_on_free(Run(run))
    assert caption_examples([Row([Run(run)])]).shown
    with pytest.raises(SystemExit):
        main(["export", "--run", str(run), "--out", "exported", "--hub", "lab/model"])
    assert "--hub lab/model: " in capsys.readouterr().err  # past the gate: nobody is logged in


@pytest.mark.parametrize("kind", ["own flag", "edited"])
def test_exported_model_keeps_its_flag(tmp_path, kind):
    with artifacts.create(tmp_path / "model", "babyvlm", {"arguments": {}, "model": {}, "licensed": True}):
        pass
    if kind == "edited":
        edit(tmp_path / "model" / "babyvlm.json")
    assert not trained_on_free(Run(tmp_path / "model"))


# Benchmark lists


def assembled(ancestors, *, licensed):
    shutil.rmtree("world")
    manifest = {"arguments": {}, "licensed": licensed, "world": "real", "ancestors": ancestors}
    with artifacts.create(Path("world"), "benchmark", manifest) as folder:
        (folder / "caption.csv").write_text("image,text\na.jpg,x\n")


@pytest.mark.parametrize("kind", ["own flag", "parent", "edited", "unknown", "elsewhere"])
def test_licensed_list_is_shown_in_no_report(logs, tiny_store, kind):
    ancestors = tiny_store(licensed=True).lineage if kind == "parent" else {}
    image = Path("world/a.jpg").read_bytes()
    assembled(ancestors, licensed=kind in ("own flag", "edited"))
    Path("world/a.jpg").write_bytes(image)
    if kind == "edited":
        edit(Path("world/benchmark.json"))
    elif kind == "unknown":
        Path("world/benchmark.json").unlink()
    elif kind == "elsewhere":
        Path("frames").mkdir()
        Path("world/a.jpg").rename("frames/a.jpg")
        Path("world/a.jpg").symlink_to(Path("frames/a.jpg").resolve())
    own, other = (Run(logs / row / "version_0") for row in ("Own", "Other"))
    found = caption_examples([Row([own])])
    assert kind == "elsewhere" or found.left_out == ["Own"]
    assert not found.shown
    assert not any(change.better_a or change.better_b for change in changed_items(own, other))
    if kind == "edited":
        with pytest.raises(UserError, match="was edited"):
            list_is_licensed(Path("world/caption.csv"), Path("world"))


# Loggers


def test_loggers_receive_numbers_only():
    """No code passes an image, a text or a table to a logger, whichever logger that is."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            assert not name.startswith(("log_image", "log_text", "log_table", "log_artifact", "log_video")), path
            assert name not in ("add_image", "add_images", "add_text", "add_figure", "add_embedding"), path
            assert name != "experiment" or path.name == "csv_logger.py", path


RECORDER = """
from lightning.pytorch.loggers import Logger
CALLS = []
class Recorder(Logger):
    name = version = "recorder"
    def log_metrics(self, metrics, step=None):
        CALLS.append(metrics)
    def log_hyperparams(self, *given, **named):
        CALLS.append(("log_hyperparams", given, named))
    def after_save_checkpoint(self, checkpoint_callback):
        pass
    def __getattr__(self, name):
        if not name.startswith(("log_", "add_", "watch", "experiment")) or name == "log_dir":
            raise AttributeError(name)
        return lambda *given, **named: CALLS.append((name, given, named))
"""


def test_run_on_licensed_data_logs_numbers_only(tmp_path, tiny_store, monkeypatch):
    """A logger of the user's own, in the place of W&B or MLFlow, sees what they would upload."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BABYVLM_ALLOW", "recorder")
    (tmp_path / "recorder.py").write_text(RECORDER)
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    texts = [f"{verb} the {noun}" for verb in ("see", "wash") for noun in ("ball", "dog", "cup", "car")]
    store = tiny_store(texts, path=tmp_path / "stores" / "home", splits=splits, licensed=True)
    create_vocabulary(tmp_path / "words", [store.path], 1)
    vision = {"class_path": "babyvlm.models.networks.vision.VisionEncoder", "init_args": {"backbone": "test_resnet"}}
    data = {"name": "tiny", "stores": "stores", "sources": [{"store": "home"}], "validation": "home"}
    data |= {"vocabulary": "words", "batch_size": 2, "image_size": 64, "max_tokens": 9}
    config = {
        "trainer": {
            **{"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False},
            **{"log_every_n_steps": 1, "use_distributed_sampler": False, "num_sanity_val_steps": 0},
            "logger": [{"class_path": "recorder.Recorder"}],
        },
        "test_after_fit": False,
        "model": {"class_path": "babyvlm.models.cvcl.CVCL", "init_args": {"vision": vision, "width": 8}},
        "data": {"class_path": "babyvlm.data.pair_mix.PairMix", "init_args": data},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "config.yaml"])
    import recorder

    metrics = [call for call in recorder.CALLS if isinstance(call, dict)]
    assert any("train_loss" in call for call in metrics)
    assert all(isinstance(value, int | float) for call in metrics for value in call.values())
    texts = [str(call) for call in recorder.CALLS if not isinstance(call, dict)]
    assert not any(said in text for said in store.columns("utterance")["utterance"].to_pylist() for text in texts)
    assert not any("PIL" in text or "tensor(" in text or "b'" in text for text in texts)


def test_logger_that_would_upload_weights_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BABYVLM_ALLOW", "lightning.pytorch.loggers.mlflow")
    from babyvlm.allowed import check_config

    for path in ("lightning.pytorch.loggers.WandbLogger", "lightning.pytorch.loggers.mlflow.MLFlowLogger"):
        for value in (True, "all"):
            logger = {"class_path": path, "init_args": {"log_model": value}}
            with pytest.raises(UserError, match="log_model"):
                check_config({"trainer": {"logger": [logger]}})


# Manifests


def test_edited_manifest_of_any_kind_is_noticed(tmp_path, tiny_store, make_vocabulary):
    store = tiny_store(path=tmp_path / "store", licensed=True)
    words = make_vocabulary(store)
    for folder, kind in ((store.path, "store"), (words, "vocabulary")):
        assert (folder / f"{kind}.json.sha256").read_text().startswith(artifacts.fingerprint(folder, kind))
        edit(folder / f"{kind}.json")
        with pytest.raises(UserError, match=f"{kind}.json: was edited after it was written"):
            artifacts.read_manifest(folder, kind)
    (store.path / "store.json.sha256").unlink()  # as in version 0.1
    assert not PairStore(store.path).licensed


def test_copy_of_vocabulary_keeps_its_checksum(tmp_path, vocabulary):
    Vocabulary(vocabulary).copy_to(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == sorted(FILES)
