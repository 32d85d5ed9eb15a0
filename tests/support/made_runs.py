"""Run folders with test results."""

import pyarrow as pa
import pyarrow.parquet as pq

from babyvlm.benchmarks.results import RESULT_SCHEMA

FIRST = {"labeled_s": "accuracy", "vtwt": "accuracy", "baby_winoground": "overall", "caption": "meteor_15"}
FIRST["vtwt_natural"] = "accuracy"


def make_vtwt(folder, phrases, benchmark="VisualTwoWord"):
    """Write a VTWT list of (positive, negative) phrases; return its items and a run config that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    trials = folder / "vtwt.csv"
    lines = [f"{number}.jpg,{one},{other}" for number, (one, other) in enumerate(phrases)]
    trials.write_text("\n".join(["image,positive_phrase,negative_phrase", *lines]) + "\n")
    test = f"{{class_path: babyvlm.benchmarks.{benchmark}, init_args: {{trials: {trials}}}}}"
    return [f"{number + 2}:{number}.jpg" for number in range(len(phrases))], f"trainer: {{callbacks: [{test}]}}\n"


def make_run(
    logs,
    row,
    version,
    *,
    config="",
    world="real",
    missing=0,
    measures=None,
    controls=None,
    categories=None,
    facts=None,
    seed=7,
    items=None,
    captions=None,
    images=True,
    **credits,
):
    """Write a run folder with credits by benchmark; without benchmarks the run has no test results.

    ``controls`` and ``measures`` give a factor by which credits are multiplied under that control or measure. Each item
    has an image of its own; without ``images`` the results are those of older versions, which do not name them.
    """
    folder = logs / row / f"version_{version}"
    (folder / "results").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"seed_everything: {seed}\n{config}")
    for benchmark, credit in credits.items():
        by_measure = measures if measures and set(measures) & {FIRST[benchmark]} else {FIRST[benchmark]: 1}
        names = (items or {}).get(benchmark) or [str(n) for n in range(len(credit))]
        words = captions if captions and benchmark == "caption" else [""] * len(credit)
        rows = [
            {
                "item": names[n],
                "split": "test",
                "category": (categories or [""] * len(credit))[n],
                "control": control,
                "measure": measure,
                "scores": [0.0, 1.0],
                "choice": 0,
                "credit": float(value) * less * part,
                "group": "",
                "images": [f"{names[n]}.jpg"] if images else None,
                "output": words[n],
            }
            for measure, part in by_measure.items()
            for control, less in (controls or {"": 1}).items()
            for n, value in enumerate(credit)
        ]
        metadata = {"world": world, "missing_items": str(missing), **(facts or {})}
        schema = RESULT_SCHEMA.with_metadata(metadata)
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "results" / f"{benchmark}-test.parquet")
    return folder
