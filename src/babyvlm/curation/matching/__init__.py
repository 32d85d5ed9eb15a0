"""One-to-one matching of target images to candidate images; ``match`` is the entry point."""
