"""The review page: verdicts on disk, over real HTTP, and in a browser where there is one."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from babyvlm.benchmark_builder.items import Item, Items, write_items
from babyvlm.benchmark_builder.verdicts import (
    VerdictFile,
    agreement,
    agreement_text,
    cohen_kappa,
    fleiss_kappa,
    read_all,
    read_verdicts,
)
from babyvlm.errors import UserError
from babyvlm.io import artifacts

# Fleiss' kappa, the worked example of https://en.wikipedia.org/wiki/Fleiss%27_kappa: 14 raters, 10 subjects, 0.210.
FLEISS = [
    "0 0 0 0 14",
    "0 2 6 4 2",
    "0 0 3 5 6",
    "0 3 9 2 0",
    "2 2 8 1 1",
    "7 7 0 0 0",
    "3 2 6 3 0",
    "2 5 3 2 2",
    "6 5 2 1 0",
    "0 2 2 3 7",
]


@pytest.fixture
def items(tmp_path, draw_jpeg):
    """Six items with different images."""
    with artifacts.create(tmp_path / "items", "items", {"arguments": {}, "licensed": False}) as partial:
        (partial / "images").mkdir()
        made = []
        for n in range(6):
            (partial / "images" / f"{n}.jpg").write_bytes(draw_jpeg(n, 64))
            made.append(Item(f"i{n}", f"images/{n}.jpg", f"wash thing{n}", f"fill thing{n}", "verb"))
        write_items(partial, made)
    return Items(tmp_path / "items")


def test_cohen_kappa_equals_published_examples():
    # https://en.wikipedia.org/wiki/Cohen%27s_kappa: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no; and its second pair.
    def kappa(both, first, second, neither):
        a = ["yes"] * (both + first) + ["no"] * (second + neither)
        b = ["yes"] * both + ["no"] * first + ["yes"] * second + ["no"] * neither
        return cohen_kappa(a, b)

    assert kappa(20, 5, 10, 15) == pytest.approx(0.4)
    assert kappa(45, 15, 25, 15) == pytest.approx(0.1304, abs=5e-5)
    assert kappa(25, 35, 5, 35) == pytest.approx(0.2593, abs=5e-5)
    assert kappa(10, 0, 0, 10) == 1
    assert kappa(10, 0, 0, 0) != kappa(10, 0, 0, 0)  # nan: chance agrees fully


def test_fleiss_kappa_equals_published_example():
    assert fleiss_kappa([[int(n) for n in row.split()] for row in FLEISS]) == pytest.approx(0.20993, abs=5e-6)
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa([[1, 1], [2, 1]])


def test_agreement_uses_items_that_all_decided():
    two = {"a": {"1": "yes", "2": "no", "3": "skip", "4": "yes"}, "b": {"1": "yes", "2": "yes", "3": "yes", "4": "yes"}}
    assert agreement(two) | {"reviewers": 0} == {
        "measure": "Cohen's kappa",
        "kappa": 0.0,
        "items": 3,
        "agreed": 2,
        "reviewers": 0,
    }
    three = agreement(two | {"c": {"1": "yes", "2": "no"}})
    assert (three["measure"], three["items"], three["agreed"]) == ("Fleiss' kappa", 2, 1)
    assert "needs two" in agreement_text(agreement({"a": two["a"]}))
    assert "needs two" in agreement_text(agreement({}))
    assert "no item" in agreement_text(agreement({"a": {"1": "yes"}, "b": {"1": "skip"}}))
    assert "undefined" in agreement_text(agreement({"a": {"1": "yes"}, "b": {"1": "yes"}}))


def test_verdict_file_survives_incomplete_line(tmp_path):
    with VerdictFile(tmp_path, "ann", "these") as file:
        file.give("a", "yes")
        file.give("b", "no")
        assert file.undo() == "b"
        file.give("b", "skip")
        with pytest.raises(UserError, match="in use by another review process"):
            VerdictFile(tmp_path, "ann", "these")
    path = tmp_path / "ann.jsonl"
    path.write_bytes(path.read_bytes() + b'{"item": "c", "verd')  # a crash in the middle of a write
    assert read_verdicts(path, "these") == {"a": "yes", "b": "skip"}
    with VerdictFile(tmp_path, "ann", "these") as file:
        assert file.given == {"a": "yes", "b": "skip"}
        file.give("c", "no")
    assert read_all(tmp_path, "these") == {"ann": {"a": "yes", "b": "skip", "c": "no"}}
    assert [json.loads(line).get("verdict") for line in path.read_text().splitlines()] == [
        None,
        "yes",
        "no",
        "undo",
        "skip",
        "no",
    ]
    with pytest.raises(UserError, match="on other items"):
        VerdictFile(tmp_path, "ann", "those")
    path.write_text(path.read_text() + "[]\n")
    with pytest.raises(UserError, match="row 7: not a verdict"):
        read_all(tmp_path, "these")
    for name in ("", "../ann", "Ann", "a" * 41, "-a", "a/b"):
        with pytest.raises(UserError, match="lower-case letters"):
            VerdictFile(tmp_path, name, "these")


class Page:
    """A running review command, and a client of it."""

    def __init__(self, process, port, token):
        self.process, self.port, self.token = process, port, token
        self.address = f"http://127.0.0.1:{port}/?token={token}"

    def ask(self, method, path, body=None, **headers):
        """Status and body, by the socket: no client's rules on headers stand between."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Cookie": f"babyvlm_review={self.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"} | headers)
        response = connection.getresponse()
        self.headers = response.headers
        return response.status, response.read()

    def post(self, action, **body):
        status, content = self.ask("POST", f"/api/{action}", body)
        return status, json.loads(content)


