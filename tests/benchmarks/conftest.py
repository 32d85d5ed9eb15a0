"""Pictures of things, and the lists of other suites that are drawn from them."""

import pytest

from support.scorers import draw_things

ITEMS = 24


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    """A folder with a subfolder of pictures for each of ``THINGS``."""
    return draw_things(tmp_path_factory.mktemp("things"))


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory, things):
    """The output of ``benchmark build stand-ins``: 24 items of each list."""
    from babyvlm.__main__ import main

    out = tmp_path_factory.mktemp("suites") / "lists"
    options = ["--category_folders", str(things), "--items", str(ITEMS), "--licensed", "false"]
    main(["benchmark", "build", "stand-ins", *options, "--out", str(out)])
    return out
