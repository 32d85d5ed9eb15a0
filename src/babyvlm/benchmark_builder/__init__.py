"""Build benchmarks: sample trials, propose and review phrase pairs, generate negative images, assemble the result."""
