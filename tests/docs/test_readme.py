"""Run the commands of README.md and the quick start, in order, on the tiny world."""

import re
from pathlib import Path

import pytest
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.cli import demo
from support import forking
from support.docs_pages import BABYVLM, ROOT, blocks, commands
from support.small_meteor import small_meteor

README, QUICK_START = ROOT / "README.md", ROOT / "docs/quick-start.md"
DATA, RUN = "data/playroom", "lightning_logs/CVCL-frozen-filtered/version_0"
# The runs are shorter than a reader's.
SHORTER = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.batch_size=4", "--data.num_workers=0"]
# A model that transformers can load.
OVERLAYS = ["playroom/base", "playroom/babyllava-gpt2", "playroom/phase-1", "mix/filtered", "benchmarks/playroom"]
BABYLLAVA = ["fit", *(f"--config=configs/{overlay}.yaml" for overlay in OVERLAYS), "--name=BabyLLaVA"]
PLACEHOLDERS = {
    "RUN_A": "lightning_logs/CVCL-frozen-filtered",
    "RUN_B": "lightning_logs/CVCL-frozen-filtered-aug",
    "FOLDER": "exported",
    "RUN": "lightning_logs/BabyLLaVA-filtered/version_0",
    "default": "tiny",
}
# Arguments of commands that a page only names and that `make demo` does not run.
ARGUMENTS = {
    "ablations run": "--rows [Playroom-CLIP] --launcher LAUNCHER",
    "ablations status": "",
    "benchmark build labeled-s": f"--category_folders {DATA}/world/trials/labeled_s --out chosen"
    " --licensed false --exclude []",
    "check-data": f"--videos {DATA}/world/home/videos --transcripts {DATA}/world/home/transcripts --profile playroom",
    "curate deduplicate": f"--store {DATA}/stores/frames --embeddings {DATA}/embeddings/frames --out deduplicated",
    "store check": f"--store {DATA}/stores/filtered",
    "store export": f"--store {DATA}/stores/filtered --out shared",
    "store head": f"--store {DATA}/stores/filtered",
    "store info": f"--store {DATA}/stores/filtered",
    "store sample": f"--store {DATA}/stores/filtered --out sample.html",
}
# Named commands that have tests of their own: they need a reviewer, released frames, or the output of these.
NAMED_ONLY = {
    "benchmark build assemble",
    "benchmark build negatives",
    "benchmark build phrase-pairs",
    "benchmark build review",
    "curate released",
    "predict",
    "validate",
}


def name_of(words):
    """Return the name of a command, such as `curate frames` or `fit`."""
    return " ".join(words[: {"ablations": 2, "benchmark": 3, "curate": 2, "store": 2}.get(words[0], 1)])


def of_page(page):
    """Return the babyvlm commands of a page as lists of words, without groups such as `store`."""
    found = [words[3:] for words in commands(page) if words[:3] == BABYVLM]
    return [words for words in found if words not in (["curate"], ["store"], ["benchmark", "build"])]


@pytest.fixture(scope="module")
def ran(tmp_path_factory, copy_world):
    """Run `make demo` in a new folder; return a function that runs a command once, the names of all, and a launcher."""
    names, done = set(), []

    def run(words):
        if words not in done:
            main([*words, *SHORTER] if words[0] == "fit" else words)
            done.append(words)
        names.add(name_of(words))

    with pytest.MonkeyPatch.context() as patch, small_meteor(tmp_path_factory.mktemp("meteor")):
        folder = tmp_path_factory.mktemp("readme")
        (folder / "configs").symlink_to(ROOT / "configs")
        patch.chdir(folder)
        Path(DATA).mkdir(parents=True)
        copy_world(Path(DATA, "world"))  # as an earlier `make data` leaves it
        for words in [job.command for job in demo.jobs(size="tiny")]:
            run(words)
        run(BABYLLAVA)
        with forking.server(folder) as command:
            yield run, names, " ".join(command)


@pytest.mark.parametrize("page", [README, QUICK_START], ids=lambda page: page.name)
def test_page_commands_run(ran, page):
    run, names, launcher = ran
    for words in of_page(page):
        name = name_of(words)
        if words[-1] != "..." and words != name.split():
            run([PLACEHOLDERS.get(word, word) for word in words])
        elif name in ARGUMENTS and name not in names:
            run([*words, *(launcher if word == "LAUNCHER" else word for word in ARGUMENTS[name].split())])
    assert {*map(name_of, of_page(page))} - names <= NAMED_ONLY


def test_readme_python_runs(ran, capsys):
    (code,) = (block.text for block in blocks(README) if block.language == "python")
    Image.new("RGB", (96, 96), "red").save("cup.jpg")
    capsys.readouterr()
    exec(compile(code, README.name, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_demo_table_has_all_rows_and_benchmarks(ran, capsys):
    capsys.readouterr()
    main(["report", "lightning_logs"])
    printed = capsys.readouterr().out
    chapter = README.read_text().split("## Results of `make demo`")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \| \d", chapter, re.MULTILINE)
    assert len(rows) == 4
    assert all(row in printed for row in rows)
    results = {path.stem for path in Path(RUN, "results").glob("*-test.parquet")}
    assert results == {"labeled_s-test", "vtwt-test", "vtwt_natural-test", "baby_winoground-test"}


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 120
