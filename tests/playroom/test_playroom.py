"""Test Playroom: its images, its text, and the files that it writes."""

import csv
import hashlib
import io
import itertools
import json
import random
import re
import tarfile
from collections import Counter

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.playroom import camera, draw, home, language, trials, world
from babyvlm.playroom.make import SIZES, playroom, tree_checksum
from babyvlm.playroom.web import draw_studio_image

TINY = SIZES["tiny"]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    out = tmp_path_factory.mktemp("playroom") / "tiny"
    playroom(out, "tiny", num_workers=1)
    return out


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tar_members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_playroom_is_independent_of_workers(room, tmp_path):
    playroom(tmp_path / "again", "tiny", num_workers=2)
    assert tree_checksum(tmp_path / "again") == tree_checksum(room)


def test_playroom_seed_changes_every_part(room, tmp_path):
    playroom(tmp_path / "other", "tiny", seed=1, num_workers=1)
    first = artifacts.read_manifest(room, "playroom")["checksums"]
    second = artifacts.read_manifest(tmp_path / "other", "playroom")["checksums"]
    assert first.keys() == second.keys() == {"home", "web", "clean", "trials", "truth.csv"}
    assert not any(first[part] == second[part] for part in first)


def test_playroom_manifest_has_counts_and_credit(room):
    manifest = artifacts.read_manifest(room, "playroom")
    assert manifest["arguments"]["world_version"] == world.WORLD_VERSION
    assert manifest["credit"] == "OpenMoji, CC BY-SA 4.0"
    assert manifest["counts"]["web items"] == TINY.web
    assert manifest["checksums"]["clean"] == tree_checksum(room / "clean")


def test_playroom_skips_complete_world_and_rejects_other_seed(room, capsys):
    before = (room / "truth.csv").stat().st_mtime_ns
    playroom(room, "tiny", num_workers=1)
    assert "already complete" in capsys.readouterr().out
    assert (room / "truth.csv").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="different arguments: seed"):
        playroom(room, "tiny", seed=5, num_workers=1)


