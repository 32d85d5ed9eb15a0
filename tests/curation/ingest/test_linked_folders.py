"""Folders that a lab has linked from another disk are gone through; circles of links end."""

import json

import pytest

from babyvlm.curation.benchmark_images import benchmark_images
from babyvlm.curation.check_data.command import check_data
from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.ingest.released import released
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.files import files_below
from support.filming import corpus

ROWS = [("0:00", "M", "one. two"), ("0:06", "Mom", "three")]


def names(folder, suffix=".mp4"):
    return sorted(str(path.relative_to(folder)) for path in files_below(folder, (suffix,)))


def put(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_linked_folders_and_files_are_found_below_where_they_are_linked(tmp_path):
    put(tmp_path / "scratch/a/1.mp4", tmp_path / "scratch/2.mp4", tmp_path / "videos/3.mp4")
    (tmp_path / "videos/S").symlink_to(tmp_path / "scratch")
    (tmp_path / "videos/4.mp4").symlink_to(tmp_path / "scratch/2.mp4")
    (tmp_path / "videos/nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "linked").symlink_to("videos")
    for folder in ("videos", "linked"):
        assert names(tmp_path / folder) == ["3.mp4", "4.mp4", "S/2.mp4", "S/a/1.mp4"]


def test_circles_end_and_no_folder_is_gone_through_twice(tmp_path):
    put(tmp_path / "outside.mp4", tmp_path / "videos/z/1.mp4", tmp_path / "other/2.mp4")
    for link, target in (
        ("videos/self", "."),
        ("videos/up", ".."),
        ("videos/z/round", ".."),
        ("videos/a", "z"),
        ("videos/o", "../other"),
        ("other/back", "../videos"),
        ("other/again", "."),
        ("videos/loop", "loop"),
        ("videos/root", "/"),
    ):
        (tmp_path / link).symlink_to(target)
    assert names(tmp_path / "videos") == ["o/2.mp4", "z/1.mp4"]  # z by its own name, not as a/1.mp4


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    put(tmp_path / "videos/1.mp4")
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=r"videos: the folder cannot be read \(Permission denied\)"):
        names(tmp_path / "videos")


def test_frames_are_cut_from_linked_videos_by_linked_transcripts(tmp_path, capsys):
    corpus(tmp_path / "scratch", ROWS, "V_0", count=90)
    for kind in ("videos", "transcripts"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "home").symlink_to(tmp_path / "scratch" / kind)
    frames(tmp_path / "videos", tmp_path / "transcripts", tmp_path / "store", num_workers=1)
    assert PairStore(tmp_path / "store").manifest["funnel"]["kept"] == 3
    check_data(videos=tmp_path / "videos", transcripts=tmp_path / "transcripts")
    assert "all that the stages need is there" in capsys.readouterr().out


def test_released_frames_may_be_spread_over_disks(tmp_path, draw_jpeg):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "scratch" / "a.jpg").write_bytes(draw_jpeg(1, 64))
    (tmp_path / "images" / "S").symlink_to(tmp_path / "scratch")
    said = {"data": [{"utterance": "a ball", "frame_filenames": ["S/a.jpg"]}]}
    (tmp_path / "list.json").write_text(json.dumps(said))
    released(tmp_path / "images", tmp_path / "store", captions=[tmp_path / "list.json"], num_workers=1)
    assert PairStore(tmp_path / "store").columns("key")["key"].to_pylist() == ["S/a"]


def test_benchmark_images_may_be_linked(tmp_path, draw_jpeg):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "trials").mkdir()
    (tmp_path / "scratch" / "a.jpg").write_bytes(draw_jpeg(1, 64))
    (tmp_path / "trials" / "ball").symlink_to(tmp_path / "scratch")
    (tmp_path / "trials" / "list.csv").write_text("image\nball/a.jpg\n")
    for found in (benchmark_images([tmp_path / "trials/list.csv"]), benchmark_images([], [tmp_path / "trials"])):
        assert [path.name for path in found] == ["a.jpg"]
    (tmp_path / "trials" / "list.csv").write_text("image\n../scratch/a.jpg\n")
    with pytest.raises(UserError, match=r"image \.\./scratch/a\.jpg leaves"):
        benchmark_images([tmp_path / "trials/list.csv"])
