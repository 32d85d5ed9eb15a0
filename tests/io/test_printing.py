"""What people see on a terminal or open in a spreadsheet: data cannot act on the program that shows it."""

import ast
import csv
import io
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from rich.progress import track
from rich.table import Table as RichTable
from rich.text import Text

import babyvlm
from babyvlm.__main__ import main
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.summarize import summarize
from babyvlm.errors import UserError
from babyvlm.io import distributed
from babyvlm.io.printing import Console, echo, printable, printable_line, spreadsheet_cell
from babyvlm.report.command import report
from babyvlm.report.tables import Table
from support.made_runs import make_run

SOURCE = Path(babyvlm.__file__).parent
# Title of the window, clear screen, a link, an 8-bit escape, reordered text, backspaces.
HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b]8;;http://evil\x1b\\cup\x9b31m\u202egnp.\u2066\x08\x08"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def unrecognized_option(folder):
    main(["store", "info", "--store", "x", f"--{HOSTILE}"])


def missing_store(folder):
    main(["store", "info", "--store", HOSTILE])


def unknown_command(folder):
    main([HOSTILE])


def csv_header(folder):
    (folder / "list.csv").write_text(f"{HOSTILE},b\n1,2\n")
    main(["curate", "web", "--sources", f"[{folder / 'list.csv'}]", "--out", str(folder / "out")])


def user_error(folder):
    def fail(args):
        raise UserError(f"server: {HOSTILE}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("babyvlm.cli.main.run", fail)
        main([])


def run_name(folder):
    make_run(folder / "logs", HOSTILE.replace("/", ""), 0, vtwt=[1, 0, 1])
    report(folder / "logs")


def benchmark_title(folder):
    make_run(folder / "logs", "A", 0, vtwt=[1, 0, 1], facts={"title": HOSTILE, "measures": '[{"name": "accuracy"}]'})
    report(folder / "logs")


def report_table(folder):
    Table(HOSTILE, [HOSTILE, "b"], [[HOSTILE, "1"]], HOSTILE).print()


def rich_table(folder):
    table = RichTable(title=Text(HOSTILE))
    table.add_column(Text(HOSTILE))
    table.add_row(HOSTILE)
    Console().print(table)


def funnel(folder):
    counts = Funnel(HOSTILE)
    counts.drop(HOSTILE)
    echo(counts)


def progress_label(folder):
    list(track(range(2), HOSTILE, console=Console(stderr=True)))


def printed_lines(folder):
    Console().print(HOSTILE, markup=False, soft_wrap=True)


@pytest.mark.parametrize(
    "show",
    [
        unrecognized_option,
        missing_store,
        unknown_command,
        csv_header,
        user_error,
        run_name,
        benchmark_title,
        report_table,
        rich_table,
        funnel,
        progress_label,
        printed_lines,
    ],
)
def test_terminal_shows_no_control_characters(tmp_path, capfd, show):
    with suppress(SystemExit):
        show(tmp_path)
    shown = "".join(capfd.readouterr())
    assert "evi" in re.sub(r"\s", "", shown)  # the data is shown
    assert RAW.findall(shown) == []


def test_funnel_of_store_shows_no_control_characters(tmp_path, tiny_store, capfd):
    store = tiny_store(path=tmp_path / "store")
    manifest = json.loads((store.path / "store.json").read_text())
    manifest["funnel"]["dropped"] = {HOSTILE: 3}
    (store.path / "store.json").write_text(json.dumps(manifest))
    (store.path / "store.json.sha256").unlink()
    main(["store", "info", "--store", str(store.path)])
    summarize([store.path], tmp_path / "funnel")
    shown = "".join(capfd.readouterr())
    assert shown.count("cup") == 2
    assert RAW.findall(shown) == []


def test_printing_goes_through_one_module():
    for path in SOURCE.rglob("*.py"):
        if path == SOURCE / "io" / "printing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "sys.stdout.write", "sys.stderr.write", "rich.print"), (path, node.lineno)
            assert not (isinstance(node, ast.ImportFrom) and node.module == "rich.console"), (path, node.lineno)


def test_printable_keeps_text_of_all_scripts():
    for text in ("ball\n\tcup", "mamá, où", "赤ちゃん", "👩‍👧 🏽", "[red]x[/red]", "C:\\x1b"):
        assert printable(text) == text
        assert printable(printable(text)) == text
    assert printable("a\x1bb\udcffc") == "a\\x1bb\\udcffc"
    assert printable_line("a\n b\x1b\r\n") == "a b\\x1b"


CELLS = {
    "=HYPERLINK(A1)": False,
    "=1": False,
    "+cmd|' /C calc'!A0": False,
    "-2+3+cmd": False,
    "@SUM(A1)": False,
    "\t=1": False,
    "\r=1": False,
    "\n=1": False,
    "＝1": False,
    "- he said": False,
    "+1 [=1, 2]": False,
    "-1e": False,
    "--1": False,
    "": True,
    "cup": True,
    "a=b": True,
    "0.5": True,
    "-0.5": True,
    "+3": True,
    "-1,234": True,
    "-1e-5": True,
    "-inf": True,
    "-": True,
    "< 0.0001": True,
    "+0.250 [+0.100, +0.400]": True,
    "-0.250 [-0.400, -0.100]*‡": True,
}


@pytest.mark.parametrize("cell", CELLS)
def test_spreadsheet_cell_quotes_formulas_and_keeps_numbers(cell):
    assert spreadsheet_cell(cell) == (cell if CELLS[cell] else f"'{cell}")
    text = Table("t", ["a", cell], [["b", cell]]).csv()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[1] for row in rows] == [printable(spreadsheet_cell(cell))] * 2