@pytest.mark.parametrize(("given", "message"), [({"in_view": 0.9}, "in_view"), ({"num_workers": 0}, "num_workers")])
def test_playroom_rejects_wrong_options(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        playroom(tmp_path / "out", "tiny", **given)
    assert not list(tmp_path.iterdir())


def test_glyph_image_draws_every_glyph():
    glyphs = [thing.glyph for thing in world.things()] + list(draw.MARKS.values())
    missing = draw.glyph_image("\U0001fffd").tobytes()  # a code point that is in no font
    images = {glyph: draw.glyph_image(glyph) for glyph in glyphs}
    assert not [glyph for glyph, image in images.items() if image.tobytes() == missing]
    assert not [glyph for glyph, image in images.items() if np.asarray(image)[..., 3].mean() < 8]
    assert len({image.tobytes() for image in images.values()}) == len(set(glyphs))


def test_glyph_image_rejects_unknown_glyph():
    with pytest.raises(ValueError, match="has no glyph"):
        draw.glyph_image(" ")


def test_tint_glyph_colors_are_distinguishable():
    for thing in world.home_things():
        if not thing.tint:
            continue
        means = {}
        for name, colour in world.COLOURS.items():
            pixels = np.asarray(draw.tint_glyph(thing.glyph, colour)).reshape(-1, 4).astype(float)
            seen = pixels[(pixels[:, 3] > 128) & (pixels[:, :3].max(1) > 60)]
            means[name] = np.median(seen[:, :3], axis=0)
            assert np.abs(means[name] - colour).max() < 130, (thing.name, name)
        for one, other in itertools.combinations(means, 2):
            assert np.abs(means[one] - means[other]).max() > 12, (thing.name, one, other)


def test_world_has_enough_things_for_benchmarks():
    assert len(world.labeled_things()) == 22
    assert 55 <= len(world.home_things()) <= 80
    web = [thing for thing in world.things() if thing.domain == "web"]
    assert len(web) >= 200
    assert sum(not thing.baby for thing in web) >= 60
    assert all(thing.places and set(thing.places) <= set(world.PLACES) for thing in world.home_things())
    names = {thing.name for thing in world.home_things()}
    assert all(set(verb.things) <= names and len(verb.things) >= 6 for verb in world.VERBS.values())
    assert len({thing.name for thing in world.things()}) == len(world.things())


@pytest.mark.parametrize("name", ["cup", "bowl", "bottle", "bucket"])
def test_draw_topic_distinguishes_wash_and_fill(name):
    thing = world.thing(name)
    views = []
    for topic in (world.Topic(thing), world.Topic(thing, verb="wash"), world.Topic(thing, verb="fill")):
        canvas = Image.new("RGB", (100, 100), "white")
        draw.draw_topic(canvas, topic, 50, 50, 80, random.Random(0))
        views.append(np.asarray(canvas).astype(float))
    assert min(np.abs(a - b).mean() for a, b in ((views[0], views[1]), (views[0], views[2]), (views[1], views[2]))) > 8


@pytest.mark.parametrize(("count", "copies"), [("one", 1), ("two", 2), ("three", 3)])
def test_draw_topic_draws_number_of_things(monkeypatch, count, copies):
    stamped = []
    monkeypatch.setattr(draw, "paste_glyph", lambda canvas, glyph, *place, **more: stamped.append(glyph))
    topic = world.Topic(world.thing("duck"), count=count)
    draw.draw_topic(Image.new("RGB", (9, 9)), topic, 4, 4, 4, random.Random(0))
    assert stamped == [world.thing("duck").glyph] * copies


def test_images_distinguish_sizes():
    for draw_image in (draw_studio_image, trials.draw_home_image):
        ink = {}
        for size in world.SIZES:
            topic = world.Topic(world.thing("ball"), colour="purple", size=size)
            pixels = [np.asarray(draw_image(random.Random(seed), topic)).astype(int) for seed in range(12)]
            purple = [(np.abs(image - world.COLOURS["purple"]).max(axis=2) < 40).mean() for image in pixels]
            ink[size] = np.median(purple)
        assert ink["big"] > 3 * ink["little"]


def test_noun_phrase_forms():
    cup, apple = world.thing("cup"), world.thing("apple")
    assert world.Topic(cup, verb="wash").phrase == "wash cup"
    assert world.Topic(world.thing("leaf"), count="two").phrase == "two leaves"
    assert world.Topic(apple, count="one").phrase == "one apple"
    assert language.noun_phrase(world.Topic(apple)) == "an apple"
    assert language.noun_phrase(world.Topic(apple, size="big")) == "a big apple"
    assert language.noun_phrase(world.Topic(world.thing("bike"), colour="red"), formal=True) == "a red bicycle"
    assert language.noun_phrase(world.Topic(cup, verb="fill"), formal=True) == "filling a mug"
    assert language.noun_phrase(world.Topic(world.thing("umbrella"))) == "an umbrella"


def test_child_directed_sentence_names_topic():
    rng = random.Random(0)
    for _ in range(2000):
        topic = world.random_topic(rng, world.pick_home_thing(rng))
        text = language.child_directed_sentence(topic, rng)
        assert re.search(rf"\b{topic.noun}\b", text)
        word = topic.colour or topic.size or (topic.verb and topic.verb[:4])
        assert not word or word.rstrip("e") in text


def test_write_video_is_upside_down_at_five_fps(room):
    path = sorted((room / "home/videos").glob("*.mp4"))[0]
    assert re.fullmatch(r"S_\d{8}_\d{4}_\d\d", path.stem)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 5
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    assert frames[0].shape == (96, 128, 3)
    recording = home.simulate_recording(world.random_stream(0, "home", 0), TINY.rows, 0.4)
    assert len(frames) == recording.views[-1][2] * home.FPS
    for number, (view, start, _) in enumerate(recording.views):
        upright = np.asarray(camera.render_frame(view, 0.0, random.Random(number), upside_down=False)).astype(float)
        shown = frames[start * home.FPS]
        assert np.abs(shown[::-1, ::-1] - upright).mean() < 0.6 * np.abs(shown - upright).mean()


def test_truth_matches_utterances(room):
    truth = rows(room / "truth.csv")
    assert list(truth[0]) == list(home.TRUTH_COLUMNS)
    assert {row["in_view"] for row in truth} == {"0", "1"}
    for row in truth:
        assert not row["thing"] or re.search(world.thing(row["thing"]).name[:-1], row["utterance"])


def test_simulate_recording_in_view_matches_views():
    for index in range(10):
        recording = home.simulate_recording(world.random_stream(1, "home", index), 60, 0.4)
        views = {second: view for view, start, end in recording.views for second in range(start, end)}
        assert sorted(views) == list(range(recording.rows[-1].end))
        assert [row.end for row in recording.rows[:-1]] == [row.start for row in recording.rows[1:]]
        for row in recording.rows:
            assert row.end - row.start >= len(row.sentences)  # at least a second per sentence
            for sentence in row.sentences:
                assert not sentence.thing or (sentence.thing in views[row.start].visible) == sentence.in_view


@pytest.mark.parametrize("share", [0.0, 0.4, 0.6])
def test_simulate_recording_in_view_share(share):
    in_view = [
        sentence.in_view
        for index in range(12)
        for row in home.simulate_recording(world.random_stream(3, index), 60, share).rows
        if row.caregiver
        for sentence in row.sentences
    ]
    assert np.mean(in_view) == pytest.approx(share, abs=0.06)


def test_write_transcript_has_every_irregularity(tmp_path):
    written = []
    for index in range(12):
        recording = home.simulate_recording(world.random_stream(9, index), 60, 0.4)
        path = tmp_path / f"{index}.csv"
        home.write_transcript(recording, home.video_name(index), path, world.random_stream(9, "t", index))
        written += rows(path)
    assert list(written[0])[:4] == ["Time", "Speaker", "Video Name", "Utterance"]
    times = [row["Time"] for row in written]
    for pattern in (r"\d:\d\d", r"\d\d:\d\d", r"\d:\d\d:\d\d", r"\d+:\d\d.*-.*\d+:\d\d", r""):
        assert any(re.fullmatch(pattern, time) for time in times), pattern
    speakers = {row["Speaker"] for row in written}
    assert speakers >= {"M", "Mom", "mom", "m", "mother", "Mother", "papa", "the mom"}
    assert speakers >= {"C", "child", "Grandma", ""}
    talk = [row["Utterance"] for row in written]
    for pattern in (r"\*.+\*", r"\[.+\]", r"\(.+\)", r"inaudible", r"[.!?] \w.*[.!?]", r"\?", r"[A-Z]"):
        assert any(re.search(pattern, text) for text in talk), pattern
    assert any(re.fullmatch(r"[*(\[].+[*)\]]", text) for text in talk)  # no words are left
    assert any(name.endswith(".mp4") for name in (row["Video Name"] for row in written))


def test_transcript_times_match_truth(room):
    truth = {(row["video"], int(row["row"])): int(row["start_s"]) for row in rows(room / "truth.csv")}
    checked = 0
    for path in sorted((room / "home/transcripts").glob("*.csv")):
        for number, row in enumerate(rows(path)):
            if row["Time"] and (path.stem, number) in truth:
                parts = row["Time"].split("-")[0].strip().split(":")
                seconds = sum(int(part) * 60**place for place, part in enumerate(reversed(parts)))
                assert seconds == truth[path.stem, number]
                checked += 1
    assert checked > 20


def test_web_corpus_is_readable_in_three_formats(room):
    members = tar_members(room / "web/tars/00000.tar")
    assert len(members) == TINY.web  # a third of the items, three members each
    meta = json.loads(members["000000000.json"])
    assert meta["caption"] == members["000000000.txt"].decode()
    assert Image.open(io.BytesIO(members["000000000.jpg"])).size == (112, 112)
    listed = json.loads((room / "web/llava/list.json").read_text())
    assert len(listed) == TINY.web // 3
    for item in listed:
        assert [turn["from"] for turn in item["conversations"]] == ["human", "gpt"]
        Image.open(room / "web/llava/images" / item["image"]).verify()
    table = pq.read_table(room / "web/parquet/00000.parquet")
    assert table.column_names == ["image", "caption"]
    images = [members[name] for name in members if name.endswith(".jpg")] + table["image"].to_pylist()
    images += [(room / "web/llava/images" / item["image"]).read_bytes() for item in listed]
    assert len(set(images)) == TINY.web


def test_clean_scenes_have_both_captions(room):
    members = tar_members(room / "clean/00000.tar")
    metas = [json.loads(content) for name, content in members.items() if name.endswith(".json")]
    assert len(metas) == TINY.clean
    assert Counter(meta["caption"] == meta["plain"] for meta in metas)[True] >= TINY.clean // 2
    assert sum(meta["caption"] == meta["child_directed"] for meta in metas) >= TINY.clean // 2


def test_benchmark_images_are_not_in_training_data(room):
    seen = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (room / "web").rglob("*.jpg")}
    for tar in [*(room / "web/tars").glob("*.tar"), *(room / "clean").glob("*.tar")]:
        seen |= {hashlib.sha256(data).hexdigest() for name, data in tar_members(tar).items() if name.endswith("jpg")}
    table = pq.read_table(room / "web/parquet/00000.parquet")
    seen |= {hashlib.sha256(image).hexdigest() for image in table["image"].to_pylist()}
    benchmark = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((room / "trials").rglob("*.jpg"))]
    assert len(seen) == TINY.web + TINY.clean
    assert (
        len(set(benchmark))
        == len(benchmark)
        == 22 * 2 * TINY.labeled_images + 4 * (TINY.vtwt_pairs + 2 * TINY.winoground_pairs) + 2 * TINY.captions
    )
    assert not seen & set(benchmark)


