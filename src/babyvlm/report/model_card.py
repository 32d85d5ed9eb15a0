"""The model card of an exported run: model, training data, scores and usage."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from babyvlm.io.printing import printable, printable_line
from babyvlm.playroom.credit import CREDIT
from babyvlm.report.reading import Config
from babyvlm.report.runs import Row, Run, main_columns
from babyvlm.report.tables import PLAYROOM, cell, chance, escape_markdown, main_note

HEAD = """---
library_name: {library}
{pipeline}tags: [babyvlm, developmental]
---
# {row}

A {kind} of [BabyVLM](https://arxiv.org/abs/2504.09426) (Wang et al., ICCV 2025), trained from scratch on child-directed
data: {parameters:,} parameters, a vocabulary of {words:,} tokens, images of {image_size} pixels.
"""
LOAD = """
```python
import babyvlm
from PIL import Image
model = babyvlm.load({name})
image = model.preprocess(Image.open("cup.jpg").convert("RGB"))[None]
print(model.score(image, ["cup", "ball"]))
```
"""
LOAD_WITH_TRANSFORMERS = """
The model is a transformers LLaVA, so transformers' Auto classes load it too:

```python
import babyvlm
from transformers import AutoModelForImageTextToText, AutoProcessor
babyvlm.register_auto_classes()
model, processor = (auto.from_pretrained({name}) for auto in (AutoModelForImageTextToText, AutoProcessor))
inputs = processor(images="cup.jpg", text="{prompt}", return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```
"""
LICENSE_NOTE = (
    "Model weights may reveal their training data. If the training data were SAYCam or another licensed corpus, its "
    "terms apply to the weights too. Images of Playroom are under CC BY-SA 4.0. Whether that extends to weights "
    "trained on them is not settled: distribute such weights under CC BY-SA 4.0, with attribution to Playroom's icon "
    f"sets: {CREDIT}."
)
LICENSED_NOTE = (
    "**Trained on licensed data, or on data that is not known to be free.** Do not share the weights or the vocabulary "
    "unless your license allows it.\n\n"
)


def model_card(
    folder: Path, kind: str, *, parameters: int, words: int, name: str, captions: bool, licensed: bool
) -> str:
    """Return the text of the model card.

    Args:
        folder: folder of the run.
        kind: class of the model.
        parameters: number of parameters.
        words: number of tokens in the vocabulary.
        name: name that the model will be loaded by.
        captions: whether transformers can load the model and generate captions with it.
        licensed: whether any of its training data is licensed or not known to be free.
    """
    run = Run(folder)
    data = run.settings("data")
    run.row = "-".join(filter(None, [run.config.get("name"), data.get("name")]))
    row = Row([run])
    head = HEAD.format(
        library="transformers" if captions else "babyvlm",
        kind=kind,
        parameters=parameters,
        words=words,
        row=escape_markdown(row.name),
        pipeline="pipeline_tag: image-text-to-text\n" if captions else "",
        image_size=_text(data.get("image_size", 224)),
    )
    usage = LOAD + (LOAD_WITH_TRANSFORMERS if captions else "")
    prompt = "<image>" if run.settings("model").get("template") == "plain" else "<image><sos>"
    usage = "\n## Use\n" + usage.format(name=json.dumps(printable_line(name).replace("`", "'")), prompt=prompt)
    return head + usage + _training(run.config, data, LICENSED_NOTE if licensed else "") + _scores(row)


def _training(config: Config, data: Config, note: str) -> str:
    stores = ", ".join(str(source.get("store")) for source in data.get("sources") or [] if isinstance(source, dict))
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
        "random seed": config.get("seed_everything"),
    }
    lines = [f"- {name}: {_text(value)}" for name, value in facts.items()]
    settings = printable(yaml.safe_dump(config["model"], sort_keys=False))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", settings)), default=0))
    return "\n".join(["\n## Training\n", *lines, "", f"{fence}yaml", settings + fence, "", note + LICENSE_NOTE, ""])


def _text(value: object) -> str:
    """Return a value of a config on one line, without Markdown."""
    return escape_markdown(printable_line(str(value)))


def _scores(row: Row) -> str:
    rows = [
        f"| {escape_markdown(column.title)} | {chance(column)} | {cell(row, column)} |"
        for column in main_columns([row])
    ]
    if not rows:
        return "\n## Scores\n\nThis run has no test results.\n"
    note = main_note([row]) + (f" {PLAYROOM}." if row.embedded else "")
    return "\n".join(["\n## Scores\n", "| benchmark | chance | this model |", "|---|---|---|", *rows, "", note, ""])