@contextlib.contextmanager
def reviewing(items, verdicts):
    """The command as a process of its own; killed at the end, if it has not ended."""
    command = [
        sys.executable,
        "-m",
        "babyvlm",
        "benchmark",
        "build",
        "review",
        "--items",
        str(items.path),
        "--verdicts",
        str(verdicts),
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline().startswith("6 items")
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", process.stdout.readline())
        yield Page(process, int(found[1]), found[2])
    finally:
        process.kill()
        process.communicate()


def test_review_loses_no_verdict_when_killed(items, tmp_path):
    folder = tmp_path / "verdicts"

    def on_disk():
        return read_verdicts(folder / "ann.jsonl", items.fingerprint)

    with reviewing(items, folder) as page:
        status, shown = page.post("next", reviewer="ann")
        assert (status, shown) == (
            200,
            {
                "done": 0,
                "total": 6,
                "item": "i0",
                "positive": "wash thing0",
                "negative": "fill thing0",
                "word_class": "verb",
            },
        )
        for n, verdict in enumerate(("yes", "no", "skip")):
            _, shown = page.post("verdict", reviewer="ann", item=f"i{n}", verdict=verdict)
            assert list(on_disk().values())[-1] == verdict
            assert (shown["item"], shown["done"]) == (f"i{n + 1}", n + 1)
        _, shown = page.post("undo", reviewer="ann")
        assert (shown["item"], shown["done"], on_disk()) == ("i2", 2, {"i0": "yes", "i1": "no"})
        page.process.send_signal(signal.SIGKILL)
        page.process.wait()
    with reviewing(items, folder) as page:
        assert page.post("next", reviewer="ann")[1]["item"] == "i2"  # where ann was
        for n in range(2, 6):
            shown = page.post("verdict", reviewer="ann", item=f"i{n}", verdict="yes")[1]
        assert shown == {"done": 6, "total": 6, "item": None}
        assert page.post("next", reviewer="bob")[1]["item"] == "i0"
        for n in range(6):
            page.post("verdict", reviewer="bob", item=f"i{n}", verdict="no" if n == 1 else "yes")
        os.killpg(page.process.pid, signal.SIGINT)
        said, _ = page.process.communicate(timeout=20)
        assert page.process.returncode == 0
    assert "ann: 6 (5 yes, 1 no, 0 skip) of 6 items" in said
    assert "Cohen's kappa 1.000, 6 of 6 items with equal verdicts" in said


def test_review_app_refuses_foreign_and_malformed_requests(items, tmp_path):
    with reviewing(items, tmp_path / "verdicts") as page:
        own = f"http://127.0.0.1:{page.port}"
        verdict = {"reviewer": "ann", "item": "i0", "verdict": "yes"}
        refused = [
            page.ask("GET", "/", Host="evil.example")[0],  # DNS rebinding: the name of another, the address of ours
            page.ask("GET", "/", Host=f"evil.example:{page.port}")[0],
            page.ask("POST", "/api/verdict", verdict, Host="evil.example")[0],
            page.ask("POST", "/api/verdict", verdict, Origin="http://evil.example")[0],
            page.ask("POST", "/api/verdict", verdict, Origin="null")[0],
            page.ask("GET", "/image/i0", Cookie="")[0],
            page.ask("GET", "/?token=guess", Cookie="")[0],
            page.ask("POST", "/api/verdict", verdict, Cookie="babyvlm_review=guess")[0],
        ]
        assert refused == [403] * len(refused)
        assert page.ask("POST", "/api/verdict", verdict, Content_Type="text/plain")[0] == 415
        assert page.ask("POST", "/api/verdict", verdict | {"item": "i9"})[0] == 400
        assert page.ask("POST", "/api/verdict", verdict | {"verdict": "undo"})[0] == 400
        assert page.ask("POST", "/api/verdict", verdict | {"reviewer": "../ann"})[0] == 400
        assert page.ask("POST", "/api/verdict", [])[0] == 400
        assert page.ask("POST", "/api/verdict", {"reviewer": "a" * 9000})[0] == 413
        for path in ("/image/..%2Fitems.json", "/image/i9", "/review.py", "/items.csv", "/page/review.js"):
            assert page.ask("GET", path)[0] == 404, path
        assert page.ask("GET", "/api/next")[0] == 405
        assert not list((tmp_path / "verdicts").rglob("*.jsonl"))
        assert page.ask("POST", "/api/verdict", verdict, Origin=own)[0] == 200
        status, told = page.post("verdict", **verdict)  # from a second window
        assert (status, "already" in told["error"]) == (409, True)
        status, content = page.ask("GET", "/image/i3")
        assert (status, page.headers["Content-Type"]) == (200, "image/jpeg")
        assert content == (items.path / "images/3.jpg").read_bytes()
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        status, _ = page.ask("GET", f"/?token={page.token}", Cookie="")
        assert status == 303
        assert re.search(r"HttpOnly.*SameSite=Strict", page.headers["Set-Cookie"])


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_review_page_works_by_keyboard(items, tmp_path):
    from playwright.sync_api import sync_playwright

    folder = tmp_path / "verdicts"
    with reviewing(items, folder) as page, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=200_000)
        view = browser.new_page()
        asked, complaints = [], []
        view.on("request", lambda request: asked.append(request.url))
        view.on("console", lambda message: complaints.append(message.text))
        view.set_default_timeout(60_000)
        view.goto(page.address)
        assert "token" not in view.url
        view.keyboard.type("ann")
        view.keyboard.press("Enter")
        view.get_by_text("wash thing0").wait_for()
        assert view.locator("#image").evaluate("image => image.naturalWidth") == 64
        keys = {"y": "yes", "n": "no", "s": "skip"}
        for n, key in enumerate(keys):
            view.keyboard.press(key)
            view.get_by_text(f"wash thing{n + 1}").wait_for()  # one item a keystroke
        assert list(read_verdicts(folder / "ann.jsonl", items.fingerprint).values()) == list(keys.values())
        view.keyboard.press("u")
        view.get_by_text("wash thing2").wait_for()
        view.keyboard.press("q")  # no key of ours
        view.keyboard.press("Control+y")
        view.keyboard.down("n")
        view.get_by_text("wash thing3").wait_for()
        view.keyboard.down("n")  # held down: it repeats, and means nothing
        view.keyboard.up("n")
        view.reload()  # resumes where ann was
        view.keyboard.type("ann")
        view.keyboard.press("Enter")
        view.get_by_text("3 of 6 reviewed by ann").wait_for()
        for n in range(3, 6):
            view.get_by_text(f"wash thing{n}").wait_for()
            view.keyboard.press("y")
        view.get_by_text("All items are reviewed").wait_for()
        view.keyboard.press("Backspace")
        view.get_by_text("wash thing5").wait_for()
        page.process.kill()
        page.process.wait()
        view.keyboard.press("y")
        view.get_by_text("answer was not saved").wait_for()
        browser.close()
    given = read_verdicts(folder / "ann.jsonl", items.fingerprint)
    assert given == {"i0": "yes", "i1": "no", "i2": "no", "i3": "yes", "i4": "yes"}
    assert all(url.startswith(f"http://127.0.0.1:{page.port}/") for url in asked)  # nothing from elsewhere
    assert [text for text in complaints if "Content Security Policy" in text] == []


