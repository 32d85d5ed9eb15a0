"""Negative images: drawn, painted, or asked from a server; what CLIP drops; and the folder that comes out."""

import base64
import csv
import io
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.benchmark_builder.assemble import assemble
from babyvlm.benchmark_builder.image_generators import DiffusionPainter, PlayroomPainter, _topic
from babyvlm.benchmark_builder.items import Item, Items, write_items
from babyvlm.benchmark_builder.negatives import negatives
from babyvlm.benchmark_builder.verdicts import VerdictFile
from babyvlm.benchmarks import labeled_s, vtwt, winoground
from babyvlm.benchmarks.results import world_of
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.images import open_rgb
from babyvlm.playroom.draw import encode_jpeg
from babyvlm.playroom.web import draw_studio_image

PHRASES = ["red ball", "blue ball", "wash cup", "fill cup", "big dog", "blue whatnot"]
# Each phrase is as often the negative as the positive among the first five; the last has no mirror.
PAIRS = [
    (0, 1, "adjective"),
    (1, 0, "adjective"),
    (2, 3, "verb"),
    (3, 2, "verb"),
    (0, 4, "both"),
    (4, 0, "both"),
    (1, 5, "noun"),
]


def make_items(folder, licensed=False):
    """Pairs as `phrase-pairs` leaves them, with pictures of the positive phrases."""
    manifest = {
        "arguments": {"proposer": "rules 1", "seed": 0},
        "licensed": licensed,
        "proposed": 9,
        "funnel": {"in": 11, "kept": len(PAIRS), "dropped": {}, "stage": "x", "unit": "pairs"},
    }
    with artifacts.create(folder, "items", manifest) as partial:
        (partial / "images").mkdir()
        items = []
        for n, (positive, negative, word_class) in enumerate(PAIRS):
            picture = draw_studio_image(Random(n), _topic(PHRASES[positive]))
            (partial / f"images/{n}.jpg").write_bytes(encode_jpeg(picture))
            items.append(Item(f"p{n}", f"images/{n}.jpg", PHRASES[positive], PHRASES[negative], word_class))
        manifest["sha256"] = write_items(partial, items)
    return Items(folder)


def judge(items, reviewer, verdicts, folder=None):
    folder = folder or items.path.with_name(f"{items.path.name}.verdicts")
    with VerdictFile(folder, reviewer, items.fingerprint) as file:
        for name, verdict in zip(items.rows, verdicts, strict=False):
            file.give(name, verdict)


@pytest.fixture
def pairs(tmp_path):
    items = make_items(tmp_path / "pairs")
    judge(items, "ann", ["yes"] * len(PAIRS))
    return items


def test_playroom_draws_the_negative_phrase_and_clip_has_its_say(pairs, tmp_path, capsys):
    out = tmp_path / "negatives"
    main(["benchmark", "build", "negatives", "--pairs", str(pairs.path), "--out", str(out)])
    made = Items(out)
    assert list(made.rows) == [f"p{n}" for n in range(6)]
    for name, item in made.rows.items():
        pair = pairs.rows[name]
        assert (item.positive, item.negative) == (pair.negative, pair.positive)  # as the new image sees them
        assert float(item.notes["clip_own"]) > float(item.notes["clip_other"])
        assert (item.notes["model"], item.notes["prompt"].count(pair.negative)) == ("playroom", 1)
        painter = PlayroomPainter()
        again = painter.paint(pair.negative, "", int(item.notes["seed"]), out)
        assert open_rgb(out / item.image).tobytes() == again.tobytes()  # the seed makes it again
    assert made.manifest["funnel"]["dropped"] == {"playroom cannot make it": 1}
    negatives(pairs.path, out)
    assert "already complete" in capsys.readouterr().out


def test_an_image_that_fits_the_positive_phrase_better_is_dropped(pairs, tmp_path, monkeypatch):
    def contrary(self, phrase, prompt, seed, like):
        return open_rgb(like)  # shows the positive phrase

    monkeypatch.setattr(PlayroomPainter, "paint", contrary)
    with pytest.raises(UserError, match="fits the positive phrase better"):
        negatives(pairs.path, tmp_path / "negatives")
    assert not (tmp_path / "negatives").exists()


def test_a_run_that_was_interrupted_paints_only_the_rest(pairs, tmp_path, monkeypatch):
    painted, draw = [], PlayroomPainter.paint

    def counting(self, phrase, *rest):
        if len(painted) == 3:
            painted.append("stop")
            raise KeyboardInterrupt
        painted.append(phrase)
        return draw(self, phrase, *rest)

    monkeypatch.setattr(PlayroomPainter, "paint", counting)
    with pytest.raises(KeyboardInterrupt):
        negatives(pairs.path, tmp_path / "negatives")
    negatives(pairs.path, tmp_path / "negatives")
    assert len(painted) == len(PAIRS) + 1
    assert len(Items(tmp_path / "negatives").rows) == 6


