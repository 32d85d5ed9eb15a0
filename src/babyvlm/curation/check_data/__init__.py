"""The command ``check-data``: check raw data before jobs are queued."""