def test_review_reports_used_port_and_missing_items(items, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "babyvlm", "benchmark", "build", "review", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    with reviewing(items, tmp_path / "verdicts") as page:
        found = run("--items", str(items.path), "--port", str(page.port))
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert f"--port {page.port}: not available" in found.stderr
    (items.path / "images/2.jpg").unlink()
    found = run("--items", str(items.path))
    assert (found.returncode, "row 4: image 'images/2.jpg' is not in" in found.stderr) == (2, True)


def test_review_app_serves_images_only(tmp_path, draw_jpeg):
    """A script that the page's own address serves could answer in a reviewer's name."""
    from werkzeug.test import Client

    from babyvlm.benchmark_builder.review_app import COOKIE, ReviewApp

    names = ("x.html", "x.js", "x.svg", "x", "x.jpg")
    with artifacts.create(tmp_path / "items", "items", {"arguments": {}, "licensed": False}) as partial:
        for name in names:
            (partial / name).write_bytes(draw_jpeg(0, 32) if name.endswith("jpg") else b"<script>alert(1)</script>")
        write_items(partial, [Item(f"i-{name}", name, "wash cup", "fill cup", "verb") for name in names])
    client = Client(ReviewApp(Items(tmp_path / "items"), tmp_path / "verdicts", "token", 80))
    client.set_cookie(COOKIE, "token", domain="127.0.0.1")
    answers = {name: client.get(f"/image/i-{name}", headers={"Host": "127.0.0.1:80"}) for name in names}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(names, 404) | {"x.jpg": 200}
    assert answers["x.jpg"].mimetype == "image/jpeg"
