"""Published checkpoints, against what the authors' code returned on the same files (tests/data/published)."""

import json
import shutil
import sys
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import babyvlm
from babyvlm.benchmarks.scoring import score_facts
from babyvlm.errors import UserError
from babyvlm.models.checkpoints import INERT, read_state_dict
from babyvlm.models.hub import PINNED_FILES
from babyvlm.models.published import PublishedBabyLLaVA
from babyvlm.models.zero_shot import Trained
from babyvlm.types import Captioner, ImageTextScorer, TextScorer
from support.published_models import BABYLLAVA, CVCL, DINO, TEXTS, digest, pictures, write

EXPECTED = json.loads((Path(__file__).parents[1] / "data" / "published" / "expected.json").read_text())
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
WORD = "babyllava_resnext_gpt2_word"


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Write a model when it is first asked for."""
    root, made = tmp_path_factory.mktemp("published"), {}

    def get(name):
        if name not in made:
            made[name] = write(root, name)
        return made[name]

    return get


def images_of(model):
    return torch.stack([model.preprocess(picture) for picture in pictures()])


@pytest.mark.parametrize("name", [*BABYLLAVA, *CVCL])
def test_scores_equal_authors_code(folder_of, name):
    assert digest(folder_of(name)) == EXPECTED["weights"][name]
    model = babyvlm.load(folder_of(name))
    assert isinstance(model, ImageTextScorer)
    expected = torch.tensor(EXPECTED[name]["score"])
    torch.testing.assert_close(model.score(images_of(model), TEXTS), expected, **CLOSE)
    assert expected.std(0).min() > 1e-3  # the scores depend on the image
    assert isinstance(model, Captioner) == (name in BABYLLAVA)
    assert "multimodal" not in sys.modules  # whose classes a checkpoint of CVCL pickles


@pytest.mark.parametrize("name", BABYLLAVA)
def test_captions_equal_authors_code(folder_of, name):
    model = babyvlm.load(folder_of(name))
    assert model.caption(images_of(model)) == EXPECTED[name]["caption"]
    assert len(set(EXPECTED[name]["caption"])) > 3


def test_caption_leaves_out_padding_of_the_prompt(folder_of, tmp_path):
    shutil.copytree(folder_of("babyllava_resnext_gpt2_bpe"), tmp_path / "changed")
    file = tmp_path / "changed" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "<unk>"}))
    lengths = []
    for folder in (folder_of("babyllava_resnext_gpt2_bpe"), tmp_path / "changed"):
        model = babyvlm.load(folder)
        assert model.vocabulary.after.count(1) == 1  # the line break is unknown
        prompts = []
        model.language.register_forward_pre_hook(
            lambda _, args, inputs, prompts=prompts: prompts.append(inputs.get("inputs_embeds")), with_kwargs=True
        )
        model.caption(images_of(model)[:1])
        lengths.append(prompts[0].shape[1])
    assert lengths[0] == lengths[1] + 1


@pytest.mark.parametrize("name", DINO)
def test_backbone_features_equal_authors_code(folder_of, name):
    assert digest(folder_of(name)) == EXPECTED["weights"][name]
    model = babyvlm.load(folder_of(name))
    features = model(images_of(model))[:, :24]
    torch.testing.assert_close(features, torch.tensor(EXPECTED[name]["features"]), **CLOSE)


def test_forks_agree_on_cvcl():
    values = EXPECTED["cvcl_embedding"]
    torch.testing.assert_close(torch.tensor(values["score"]), torch.tensor(values["score_of_fork"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", CVCL)
def test_vocabulary_keeps_published_ids(folder_of, name):
    vocabulary = babyvlm.load(folder_of(name)).vocabulary
    theirs = [[token for token in row if token] for row in EXPECTED[name]["tokens"]]  # 0 is padding
    assert vocabulary.encode(TEXTS) == theirs
    assert vocabulary.encode(["ball " * 40])[0][-2:] == [theirs[0][1], 3]  # cut to 25 tokens, with <eos>
    assert "zebra" not in vocabulary
    assert vocabulary.encode_raw(["Don't touch it."]) == vocabulary.encode(["do n't touch it ."])


def test_im_patch_is_never_added(folder_of, tmp_path):
    """Where a config does not turn it off, the authors add the token with random weights."""
    folder = Path(shutil.copytree(folder_of(WORD), tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    del config["mm_use_im_patch_token"]
    (folder / "config.json").write_text(json.dumps(config))
    model = babyvlm.load(folder)
    torch.testing.assert_close(model.score(images_of(model), TEXTS), torch.tensor(EXPECTED[WORD]["score"]), **CLOSE)


def test_pickled_classes_are_inert(folder_of):
    file = next(folder_of("cvcl_lstm").glob("*.ckpt"))
    pickled = set(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    assert {"argparse.Namespace", "multimodal.multimodal.VisionEncoder", "torchvision.models.resnet.ResNet"} <= pickled
    assert {name.partition(".")[0] for name in pickled} - {"argparse"} <= set(INERT)


def test_other_pickled_settings_are_skipped_or_named(folder_of, tmp_path):
    source = folder_of("cvcl_embedding")
    (tmp_path / "vocab.json").write_bytes((source / "vocab.json").read_bytes())
    file = tmp_path / "best.ckpt"
    state = read_state_dict(next(source.glob("*.ckpt")), "x")
    settings = {"data": Path("x"), "lr": np.float64(0.1), "sizes": np.arange(3), "day": datetime(2024, 2, 1), "n": {1}}
    torch.save({"state_dict": state, "hyper_parameters": settings}, file)
    model = babyvlm.load(tmp_path)
    expected = torch.tensor(EXPECTED["cvcl_embedding"]["score"])
    torch.testing.assert_close(model.score(images_of(model), TEXTS), expected, **CLOSE)
    torch.save({"state_dict": state, "hyper_parameters": {"f": partial(print, "executed")}}, file)
    with pytest.raises(UserError, match=r"a pickled functools.partial, which is not loaded. Save its weights alone"):
        babyvlm.load(tmp_path)


def test_scores_of_babyllava_without_an_image_and_other_likelihoods(folder_of):
    model = PublishedBabyLLaVA(folder_of("babyllava_resnext_gpt2_bpe"), "total")
    assert isinstance(model, TextScorer)
    images = images_of(model)[:2]
    counts = torch.tensor([len(ids) for ids in model.vocabulary.text_ids(TEXTS)])
    total = model.score(images, TEXTS)
    torch.testing.assert_close(
        total / counts, torch.tensor(EXPECTED["babyllava_resnext_gpt2_bpe"]["score"])[:2], **CLOSE
    )
    # Without an image, one forward pass of the language model alone.
    ids = [model.vocabulary._tokenizer.encode(f"\n {text}").ids for text in TEXTS]
    alone = []
    for row, count in zip(ids, counts.tolist(), strict=True):
        with torch.no_grad():
            log_p = model.language(torch.tensor([row])).logits[0].log_softmax(-1)
        alone.append(log_p[:-1].gather(1, torch.tensor(row)[1:, None])[-count:].sum())
    torch.testing.assert_close(model.score_texts(TEXTS), torch.stack(alone), **CLOSE)
    model.likelihood = "evidence"
    torch.testing.assert_close(model.score(images, TEXTS), total)
    model.likelihood, model.score_eos = "total", True
    assert (model.score(images, TEXTS) < total).all()  # one token more
    wanted = torch.eye(2, len(TEXTS), dtype=torch.bool)
    assert model.score(images, TEXTS, wanted).isnan().equal(~wanted)
    word = PublishedBabyLLaVA(folder_of(WORD))
    assert word.score_texts(TEXTS).isfinite().all()


def test_trained_evaluates_a_published_model(folder_of, tmp_path):
    for number, picture in enumerate(pictures()[:2]):
        picture.save(tmp_path / f"{number}.png")
    rows = ["image,positive_phrase,negative_phrase", "0.png,see dog,wash cup", "1.png,red ball,blue ball"]
    (tmp_path / "vtwt.csv").write_text("\n".join(rows))
    model = Trained(str(folder_of(WORD)), likelihood="total", score_eos=True)
    result = babyvlm.evaluate(model, "vtwt", trials=tmp_path / "vtwt.csv")
    assert result.facts["score"] == "total, with the end token"
    assert result.facts["unknown_words"] == "0.0000"
    assert {one.control for one in result.results} == {"", "blank", "shuffled", "text_only"}
    with pytest.raises(UserError, match="has no option likelihood"):
        Trained(str(folder_of("cvcl_embedding")), likelihood="total")


def test_cvcl_scores_words_alone_if_asked(folder_of):
    model = Trained(str(folder_of("cvcl_embedding")), score_sos_eos=False)
    images = images_of(model)
    image_BD = model.model.network.encode_image(images)
    words = model.model.network.text_encoder.embedding.weight[model.vocabulary.words.index("ball")]
    expected = torch.nn.functional.cosine_similarity(image_BD, words[None])
    torch.testing.assert_close(model.score(images, ["ball"])[:, 0], expected, **CLOSE)
    assert score_facts(model) == {"score": "cosine, texts without <sos> and <eos>"}
    assert not score_facts(Trained(str(folder_of("cvcl_embedding"))))


def test_model_of_hub_needs_a_commit(folder_of, monkeypatch):
    asked = []

    def fetch(name, patterns, revision=None):
        asked.append((name, tuple(patterns), revision))
        return folder_of("cvcl_embedding") if revision else folder_of(WORD).parent

    monkeypatch.setattr("babyvlm.models.hub.fetch", fetch)
    with pytest.raises(UserError, match="needs its commit as `revision`"):
        babyvlm.load("org/name")
    with pytest.raises(UserError, match="revision main: must be a commit of 40 hexadecimal digits"):
        babyvlm.load("org/name", revision="main")
    assert babyvlm.load("org/name", revision="0" * 40).vocabulary
    assert asked[-1] == ("org/name", PINNED_FILES, "0" * 40)


def test_files_that_do_not_fit_are_refused(folder_of, tmp_path):
    def refused(name, message, change):
        other = tmp_path / "changed"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(folder_of(name), other)
        change(other)
        with pytest.raises(UserError, match=message) as refusal:
            babyvlm.load(other)
        assert "\n" not in str(refusal.value)

    def weights(edit):
        def change(other):
            state = load_file(other / "model.safetensors")
            edit(state)
            save_file(state, other / "model.safetensors")

        return change

    def setting(file, **values):
        def change(other):
            content = json.loads((other / file).read_text()) | values
            (other / file).write_text(json.dumps(content))

        return change

    refused(WORD, "no weights found", lambda other: (other / "model.safetensors").unlink())
    refused(WORD, r"connector.2.bias is missing", weights(lambda state: state.pop("transformer.mm_projector.2.bias")))
    refused(WORD, "shape of wte.weight is", setting("config.json", n_embd=32))
    refused(WORD, "cannot be read as a tokenizer", lambda other: (other / "tokenizer.json").write_text("{"))
    refused(WORD, "mm_use_im_start_end is not supported", setting("config.json", mm_use_im_start_end=True))
    refused(WORD, "neither a run, an exported", setting("config.json", model_type="llava_mistral"))
    refused(WORD, "lm_head.weight is missing", setting("config.json", tie_word_embeddings=False))
    refused(WORD, "asks for code", setting("config.json", auto_map={"AutoModel": "evil.Model"}))
    refused(WORD, r"has no eos_token", setting("tokenizer_config.json", eos_token="<end>"))
    refused("cvcl_embedding", r"of 40 words.* 41", setting("vocab.json", zebra=40))
    refused("cvcl_embedding", "words with ids from 0", setting("vocab.json", zebra=77))
    refused("cvcl_embedding", "words with ids from 0", setting("vocab.json", ball=5.0))
    refused("cvcl_embedding", "<sos> and <eos> must have the ids", setting("vocab.json", **{"<sos>": 3, "<eos>": 2}))
    refused("cvcl_embedding", "2 checkpoints", lambda other: (other / "second.ckpt").touch())
    refused("cvcl_embedding", "neither a run, an exported", lambda other: (other / "vocab.json").unlink())
