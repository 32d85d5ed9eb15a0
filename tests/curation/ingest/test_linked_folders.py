"""Test folders that contain links to other disks, including circular links."""

import json

import pytest

from babyvlm.curation.benchmark_images import find_benchmark_images
from babyvlm.curation.check_data.command import check_data
from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.ingest.released import released
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.files import files_below
from support.filming import write_corpus

ROWS = [("0:00", "M", "One. Two"), ("0:06", "Mom", "three")]


def relative_paths(folder, suffix=".mp4"):
    return sorted(str(path.relative_to(folder)) for path in files_below(folder, (suffix,)))


def create_files(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_files_below_follows_links(tmp_path):
    create_files(tmp_path / "scratch/a/1.mp4", tmp_path / "scratch/2.mp4", tmp_path / "videos/3.mp4")
    (tmp_path / "videos/S").symlink_to(tmp_path / "scratch")
    (tmp_path / "videos/4.mp4").symlink_to(tmp_path / "scratch/2.mp4")
    (tmp_path / "videos/nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "linked").symlink_to("videos")
    for folder in ("videos", "linked"):
        assert relative_paths(tmp_path / folder) == ["3.mp4", "4.mp4", "S/2.mp4", "S/a/1.mp4"]


def test_files_below_visits_each_folder_once(tmp_path):
    create_files(tmp_path / "outside.mp4", tmp_path / "videos/z/1.mp4", tmp_path / "other/2.mp4")
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
    assert relative_paths(tmp_path / "videos") == ["o/2.mp4", "z/1.mp4"]  # z by its own path, not as a/1.mp4


def test_files_below_reports_unreadable_folder(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    create_files(tmp_path / "videos/1.mp4")
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=r"videos: the folder cannot be read \(Permission denied\)"):
        relative_paths(tmp_path / "videos")


def test_frames_reads_linked_folders(tmp_path, capsys):
    write_corpus(tmp_path / "scratch", ROWS, "V_0", count=90)
    for kind in ("videos", "transcripts"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "home").symlink_to(tmp_path / "scratch" / kind)
    frames(tmp_path / "videos", tmp_path / "transcripts", tmp_path / "store", num_workers=1)
    assert PairStore(tmp_path / "store").manifest["funnel"]["kept"] == 3
    check_data(videos=tmp_path / "videos", transcripts=tmp_path / "transcripts")
    assert "All inputs are complete." in capsys.readouterr().out


def test_released_reads_linked_folders(tmp_path, draw_jpeg):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "scratch" / "a.jpg").write_bytes(draw_jpeg(1, 64))
    (tmp_path / "images" / "S").symlink_to(tmp_path / "scratch")
    captions = {"data": [{"utterance": "a ball", "frame_filenames": ["S/a.jpg"]}]}
    (tmp_path / "list.json").write_text(json.dumps(captions))
    released(tmp_path / "images", tmp_path / "store", captions=[tmp_path / "list.json"], num_workers=1)
    assert PairStore(tmp_path / "store").columns("key")["key"].to_pylist() == ["S/a"]


def test_benchmark_images_reads_linked_folders(tmp_path, draw_jpeg):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "trials").mkdir()
    (tmp_path / "scratch" / "a.jpg").write_bytes(draw_jpeg(1, 64))
    (tmp_path / "trials" / "ball").symlink_to(tmp_path / "scratch")
    (tmp_path / "trials" / "list.csv").write_text("image\nball/a.jpg\n")
    for found in (
        find_benchmark_images([tmp_path / "trials/list.csv"]),
        find_benchmark_images([], [tmp_path / "trials"]),
    ):
        assert [path.name for path in found] == ["a.jpg"]
    (tmp_path / "trials" / "list.csv").write_text("image\n../scratch/a.jpg\n")
    with pytest.raises(UserError, match=r"image \.\./scratch/a\.jpg leaves"):
        find_benchmark_images([tmp_path / "trials/list.csv"])
