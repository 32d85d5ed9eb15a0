"""Readers of web corpora."""
