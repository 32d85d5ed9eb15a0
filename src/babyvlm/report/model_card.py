"""The model card of an exported run: model, training data, scores and usage."""

from __future__ import annotations

from pathlib import Path

import yaml

from babyvlm.report.runs import Config, Row, Run, main_columns
from babyvlm.report.tables import NOTE, PLAYROOM, cell, chance, grouping_note

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
model = babyvlm.load("{name}")
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
model, processor = (auto.from_pretrained("{name}") for auto in (AutoModelForImageTextToText, AutoProcessor))
inputs = processor(images="cup.jpg", text="<image><sos>", return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```
"""
LICENSE_NOTE = (
    "Model weights may reveal their training data. If the training data were SAYCam or another licensed corpus, its "
    "terms apply to the weights too."
)


def model_card(folder: Path, kind: str, *, parameters: int, words: int, name: str, captions: bool) -> str:
    """Return the text of the model card.

    Args:
        folder: folder of the run.
        kind: class of the model.
        parameters: number of parameters.
        words: number of tokens in the vocabulary.
        name: name that the model will be loaded by.
        captions: whether transformers can load the model and generate captions with it.
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
        row=row.name,
        pipeline="pipeline_tag: image-text-to-text\n" if captions else "",
        image_size=data.get("image_size", 224),
    )
    usage = "\n## Use\n" + LOAD.format(name=name) + (LOAD_WITH_TRANSFORMERS.format(name=name) if captions else "")
    return head + usage + _training(run.config, data) + _scores(row)


def _training(config: Config, data: Config) -> str:
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
        "random seed": config.get("seed_everything"),
    }
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    settings = yaml.safe_dump(config["model"], sort_keys=False)
    return "\n".join(["\n## Training\n", *lines, "", "```yaml", settings + "```", "", LICENSE_NOTE, ""])


def _scores(row: Row) -> str:
    rows = [f"| {column.title} | {chance(column)} | {cell(row, column)} |" for column in main_columns([row])]
    if not rows:
        return "\n## Scores\n\nThis run has no test results.\n"
    note = NOTE + grouping_note([row]) + (f" {PLAYROOM}." if row.embedded else "")
    return "\n".join(["\n## Scores\n", "| benchmark | chance | this model |", "|---|---|---|", *rows, "", note, ""])
