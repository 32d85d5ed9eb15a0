"""Names and settings of a run cannot act on those who open its model card, and lists for people hold no formulas."""

import csv
import re

import pytest
import yaml

from babyvlm.benchmark_builder.items import Item, write_items
from babyvlm.benchmark_builder.labeled_s import LABELED_COLUMNS
from babyvlm.io.files import write_csv, write_list
from babyvlm.report.model_card import model_card
from support.made_runs import make_run

HOSTILE = [
    "<img src=https://evil.invalid/x>",
    "![x](https://evil.invalid/x)",
    "[click](javascript:alert(1))",
    "https://evil.invalid",
    "www.evil.invalid",
    "```\n# Heading\n![x](https://evil.invalid/x)\n```",
    "a\n\n# Heading",
    "a | b | c",
    "\x1b[2J\u202egnp",
]


def card(tmp_path, text, **options):
    config = {
        "name": text,
        "seed_everything": text,
        "trainer": {"max_epochs": text},
        "model": {"class_path": "x", "init_args": {"text": text, text: [text]}},
        "data": {
            "init_args": {"name": text, "batch_size": text, "image_size": text, "sources": [{"store": text}, text]}
        },
    }
    config["data"]["init_args"]["sources"] = [{"store": text}, text]
    run = make_run(tmp_path, "row", 0, config=yaml.safe_dump(config), vtwt=[1, 0])
    given = {"parameters": 1, "words": 2, "name": "lab/model", "captions": True, "licensed": False} | options
    return model_card(run, "CVCL", **given)


@pytest.mark.parametrize("text", HOSTILE)
def test_model_card_shows_names_and_settings_as_text(tmp_path, text):
    page = card(tmp_path, text, name=text)
    fence = re.search(r"^(`{3,})yaml$", page, re.MULTILINE)[1]
    before, _, rest = page.partition(f"{fence}yaml\n")
    block, _, after = rest.partition(f"\n{fence}\n")
    assert fence not in block
    assert yaml.safe_load(block)["init_args"]
    prose = re.sub(r"```python\n.*?```", "", before, flags=re.DOTALL).partition("---\n")[2] + after
    assert not re.search(r"(?<!\\)!\[|(?<![\\\]])\[click|<img|\bhttps?://evil|\bwww\.evil", prose)
    assert "# Heading" not in re.findall(r"^#.*$", prose, re.MULTILINE)
    assert not set(page) & {"\x1b", "\u202e"}
    code = re.findall(r"```python\n(.*?)```", before, re.DOTALL)
    for example in code:
        compile(example, "card", "exec")


def test_model_card_states_licenses(tmp_path):
    page = card(tmp_path / "a", "x")
    assert "OpenMoji" in page
    assert "CC BY-SA 4.0" in page
    assert "Trained on licensed data" not in page
    assert "**Trained on licensed data, or on data that is not known to be free.**" in card(
        tmp_path / "b", "x", licensed=True
    )


CELLS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "=HYPERLINK(1)", "a\x1b[2J"]


def test_lists_for_people_contain_no_formulas(tmp_path):
    write_list(tmp_path / "list.csv", [["video", "result"], *([cell, cell] for cell in CELLS), ["-0.5", "a.mp4"]])
    with (tmp_path / "list.csv").open(newline="") as file:
        *rows, last = list(csv.reader(file))
    assert last == ["-0.5", "a.mp4"]
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d")) for row in rows for cell in row)
    assert "\x1b" not in (tmp_path / "list.csv").read_text()


def test_notes_of_items_contain_no_formulas_and_other_columns_are_unchanged(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    items = [
        Item(f"p{n}", "a.jpg", "red ball", "blue ball", "noun", {"utterance": cell}) for n, cell in enumerate(CELLS)
    ]
    write_items(tmp_path, items)
    with (tmp_path / "items.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["item"] for row in rows] == [item.name for item in items]
    assert not any(row["utterance"].startswith(("=", "+", "-", "@")) for row in rows)
    write_csv(tmp_path / "list.csv", [LABELED_COLUMNS, ("=1", "a", "b", "c")])
    assert "\n=1," in (tmp_path / "list.csv").read_text()  # read back, so it must not change
