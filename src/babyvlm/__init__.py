"""BabyVLM: vision-language models from an infant's view of home."""

__version__ = "0.1.0"
