"""Build the documentation site without warnings and without external resources."""

import re
import runpy
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from support.docs_pages import NOTEBOOKS, PAGES, ROOT

LOADED = re.compile(r'<(?:script|img|iframe|source)[^>]* src="([^"]*)|<link rel="(?:stylesheet|icon)" href="([^"]*)')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site. A warning, such as a broken link, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


def test_site_has_every_page(site):
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in PAGES if page.name != "README.md"}
    pages |= {path.relative_to(ROOT / "docs").with_suffix(".html") for path in NOTEBOOKS}
    pages |= {Path("reference/cli.html"), Path("reference/configuration.html")}
    missing = [page for page in pages if not (site / page).is_file()]
    assert not missing


def test_site_loads_no_external_resource(site):
    pages = sorted(site.rglob("*.html"))
    loaded = {address for page in pages for found in LOADED.findall(page.read_text()) for address in found if address}
    assert loaded
    assert not [address for address in loaded if re.match(r"(\w+:)?//", address)]
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text())


def test_pipeline_figure_is_output_of_its_script():
    pipeline = runpy.run_path(str(ROOT / "docs/scripts/pipeline.py"))["pipeline"]
    assert (ROOT / "docs/images/pipeline.svg").read_text() == pipeline()


def test_cli_reference_has_every_command(site):
    text = (site / "reference/cli.html").read_text()
    for command in ("curate frames", "store head", "benchmark build assemble", "ablations run", "resume", "report"):
        assert f">{command}<" in text
