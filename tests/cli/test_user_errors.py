"""User errors in curation commands: one line that names the error, exit code 2, and no files left behind."""

import re
import shlex

import numpy as np
import pytest

from babyvlm.__main__ import main
from support.killing import tree

STAGE = "--store small --embeddings vectors --out out"
MATCH = "curate match --targets small --target_embeddings v --candidates small --candidate_embeddings v --out out"
CHECK = "curate check-contamination --stores '[small]' --benchmark_images '[pictures]' --out out"
DROP = "curate decontaminate --store small --benchmark_images '[pictures]' --out out"
MISTAKES = {
    "curate web --sources pictures --out out": r"sources: Expected a list. .*; write it in brackets, '\[a,b\]' or",
    "curate check-contamination --stores '[small]' --trials a.csv --out out": "Expected a list; write it in brackets",
    "curate web --sources '[junk.csv]' --out out": "junk.csv: no column 'image' or .* \\(found .{1,900}\\)",
    "curate web --sources '[file]' --out out": "file: contains no .tar, .parquet, .csv or .json",
    "curate embed --store small --out out --batch_size 0": "--batch_size 0: must be at least 1",
    "curate embed --store small --out out --devices 0": "--devices 0: must be at least 1",
    "curate embed --store small --out out --num_workers -1": "--num_workers -1: must be at least 0",
    "curate embed --store small --out out --accelerator abacus": "--accelerator abacus.*invalid accelerator",
    f"curate filter {STAGE} --seed -1": "--seed -1: must be at least 0",
    f"curate filter {STAGE} --num_review_pairs -1": "--num_review_pairs -1: must be at least 0",
    f"curate filter {STAGE} --threshold .nan": "--threshold nan: must be between -1 and 1",
    f"curate filter {STAGE} --quantile 1.5": "--quantile 1.5: must be above 0",
    f"curate filter {STAGE} --thresold 0.2": "unrecognized arguments: --thresold",
    f"curate deduplicate {STAGE} --threshold .nan": "--threshold nan: must be at least -1 and below 1",
    f"{MATCH} --seed -1": "--seed -1: must be at least 0",
    f"{MATCH} --top_k 0": "--top_k 0: must be at least 1",
    "curate match-arrays --targets a.npy --candidates a.npy --out out --seed -1": "--seed -1: must be at least 0",
    "curate sample-random --candidates small --like small --out out --seed -1": "--seed -1: must be at least 0",
    f"{CHECK} --max_hash_distance -1": "--max_hash_distance -1: must be between 0 and 256",
    f"{CHECK} --threshold .nan": "--threshold nan: must be at least -1",
    f"{CHECK} --num_workers 0": "--num_workers 0: must be at least 1",
    f"{CHECK} --trials '[file]'": "file, row 1: no column 'image'",
    f"{CHECK} --trials '[nothing.csv]'": "nothing.csv: contains no rows",
    f"{CHECK} --trials '[gone.csv]'": "gone.csv: No such file",
    f"{DROP} --max_hash_distance 257": "--max_hash_distance 257: must be between 0 and 256",
    "curate vocabulary --stores '[]' --out out": "pass either --stores, with at least one store",
    "curate vocabulary --stores '[small]' --min_count 0 --out out": "--min_count 0: must be at least 1",
    "curate vocabulary --stores '[small]' --out file": "file: no such folder",
    "curate vocabulary --stores '[small]' --out file/out": "file/out: cannot be written",
    "curate vocabulary --stores '[small]' --out ''": "not a valid output folder",
    "store sample --store small --seed -1": "--seed -1: must be at least 0",
    "store head --store small --num_pairs 0": "--num_pairs 0: must be at least 1",
    "store sample --store small --out pictures": "pictures: is a folder. Pass the path",
    "store sample --store small --out file/page.html": "file/page.html: cannot be written",
    "store sample --store small --out /proc/page.html": "/proc/page.html: cannot be written",
    "store info --store pictures": "pictures: is not a store folder",
    "check-data --frames pictures --embed_rate .inf": "--embed_rate (inf|nan): must be a positive",
    "check-data --frames pictures --embed_rate .nan": "--embed_rate (inf|nan): must be a positive",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_store, draw_jpeg):
    """A store and things that are none."""
    place = tmp_path_factory.mktemp("mistakes")
    tiny_store(path=place / "small")
    (place / "pictures").mkdir()
    (place / "pictures" / "a.jpg").write_bytes(draw_jpeg(99, 64))
    (place / "file").write_text("x")
    (place / "nothing.csv").write_text("image\n")
    (place / "junk.csv").write_bytes(np.random.default_rng(0).integers(1, 256, 5000, np.uint8).tobytes())
    np.save(place / "a.npy", np.eye(3, dtype=np.float32))
    return place


@pytest.mark.parametrize("command", MISTAKES)
def test_stage_reports_user_error_in_one_line(folder, monkeypatch, capfd, command):
    monkeypatch.chdir(folder)
    before = tree(folder)
    with pytest.raises(SystemExit) as end:
        main(shlex.split(command))
    assert end.value.code == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ")
    assert re.search(MISTAKES[command], lines[-1])
    assert tree(folder) == before
