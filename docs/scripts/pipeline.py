"""Draw docs/images/pipeline.svg, the figure of the pipeline in the README and on the index page.

Run ``python docs/scripts/pipeline.py`` after a change. A test checks that the committed file is the script's output.
"""

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 816, 552
BAND, RAW, COMMAND, STORE, MODEL, BENCHMARK = "#f4f6f8", "#e8e4f3", "#ffffff", "#d9efe9", "#fdeed3", "#f9dede"
INK, LINE, MUTED = "#1f2933", "#62707d", "#52606d"


def band(y: int, height: int, title: str) -> str:
    """Return a horizontal band with its title in the top left corner."""
    return (
        f'<rect x="8" y="{y}" width="{WIDTH - 16}" height="{height}" rx="8" fill="{BAND}"/>'
        f'<text x="20" y="{y + 22}" font-weight="bold" fill="{MUTED}">{escape(title)}</text>'
    )


def box(x: int, y: int, width: int, text: str, fill: str, second_line: str = "") -> str:
    """Return a box of 38 pixels' height with one or two centered lines; ``x`` and ``y`` are its top left corner."""
    center = x + width / 2
    lines = [(text, y + 24)] if not second_line else [(text, y + 16), (second_line, y + 31)]
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="38" rx="5" fill="{fill}" stroke="{LINE}"/>'
    return shape + "".join(
        f'<text x="{center}" y="{line_y}" text-anchor="middle" fill="{INK}">{escape(line)}</text>'
        for line, line_y in lines
    )


def arrow(*points: tuple[int, int]) -> str:
    """Return a polyline that ends in an arrowhead."""
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#head)"/>'


def row(y: int, start: int, gap: int, boxes: list[tuple[int, str, str, str]]) -> list[str]:
    """Return boxes from left to right, joined by arrows."""
    parts, x = [], start
    for number, (width, text, second_line, fill) in enumerate(boxes):
        if number:
            parts.append(arrow((x - gap, y + 19), (x - 3, y + 19)))
        parts.append(box(x, y, width, text, fill, second_line))
        x += width + gap
    return parts


def pipeline() -> str:
    """Return the figure as SVG."""
    home = [
        (128, "Home videos,", "transcripts", RAW),
        (78, "frames", "", COMMAND),
        (78, "embed", "", COMMAND),
        (78, "filter", "", COMMAND),
    ]
    web = [
        (128, "Web images,", "captions", RAW),
        (78, "web", "", COMMAND),
        (78, "rewrite", "", COMMAND),
        (78, "embed", "", COMMAND),
        (78, "match", "", COMMAND),
    ]
    parts = [
        band(8, 206, "Curation: python -m babyvlm curate"),
        band(226, 148, "Training: python -m babyvlm fit"),
        band(382, 88, "Evaluation: python -m babyvlm test, babyvlm.evaluate()"),
        band(482, 62, "Report: python -m babyvlm report"),
        f'<rect x="340" y="254" width="214" height="112" rx="6" fill="none" stroke="{LINE}" stroke-dasharray="4 3"/>',
        *row(44, 24, 26, home),
        *row(102, 24, 26, web),
        box(486, 160, 130, "sample-random", COMMAND),
        *(box(662, y, 110, name, STORE) for y, name in ((44, "filtered"), (102, "aug"), (160, "random"))),
        arrow((464, 63), (659, 63)),
        arrow((529, 63), (529, 99)),
        arrow((568, 121), (659, 121)),
        arrow((217, 140), (217, 179), (483, 179)),
        arrow((616, 179), (659, 179)),
        *(f'<polyline points="772,{y} 792,{y}" stroke="{LINE}" stroke-width="1.5"/>' for y in (63, 121, 179)),
        arrow((792, 63), (792, 313), (775, 313)),
        box(24, 264, 206, "DINO (vision, phase 0)", MODEL),
        box(24, 318, 206, "Language model (phase 0)", MODEL),
        box(352, 264, 190, "CVCL", MODEL),
        box(352, 318, 190, "BabyLLaVA (phases 1, 2)", MODEL),
        box(662, 294, 110, "mix of stores", STORE),
        arrow((662, 313), (602, 313), (602, 283), (545, 283)),
        arrow((662, 313), (602, 313), (602, 337), (545, 337)),
        arrow((230, 283), (349, 283)),
        arrow((282, 283), (282, 327), (349, 327)),
        arrow((230, 343), (349, 343)),
        *(
            box(24 + 192 * number, 418, 172, name, BENCHMARK)
            for number, name in enumerate(("Labeled-S", "VTWT", "Baby Winoground", "SAYCam Caption"))
        ),
        arrow((447, 366), (447, 391)),
        f'<text x="20" y="530" fill="{INK}">tables with 95% confidence intervals, tests of the paper\'s findings, '
        "figures, provenance</text>",
        arrow((447, 456), (447, 491)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="14" role="img">\n'
        "<title>Pipeline: raw videos and web captions are curated into pair stores, mixed, used for training, "
        "evaluated on four benchmarks and reported</title>\n"
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        f'<path d="M0,0 L7,3 L0,6 z" fill="{LINE}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parents[1] / "images/pipeline.svg").write_text(pipeline())
