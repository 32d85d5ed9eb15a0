"""What a licence holder is told before a stage runs."""
