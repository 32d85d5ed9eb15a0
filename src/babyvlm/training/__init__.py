"""What makes any training run exact and recoverable: callbacks and a logger that the command line adds."""
