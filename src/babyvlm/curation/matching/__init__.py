"""One-to-one assignment without the N x M scores in memory; ``matching`` is its face."""