def test_trial_images_exist_and_splits_are_disjoint(room):
    for name in ("labeled_s", "vtwt", "baby_winoground", "caption"):
        images_of = {"dev": set(), "test": set()}
        for row in rows(room / f"trials/{name}.csv"):
            assert (room / "trials" / row["image"]).is_file()
            images_of[row["half"]].add(row["image"])
        assert images_of["dev"]
        assert images_of["test"]
        assert not images_of["dev"] & images_of["test"]


def test_labeled_trials_are_balanced(room):
    listed = rows(room / "trials/labeled_s.csv")
    assert list(listed[0]) == ["trial_id", "target_category", "real_category", "image", "half"]
    by_trial = {}
    for row in listed:
        by_trial.setdefault(row["trial_id"], []).append(row)
        assert row["image"].split("/")[1] == row["real_category"]
    for four in by_trial.values():
        assert len({row["real_category"] for row in four}) == 4
        assert sum(row["real_category"] == row["target_category"] for row in four) == 1
    for split in trials.SPLITS:
        seen = Counter(row["real_category"] for row in listed if row["half"] == split)
        assert len(seen) == 22
        assert len(set(seen.values())) == 1


@pytest.mark.parametrize("name", ["vtwt", "baby_winoground"])
def test_image_blind_model_is_at_chance_in_each_split(room, name):
    listed = [row for row in rows(room / f"trials/{name}.csv") if row.get("image_tag") != "negative"]
    for split in trials.SPLITS:
        pairs = Counter((row["positive_phrase"], row["negative_phrase"]) for row in listed if row["half"] == split)
        assert pairs
        assert all(pairs[pair] == pairs[pair[::-1]] for pair in pairs)
        # Any preference between phrases, here for alphabetical order, is right exactly half of the time.
        right = sum(count for (good, bad), count in pairs.items() if good > bad)
        assert 2 * right == pairs.total()


