"""Models and benchmarks of this package in the evaluation harnesses of others."""
