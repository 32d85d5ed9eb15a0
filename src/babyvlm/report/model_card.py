"""The model card of an exported run: what it is, what it was trained on, how it scores, how it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from babyvlm.report.runs import MAIN, Row, Run
from babyvlm.report.tables import EMBEDDED, NOTE, cell, chance, drawn_together, tested

HEAD = """---
library_name: {library}
{pipeline}tags: [babyvlm, developmental]
---
# {row}

A {kind} of [BabyVLM](https://arxiv.org/abs/2504.09426) (Wang et al., ICCV 2025), trained from scratch on what an infant
sees and hears: {parameters:,} parameters, a vocabulary of {words:,} tokens, images of {image_size} pixels.
"""
LOADED = """
```python
import babyvlm
from PIL import Image
model = babyvlm.load("{name}")
image = model.preprocess(Image.open("cup.jpg").convert("RGB"))[None]
print(model.score(image, ["cup", "ball"]))
```
"""
CAPTIONED = """
It is transformers' own LLaVA inside, so that their Auto classes load it too:

```python
import babyvlm
from transformers import AutoModelForImageTextToText, AutoProcessor
model, processor = (auto.from_pretrained("{name}") for auto in (AutoModelForImageTextToText, AutoProcessor))
inputs = processor(images="cup.jpg", text="<image><sos>", return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```
"""


def model_card(run: Path, kind: str, *, parameters: int, words: int, name: str, captions: bool) -> str:
    """The card's text.

    Args:
        run: folder of the run.
        kind: class of the model.
        parameters: how many it has.
        words: tokens of its vocabulary.
        name: what it will be loaded by.
        captions: whether transformers can load it and make it speak.
    """
    config = yaml.safe_load((run / "config.yaml").read_text())
    data = (config.get("data") or {}).get("init_args") or {}
    row = Row([Run(run, "-".join(filter(None, [config.get("name"), data.get("name")])))])
    head = HEAD.format(
        library="transformers" if captions else "babyvlm",
        kind=kind,
        parameters=parameters,
        words=words,
        row=row.name,
        pipeline="pipeline_tag: image-text-to-text\n" if captions else "",
        image_size=data.get("image_size", 224),
    )
    usage = "\n## Use\n" + LOADED.format(name=name) + (CAPTIONED.format(name=name) if captions else "")
    return head + usage + _training(config, data) + _scores(row)


def _training(config: dict[str, Any], data: dict[str, Any]) -> str:
    stores = ", ".join(source["store"] for source in data.get("sources", []))
    trainer = config.get("trainer") or {}
    length = [
        f"{trainer[key]} {key.removeprefix('max_')}"
        for key in ("max_epochs", "max_steps")
        if trainer.get(key) not in (None, -1)
    ]
    facts = {
        "mix": f"{data.get('name')} ({stores})",
        "batch size": data.get("batch_size"),
        "length": ", ".join(length),
        "seed": config.get("seed_everything"),
    }
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    settings = yaml.safe_dump(config["model"], sort_keys=False)
    licence = (
        "Weights can give away what they were trained on. If that was SAYCam or another licensed corpus, its terms "
        "hold for them too."
    )
    return "\n".join(["\n## Training\n", *lines, "", "```yaml", settings + "```", "", licence, ""])


def _scores(row: Row) -> str:
    rows = [f"| {column.title} | {chance(column)} | {cell(row, column)} |" for column in tested([row], MAIN)]
    if not rows:
        return "\n## Scores\n\nThis run was not tested.\n"
    note = NOTE + drawn_together([row]) + (f" {EMBEDDED}." if row.embedded else "")
    return "\n".join(["\n## Scores\n", "| test | chance | this model |", "|---|---|---|", *rows, "", note, ""])
