"""Playroom: a small synthetic world that replaces SAYCam, the web corpora and the benchmarks in demos and tests."""