def test_vtwt_word_class_is_what_differs(room):
    listed = rows(room / "trials/vtwt.csv")
    assert list(listed[0])[:3] == ["image", "positive_phrase", "negative_phrase"]
    for row in listed:
        first, second = row["positive_phrase"].split(), row["negative_phrase"].split()
        assert len(first) == len(second) == 2
        words, nouns = first[0] != second[0], first[1].rstrip("s") != second[1].rstrip("s")
        verb = first[0] in world.VERBS
        expected = "both" if words and nouns else "noun" if nouns else "verb" if verb else "adjective"
        assert row["word_class"] == expected
    assert {row["word_class"] for row in listed} == set(trials.WORD_CLASSES)


def test_benchmark_images_show_no_wrong_answer(tmp_path, monkeypatch):
    views = []

    def record_view(*args, **kwargs):
        views.append(camera.random_view(*args, **kwargs))
        return views[-1]

    monkeypatch.setattr(trials, "random_view", record_view)
    for name in ("vtwt", "baby_winoground"):
        (tmp_path / name).mkdir()
    for write in (trials.write_vtwt, trials.write_winoground):
        views.clear()
        write(tmp_path, 0, "test", 80)
        for one, other in zip(views[::2], views[1::2], strict=True):
            same = one.topic.thing == other.topic.thing
            assert same or not {other.topic.thing.name} & one.visible
            assert same or not {one.topic.thing.name} & other.visible
    views.clear()
    for category in range(22):
        trials.write_labeled_images(tmp_path, 0, category, 4)
    labeled = {thing.name for thing in world.labeled_things()}
    assert all(view.visible & labeled == {view.topic.thing.name} for view in views)


def test_winoground_has_two_rows_per_instance(room):
    listed = rows(room / "trials/baby_winoground.csv")
    for good, bad in zip(listed[::2], listed[1::2], strict=True):
        assert (good["image_tag"], bad["image_tag"]) == ("positive", "negative")
        assert good["instance_id"] == bad["instance_id"]
        assert good["positive_phrase"] == bad["positive_phrase"] != bad["negative_phrase"]


def test_default_size_matches_authors_lists():
    sizes = SIZES["default"]
    assert 2 * 22 * sizes.labeled_trials == 2200
    assert 2 * 22 * sizes.labeled_images >= 1000
    assert 4 * sizes.vtwt_pairs >= 967
    assert 4 * sizes.winoground_pairs >= 365
    assert 2 * sizes.captions >= 294


@pytest.mark.parametrize("word_class", trials.WORD_CLASSES)
def test_benchmark_words_are_common_in_training(word_class):
    rng = random.Random(1)
    known = Counter()
    for _ in range(3200):  # about as many as the parent names in the default size
        topic = world.random_topic(rng, world.pick_home_thing(rng))
        known.update(re.findall(r"\w+", language.child_directed_sentence(topic, rng)))
    for _ in range(500):
        for topic in trials.phrase_pair(rng, word_class):
            assert min(known[word] for word in topic.phrase.split()) >= 5, topic.phrase
