"""A tiny Llama in the format of llama.cpp, which always gives the same answer. Nothing is trained."""

import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
WIDTH, CONTEXT = 64, 8192
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # kinds of tokens


def save_tiny_gguf(path, answer):
    """Save a model whose next token depends on the last one only: after the prompt the answer, one token, then </s>."""
    from gguf import GGUFWriter

    tokens = [*bytes_to_unicode().values(), *SPECIAL, answer]
    end, start, said = tokens.index("</s>"), tokens.index("<|assistant|>"), len(tokens) - 1
    embeddings = np.random.default_rng(0).standard_normal((len(tokens), WIDTH)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    output = np.zeros_like(embeddings)
    output[said], output[end] = 10 * embeddings[start], 10 * embeddings[said]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([NORMAL] * 256 + [CONTROL] * len(SPECIAL) + [USER_DEFINED])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(tokens.index("<s>"))
    writer.add_eos_token_id(end)
    writer.add_chat_template(TEMPLATE)
    nothing, ones = np.zeros((WIDTH, WIDTH), np.float32), np.ones(WIDTH, np.float32)
    weights = {"token_embd": embeddings, "output": output, "output_norm": ones}
    layer = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"), nothing)
    layer |= {"attn_norm": ones, "ffn_norm": ones}
    for name, weight in (weights | {f"blk.0.{name}": weight for name, weight in layer.items()}).items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
