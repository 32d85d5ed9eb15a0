"""Test Playroom: its images, its text, and the files that it writes."""

import csv
import hashlib
import io
import json
import random
import re
import shutil
import tarfile
from collections import Counter
from functools import cache

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from babyvlm.benchmarks import ObjectTrials
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.playroom import actions, camera, home, language, modifiers, sprites, topics, trials, words
from babyvlm.playroom.credit import CREDIT, ICON_SETS
from babyvlm.playroom.make import SIZES, playroom, tree_checksum

TINY = SIZES["tiny"]
HOUSEHOLD = topics.Household(3, "A")


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
    assert manifest["arguments"]["world_version"] == topics.WORLD_VERSION
    assert manifest["credit"] == CREDIT
    assert manifest["counts"]["web items"] == TINY.web
    assert manifest["checksums"]["clean"] == tree_checksum(room / "clean")


def test_playroom_skips_complete_world_and_rejects_other_seed(room, capsys):
    before = (room / "truth.csv").stat().st_mtime_ns
    playroom(room, "tiny", num_workers=1)
    assert "already complete" in capsys.readouterr().out
    assert (room / "truth.csv").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="different arguments: seed"):
        playroom(room, "tiny", seed=5, num_workers=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"in_view": 0.9}, "in_view"),
        ({"num_workers": 0}, "num_workers"),
        ({"lag": -1}, "lag"),
        ({"style_gap": 1.5}, "style_gap"),
    ],
)
def test_playroom_rejects_wrong_options(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        playroom(tmp_path / "out", "tiny", **given)
    assert not list(tmp_path.iterdir())


def test_every_noun_has_exemplars_for_home_web_and_benchmarks():
    for noun in words.nouns():
        assert len(noun.exemplars) >= 4, noun.name
        assert noun.test_exemplars
        assert not set(noun.test_exemplars) & set(noun.training_exemplars)
        for seed in (0, 1):
            home_pool, web_pool = topics.exemplar_pools(seed, noun)
            assert home_pool
            assert web_pool
            assert sorted(home_pool + web_pool) == sorted(noun.training_exemplars)
    sets = {exemplar.split("/")[1].split("_")[0] for noun in words.nouns() for exemplar in noun.exemplars}
    assert sets == {pack.name for pack in ICON_SETS}


def test_vocabulary_has_the_documented_size():
    assert (len(words.nouns()), len(actions.VERBS), len(modifiers.MODIFIERS)) == (376, 63, 44)
    assert len(topics.home_nouns()) >= 200
    assert len({noun.name for noun in words.nouns()} | {noun.plural for noun in words.nouns()}) > len(words.nouns())
    kinds = {noun.kind for noun in words.nouns()}
    assert all(verb.kinds <= kinds for verb in actions.VERBS.values())
    assert len(trials.labeled_nouns()) == trials.CATEGORIES


def test_household_owns_one_or_two_exemplars():
    household = topics.Household(3, "S")
    owned = [household.exemplars(noun) for noun in topics.home_nouns()]
    assert {len(exemplars) for exemplars in owned} == {1, 2}
    assert owned == [topics.Household(3, "S").exemplars(noun) for noun in topics.home_nouns()]
    assert owned != [topics.Household(3, "A").exemplars(noun) for noun in topics.home_nouns()]


def test_held_out_combinations_are_a_third_and_never_in_training():
    pairs = [(word, noun) for noun in topics.home_nouns() for word in topics.words_for(noun, "verb")]
    assert np.mean([topics.is_held_out(word, noun) for word, noun in pairs]) == pytest.approx(1 / 3, abs=0.02)
    rng = random.Random(0)
    for _ in range(3000):
        noun = rng.choice(topics.home_nouns())
        shown = topics.random_topic(rng, noun, 0.1)
        assert not shown.word or not topics.is_held_out(shown.word, noun)


def test_words_are_zipfian():
    """Verbs and modifiers less steeply: each noun takes only some of them, and a third of the pairs is held out."""
    rng = random.Random(0)
    drawn = Counter()
    for _ in range(8000):
        shown = topics.random_topic(rng, words.zipf_choice(rng, topics.home_nouns(), topics.EXPONENT), home.BARE)
        drawn.update((shown.noun.name, shown.word))
    orders = [noun.name for noun in topics.home_nouns()], list(actions.VERBS), list(modifiers.MODIFIERS)
    for order, slope in zip(orders, (-1, -0.83, -0.91), strict=True):
        counts = np.array([drawn[word] for word in order[:30]], float)
        found = np.polyfit(np.log(np.arange(1, 31)), np.log(counts), 1)[0]
        assert found == pytest.approx(slope, abs=0.08), order[0]


@cache
def phrase_patterns():
    nouns = {form: noun for noun in words.nouns() for form in (noun.name, noun.plural)}
    said = {form: verb.name for verb in actions.VERBS.values() for form in (verb.name, verb.ing)}
    said |= {name: name for name in modifiers.MODIFIERS}
    word, noun = ("|".join(sorted(map(re.escape, found), key=len, reverse=True)) for found in (said, nouns))
    before = rf"(?<![\w-])(?=(?P<word>{word}) (?:(?:the|an?|some) )?(?P<noun>{noun})(?![\w-]))"
    after = rf"(?<![\w-])(?=(?P<noun>{noun}) is (?P<word>{word})(?![\w-]))"
    return said, nouns, [re.compile(before), re.compile(after)]


def held_out_phrases(text):
    """Return the held-out pairs of verb or modifier and noun in a text, found by its words alone."""
    said, nouns, patterns = phrase_patterns()
    found = [(said[match["word"]], nouns[match["noun"]]) for one in patterns for match in one.finditer(text)]
    return [(word, noun.name) for word, noun in found if topics.is_held_out(word, noun)]


def test_home_utterances_contain_no_held_out_combination():
    rng = random.Random(0)
    for _ in range(300):
        shown = topics.random_topic(rng, rng.choice(topics.home_nouns()), 0, trained=False)
        if shown.word and shown.count == 1:  # parents may omit a number
            text = language.child_directed_sentence(shown, rng)
            assert held_out_phrases(text) == [(shown.word, shown.noun.name)]
    spoken = [
        sentence.text
        for index in range(15)
        for row in home.simulate_recording(topics.random_stream(0, "home", index), HOUSEHOLD, 60, 0.4, 1).rows
        for sentence in row.sentences
    ]
    assert not [text for text in spoken if held_out_phrases(text)]


def test_every_verb_and_modifier_changes_the_image():
    rng = random.Random(0)
    skin = actions.skin(rng)
    for word in (*actions.VERBS, *modifiers.MODIFIERS):
        noun = next(n for n in topics.home_nouns() if word in trials._words(n))
        plain, changed = (
            camera.draw_topic(random.Random(5), shown, noun.exemplars[0], 80, skin, test=False)
            for shown in (topics.Topic(noun), topics.topic(noun, word))
        )
        assert len(changed) == topics.topic(noun, word).count
        assert any(image.getbbox() for image in changed)
        assert [image.tobytes() for image in plain] != [image.tobytes() for image in changed]


def test_sprites_do_not_carry_color():
    """All sprites use all shades equally often, so that a look decides on the colors."""
    for noun in words.nouns()[::25]:
        gray, alpha = (np.asarray(band) for band in sprites._shades(noun.exemplars[0]).split())
        shades = gray[alpha > 128]
        assert abs(np.median(shades) - 127) < 45, noun.name
        look = sprites.Look((0, 0, 0), (0, 0, 255))
        pixels = np.asarray(sprites.draw_sprite(noun.exemplars[0], 64, look, sprites.Pose()))
        assert pixels[..., :2].max() == 0


def test_color_words_overlap_in_hue():
    rng = random.Random(0)
    looks = {color: [modifiers.color_look(rng, color).light for _ in range(200)] for color in ("yellow", "orange")}
    greens = {color: [green / max(1, red) for red, green, _ in found] for color, found in looks.items()}
    assert np.median(greens["yellow"]) > np.median(greens["orange"])
    assert max(greens["orange"]) > min(greens["yellow"])


def test_sizes_are_relative_to_the_noun():
    for name in ("ball", "bed"):
        noun = words.noun(name)
        size = {}
        for word in modifiers.SIZES:
            images = camera.draw_topic(
                random.Random(1),
                topics.topic(noun, word),
                noun.exemplars[0],
                60,
                actions.skin(random.Random(0)),
                test=False,
            )
            size[word] = max(images[0].size)
        assert size["tiny"] < size["little"] < size["big"] < size["huge"]


def test_noun_phrase_forms():
    cup, apple = words.noun("cup"), words.noun("apple")
    assert topics.topic(cup, "wash").phrase == "wash cup"
    assert topics.topic(words.noun("leaf"), "two").phrase == "two leaves"
    assert language.noun_phrase(topics.Topic(apple)) == "an apple"
    assert language.noun_phrase(topics.topic(apple, "big")) == "a big apple"
    assert language.noun_phrase(topics.topic(apple, "three")) == "three apples"
    assert language.noun_phrase(topics.topic(cup, "fill")) == "filling a cup"
    assert language.noun_phrase(topics.Topic(words.noun("umbrella"))) == "an umbrella"
    assert language.noun_phrase(topics.Topic(words.noun("unicorn"))) == "a unicorn"
    assert language.noun_phrase(topics.topic(words.noun("milk"), "pour")) == "pouring some milk"


def test_child_directed_sentence_names_topic():
    rng = random.Random(0)
    for _ in range(2000):
        shown = topics.random_topic(rng, rng.choice(topics.home_nouns()), 0.3)
        text = language.child_directed_sentence(shown, rng)
        assert re.search(rf"\b{re.escape(shown.noun_form)}\b", text)
        assert not shown.verb or re.search(rf"\b({shown.verb.name}|{shown.verb.ing})\b", text)


def test_write_video_is_upside_down_at_five_fps(room):
    path = sorted((room / "home/videos").glob("*.mp4"))[0]
    assert re.fullmatch(r"[SAY]_\d{8}_\d{4}_\d\d", path.stem)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 5
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    assert frames[0].shape == (96, 128, 3)
    index = next(index for index in range(TINY.videos) if home.video_name(index) == path.stem)
    household = topics.Household(0, path.stem[0])
    recording = home.simulate_recording(topics.random_stream(0, "home", index), household, TINY.rows, 0.4, 1)
    assert len(frames) == recording.views[-1][2] * home.FPS
    for view, start, _ in recording.views:
        upright = np.asarray(camera.render_frame(view, 0.0, upside_down=False)).astype(float)
        shown = frames[start * home.FPS]
        assert np.abs(shown[::-1, ::-1] - upright).mean() < 0.6 * np.abs(shown - upright).mean()


def test_truth_matches_utterances(room):
    truth = rows(room / "truth.csv")
    assert list(truth[0]) == list(home.TRUTH_COLUMNS)
    assert {row["in_view"] for row in truth} == {"0", "1"}
    for row in truth:
        noun = words.noun(row["noun"]) if row["noun"] else None
        assert noun is None or re.search(rf"{re.escape(noun.name)}|{re.escape(noun.plural)}", row["utterance"])


def test_simulate_recording_in_view_matches_views():
    for index in range(4):
        recording = home.simulate_recording(
            topics.random_stream(1, "home", index), topics.Household(1, "S"), 40, 0.4, 1
        )
        views = {second: view for view, start, end in recording.views for second in range(start, end)}
        assert sorted(views) == list(range(recording.rows[-1].end))
        assert [row.end for row in recording.rows[:-1]] == [row.start for row in recording.rows[1:]]
        for row in recording.rows:
            assert row.end - row.start >= len(row.sentences)  # at least a second per sentence
            for sentence in row.sentences:
                assert not sentence.noun or (sentence.noun in views[row.start].visible) == sentence.in_view


@pytest.mark.parametrize(
    ("nominal", "lag", "share"),
    [(0, 0, 0), (0.2, 0, 0.2), (0.6, 0, 0.6), (0.1, 1, 0.08), (0.2, 1, 0.15), (0.4, 1, 0.30)],
)
def test_simulate_recording_in_view_share(nominal, lag, share):
    """With a lag, about a quarter of the referents is not in view any more, or not yet (WORLD.md)."""
    in_view = [
        sentence.in_view
        for index in range(24)
        for row in home.simulate_recording(topics.random_stream(3, index), HOUSEHOLD, 60, nominal, lag).rows
        if row.caregiver
        for sentence in row.sentences
    ]
    assert np.mean(in_view) == pytest.approx(share, abs=0.03)


def test_write_transcript_has_every_irregularity(tmp_path):
    written = []
    for index in range(12):
        recording = home.simulate_recording(topics.random_stream(9, index), topics.Household(9, "Y"), 60, 0.2, 1)
        path = tmp_path / f"{index}.csv"
        home.write_transcript(recording, home.video_name(index), path, topics.random_stream(9, "t", index))
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
    members = {name: data for tar in (room / "clean").glob("*.tar") for name, data in tar_members(tar).items()}
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
    assert len(set(benchmark)) == len(benchmark)
    assert not seen & set(benchmark)


def test_trial_images_exist_and_splits_are_disjoint(room):
    for name in ("labeled_s", "vtwt", "vtwt_natural", "baby_winoground", "caption"):
        images_of = {"dev": set(), "test": set()}
        for row in rows(room / f"trials/{name}.csv"):
            assert (room / "trials" / row["image"]).is_file()
            images_of[row["half"]].add(row["image"])
        assert images_of["dev"]
        assert images_of["test"]
        assert not images_of["dev"] & images_of["test"]


def test_single_objects_are_drawn_from_exemplars_of_benchmarks_only(room):
    pictures = ObjectTrials(room / "trials/objects", per_category=2).pictures(room / "trials/objects")
    assert len(pictures) == 64
    assert {len(files) for files in pictures.values()} == {TINY.objects}
    for noun in trials.object_nouns():
        assert not set(noun.test_exemplars) & set(noun.training_exemplars)
        image = Image.open(room / "trials/objects" / pictures[noun.name][0])
        assert all(min(image.getpixel(corner)) > 240 for corner in ((1, 1), (110, 1), (1, 110), (110, 110)))


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


def test_image_blind_model_is_at_chance_on_mirrored_vtwt(room):
    listed = rows(room / "trials/vtwt.csv")
    for split in trials.SPLITS:
        pairs = Counter((row["positive_phrase"], row["negative_phrase"]) for row in listed if row["half"] == split)
        assert pairs
        assert all(pairs[pair] == pairs[pair[::-1]] for pair in pairs)


def test_vtwt_word_class_is_what_differs(room):
    listed = rows(room / "trials/vtwt.csv")
    assert list(listed[0])[:3] == ["image", "positive_phrase", "negative_phrase"]
    for row in listed:
        first, second = row["positive_phrase"].split(), row["negative_phrase"].split()
        assert len(first) == len(second) == 2
        nouns = [next(n.name for n in words.nouns() if phrase[1] in (n.name, n.plural)) for phrase in (first, second)]
        verb = first[0] in actions.VERBS
        both = first[0] != second[0] and nouns[0] != nouns[1]
        expected = "both" if both else "noun" if nouns[0] != nouns[1] else "verb" if verb else "adjective"
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
        write(tmp_path, 0, "test", 0, 40)
        for one, other in zip(views[::2], views[1::2], strict=True):
            same = one.topic.noun == other.topic.noun
            assert same or other.topic.noun.name not in one.visible
            assert same or one.topic.noun.name not in other.visible
    views.clear()
    for category in range(22):
        trials.write_labeled_images(tmp_path, 0, category, 4)
    labeled = {noun.name for noun in trials.labeled_nouns()}
    assert all(view.visible & labeled == {view.topic.noun.name} for view in views)


def test_winoground_has_two_rows_per_instance(room):
    listed = rows(room / "trials/baby_winoground.csv")
    for good, bad in zip(listed[::2], listed[1::2], strict=True):
        assert (good["image_tag"], bad["image_tag"]) == ("positive", "negative")
        assert good["instance_id"] == bad["instance_id"]
        assert good["positive_phrase"] == bad["positive_phrase"] != bad["negative_phrase"]


def test_winoground_crosses_phrase_and_style(tmp_path, monkeypatch):
    (tmp_path / "baby_winoground").mkdir()
    styles = []
    monkeypatch.setattr(trials, "draw_home_image", lambda *_: styles.append("home") or Image.new("RGB", (8, 8)))
    monkeypatch.setattr(trials, "draw_web_image", lambda *_, **__: styles.append("web") or Image.new("RGB", (8, 8)))
    written = trials.write_winoground(tmp_path, 0, "test", 0, 5)
    assert [row[0].rsplit("_", 1)[1] for row in written[::2]] == ["home", "web"] * 5
    assert all(written[i][1] == written[i + 2][1] for i in range(0, 20, 4))


def test_default_size_has_at_least_the_authors_items():
    sizes = SIZES["default"]
    assert trials.CATEGORIES * sizes.labeled == 2200
    assert 2 * sizes.vtwt >= 967
    assert 2 * sizes.winoground >= 365
    assert sizes.captions >= 294
    large = SIZES["large"]
    assert (trials.CATEGORIES * large.labeled, 2 * large.vtwt, 2 * large.winoground, large.captions) == (
        4400,
        4000,
        2000,
        1200,
    )


@pytest.mark.parametrize("word_class", trials.WORD_CLASSES)
def test_phrase_pair_words_apply_to_their_nouns(word_class):
    rng = random.Random(1)
    unseen = 0
    for _ in range(150):
        pair = trials.phrase_pair(rng, word_class)
        assert len({shown.phrase for shown in pair}) == 2
        for shown in pair:
            assert shown.word in trials._words(shown.noun)
            unseen += topics.is_held_out(shown.word, shown.noun)
    assert 40 < unseen < 160


def test_what_is_shown_and_said_can_be_drawn_for_every_seed():
    """The part of a world that depends on the seed's tables, without drawing."""
    for seed in range(200):
        for index, child in enumerate(home.CHILDREN):
            home.simulate_recording(topics.random_stream(seed, "home", index), topics.Household(seed, child), 4, 0.2, 1)
        rng = topics.random_stream(seed, "pairs")
        for word_class in trials.WORD_CLASSES:
            assert trials.phrase_pair(rng, word_class)
        assert trials.labeled_trials(seed, 1)


@pytest.mark.soak
def test_every_exemplar_verb_and_modifier_can_be_drawn():
    rng = random.Random(0)
    skin = actions.skin(rng)
    for noun in words.nouns():
        for exemplar in noun.exemplars:
            shown = topics.topic(noun, rng.choice(trials._words(noun)))
            images = camera.draw_topic(rng, shown, exemplar, rng.uniform(6, 140), skin, test=rng.random() < 0.5)
            assert len(images) == shown.count


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize(("size", "seeds"), [("tiny", 200), ("default", 20)])
def test_playroom_makes_a_world_for_every_seed(tmp_path, size, seeds):
    for seed in range(seeds):
        playroom(tmp_path / "world", size, seed=seed, num_workers=2)
        assert (tmp_path / "world/truth.csv").is_file()
        shutil.rmtree(tmp_path / "world")
