"""Rewriting by a language model behind an OpenAI-compatible server (imported only with ``--method llm``)."""
