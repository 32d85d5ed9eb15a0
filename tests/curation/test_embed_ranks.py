"""Embeddings by several real processes over gloo: the same bytes for any number of ranks, also after a lost rank."""

import json
import multiprocessing
import os
import signal
import socket

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from lightning import Trainer

from babyvlm.curation import clip as module
from babyvlm.curation.clip import load_clip
from babyvlm.curation.embed import embed
from babyvlm.curation.embeddings import Embeddings
from babyvlm.io.images import open_rgb
from support.killing import tree

PARTS = 4
GROUP_ROWS = 16
ROWS = (PARTS - 1) * GROUP_ROWS + 5  # the last part is short
CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    """Read, write and embed a few rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("babyvlm.curation.store.pair_store.GROUP_ROWS", GROUP_ROWS)
        for name in ("clip", "embed"):
            patch.setattr(f"babyvlm.curation.{name}.PART_ROWS", GROUP_ROWS)
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    torch.set_num_threads(1)  # before the first operation: a forked process must not inherit OpenMP threads
    torch.manual_seed(0)
    safetensors.torch.save_file(open_clip.CLIP(**CONFIG).state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store([f"look at ball {number}" for number in range(ROWS)], size=16)


def _rank(rank, ranks, port, die_after, workers, store, out, clip):
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    real, done = module._Embedder._save, []

    def save(self, number, embeddings):
        if rank and die_after is not None and len(done) == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, number, embeddings)
        done.append(number)

    module._Embedder._save = save
    embed(store.path, out, clip, batch_size=10, accelerator="cpu", devices=ranks, num_workers=workers)


def run(ranks, store, out, clip, die_after=None, workers=0):
    """Return the exit codes of ``ranks`` processes; the second is killed after ``die_after`` parts."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as reserved:  # bound without listening, so that no other process is given the port
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        processes = [
            context.Process(target=_rank, args=(rank, ranks, port, die_after, workers, store, out, clip))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(200)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def by_one(store, clip, tmp_path_factory):
    """The embeddings of a single process."""
    out = tmp_path_factory.mktemp("one") / "e"
    assert run(1, store, out, clip) == [0]
    return out


def test_embed_matches_model_in_half_precision(by_one, store, clip):
    found, model = Embeddings(by_one), load_clip(clip)
    rows = list(store.rows())
    assert found.keys == [row["key"] for row in rows]
    assert found.image.dtype == found.text.dtype == np.float16
    names = {path.name for path in by_one.iterdir()}
    assert names == {"embeddings.json", "embeddings.json.sha256", "image.npy", "keys.json", "text.npy"}
    some = range(0, ROWS, 5)
    with torch.no_grad():
        images = model.images(torch.stack([model.preprocess(open_rgb(rows[row]["image"])) for row in some]))
        texts = model.texts([rows[row]["utterance"] for row in some], torch.device("cpu"))
    np.testing.assert_allclose(found.image[list(some)], images.numpy(), atol=6e-4)
    np.testing.assert_allclose(found.text[list(some)], texts.numpy(), atol=6e-4)


@pytest.mark.parametrize("workers", [0, 3])
def test_embed_on_two_ranks_gives_same_bytes(by_one, store, clip, tmp_path, workers):
    assert run(2, store, tmp_path / "e", clip, workers=workers) == [0, 0]
    assert tree(tmp_path / "e") == tree(by_one)
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_embed_after_lost_rank_computes_only_missing_parts(by_one, store, clip, tmp_path, ranks):
    first, second = run(2, store, tmp_path / "e", clip, die_after=1)
    assert second == -signal.SIGKILL
    assert first not in (0, None)
    assert not (tmp_path / "e").exists()
    parts = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.npy")}
    assert 1 < len(parts) < PARTS
    # A second process that does more than its share of what is missing would be lost again.
    left = -(-(PARTS - len(parts)) // ranks)
    assert run(ranks, store, tmp_path / "e", clip, die_after=left) == [0] * ranks
    assert tree(tmp_path / "e") == tree(by_one)


def test_embed_with_more_ranks_than_parts(by_one, store, clip, tmp_path):
    assert run(PARTS + 1, store, tmp_path / "e", clip) == [0] * (PARTS + 1)
    assert tree(tmp_path / "e") == tree(by_one)


def test_embed_uses_autocast_and_workers_on_a_gpu(monkeypatch):
    """The trainer that a machine with a GPU would get; none is needed to choose its precision."""
    chosen = []
    monkeypatch.setattr(module, "Trainer", lambda **options: chosen.append(options) or Trainer(accelerator="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for accelerator in ("auto", "gpu", "cpu"):
        module.create_trainer(accelerator, 1, 1)
    assert [options["precision"] for options in chosen] == ["16-mixed", "16-mixed", "32-true"]


def test_workers_pass_on_chunks_that_fit_shm_of_a_container(store, clip):
    """64 MB, for 16 workers that are two chunks ahead, with images of 224 pixels."""
    chunks = list(module._Chunks(store, list(range(PARTS)), load_clip(clip).preprocess))
    assert max(len(images) for _, _, images, _ in chunks) * 224 * 224 * 3 * 4 * 2 * 16 < 64 << 20
    assert [number for number, is_last, _, _ in chunks if is_last] == list(range(PARTS))
    assert sum(len(texts) for *_, texts in chunks) == ROWS
