"""Follow docs/how-to/extending.md literally on small stores: write its titled files and run its commands in order."""

import re
import runpy
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from babyvlm.__main__ import main
from support.docs_pages import ROOT, blocks, shell_lines
from support.tiny_world import BASE, lay_out

PAGE = blocks(ROOT / "docs/how-to/extending.md")


MODULES = ("sigmoid_pairs", "which_picture")


@pytest.fixture(scope="module")
def followed(tmp_path_factory, tiny_store, make_vocabulary):
    """The folder after following the complete page, and the output of its commands."""
    folder = tmp_path_factory.mktemp("extending")
    lay_out(folder, tiny_store, make_vocabulary)
    (folder / "configs/playroom/base.yaml").write_text(yaml.safe_dump(BASE))  # few steps and a short test
    for block in PAGE:
        if block.title:
            (folder / block.title).write_text(block.text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)  # as Python does for the folder of a script
        patch.delenv("BABYVLM_ALLOW", raising=False)
        _refused_where_not_allowed()
        for block in PAGE:
            if block.language == "sh":
                for command in shell_lines(block.text):
                    _run(command, patch)
        for module in MODULES:
            del sys.modules[module]
        yield folder


def _refused_where_not_allowed():
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", "sigmoid-pairs.yaml"])
    assert end.value.code == 2
    assert not {*MODULES} & {*sys.modules}


def _run(command, patch):
    assert command[:3] == ["python", "-m", "babyvlm"]
    with patch.context() as own:  # as in a new process, nothing is allowed at first
        own.setenv("BABYVLM_ALLOW", "")
        main(command[3:])


def test_quick_start_script_scores_images(followed, monkeypatch, capsys):
    script = next(block for block in blocks(ROOT / "docs/quick-start.md") if block.title)
    (followed / script.title).write_text(script.text)
    run = followed / "lightning_logs/CVCL-filtered-some-aug/version_0"
    monkeypatch.setattr(sys, "argv", [script.title, str(run), str(followed / "0.png"), str(followed / "1.png")])
    runpy.run_path(str(followed / script.title), run_name="__main__")
    assert re.fullmatch(r"tensor\(\[\[ *\S+ +\S+\],\s+\[ *\S+ +\S+\]\]\)\s*", capsys.readouterr().out)


def credits(run, benchmark, control=""):
    table = pq.read_table(run / "results" / f"{benchmark}-test.parquet")
    return [row["credit"] for row in table.to_pylist() if row["control"] == control]


def test_recipe_mix_contains_its_sources(followed):
    run = followed / "lightning_logs/CVCL-filtered-some-aug/version_0"
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert [source["utterances"] for source in data["sources"]] == [None, 20]
    assert (run / "finished").is_file()
    assert len(credits(run, "vtwt")) > 0


def test_recipe_model_is_trained_tested_and_reported(followed, capsys):
    run = followed / "lightning_logs/SigmoidPairs-filtered/version_0"
    assert (run / "finished").is_file()
    assert (run / "vocabulary").is_dir()
    assert len(credits(run, "vtwt")) > 0
    main(["report", str(followed / "lightning_logs")])
    assert "SigmoidPairs-filtered" in capsys.readouterr().out


@pytest.mark.parametrize("run", ["trained/version_0", "SigmoidPairs-filtered/version_1"])
def test_recipe_benchmark_runs_with_controls(followed, run):
    run = followed / "lightning_logs" / run
    assert len(credits(run, "which_picture")) == 2
    assert credits(run, "which_picture", "blank") == [0.5, 0.5]  # two blank images tie
    assert len(credits(run, "vtwt")) > 0
