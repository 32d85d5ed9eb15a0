"""The rows of the paper's tables as data, and the runner that trains and tests them, each step in its own process."""
