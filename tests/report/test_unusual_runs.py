"""A run that is damaged or unusual does not keep `report` and `compare` from the others."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from babyvlm.__main__ import main
from support.made_runs import make_run

CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
METRICS = "metrics.csv"
VTWT = "results/vtwt-test.parquet"
MULTIPLYING = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 24))
DATA = {"batch_size": 4, "stores": "gone", "sources": [{"store": "filtered"}]}


def content(name, data):
    """Replace a file."""

    def edit(run):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return edit


def setting(dotted, value):
    """Set a value in the config."""

    def edit(run):
        config = place = yaml.safe_load((run / CONFIG).read_text())
        *parents, last = dotted.split(".")
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
        (run / CONFIG).write_text(yaml.safe_dump(config))

    return edit


def recorded(**facts):
    return content(PROVENANCE, json.dumps(facts))


def columns(edit_table):
    """Edit the table of results."""

    def edit(run):
        pq.write_table(edit_table(pq.read_table(run / VTWT)), run / VTWT)

    return edit


def column(name, values):
    """Replace a column of the results."""

    def edit_table(table):
        array = pa.array((values * len(table))[: len(table)])
        return table.set_column(table.schema.get_field_index(name), name, array)

    return columns(edit_table)


def long_text(length, rows):
    """Replace the results by ``rows`` rows with one text, which takes little space in a compressed file."""

    def edit(run):
        table = pq.read_table(run / VTWT).take([0] * rows)
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * length]))
        table = table.set_column(table.schema.get_field_index("item"), "item", texts)
        pq.write_table(table, run / VTWT, compression="zstd", use_dictionary=rows > 1)

    return edit


def facts(**metadata):
    """Set metadata of the results."""
    named = {name.encode(): value for name, value in metadata.items()}
    return columns(lambda table: table.replace_schema_metadata((table.schema.metadata or {}) | named))


def folder(name):
    def edit(run):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return edit


def link(name, target):
    def edit(run):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)

    return edit


def fifo(name):
    def edit(run):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return edit


def huge(name):
    def edit(run):
        with (run / name).open("ab") as file:
            file.truncate(1 << 33)  # takes no space on disk

    return edit


def torn(name):
    def edit(run):
        (run / name).write_bytes((run / name).read_bytes()[:-40])

    return edit


def callback(**arguments):
    return {"class_path": "babyvlm.benchmarks.VTWT", "init_args": arguments}


def loop_of_phases(run):
    setting("model.init_args.init_from", str(run))(run)


def damaged_phase(run):
    before = make_run(run.parents[2] / "phases", "language", 0)
    (before / CONFIG).write_text("{")
    setting("model.init_args.init_language", str(before))(run)


def damaged_store(run):
    store = run.parents[2] / "stores" / "filtered"
    store.mkdir(parents=True)
    (store / "store.json").write_text('{"funnel": 3, "arguments": []}')
    setting("data.init_args.stores", str(run.parents[2] / "stores"))(run)


def hostile_list(run):
    trials = run.parent / "list.csv"
    trials.write_bytes(b"image,positive_phrase,negative_phrase\n\xff\xfe,\n" + b"x" * 200_000 + b"\n")
    facts(trials=str(trials))(run)


def looped_list(run):
    (run.parent / "a.csv").symlink_to("a.csv")
    facts(trials=str(run.parent / "a.csv"))(run)


# Unusual, but its results can be read: reported like any other run.
LEGAL = {
    "callbacks are a mapping": setting("trainer.callbacks", callback(trials="gone.csv")),
    "callbacks are a mapping of names": setting("trainer.callbacks", {"a": 1}),
    "callbacks are null": setting("trainer.callbacks", None),
    "callbacks are text": setting("trainer.callbacks", "x"),
    "callbacks contain text and null": setting("trainer.callbacks", ["x", None, 3, []]),
    "benchmarks are a mapping": setting("trainer.callbacks", [{"class_path": "x", "init_args": {"benchmarks": {}}}]),
    "trials are a number": setting("trainer.callbacks", [callback(trials=3)]),
    "trials have a long name": setting("trainer.callbacks", [callback(trials="x" * 5000)]),
    "trials contain NUL": setting("trainer.callbacks", [callback(trials="a\0b")]),
    "image root is a list": setting("trainer.callbacks", [callback(trials="a.csv", image_root=[1])]),
    "trainer is text": setting("trainer", "cpu"),
    "accumulation is text": setting("trainer.accumulate_grad_batches", "two"),
    "model is a list": setting("model", [1]),
    "init_args are text": setting("model.init_args", "x"),
    "init_from is a number": setting("model.init_args.init_from", 3),
    "init_from is the run itself": loop_of_phases,
    "vision is a list": setting("model.init_args.vision", [1]),
    "data is text": setting("data", "x"),
    "batch size is text": setting("data.init_args.batch_size", "auto"),
    "batch size is negative": setting("data.init_args.batch_size", -3),
    "stores are a number": setting("data.init_args.stores", 3),
    "stores are null": setting("data.init_args.stores", None),
    "sources are text": setting("data.init_args.sources", "filtered"),
    "sources are a mapping": setting("data.init_args.sources", {"store": "x"}),
    "a source is text": setting("data.init_args.sources", ["filtered"]),
    "a source names no store": setting("data.init_args.sources", [{"weight": 1}]),
    "a source's store is a number": setting("data.init_args.sources", [{"store": 3}]),
    "store is damaged": damaged_store,
    "seed is text": setting("seed_everything", "seven"),
    "seed is true": setting("seed_everything", True),
    "seed is huge": content(CONFIG, f"seed_everything: 0x{'f' * 9000}\n"),
    "config is missing": lambda run: (run / CONFIG).unlink(),
    "config is empty": content(CONFIG, ""),
    "provenance is null everywhere": recorded(stores=None, parameters=None, packages=None, vocabulary=None),
    "provenance has packages only": recorded(packages={"torch": "2"}),
    "metrics are empty": content(METRICS, ""),
    "metrics are not UTF-8": content(METRICS, b"step,train_loss\n\xff,\xfe\n"),
    "metrics are not finite": content(METRICS, "step,train_loss,val_loss\n1,nan,inf\n2,1e999,-inf\n"),
    "metrics have huge steps": content(METRICS, f"step,train_loss\n{'9' * 400},1\n{'9' * 5000},1\n-5,1\n"),
    "metrics have short and long rows": content(METRICS, "step,train_loss\n1\n1,2,3,4\n\n"),
    "list is not UTF-8": hostile_list,
    "list is a loop of links": looped_list,
    "list's path has a long name": facts(trials="x" * 5000),
    "images' path contains NUL": facts(trials="a.csv", images="a\0b"),
    "categories are null": column("category", [None]),
    "only controls were tested": column("control", ["blank"]),
    "a credit is huge": column("credit", [1e8, -1e8]),
    "measure is unknown": column("measure", ["novel"]),
    "item ids are numbers": column("item", list(range(99))),
    "all items have one id": column("item", ["same"]),
    "title is hostile": facts(title="\x1b[2J" + "x" * 3000, measures='[{"name": "accuracy"}]'),
    "title is not ASCII": facts(title="日本", measures='[{"name": "accuracy", "title": "$\\\\bad{"}]'),
    "counts have no partner": facts(unknown_words="0.5"),
    "checkpoints are a file": content("checkpoints", "x"),
}
# Damaged: listed with its reason.
DAMAGED = {
    "config is torn": (content(CONFIG, "{"), "config.yaml: cannot be read as a config"),
    "config is a list": (content(CONFIG, "[1, 2]"), "it is not a mapping"),
    "config is text": (content(CONFIG, "hello"), "it is not a mapping"),
    "config is binary": (content(CONFIG, b"\x00\xff\xfe\x80"), "config.yaml: cannot be read"),
    "config is not UTF-8": (content(CONFIG, b"name: \xff\xfe"), "config.yaml: cannot be read"),
    "config is deep": (content(CONFIG, "a: " + "[" * 20_000), "config.yaml: cannot be read"),
    "config multiplies": (content(CONFIG, MULTIPLYING), "config.yaml: cannot be read as a config (over 20,000 values"),
    "config has an impossible date": (content(CONFIG, "a: 2026-99-99\n"), "config.yaml: cannot be read"),
    "config has a tag": (content(CONFIG, "a: !!python/object/apply:os.getcwd []\n"), "config.yaml: cannot be read"),
    "config is huge": (huge(CONFIG), "config.yaml: is larger than"),
    "config is a folder": (folder(CONFIG), "config.yaml: is not a regular file"),
    "config is a pipe": (fifo(CONFIG), "config.yaml: is not a regular file"),
    "config is a loop of links": (link(CONFIG, CONFIG), "config.yaml: cannot be read (Too many levels"),
    "config is a broken link": (link(CONFIG, "gone"), "config.yaml: is a link to a missing file"),
    "init_from has a long name": (setting("model.init_args.init_from", "x" * 5000), "File name too long"),
    "init_from contains NUL": (setting("model.init_args.init_from", "a\0b"), "null byte"),
    "phase is damaged": (damaged_phase, "language/version_0/config.yaml: cannot be read"),
    "provenance is torn": (content(PROVENANCE, "{"), "provenance.json: cannot be read"),
    "provenance was edited": (recorded(samples=5, sha256="0" * 64), "it was edited after it was written"),
    "provenance is a list": (content(PROVENANCE, "[]"), "it is not a JSON object"),
    "provenance is deep": (content(PROVENANCE, "[" * 200_000), "provenance.json: cannot be read"),
    "provenance is not UTF-8": (content(PROVENANCE, b"\xff"), "provenance.json: cannot be read"),
    "provenance is huge": (huge(PROVENANCE), "provenance.json: is larger than"),
    "provenance is a folder": (folder(PROVENANCE), "provenance.json: is not a regular file"),
    "samples are text": (recorded(samples="many"), "samples is not of type int"),
    "samples are negative": (recorded(samples=-1), "samples is not a count"),
    "parameters are a list": (recorded(parameters=[1]), "parameters is not of type dict"),
    "parameters' total is text": (recorded(parameters={"total": "x"}), "parameters.total"),
    "recorded stores are a list": (recorded(stores=["x"]), "stores is not of type dict"),
    "recorded store is text": (recorded(stores={"a": "x"}), "stores.a is not of type dict"),
    "recorded store lacks its fingerprint": (recorded(stores={"a": {}}), "stores.a.fingerprint"),
    "recorded vocabulary is a number": (recorded(vocabulary=3), "vocabulary is not of type str"),
    "recorded code is a number": (recorded(code_sha256=3), "code_sha256 is not of type str"),
    "packages are a list": (recorded(packages=[]), "packages is not of type dict"),
    "python is a number": (recorded(python=3), "python is not of type str"),
    "metrics are a folder": (folder(METRICS), "metrics.csv: is not a regular file"),
    "metrics are huge": (huge(METRICS), "metrics.csv: is larger than"),
    "metrics have a huge cell": (content(METRICS, f"step,train_loss\n1,{'x' * 200_000}\n"), "metrics.csv: cannot be"),
    "metrics are a loop of links": (link(METRICS, METRICS), "metrics.csv: cannot be read"),
    "results are empty": (content(VTWT, ""), "vtwt-test.parquet: cannot be read as results"),
    "results are torn": (torn(VTWT), "vtwt-test.parquet: cannot be read as results"),
    "results are foreign": (content(VTWT, "a,b\n"), "vtwt-test.parquet: cannot be read as results"),
    "results are a folder": (folder(VTWT), "vtwt-test.parquet: is not a regular file"),
    "results are a pipe": (fifo(VTWT), "vtwt-test.parquet: is not a regular file"),
    "results are a broken link": (link(VTWT, "gone"), "vtwt-test.parquet"),
    "results are a loop of links": (link(VTWT, "vtwt-test.parquet"), "vtwt-test.parquet"),
    "results are huge": (huge(VTWT), "vtwt-test.parquet: is larger than"),
    "results have no rows": (columns(lambda table: table.slice(0, 0)), "contains no item"),
    "results lack items": (columns(lambda table: table.drop_columns(["item"])), "cannot be read as results"),
    "results lack credit": (columns(lambda table: table.drop_columns(["credit"])), "cannot be read as results"),
    "results lack controls": (columns(lambda table: table.drop_columns(["control"])), "cannot be read as results"),
    "results have other columns": (columns(lambda table: pa.table({"a": [1]})), "cannot be read as results"),
    "credit is NaN": (column("credit", [1.0, float("nan")]), "credit nan of item"),
    "credit is infinite": (column("credit", [float("inf")]), "credit inf of item"),
    "credit is missing": (column("credit", [None, 1.0]), "column credit has empty values"),
    "credit is text": (column("credit", ["good"]), "cannot be read as results"),
    "credit is a list": (column("credit", [[1.0]]), "cannot be read as results"),
    "items are missing": (column("item", [None, "a"]), "column item has empty values"),
    "measures are missing": (column("measure", [None]), "column measure has empty values"),
    "controls are missing": (column("control", [None]), "column control has empty values"),
    "items are binary": (column("item", [b"\xff\xfe"]), "cannot be read as results"),
    "metadata is not UTF-8": (facts(title=b"\xff\xfe"), "cannot be read as results"),
    "missing items are text": (facts(missing_items="some"), "cannot be read as results"),
    "unknown words are text": (facts(unknown_words="some", items_alike="1"), "cannot be read as results"),
    "declared measures are torn": (facts(measures="["), "metadata 'measures' cannot be read"),
    "declared measures are empty": (facts(measures="[]"), "metadata 'measures' cannot be read"),
    "declared measures are numbers": (facts(measures="[1]"), "metadata 'measures' cannot be read"),
    "declared measures are deep": (facts(measures="[" * 200_000), "metadata 'measures' cannot be read"),
    "a declared title is a number": (
        facts(measures='[{"name": "a", "title": 3}]'),
        "metadata 'measures' cannot be read",
    ),
    "a declared chance is NaN": (
        facts(measures='[{"name": "a", "chance": NaN}]'),
        "metadata 'measures' cannot be read",
    ),
    "a text of the results unpacks to megabytes": (long_text(60_000_000, 1), "unpacks to many times its size"),
    "a text of the results repeats": (long_text(900_000, 400), "over 256 MiB of text"),
    "order is text": (facts(measures='[{"name": "a"}]', order="last"), "metadata 'measures' cannot be read"),
}


def make_rows(logs, *rows):
    config = yaml.safe_dump({"data": {"class_path": "x", "init_args": DATA}, "model": {"init_args": {}}})
    for row in rows:
        run = make_run(logs, row, 0, config=config, vtwt=[1, 0, 1, 1], world="playroom")
        (run / METRICS).write_text("step,train_loss,val_loss\n9,3.5,\n19,2.5,2.75\n")


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """Three runs: two to compare, and one to edit."""
    monkeypatch.chdir(tmp_path)
    make_rows(tmp_path / "logs", "CVCL-filtered", "CVCL-filtered-aug", "Odd")
    return tmp_path / "logs"


def report(logs, capsys):
    """Run `report` with all tables; return what it prints and writes."""
    main(["report", str(logs), "--out", str(logs.parent / "out"), "--details", "true"])
    printed = capsys.readouterr()
    files = {path.name: path.read_text() for path in (logs.parent / "out").iterdir() if path.is_file()}
    assert "CVCL-filtered-aug" in printed.out
    return printed, files


def test_report_and_compare_accept_all_unusual_runs_together(logs, capsys):
    rows = {f"Odd-{number:03}": edit for number, edit in enumerate(LEGAL.values())}
    make_rows(logs, *rows)
    for row, edit in rows.items():
        edit(logs / row / "version_0")
    printed, files = report(logs, capsys)
    assert printed.err == ""
    assert "not reported" not in files["report.html"]
    for row in rows:
        assert row in printed.out
        assert row in files["report.md"]
        try:
            main(["compare", str(logs / row), str(logs / "CVCL-filtered")])
        except SystemExit:
            assert "have no test item in common" in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.parametrize("edit", LEGAL)
def test_report_and_compare_accept_unusual_run(logs, capsys, edit):
    LEGAL[edit](logs / "Odd" / "version_0")
    printed, files = report(logs, capsys)
    assert printed.err == ""
    assert "Odd" in printed.out
    assert "Odd" in files["report.md"]
    assert "not reported" not in files["report.html"]
    for other in ("CVCL-filtered", "CVCL-filtered-aug"):
        try:
            main(["compare", str(logs / "Odd"), str(logs / other), "--out", str(logs.parent / "compare.html")])
        except SystemExit:
            assert "have no test item in common" in capsys.readouterr().err


def test_report_lists_all_damaged_runs_together(logs, capsys):
    rows = {f"Odd-{number:03}": damaged for number, damaged in enumerate(DAMAGED.values())}
    make_rows(logs, *rows)
    for row, (damage, _) in rows.items():
        damage(logs / row / "version_0")
    printed, files = report(logs, capsys)
    lines = printed.err.splitlines()
    assert len(lines) == len(rows)
    for line, (row, (_, reason)) in zip(sorted(lines), rows.items(), strict=True):
        assert line.startswith(f"{logs / row / 'version_0'}: not reported: ")
        assert reason in line
        assert row not in printed.out
        assert f"{row}/version\\_0: not reported: " in files["report.md"]
        with pytest.raises(SystemExit) as end:
            main(["compare", str(logs / "CVCL-filtered"), str(logs / row)])
        assert end.value.code == 2
        assert reason in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.parametrize("edit", DAMAGED)
def test_report_lists_damaged_run_and_reports_others(logs, capsys, edit):
    damage, reason = DAMAGED[edit]
    odd = logs / "Odd" / "version_0"
    damage(odd)
    printed, files = report(logs, capsys)
    (line,) = printed.err.splitlines()
    assert line.startswith(f"{odd}: not reported: ")
    assert reason in line
    assert "Odd" not in printed.out
    assert "Runs that are not reported" in files["report.html"]
    assert "Odd/version\\_0: not reported: " in files["report.md"]
    with pytest.raises(SystemExit) as end:
        main(["compare", str(logs / "CVCL-filtered"), str(logs / "Odd")])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert reason in line


def test_report_uses_older_run_if_newest_is_damaged(logs, capsys):
    newest = logs / "Odd" / "version_1"
    shutil.copytree(logs / "Odd" / "version_0", newest)
    (newest / VTWT).write_bytes(b"PAR1")
    printed, _ = report(logs, capsys)
    assert f"Odd: {logs}/Odd/version_0" in printed.out
    assert f"{newest}: not reported" in printed.err
    main(["compare", str(logs / "CVCL-filtered"), str(logs / "Odd"), "--out", "compare.html"])
    assert f"{newest}: not reported" in capsys.readouterr().err
    assert "Runs that are not reported" in Path("compare.html").read_text()


def test_report_without_readable_run_is_one_line(logs, capsys):
    for run in logs.glob("*/*"):
        (run / CONFIG).write_text("{")
    with pytest.raises(SystemExit) as end:
        main(["report", str(logs)])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert "no run can be read" in line
    assert "config.yaml: cannot be read as a config" in line


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(116, "Stale file handle")])
@pytest.mark.parametrize("name", [CONFIG, METRICS, "vtwt-test.parquet"])
def test_report_lists_run_whose_file_becomes_unreadable(logs, capsys, monkeypatch, name, error):
    read_bytes = Path.read_bytes

    def refuse(path):
        if "Odd" in path.parts and path.name == name:
            raise error
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    printed, _ = report(logs, capsys)
    assert f"{name}: cannot be read ({error.strerror})" in printed.err


def test_report_lists_run_whose_results_vanish(logs, capsys, monkeypatch):
    stat = Path.stat

    def vanish(path, **options):
        if "Odd" in path.parts and path.suffix == ".parquet":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", vanish)
    printed, _ = report(logs, capsys)
    assert "No such file or directory" in printed.err


def test_report_escapes_file_names_that_are_not_utf8(logs, capsys):
    (logs / "Odd").rename(os.fsdecode(os.fsencode(logs) + b"/Odd-\xff\x1b"))
    printed, files = report(logs, capsys)
    assert "Odd-\\udcff\\x1b" in printed.out
    assert "Odd-\\udcff\\x1b" in files["report.html"]


@pytest.mark.parametrize("path", [".", "/", "..", ""])
def test_compare_rejects_folders_without_runs(logs, capsys, path):
    with pytest.raises(SystemExit) as end:
        main(["compare", path, str(logs / "Odd")])
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_compare_writes_page_from_several_processes_at_once(logs):
    command = ["compare", *(str(logs / row) for row in ("CVCL-filtered", "CVCL-filtered-aug")), "--out", "page.html"]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=main, args=(command,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(250)
    assert [process.exitcode for process in processes] == [0] * 2
    assert Path("page.html").read_text().rstrip().endswith("</html>")
    assert not list(Path.cwd().glob(".*partial*"))