def vanished_shard(store):
    next(path for path in store.iterdir() if path.suffix == ".parquet").unlink()


def vanished_store(store):
    shutil.rmtree(store)


def folder_as_shard(store):
    shard = next(path for path in store.iterdir() if path.suffix == ".parquet")
    shard.unlink()
    shard.mkdir()


def linked_shard(store):
    shard = next(path for path in store.iterdir() if path.suffix == ".parquet")
    shard.unlink()
    shard.symlink_to(shard.name)


@pytest.mark.parametrize("break_store", [vanished_shard, vanished_store, folder_as_shard, linked_shard])
@pytest.mark.parametrize(
    "command",
    [
        "store check",
        "store head",
        "store sample",
        "curate vocabulary --out out --stores",
        "store export --out out --format folder",
    ],
)
def test_missing_shard_is_one_line(tmp_path, monkeypatch, tiny_store, capfd, break_store, command):
    monkeypatch.chdir(tmp_path)
    tiny_store(path=tmp_path / "store")
    break_store(tmp_path / "store")
    stores = ["[store]"] if command.endswith("stores") else ["--store", "store"]
    with pytest.raises(SystemExit) as end:
        main([*command.split(), *stores])
    lines = capfd.readouterr().err.splitlines()
    assert end.value.code == 2
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert "Traceback" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.bin"), "a.bin: No such file or directory"),
        (OSError(30, "Read-only file system", "store/x"), "store/x: Read-only file system"),
        (OSError(28, "No space left on device"), "the disk: No space left on device"),
        (IsADirectoryError(21, "Is a directory", "a"), "a: Is a directory"),
        (OSError(40, "Too many levels of symbolic links", "a"), "a: Too many levels of symbolic links"),
        (OSError(116, "Stale file handle", "a"), "a: Stale file handle"),
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
        (FileNotFoundError("Caught FileNotFoundError in a worker\n  File x\nNo such file: a"), "No such file: a"),
    ],
)
def test_system_error_is_one_line(monkeypatch, capsys, error, message):
    def fail(args):
        raise error

    monkeypatch.setattr("babyvlm.cli.main.run", fail)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_label_of_a_progress_bar_is_no_markup(monkeypatch):
    """A store or a row may be called ``a[/b]``, which Rich would take for the end of a style, or for a link."""
    terminal = io.StringIO()
    monkeypatch.setattr(
        distributed, "Console", lambda stderr: Console(file=terminal, force_terminal=True, width=200, stderr=False)
    )
    assert list(distributed.progress([1], "features of a[/b] [link=http://evil]c[/link]")) == [1]
    assert "features of a[/b] [link=http://evil]c[/link]" in terminal.getvalue()
    assert "\x1b]8;" not in terminal.getvalue()
