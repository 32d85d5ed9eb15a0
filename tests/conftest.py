"""Fixtures that all tests share."""

import gc
import io
import os
import shutil
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image, ImageDraw

from babyvlm.cli.main import COMMANDS

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores it for background processes
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores; read when torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test uses the network; read when huggingface_hub is imported

settings.register_profile("tests", deadline=None)  # a busy machine must not fail a test
settings.load_profile("tests")

# The fork server is started by the first test that needs it, for all tests of this process. It imports all that any of
# them needs, or every process that it forks later would import PyTorch again, in ten seconds.
PRELOADED = ["cv2", "pytest", "babyvlm.cli.lightning", "babyvlm.models.hub"]
PRELOADED += dict.fromkeys(command.function.partition(":")[0] for command in COMMANDS.values())
set_preload = forkserver.set_forkserver_preload
forkserver.set_forkserver_preload = lambda names: set_preload([*names, *PRELOADED])

# Imported libraries are millions of objects that are never freed: the garbage collector visits them less often.
gc.set_threshold(50_000, 20, 20)

# Files that take longest. They start first, so that no worker is left alone with one of them at the end.
LONGEST = [
    "cli/test_end_to_end.py",
    "ablations/test_runner.py",
    "training/test_fit_kill.py",
    "curation/test_stages_kill.py",
    "docs/test_readme.py",
    "docs/test_tutorials.py",
    "cli/test_config_security.py",
    "report/test_page.py",
    "training/test_best_checkpoint.py",
    "training/test_recovery.py",
    "curation/ingest/test_video_display.py",
    "docs/test_docs_commands.py",
    "models/test_hub.py",
    "curation/rewrite/test_rewrite_kill.py",
    "models/test_sharding.py",
    "report/test_unusual_runs.py",
]

# A forked process never frees what it inherits: the tests' garbage may own native threads (FFmpeg's, gloo's), which do
# not exist there, and freeing it would wait for them forever.
os.register_at_fork(after_in_child=gc.freeze)

UTTERANCES = ["look at the ball", "the ball is red", "look at the dog", "the dog runs", "wash the cup", "a red cup"]


def pytest_collection_modifyitems(items):
    """Start with the files that take longest."""
    rank = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish():
    """Exempt all that was imported from garbage collection."""
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread():
    """Run torch on one thread, in tests that import it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def draw_jpeg():
    """``draw_jpeg(seed, size)``: the bytes of a small drawing, a different one for each seed."""

    def draw(seed, size=24):
        colors = np.random.default_rng(seed).integers(0, 256, (2, 3))
        image = Image.new("RGB", (size, size), tuple(colors[0].tolist()))
        corner = seed % 3 * size // 6
        ImageDraw.Draw(image).ellipse((corner, corner, corner + size // 2, corner + size // 2), tuple(colors[1]))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90)
        return out.getvalue()

    return draw


@pytest.fixture(scope="session")
def copy_world(tmp_path_factory):
    """``copy_world(folder)`` creates a folder with the tiny Playroom, which is drawn once for all tests."""
    from babyvlm.__main__ import main

    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "playroom" / "world"

    def copy(folder):
        made.parent.mkdir(exist_ok=True)
        with FileLock(made.with_suffix(".built")):
            if not made.exists():
                main(["playroom", "--out", str(made), "--size", "tiny", "--num_workers", "1"])
        shutil.copytree(made, folder)

    return copy


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory, draw_jpeg):
    """``tiny_store(utterances, groups=, splits=, path=, size=, source=, licensed=)``: a real pair store.

    By default each row is its own group, and the split is ``train``. Keys are ``k00000``, ``k00001``, ...
    """
    from babyvlm.curation.funnel import Funnel
    from babyvlm.curation.store.pair_store import write_store

    def make(utterances=UTTERANCES, *, groups=None, splits=None, path=None, size=24, source="tiny", licensed=False):
        keys = [f"k{number:05d}" for number in range(len(utterances))]
        columns = (keys, utterances, groups or keys, splits or ["train"] * len(keys))
        rows = [
            {
                "key": key,
                "image": draw_jpeg(number, size),
                "utterance": utterance,
                "source": source,
                "group": group,
                "split": split,
            }
            for number, (key, utterance, group, split) in enumerate(zip(*columns, strict=True))
        ]
        folder = path or tmp_path_factory.mktemp("tiny") / "store"
        return write_store(folder, rows, arguments={"rows": len(rows)}, funnel=Funnel("tiny"), licensed=licensed)

    return make


@pytest.fixture(scope="session")
def make_vocabulary(tmp_path_factory):
    """``make_vocabulary(*stores, min_count=1)``: the folder of a vocabulary of stores."""
    from babyvlm.data.vocabulary import create_vocabulary

    def make(*stores, min_count=1):
        out = tmp_path_factory.mktemp("vocabulary") / "words"
        create_vocabulary(out, [store.path for store in stores], min_count)
        return out

    return make


@pytest.fixture(scope="session")
def vocabulary(tiny_store, make_vocabulary):
    """The folder of a vocabulary of ten words: look at the ball is red dog runs wash cup a."""
    return make_vocabulary(tiny_store())


def _set_nltk_data(folder, patch):
    import nltk
    from nltk.corpus.reader import CorpusReader, WordNetCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    other_languages = LazyCorpusLoader("omw-1.4", CorpusReader, ".*")
    patch.setattr(nltk.data, "path", [str(folder)])
    patch.setattr(nltk.corpus, "wordnet", LazyCorpusLoader("wordnet", WordNetCorpusReader, other_languages))


@pytest.fixture
def no_wordnet(tmp_path, monkeypatch):
    """NLTK without data, whatever is installed."""
    (tmp_path / "nltk_data").mkdir()
    _set_nltk_data(tmp_path / "nltk_data", monkeypatch)


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    """NLTK's data for METEOR: a WordNet of one synset, {cup, mug}, and a Punkt model without abbreviations."""
    punkt = tmp_path / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (punkt / name).touch()
    root = tmp_path / "nltk_data" / "corpora" / "wordnet"
    root.mkdir(parents=True)
    for name in ("cntlist.rev", "index.sense"):
        (root / name).touch()
    (root / "lexnames").write_text("".join(f"{number:02d}\tlex{number}\t1\n" for number in range(45)))
    for part in ("noun", "verb", "adj", "adv"):
        (root / f"{part}.exc").touch()
        for kind in ("data", "index"):
            (root / f"{kind}.{part}").write_text("  1 a license\n")
    with (root / "data.noun").open("a") as file:
        offset = file.tell()
        file.write(f"{offset:08d} 06 n 02 cup 0 mug 0 000 | a small open container\n")
    with (root / "index.noun").open("a") as file:
        file.writelines(f"{word} n 1 0 1 0 {offset:08d}  \n" for word in ("cup", "mug"))
    _set_nltk_data(root.parents[1], monkeypatch)
