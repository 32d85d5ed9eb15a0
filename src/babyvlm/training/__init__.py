"""What keeps a run alive and exact, whatever the model: Lightning callbacks and a logger that the command line adds."""
