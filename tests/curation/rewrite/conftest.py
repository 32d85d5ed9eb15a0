"""Fixtures of the tests of rewriting by a language model."""

import pytest

from support.fake_llm import serving
from support.rewriting import shorten_waits


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def short_waits():
    """Shorten the waits between attempts."""
    shorten_waits()


@pytest.fixture
def llm():
    """A local server that speaks OpenAI's protocol."""
    with serving() as llm:
        yield llm
