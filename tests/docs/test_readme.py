"""README.md and the quick start, followed on the tiny world: each command that they name is run, in their order."""

import re
from pathlib import Path

import pytest
from PIL import Image

from babyvlm.__main__ import main
from support.docs_pages import OURS, ROOT, blocks, commands, of_make

README, QUICK_START = ROOT / "README.md", ROOT / "docs/quick-start.md"
DATA, RUN = "data/playroom", "lightning_logs/CVCL-filtered/version_0"
# The way is the readers', only shorter.
SHORTER = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.batch_size=4", "--data.num_workers=0"]
# A model that is at home in transformers, for what is said of such.
OVERLAYS = ["playroom/base", "playroom/babyllava-gpt2", "playroom/phase-1", "mix/filtered", "benchmarks/playroom"]
BABYLLAVA = ["fit", *(f"--config=configs/{overlay}.yaml" for overlay in OVERLAYS), "--name=BabyLLaVA"]
FILLED_IN = {
    "RUN_A": "lightning_logs/CVCL-filtered",
    "RUN_B": "lightning_logs/CVCL-filtered-aug",
    "FOLDER": "exported",
    "RUN": "lightning_logs/BabyLLaVA-filtered/version_0",
    "default": "tiny",
}
# What is named without its arguments, and what `make demo` does not run.
ARGUMENTS = {
    "ablations run": "--rows [Playroom-CLIP]",
    "benchmark build": f"labeled-s --images {DATA}/world/trials/labeled_s --out chosen --licensed false --exclude []",
    "check-data": f"--videos {DATA}/world/home/videos --transcripts {DATA}/world/home/transcripts",
    "curate match-arrays": f"--targets {DATA}/embeddings/rewritten/image.npy --out matched"
    f" --candidates {DATA}/embeddings/frames/image.npy",
    "curate thin": f"--store {DATA}/stores/frames --embeddings {DATA}/embeddings/frames --out thinned",
}


def name_of(words):
    """`curate frames`, `fit`."""
    return " ".join(words[: 2 if words[0] in ("ablations", "benchmark", "curate", "store") else 1])


def of_page(page):
    """The commands of ours that a page names, as words."""
    return [words[3:] for words in commands(page) if words[:3] == OURS]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A newcomer's folder after `make demo`; the names of the commands that were run in it."""
    names = set()

    def run(words):
        main([*words, *SHORTER] if words[0] == "fit" else words)
        names.add(name_of(words))

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("readme")
        (folder / "configs").symlink_to(ROOT / "configs")
        patch.chdir(folder)
        for words in of_make("demo"):
            run(words)
        run(BABYLLAVA)
        yield run, names


@pytest.mark.parametrize("page", [README, QUICK_START], ids=lambda page: page.name)
def test_every_command_of_a_page_runs(ran, page):
    run, names = ran
    for words in of_page(page):
        name = name_of(words)
        if words[-1] != "..." and words != name.split():
            run([FILLED_IN.get(word, word) for word in words])
        elif name in ARGUMENTS:
            run([*words, *ARGUMENTS[name].split()])
    assert names >= {*map(name_of, of_page(page))}


def test_the_readmes_model_in_transformers_says_what_it_sees(ran, capsys):
    (code,) = (block.text for block in blocks(README) if block.language == "python")
    Image.new("RGB", (96, 96), "red").save("cup.jpg")
    capsys.readouterr()
    exec(compile(code.replace("FOLDER", "exported"), README.name, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_demos_table_has_all_tests_and_rows(ran, capsys):
    capsys.readouterr()
    main(["report", "lightning_logs"])
    printed = capsys.readouterr().out
    chapter = README.read_text().split("## What `make demo` prints")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \| \d", chapter, re.MULTILINE)
    assert len(rows) == 4
    assert all(row in printed for row in rows)
    results = {path.stem for path in Path(RUN, "results").glob("*-test.parquet")}
    assert results == {"labeled_s-test", "vtwt-test", "baby_winoground-test"}
