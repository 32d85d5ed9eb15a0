import json

import numpy as np
import pytest
from PIL import Image

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.plots import DROPPED, KEPT, draw_funnels
from babyvlm.curation.store.pair_store import write_store
from babyvlm.curation.summarize import pipeline_funnels, summarize
from babyvlm.errors import UserError
from babyvlm.io import artifacts


def step(path, stage, drops, *parents, kept=2):
    counts = Funnel(stage, unit="pairs")
    counts.keep(kept)
    for reason, count in drops.items():
        counts.drop(reason, count)
    row = {"image": b"x", "utterance": "u", "source": "s", "split": "train"}
    ancestors = {fp: made for parent in parents for fp, made in parent.lineage.items()}
    arguments = {
        "command": stage,
        "profile": {"fps": 5},
        "path": path.name,
        "parents": [parent.fingerprint for parent in parents],
    }
    rows = [row | {"key": str(n), "group": str(n)} for n in range(kept)]
    return write_store(path, rows, arguments=arguments, funnel=counts, licensed=False, ancestors=ancestors)


@pytest.fixture
def stores(tmp_path):
    frames = step(tmp_path / "frames", "frames", {"not the caregiver": 7})
    web = step(tmp_path / "web", "web", {"image broken": 1, "no caption": 4}, kept=9)
    kept = step(tmp_path / "kept", "filter", {"similarity <= 0.2": 5}, frames)
    other = step(tmp_path / "other", "filter", {"similarity <= 0.3": 6}, frames)
    aug = step(tmp_path / "aug", "match", {"not matched to a target": 7}, kept, web)
    return {"frames": frames, "web": web, "kept": kept, "other": other, "aug": aug}


def test_pipeline_funnels_needs_only_last_stores(stores, tmp_path):
    for name in ("frames", "web", "kept"):  # inputs of a store may have been deleted
        (stores[name].path / "store.json").rename(tmp_path / f"{name}.moved")
    stages = pipeline_funnels([stores["aug"].path, stores["other"].path])
    assert [stage["name"] for stage in stages] == ["frames", "filter 1", "web", "match", "filter 2"]
    place = {stage["fingerprint"]: number for number, stage in enumerate(stages)}
    assert all(place[parent] < place[stage["fingerprint"]] for stage in stages for parent in stage["made_from"])
    match = stages[3]
    assert (match["in"], match["kept"], match["dropped"]) == (9, 2, {"not matched to a target": 7})
    assert {stages[place[parent]]["name"] for parent in match["made_from"]} == {"filter 1", "web"}


def test_summarize_writes_and_prints_funnels(stores, tmp_path, capsys):
    summarize([stores["aug"].path], tmp_path / "report")
    numbers = json.loads((tmp_path / "report" / "funnel.json").read_text())
    assert numbers["stages"] == pipeline_funnels([stores["aug"].path])
    assert sum(stage["in"] == stage["kept"] + sum(stage["dropped"].values()) for stage in numbers["stages"]) == 4
    out = capsys.readouterr().out
    assert "web: 14 pairs in, 9 kept (64.3%)" in out
    summarize([stores["aug"].path], tmp_path / "report")
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="name at least one"):
        summarize([], tmp_path / "none")
    artifacts.read_manifest(tmp_path / "report", "report")


def lengths(image, color):
    """Return the lengths in pixels of the bars of a color, from the top."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    rows = (np.asarray(Image.open(image).convert("RGB")) == wanted).all(2).sum(1)
    starts = np.flatnonzero((rows[1:] > 0) & (rows[:-1] == 0)) + 1
    return [int(rows[start + 3]) for start in starts]


def test_draw_funnels_bars_match_counts(tmp_path):
    stage = {
        "name": "filter $x$",
        "in": 1000,
        "unit": "pairs",
        "kept": 500,
        "dropped": {"small": 100, "a long reason " * 9: 400},
    }
    draw_funnels(tmp_path / "f.png", [stage, stage | {"kept": 0, "in": 0, "dropped": {}}])
    (kept,), dropped = lengths(tmp_path / "f.png", KEPT), lengths(tmp_path / "f.png", DROPPED)
    assert kept > 100
    assert dropped == pytest.approx([0.8 * kept, 0.2 * kept], abs=3)
    draw_funnels(tmp_path / "g.png", [stage, stage | {"kept": 0, "in": 0, "dropped": {}}])
    assert (tmp_path / "f.png").read_bytes() == (tmp_path / "g.png").read_bytes()
