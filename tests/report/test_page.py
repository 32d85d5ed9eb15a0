"""The report as files: written atomically, a self-contained page, all quoted text escaped."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from babyvlm.__main__ import main
from babyvlm.errors import UserError
from babyvlm.report.command import report
from babyvlm.report.provenance import budget_lines
from babyvlm.report.runs import Run, find_rows
from babyvlm.report.tables import Table
from support.made_runs import make_run, make_vtwt

EVIL = "<script>alert(1)</script>|$x_1$ & \"q\" 'z' %d {y} \\\n~^"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
METRICS = "step,train_loss,val_loss,vtwt_dev\n9,3.5,,\n19,2.5,2.75,\n19,,,0.75\n29,1.5,"


@pytest.fixture
def logs(tmp_path):
    """Two rows, one with two seeds; the last line of the training logs is incomplete."""
    folder = tmp_path / "logs"
    config = "data: {class_path: x, init_args: {batch_size: 4, stores: gone, sources: [{store: filtered}]}}\n"
    words = ["noun", "verb", "adjective", "both"]
    for row, seed, credit in (("CVCL-filtered", 0, 1), ("CVCL-filtered", 1, 0), ("CVCL-filtered-aug", 0, 1)):
        run = make_run(
            folder,
            row,
            seed,
            seed=seed,
            config=config,
            vtwt=[1, 0, 1, credit],
            labeled_s=[1, 0, credit, 0],
            baby_winoground=[0, 1, credit, 0],
            categories=words,
            controls={"": 1, "blank": 0.5},
            world="playroom",
            measures={"overall": 1, "positive_strict": 0.5, "negative_strict": 0.25},
        )
        (run / "checkpoints").mkdir()
        (run / "metrics.csv").write_text(METRICS)
    return folder


class Resources(HTMLParser):
    """Collects what a page would load, its tags and event handlers."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.loaded, self.handlers = set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                self.loaded.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
        if tag == "img":
            assert dict(attributes)["alt"]


def test_page_shows_what_the_mixes_contain(logs, tmp_path):
    parts = [
        {"store": "filtered", "items": 67_000, "utterances": 20_000, "share": 0.5, "corpora": {"saycam": 67_000}},
        {"store": "<script>alert(1)</script>", "items": 67_000, "utterances": 67_000, "share": 0.5, "corpora": {}},
    ]
    runs = sorted(logs.glob("CVCL-filtered/*"))
    for run in runs:
        (run / "provenance.json").write_text(json.dumps({"mix": {"unit": "pairs", "contents": parts}}))
    report(logs, tmp_path / "out")
    rows = (tmp_path / "out" / "tables" / "training-mixes.csv").read_text().splitlines()
    assert rows[0] == "mix,store,items per epoch,utterances,share of items,rows"
    assert '-,filtered,"67,000 pairs","20,000",50.0%,CVCL-filtered' in rows
    assert len(rows) == 3  # once for both seeds
    assert "<script>" not in (tmp_path / "out" / "report.html").read_text()
    runs[0].joinpath("provenance.json").write_text('{"mix": {"contents": [{"store": "filtered", "items": -1}]}}')
    with pytest.raises(UserError, match=r"provenance\.json: cannot be read .*utterances"):
        Run(runs[0]).check()


