"""The documentation as a site: built without a warning, and of itself alone."""

import re

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from support.docs_pages import PAGES, ROOT

LOADED = re.compile(r'<(?:script|img|iframe|source)[^>]* src="([^"]*)|<link rel="(?:stylesheet|icon)" href="([^"]*)')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site; a warning, such as of a link to nowhere, ends the build."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


def test_every_page_is_there(site):
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in PAGES if page.name != "README.md"}
    missing = [page for page in pages if not (site / page).is_file()]
    assert not missing


def test_it_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    loaded = {address for page in pages for found in LOADED.findall(page.read_text()) for address in found if address}
    assert loaded
    assert not [address for address in loaded if re.match(r"(\w+:)?//", address)]
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text())