def test_only_what_reviewers_accepted_is_painted(tmp_path):
    items = make_items(tmp_path / "pairs")
    with pytest.raises(UserError, match="holds no verdicts"):
        negatives(items.path, tmp_path / "negatives")
    judge(items, "ann", ["yes", "yes", "skip", "no"])
    judge(items, "bob", ["yes", "no", "yes", "yes"])
    negatives(items.path, tmp_path / "negatives")
    assert list(Items(tmp_path / "negatives").rows) == ["p0", "p2"]


class _ImageServer(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        mind = self.server.mind
        mind["bodies"].append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        mind["keys"].append(self.headers.get("Authorization"))
        status = mind["faults"].pop(0) if mind["faults"] else 200
        content = json.dumps(mind["answer"](mind["bodies"][-1]["prompt"]) if status == 200 else {}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def picture_of(prompt):
    """A server's answer: the phrase in the prompt, drawn."""
    phrase = " ".join(prompt.split()[-2:])
    content = io.BytesIO()
    draw_studio_image(Random(0), _topic(phrase) or _topic("red ball")).save(content, "PNG")
    return {"created": 1, "data": [{"b64_json": base64.b64encode(content.getvalue()).decode()}]}


@contextmanager
def image_server(answer=picture_of, faults=()):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ImageServer)
    server.mind = {"bodies": [], "keys": [], "faults": list(faults), "answer": answer}
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.mind, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("model", "told"), [("m", "b64_json"), ("gpt-image-1", None)])
def test_a_server_gets_the_prompt_alone(tmp_path, monkeypatch, model, told):
    monkeypatch.setattr("babyvlm.curation.rewrite.llm.client.FIRST_WAIT", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    items = make_items(tmp_path / "pairs", licensed=True)
    judge(items, "ann", ["yes"] * 6)
    with image_server(faults=[503]) as (mind, url):
        negatives(
            items.path,
            tmp_path / "negatives",
            method="server",
            model=model,
            base_url=url,
            prompt="a {phrase}",
            size="256x256",
        )
    made = Items(tmp_path / "negatives")
    assert len(made.rows) >= 4
    assert not made.licensed  # nothing of the frames is in them
    assert len(mind["bodies"]) == 7  # one again
    for body in mind["bodies"]:
        wanted = {"model": model, "n": 1, "size": "256x256"} | ({"response_format": told} if told else {})
        assert body.items() >= wanted.items()
        assert body.keys() == wanted.keys() | {"prompt"}
        assert body["prompt"].removeprefix("a ") in PHRASES
    assert set(mind["keys"]) == {"Bearer sk-secret"}
    assert {item.notes["model"] for item in made.rows.values()} == {model}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"data": []}, "without a picture"),
        ({"data": [{"b64_json": "bm8="}]}, "without a picture"),
        ("?", "without a picture"),
    ],
)
def test_a_server_that_answers_without_a_picture_ends_in_one_line(pairs, tmp_path, answer, reason):
    with image_server(lambda _: answer) as (_, url), pytest.raises(UserError, match=reason) as error:
        negatives(pairs.path, tmp_path / "out", method="server", model="m", base_url=url)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A Stable Diffusion with random weights, in the real format: 0.1 million parameters."""
    diffusers = pytest.importorskip("diffusers", reason="extra gen is not installed")
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("pipeline")
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), ",</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    width = 16
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=len(tokens) - 2,
            eos_token_id=len(tokens) - 1,
            pad_token_id=len(tokens) - 1,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=width,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "model", safe_serialization=True)
    return folder / "model"


def test_diffusion_is_the_librarys_own_and_the_same_for_a_seed(pipeline, pairs):
    import torch
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

    like = pairs.path / "images/0.jpg"
    painter = DiffusionPainter(str(pipeline), steps=2, strength=None, device="cpu")
    first = painter.paint("red ball", "a red ball", 7, like)
    assert first.tobytes() == painter.paint("red ball", "a red ball", 7, like).tobytes()
    assert first.tobytes() != painter.paint("red ball", "a red ball", 8, like).tobytes()
    assert first.tobytes() != painter.paint("red ball", "a blue cup", 7, like).tobytes()
    how = {"num_inference_steps": 2, "generator": torch.Generator("cpu").manual_seed(7)}
    library = StableDiffusionPipeline.from_pretrained(pipeline, use_safetensors=True)
    assert first.tobytes() == library("a red ball", **how).images[0].tobytes()
    from_image = DiffusionPainter(str(pipeline), steps=4, strength=0.5, device="cpu")
    near = from_image.paint("red ball", "a red ball", 7, like)
    library = StableDiffusionImg2ImgPipeline.from_pretrained(pipeline, use_safetensors=True)
    how = {"num_inference_steps": 4, "generator": torch.Generator("cpu").manual_seed(7)}
    expected = library("a red ball", image=open_rgb(like), strength=0.5, **how).images[0]
    assert near.tobytes() == expected.tobytes()
    with pytest.raises(UserError, match="diffusers cannot load it"):
        DiffusionPainter(str(pairs.path), steps=2, strength=None, device="cpu")


def test_the_folder_has_lists_that_the_benchmarks_read_and_says_how_it_was_made(pairs, tmp_path, draw_jpeg, capsys):
    judge(pairs, "bob", ["yes"] * 5 + ["no", "yes"])
    negatives(pairs.path, tmp_path / "negatives")
    for n, category in enumerate(("ball", "cup", "dog", "hat")):
        (tmp_path / "labels" / category).mkdir(parents=True)
        (tmp_path / "labels" / category / "1.jpg").write_bytes(draw_jpeg(n))
    main(
        [
            "benchmark",
            "build",
            "labeled-s",
            "--images",
            str(tmp_path / "labels"),
            "--out",
            str(tmp_path / "labeled"),
            "--per_category",
            "3",
            "--licensed",
            "false",
        ]
    )
    out = tmp_path / "benchmark"
    main(
        [
            "benchmark",
            "build",
            "assemble",
            "--out",
            str(out),
            "--labeled_s",
            str(tmp_path / "labeled"),
            "--pairs",
            str(pairs.path),
            "--negatives",
            str(tmp_path / "negatives"),
        ]
    )

    assert len(labeled_s.LabeledS(out / "labeled_s.csv").read(out / "labeled_s.csv")) == 12
    rows = vtwt.VTWT(out / "vtwt.csv").read(out / "vtwt.csv")
    # bob refused p5, the mirror of p4, and p6 has none: four of seven are balanced
    assert [trial.options[0][1] for trial in rows] == ["red ball", "blue ball", "wash cup", "fill cup"]
    trials = winoground.BabyWinoground(out / "baby_winoground.csv").read(out / "baby_winoground.csv")
    assert [trial.item for trial in trials] == ["p0", "p1", "p2", "p3"]
    for trial in trials:
        images = {image for image, _ in trial.options}
        assert {(out / image).suffix for image in images} == {".jpg", ".png"}
        made = Items(tmp_path / "negatives").rows[trial.item]
        negative = next(image for image in images if image.endswith(".png"))
        assert (out / negative).read_bytes() == (tmp_path / "negatives" / made.image).read_bytes()
    for name in ("vtwt", "baby_winoground"):
        with (out / f"{name}.csv").open() as file:
            listed = list(csv.DictReader(file))
        assert Counter(row["positive_phrase"] for row in listed) == Counter(row["negative_phrase"] for row in listed)

    assert world_of(out / "vtwt.csv") == "playroom"  # told by the negatives' painter, and so by every table
    card = (out / "card.md").read_text()
    assert "9 proposed -> 11 with mirrored -> 7 checked -> 7 reviewed -> 6 accepted -> 4 kept" in card
    assert "Cohen's kappa" in card
    assert "6 of 7 items alike (ann, bob)" in card
    assert "OpenMoji, CC BY-SA 4.0" in card
    with (out / "images.csv").open() as file:
        hashes = {row["image"]: row["sha256"] for row in csv.DictReader(file)}
    assert {name: artifacts.sha256_file(out / name) for name in hashes} == hashes
    assert len(hashes) == sum(1 for path in out.rglob("*.*") if path.suffix in (".jpg", ".png"))
    assert artifacts.lineage(out, "benchmark")
    capsys.readouterr()
    assemble(out, tmp_path / "labeled", pairs.path, negatives=tmp_path / "negatives")
    assert "already complete" in capsys.readouterr().out


def test_licensed_images_can_be_left_out_and_mistakes_are_told(tmp_path):
    items = make_items(tmp_path / "pairs", licensed=True)
    judge(items, "ann", ["yes"] * 4)
    assemble(tmp_path / "out", pairs=items.path, images="hashes")
    assert not list((tmp_path / "out").rglob("*.jpg"))
    assert len((tmp_path / "out/images.csv").read_text().splitlines()) == 5
    assert world_of(tmp_path / "out/vtwt.csv") == "real"
    assert "Licensed images" in (tmp_path / "out/card.md").read_text()
    with pytest.raises(UserError, match="name the parts"):
        assemble(tmp_path / "none")
    negatives(items.path, tmp_path / "negatives")
    other = make_items(tmp_path / "other")
    judge(other, "ann", ["yes"] * 4)
    with pytest.raises(UserError, match="was made of other pairs"):
        assemble(tmp_path / "none", pairs=other.path, negatives=tmp_path / "negatives")
    with pytest.raises(UserError, match="no item has a yes of 2"):
        assemble(tmp_path / "none", pairs=items.path, reviewers=2)
    lonely = make_items(tmp_path / "lonely")
    judge(lonely, "ann", ["yes"])
    with pytest.raises(UserError, match="none is balanced"):
        assemble(tmp_path / "none", pairs=lonely.path)
    assert not (tmp_path / "none").exists()


def test_pictures_are_kept_without_loss(tmp_path):
    picture = Image.effect_noise((8, 8), 90).convert("RGB")
    from babyvlm.benchmark_builder.image_generators import png

    assert open_rgb(png(picture)).tobytes() == picture.tobytes()
