"""Every promise of the security page names its tests, and they exist."""

import re

from support.docs_pages import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| promise")]


def test_every_promise_names_tests_that_exist():
    assert len(ROWS) > 10
    for row in ROWS:
        _, promise, tests, _ = row.split("|")
        files = re.findall(r"`(tests/[\w/]+\.py)`", tests)
        assert files, promise
        for file in files:
            assert "def test_" in (ROOT / file).read_text(), file
