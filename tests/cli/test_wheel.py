"""The wheel in an environment of its own, outside a checkout: configs, demo, and components of a user's package."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support.docs_pages import ROOT, blocks

RECIPES = {block.title: block.text for block in blocks(ROOT / "docs/how-to/extending.md") if block.title}
# A user's own package: a model, a benchmark, a mix, a profile and a matrix row.
OWN = {
    "__init__.py": "",
    "pairs.py": RECIPES["sigmoid_pairs.py"],
    "pictures.py": RECIPES["which_picture.py"],
    "configs/mine/model.yaml": RECIPES["sigmoid-pairs.yaml"].replace("sigmoid_pairs.", "mine.pairs."),
    "configs/mine/benchmark.yaml": RECIPES["which-picture.yaml"].replace("which_picture.W", "mine.pictures.W"),
    "configs/mine/profile.yaml": "base: playroom\nsource: mine\n",
    "configs/mix/filtered-some-aug.yaml": RECIPES["configs/mix/filtered-some-aug.yaml"],
    "configs/mine/matrix.yaml": """# The rows of this package.
base: [configs/playroom/base.yaml]
seeds: [0]
steps:
  pairs:
    configs: [configs/mine/model.yaml, "configs/mix/{mix}.yaml", configs/mine/benchmark.yaml]
    options: {trainer.max_steps: 2, trainer.val_check_interval: 2, data.batch_size: 4}
models: {SigmoidPairs: {step: pairs, mixes: [filtered-some-aug]}}
""",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build and install the wheel; return a function that runs the console script in an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")], ROOT)
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    python = folder / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    _run([*pip, str(wheel)], folder)
    (packages,) = (folder / "venv/lib").glob("*/site-packages")
    # The dependencies are those of this environment, to save gigabytes. Its editable babyvlm is not seen: a .pth file
    # in a folder that a .pth file names is not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = folder / "empty"
    empty.mkdir()
    where = _run([str(python), "-c", "import babyvlm; print(babyvlm.__file__)"], empty).stdout.strip()
    assert Path(where).is_relative_to(packages)
    for name, text in OWN.items():
        (packages / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / "mine" / name).write_text(text)

    def babyvlm(*words, code=0):
        done = _run([str(folder / "venv/bin/babyvlm"), *words], empty, code)
        return done.stdout + done.stderr

    return empty, babyvlm


def _run(command, folder, code=0):
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "BABYVLM_ALLOW")}
    done = subprocess.run(command, cwd=folder, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_wheel_lists_and_copies_configs(installed):
    empty, babyvlm = installed
    listed = [line.split()[0] for line in babyvlm("configs", "list").splitlines()]
    assert listed == sorted(str(file.relative_to(ROOT / "configs")) for file in (ROOT / "configs").rglob("*.yaml"))
    assert "0 were already there" in babyvlm("configs", "copy")
    for name in listed:
        assert (empty / "configs" / name).read_bytes() == (ROOT / "configs" / name).read_bytes()
    mine = empty / "configs/mix/filtered.yaml"
    mine.write_text("mine: true\n")
    assert "kept, although they differ from the shipped ones: mix/filtered.yaml" in babyvlm("configs", "copy")
    assert mine.read_text() == "mine: true\n"
    mine.unlink()
    assert "differ" not in babyvlm("--allow", "mine", "configs", "copy")
    assert mine.read_bytes() == (ROOT / "configs/mix/filtered.yaml").read_bytes()
    assert "mine/matrix.yaml" in babyvlm("--allow", "mine", "configs", "list")
    assert (empty / "configs/mine/matrix.yaml").read_text() == OWN["configs/mine/matrix.yaml"]


@pytest.mark.soak
def test_wheel_runs_demo_and_own_package(installed):
    empty, babyvlm = installed
    printed = babyvlm("demo")
    assert all(row in printed for row in ("Playroom-CLIP", "CVCL-frozen-filtered", "CVCL-frozen-filtered-aug"))
    babyvlm("--allow", "mine", "configs", "copy")
    images = [path.relative_to(empty) for path in sorted((empty / "data/playroom/world/trials").rglob("*.[jp]*g"))[:4]]
    (empty / "pictures.csv").write_text(
        f"phrase,right_image,wrong_image\nred ball,{images[0]},{images[1]}\nthe dog,{images[2]},{images[3]}\n"
    )
    home = "data/playroom/world/home"
    babyvlm(
        *("curate", "frames", "--videos", f"{home}/videos", "--transcripts", f"{home}/transcripts"),
        *("--profile", "configs/mine/profile.yaml", "--out", "own-frames", "--image_size", "32", "--licensed", "false"),
    )
    assert "mine.pairs.SigmoidPairs is not among the classes" in babyvlm(
        "ablations", "run", "--matrix", "configs/mine/matrix.yaml", code=1
    )
    assert "1 done" in babyvlm("--allow", "mine", "ablations", "run", "--matrix", "configs/mine/matrix.yaml")
    table = babyvlm("report", "lightning_logs")
    assert "SigmoidPairs-filtered-some-aug" in table
    assert "Which picture" in table