def test_page_is_self_contained(logs, tmp_path):
    report(logs, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    found = Resources(page)
    assert found.loaded
    assert all(value.startswith(("data:image/", "#")) for value in found.loaded)
    assert not found.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not found.handlers
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page
    for heading in (
        "Results",
        "Findings of the paper",
        "Data scaling",
        "Further suites",
        "Results by category",
        "Image-blind baselines",
        "Learning curves",
        "Captions",
        "Data",
        "Provenance",
    ):
        assert f"<h2>{heading}</h2>" in page
        assert f'<a href="#{heading.lower().replace(" ", "-")}-1">' in page
    for words in (
        '<td class="number">2</td>',  # seeds
        "stands in for SAYCam",
        "gone/filtered",
        "no run of BabyLLaVA-GPT2-filtered",
    ):
        assert words in page


def test_report_writes_all_formats_reproducibly(logs, tmp_path, drawn):
    drawn.clear()
    main(["report", str(logs), "--out", str(tmp_path / "out")])
    made = {path.relative_to(tmp_path / "out"): path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    names = {str(name) for name in made}
    assert {
        "report.html",
        "report.md",
        "report-of-runs.json",
        "figures/scores.svg",
        "figures/curves.svg",
        "tables/main-table.tex",
        "tables/main-table.csv",
        "tables/findings.csv",
    } <= names
    before = {name: path.read_bytes() for name, path in made.items()}
    text = before[Path("report.md")].decode()
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (tmp_path / "out" / figure).is_file()
    drawn.clear()
    report(logs, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in made} == before
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_report_does_not_depend_on_the_working_directory(tmp_path, tiny_store, monkeypatch, drawn):
    """Runs name their stores, list, and parent by relative paths; elsewhere, there is another list of the same name."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    make_vtwt(elsewhere / "data", [("big cup", "big dog")])
    items, _ = make_vtwt(project / "data", [("big cup", "big dog"), ("big dog", "big cup"), ("cut pear", "wash pear")])
    tiny_store(["a cup"], path=project / "stores" / "home")
    before = make_run(project / "phases", "language", 0, config="data: {init_args: {batch_size: 2}}")
    (before / "metrics.csv").write_text("step,train_loss\n4,1.0\n")
    config = (
        "trainer: {callbacks: [{class_path: x.VTWT, init_args: {trials: data/vtwt.csv}}]}\n"
        "data: {init_args: {batch_size: 4, stores: stores, sources: [{store: home}, {store: gone}]}}\n"
        "model: {init_args: {init_from: phases/language/version_0}}\n"
    )
    for seed in range(2):
        old = {"images": False, "items": {"vtwt": items}, "vtwt": [0, 1, seed]}
        make_run(project / "logs", "CVCL-filtered", seed, seed=seed, config=config, **old)
    damaged = make_run(project / "logs", "CVCL-filtered", 2, vtwt=[1])
    next((damaged / "results").iterdir()).write_bytes(b"damaged")
    made = []
    for folder, logs in ((project, "logs"), (elsewhere, "../project/logs")):
        monkeypatch.chdir(folder)
        drawn.clear()
        report(Path(logs), Path("out"))
        made.append({path.relative_to("out"): path.read_bytes() for path in Path("out").rglob("*") if path.is_file()})
    assert made[0] == made[1]
    text = made[0][Path("report.md")].decode()
    for words in ("| tiny |", "10 + unknown samples", "CVCL-filtered/version\\_2: not reported"):
        assert words in text
    assert "#" not in made[0][Path("tables/main-table.csv")].decode()  # the images of the list are known
    assert "are not shown: stores/gone." in made[0][Path("report.html")].decode()
    assert str(tmp_path) not in text + made[0][Path("report.html")].decode()


def test_report_refuses_to_replace_other_folders(logs, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match="thesis: already exists and is not a report"):
        report(logs, tmp_path / "thesis")
    with pytest.raises(UserError, match="is not a report"):
        report(logs, tmp_path / "thesis" / "chapter.tex")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    report(logs, tmp_path / "empty")
    assert (tmp_path / "empty" / "report.html").is_file()


def test_report_escapes_quoted_text(tmp_path, capsys):
    name = EVIL.replace("/", "").replace("\n", "")
    run = make_run(tmp_path / "logs", name, 0, labeled_s=[1, 0, 1, 0], categories=[EVIL] * 4, vtwt=[1, 0, 1, 0])
    (run / "checkpoints").mkdir()
    (run / "metrics.csv").write_text(METRICS)
    report(tmp_path / "logs", tmp_path / "out", details=True)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "script" not in Resources(page).tags
    assert "&lt;script&gt;alert(1)" in page
    text = (tmp_path / "out" / "report.md").read_text()
    assert "<script" not in text
    for svg in (tmp_path / "out" / "figures").glob("*.svg"):
        assert b"<script" not in svg.read_bytes()
    capsys.readouterr()
    table = Table("t", ["a", "b"], [[EVIL, "[red]x[/red]"]], EVIL)
    table.print()
    assert "[red]x[/red]" in capsys.readouterr().out
    (line,) = [line for line in table.markdown().splitlines() if "alert" in line and line.startswith("|")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3
    for letters in ("\\$x\\_1\\$", "\\&", "\\%d", "\\{y\\}", "\\textbackslash{}", "\\textasciitilde{}"):
        assert letters in table.latex()


def test_report_separates_worlds(logs, tmp_path):
    make_run(logs, "CLIP-large", 0, labeled_s=[1, 1, 0, 1], vtwt=[1, 1])
    report(logs, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("<h1>Real data</h1>") < page.index("<h1>Playroom</h1>")
    assert page.count("stands in for SAYCam") == 1
    assert (tmp_path / "out" / "playroom" / "figures" / "scores.svg").is_file()
    assert (tmp_path / "out" / "real-data" / "tables" / "main-table.csv").is_file()


def test_run_reads_curves_and_budget(logs):
    run = Run(logs / "CVCL-filtered" / "version_0")
    assert run.curve("train_loss") == [(40, 3.5), (80, 2.5)]  # the last row is incomplete
    assert run.curve("val_loss") == [(80, 2.75)]
    assert run.curve("caption_dev") == []
    assert run.samples_seen == 80
    assert budget_lines(find_rows(logs)[0]) == ["CVCL: 80 samples"]
    (logs / "CVCL-filtered-aug" / "version_0" / "provenance.json").write_text(json.dumps({"samples": 90}))
    assert budget_lines(find_rows(logs)[0]) == [
        "CVCL: CVCL-filtered 80; CVCL-filtered-aug 90 samples. THE ROWS DIFFER."
    ]


def test_budget_includes_earlier_phases(logs):
    before = make_run(logs.parent / "phases", "language", 0, config="data: {init_args: {batch_size: 2}}")
    (before / "metrics.csv").write_text("step,train_loss\n4,1.0\n")
    config = logs / "CVCL-filtered-aug" / "version_0" / "config.yaml"
    config.write_text(config.read_text() + f"model: {{init_args: {{init_from: {before}}}}}\n")
    assert budget_lines(find_rows(logs)[0])[0].endswith("CVCL-filtered-aug 10 + 80 samples. THE ROWS DIFFER.")


def test_report_and_compare_import_no_torch(logs, tmp_path):
    code = (
        "import sys; from babyvlm.__main__ import main\n"
        f"main(['report', {str(logs)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        f"main(['compare', *{[str(logs / row) for row in ('CVCL-filtered', 'CVCL-filtered-aug')]!r}])\n"
        "print([name for name in ('torch', 'lightning', 'transformers', 'datasets') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_page_fits_phone_and_loads_nothing(logs, tmp_path):
    from playwright.sync_api import sync_playwright

    report(logs, tmp_path / "out")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=200_000)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        requests, messages = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.goto((tmp_path / "out" / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        shown = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
        assert page.evaluate(shown)
        # Narrow charts are used: their text is about as large as the page's, and nothing scrolls sideways.
        charts = (
            "[...document.querySelectorAll('picture img')].filter(image => image.clientWidth)"
            ".map(image => image.clientWidth / image.naturalWidth)"
        )
        for chapter in ("Results", "Results by category", "Learning curves"):  # one page at a time
            page.click(f"nav.pages a:text-is('{chapter}')")
            assert page.locator("main h2:visible").all_text_contents() == [chapter]
            scales = page.evaluate(charts)
            assert scales
            assert min(scales) > 0.7
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.set_viewport_size({"width": 1200, "height": 800})
        page.wait_for_function("matchMedia('(min-width: 46rem)').matches")
        assert page.evaluate("[...document.querySelectorAll('picture img')].some(image => image.clientWidth > 600)")
        browser.close()
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert messages == []
