"""Fixtures of the tests of ablations."""

import pytest

from support.tiny_world import lay_out


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory, tiny_store, make_vocabulary):
    """A folder in which the shipped matrix runs in seconds, to be copied."""
    folder = tmp_path_factory.mktemp("laid-out")
    lay_out(folder, tiny_store, make_vocabulary)
    return folder
