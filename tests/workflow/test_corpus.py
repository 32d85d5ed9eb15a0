"""The chain of a corpus: its order, its options, and what is refused. Nothing is run here."""

from pathlib import Path

import pytest
import yaml

from babyvlm.ablations.plan import Plan
from babyvlm.errors import UserError
from babyvlm.workflow.commands import run
from babyvlm.workflow.corpus import curation, read_corpus, read_jobs, training
from support.docs_pages import ROOT


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Change into a folder with the shipped configs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)


def corpus(name="playroom", **changes):
    """Read a shipped chain, with some changes."""
    given = yaml.safe_load(Path(f"configs/{name}/workflow.yaml").read_text())
    Path("workflow.yaml").write_text(yaml.safe_dump(given | changes))
    return read_corpus(Path("workflow.yaml"))


def options(job):
    """Return the options of a job's command."""
    words = [word for word in job.command if not word.startswith("--") or word == job.command[0]]
    flags = [word for word in job.command if word.startswith("--")]
    return dict(zip(flags, words[len(words) - len(flags) :], strict=True))


def ancestors(jobs, name):
    """Return the names of all jobs that a job waits for."""
    by_id = {job.id: job for job in jobs}
    found, waiting = set(), [job for job in jobs if job.name == name]
    while waiting:
        needed = [by_id[need] for need in waiting.pop().needs]
        found |= {job.name for job in needed}
        waiting += needed
    return found


@pytest.mark.parametrize("name", ["playroom", "saycam", "babyview"])
def test_chain_decontaminates_before_filter_and_match_and_builds_vocabulary_last(name):
    jobs = curation(corpus(name))
    assert "decontaminate_frames" in ancestors(jobs, "filter")
    assert {"decontaminate_frames", "decontaminate_web", "filter"} <= ancestors(jobs, "match")
    assert ancestors(jobs, "vocabulary") == {job.name for job in jobs} - {"vocabulary"}
    trials = yaml.safe_load(Path(f"configs/{name}/workflow.yaml").read_text())["trials"]
    for job in jobs:
        if job.name.startswith("decontaminate"):
            assert len(yaml.safe_load(options(job)["--trials"])) == len(trials) >= 4
    places = {job.id: place for place, job in enumerate(jobs)}
    assert all(places[need] < places[job.id] for job in jobs for need in job.needs)


def test_dry_run_of_saycam_prints_all_commands_in_order(capsys):
    run(Path("configs/saycam/workflow.yaml"), dry_run=True)
    printed = capsys.readouterr().out.splitlines()
    commands = [line.removeprefix("python -m babyvlm ").split(" --")[0] for line in printed]
    order = list(dict.fromkeys(commands))
    assert order == [
        *("curate frames", "curate decontaminate", "curate embed", "curate filter", "curate web", "curate rewrite"),
        *("curate match", "curate sample-random", "curate vocabulary", "ablations run", "report lightning_logs"),
        f"{len(printed) - 1} jobs",
    ]
    assert commands.count("curate frames") == 17  # 16 shares, and the store
    assert not Path("data").exists()


def test_chain_reads_only_what_an_earlier_job_wrote():
    read, written = set(), set()
    for job in curation(corpus()):
        found = [value for value in options(job).values() if value.startswith("data/playroom/stores")]
        read |= {value for value in found if value != options(job)["--out"]} - written
        written.add(options(job)["--out"])
    assert read == set()


@pytest.mark.parametrize(("captions", "store"), [("raw", "web"), ("rewritten", "rewritten")])
def test_random_captions_select_the_candidates(captions, store):
    (job,) = [job for job in curation(corpus(random_captions=captions)) if job.name == "random"]
    assert options(job)["--candidates"] == f"data/playroom/stores/{store}"


def test_shares_form_an_array_before_the_store_is_assembled():
    jobs = curation(corpus(resources={"frames": {"shares": 3, "cores": 8}}))
    shares = [job for job in jobs if job.name == "frames_share"]
    assert [options(job)["--share"] for job in shares] == ["1/3", "2/3", "3/3"]
    assert all(job.resources.cores == 8 for job in shares)
    (last,) = [job for job in jobs if job.name == "frames"]
    assert last.needs == tuple(job.id for job in shares)
    assert "--share" not in last.command


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", ["playroom", "saycam"])
def test_training_has_every_step_once_and_every_row_before_the_report(name, quick):
    jobs = training(corpus(name), quick=quick)
    plan = Plan(Path(f"configs/{name}/ablations.yaml"), quick)
    seeds = len(plan.form.seeds)
    counts = {job.name: sum(other.name == job.name for other in jobs) for job in jobs}
    assert counts["step_gpt2_language"] == seeds  # which all mixes share
    assert counts["step_gpt2_phase_1"] == counts["step_gpt2_phase_2"] == counts["step_cvcl"] == 4 * seeds
    assert counts["step_test"] == len(plan.matrix.upper_bounds)
    ids = {job.id for job in jobs}
    assert len(ids) == len(jobs)
    for job in jobs:
        if job.name == "step_gpt2_phase_2":
            assert [need.rsplit("-", 1)[0] for need in job.needs] == ["step_gpt2_phase_1"]
    assert {*jobs[-1].needs} == ids - {jobs[-1].id}
    assert jobs[-1].command[:2] == ("report", str(plan.log_dir))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": None}, "needs either `frames` .* or `released`"),
        ({"trials": []}, "trials: name the lists of all benchmarks"),
        ({"random_captions": "any"}, "random_captions"),
        ({"frame": {"fps": 5}}, "frame"),
        ({"resources": {"frames": {"gpu": 1}}}, "gpu"),
    ],
)
def test_invalid_chain_is_refused(changes, message):
    with pytest.raises(UserError, match=rf"(?s)workflow\.yaml: .*{message}") as refused:
        corpus(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"filter": {"shares": 2}}, r"resources\.filter\.shares: 2\. Only frames, .* have shares"),
        ({"web": {"shares": 0}}, r"resources\.web\.shares: 0"),
        ({"step_cvc": {"gpus": 1}}, r"resources\.step_cvc: no such job\. Jobs: playroom, .*step_cvcl"),
    ],
)
def test_resources_of_unknown_jobs_are_refused(resources, message):
    corpus(resources=resources)
    with pytest.raises(UserError, match=rf"workflow\.yaml: {message}"):
        read_jobs(Path("workflow.yaml"))


def test_resources_of_a_step_replace_those_of_all_rows():
    corpus(resources={"rows": {"gpus": 1}, "step_gpt2_phase_2": {"gpus": 4}})
    _, jobs = read_jobs(Path("workflow.yaml"))
    steps = {job.name: job.resources.gpus for job in jobs if job.name.startswith("step_")}
    assert steps.pop("step_gpt2_phase_2") == 4
    assert set(steps.values()) == {1}


def test_matrix_of_other_stores_is_refused():
    with pytest.raises(UserError, match=r"ablations\.yaml: data\.stores is data/playroom/stores, but the chain writes"):
        training(corpus(folder="data/mine"))
