"""Read raw data into pair stores: videos with transcripts, released frames, and web corpora."""
