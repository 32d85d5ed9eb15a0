"""Rewriting by a language model behind an OpenAI-compatible server. Loaded only when one is asked for."""
