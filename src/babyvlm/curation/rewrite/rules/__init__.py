"""The offline rewriter: captions to child-directed utterances by rules and a word list."""
