"""Fixtures of the tests of reports."""

import pickle

import pytest

from babyvlm.report import figures

DRAWN = {}


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Draw a figure once for all tests that report the same numbers, because drawing takes most of a report's time."""
    for name in ("draw_dots", "draw_lines"):
        monkeypatch.setattr(figures, name, _once(getattr(figures, name)))
    return DRAWN


def _once(draw):
    def drawn_once(*numbers):
        key = draw.__name__, pickle.dumps(numbers)
        if key not in DRAWN:
            DRAWN[key] = draw(*numbers)
        return DRAWN[key]

    return drawn_once
