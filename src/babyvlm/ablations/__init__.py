"""The rows of the paper's tables as data, and what runs them: each training is a ``fit`` in a process of its own."""
