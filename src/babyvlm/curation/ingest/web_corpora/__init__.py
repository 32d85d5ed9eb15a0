"""Readers of web corpora as they are on disk, behind one interface."""
