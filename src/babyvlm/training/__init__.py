"""Callbacks and a logger, added by the command line, that make training runs exact and recoverable."""
