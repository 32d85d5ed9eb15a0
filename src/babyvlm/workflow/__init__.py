"""The chain of one corpus, from raw data to the report, as jobs of a workflow engine."""
