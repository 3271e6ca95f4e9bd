"""Text models: decoders, mixtures of experts, state-space models, encoders, encoder-decoders."""

from __future__ import annotations

from typing import Any

from .architecture import (
    LABELS,
    VOCABULARY,
    Architecture,
    decoder_tokens,
    one_class,
    padded_text,
    same_tokens,
    text,
    text_pair,
)

POSITIONS = 1024
# No token is special: padding ids change masks, and a row of padding has no gradient to check.
PLAIN = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LONG = {"max_position_embeddings": POSITIONS}
NO_DROPOUT = {"attention_dropout": 0.0}
BERT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LLAMA = PLAIN | SIZES | LONG | NO_DROPOUT | {"intermediate_size": 112, "num_key_value_heads": 2}
BERT = PLAIN | SIZES | LONG | BERT_DROPOUT | {"intermediate_size": 112}
GPT2_SIZES = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
GPT2_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
BART = PLAIN | LONG | {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 112, "decoder_ffn_dim": 112, "dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0,
    "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
T5 = PLAIN | {"d_model": 64, "d_kv": 16, "d_ff": 112, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0,
              "decoder_start_token_id": 0}  # fmt: skip


def decoder(name: str, model: str, config: dict[str, Any], **more: Any) -> Architecture:
    facts = {"family": "decoder", "inputs": text, "labels": same_tokens} | more
    return Architecture(name, **facts, model=model, config=config)


def encoder(name: str, model: str, config: dict[str, Any], **more: Any) -> Architecture:
    facts = {"family": "encoder", "inputs": padded_text, "labels": same_tokens} | more
    return Architecture(name, **facts, model=model, config=config)


def pair(name: str, model: str, config: dict[str, Any], **more: Any) -> Architecture:
    facts = {"family": "encoder-decoder", "inputs": text_pair, "labels": decoder_tokens} | more
    return Architecture(name, **facts, model=model, config=config)


DECODERS = (
    decoder("llama", "LlamaForCausalLM", LLAMA),
    decoder("llama_eager_attention", "LlamaForCausalLM", LLAMA, attention="eager", inputs=padded_text),
    decoder("mistral", "MistralForCausalLM", LLAMA | {"sliding_window": 7}),
    decoder("qwen2", "Qwen2ForCausalLM", LLAMA),
    decoder("qwen3", "Qwen3ForCausalLM", LLAMA | {"head_dim": 16}, inputs=padded_text),
    decoder("gemma", "GemmaForCausalLM", LLAMA | {"head_dim": 16}),
    decoder("gemma2", "Gemma2ForCausalLM", LLAMA | {"head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 16}),
    decoder("gemma3", "Gemma3ForCausalLM", LLAMA | {"head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 16}),
    decoder("phi", "PhiForCausalLM", LLAMA | {"resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    decoder("phi3", "Phi3ForCausalLM", LLAMA | {"resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    decoder("gpt2", "GPT2LMHeadModel", PLAIN | GPT2_SIZES | GPT2_DROPOUT),
    decoder("gptj", "GPTJForCausalLM", PLAIN | GPT2_SIZES | GPT2_DROPOUT | {"rotary_dim": 8}),
    decoder("gpt_neox", "GPTNeoXForCausalLM", PLAIN | SIZES | LONG | NO_DROPOUT | {"intermediate_size": 112}),
    decoder("opt", "OPTForCausalLM", PLAIN | SIZES | LONG | NO_DROPOUT | {
        "ffn_dim": 112, "dropout": 0.0, "word_embed_proj_dim": 64}),
    decoder("bloom", "BloomForCausalLM", PLAIN | {
        "hidden_size": 64, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    decoder("falcon", "FalconForCausalLM", PLAIN | SIZES | LONG | {"hidden_dropout": 0.0, "attention_dropout": 0.0}),
    decoder("mpt", "MptForCausalLM", PLAIN | {
        "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": POSITIONS, "expansion_ratio": 2}),
    decoder("stablelm", "StableLmForCausalLM", LLAMA | {"hidden_dropout": 0.0}),
    decoder("cohere", "CohereForCausalLM", LLAMA),
    decoder("olmo2", "Olmo2ForCausalLM", LLAMA),
    decoder("granite", "GraniteForCausalLM", LLAMA),
    decoder("starcoder2", "Starcoder2ForCausalLM", LLAMA | {"residual_dropout": 0.0, "embedding_dropout": 0.0}),
)  # fmt: skip

EXPERTS = (
    decoder("mixtral", "MixtralForCausalLM", LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}, family="moe"),
    decoder("qwen2_moe", "Qwen2MoeForCausalLM", LLAMA | {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 80}, family="moe"),
    decoder("olmoe", "OlmoeForCausalLM", LLAMA | {"num_experts": 4, "num_experts_per_tok": 2}, family="moe"),
    decoder("deepseek_v3", "DeepseekV3ForCausalLM", LLAMA | {
        "num_key_value_heads": 4, "moe_intermediate_size": 48, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 24,
        "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}, family="moe"),
)  # fmt: skip

STATE_SPACES = (
    decoder("mamba", "MambaForCausalLM", PLAIN | {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
            family="ssm"),
    decoder("falcon_mamba", "FalconMambaForCausalLM", PLAIN | {
        "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}, family="ssm"),
    decoder("mamba2", "Mamba2ForCausalLM", PLAIN | {
        "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 2,
        "chunk_size": 8}, family="ssm"),
    decoder("rwkv", "RwkvForCausalLM", PLAIN | {
        "hidden_size": 64, "attention_hidden_size": 64, "num_hidden_layers": 2, "context_length": POSITIONS},
        family="ssm"),
    decoder("recurrent_gemma", "RecurrentGemmaForCausalLM", LLAMA | {
        "head_dim": 16, "lru_width": 64, "attention_window_size": 64, "num_hidden_layers": 3,
        "block_types": ("recurrent", "recurrent", "attention")}, family="ssm"),
)  # fmt: skip

ENCODERS = (
    encoder("bert", "BertForMaskedLM", BERT),
    encoder("bert_classifier", "BertForSequenceClassification", BERT | {"num_labels": LABELS}, labels=one_class),
    encoder("roberta", "RobertaForMaskedLM", BERT | {"max_position_embeddings": POSITIONS + 2}),
    encoder("electra", "ElectraForMaskedLM", BERT | {"embedding_size": 48}),
    encoder("albert", "AlbertForMaskedLM", BERT | {"embedding_size": 48}),
    encoder("distilbert", "DistilBertForMaskedLM", PLAIN | LONG | {
        "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 112, "dropout": 0.0, "attention_dropout": 0.0}),
    encoder("deberta_v2", "DebertaV2ForMaskedLM", BERT | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False}),
    encoder("mpnet", "MPNetForMaskedLM", BERT | {"max_position_embeddings": POSITIONS + 2}),
    encoder("modernbert", "ModernBertForMaskedLM", BERT | {
        "global_attn_every_n_layers": 2, "local_attention": 8, "attention_dropout": 0.0, "embedding_dropout": 0.0,
        "mlp_dropout": 0.0, "cls_token_id": 1, "sep_token_id": 2}),
    encoder("fnet", "FNetForMaskedLM", PLAIN | LONG | {
        "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 112, "hidden_dropout_prob": 0.0},
        inputs=text, bf16=False),
)  # fmt: skip

PAIRS = (
    pair("t5", "T5ForConditionalGeneration", T5),
    pair("mt5", "MT5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu"}),
    pair("bart", "BartForConditionalGeneration", BART),
    pair("mbart", "MBartForConditionalGeneration", BART),
    pair("marian", "MarianMTModel", BART),
    pair("pegasus", "PegasusForConditionalGeneration", BART),
)

TEXT = (*DECODERS, *EXPERTS, *STATE_SPACES, *ENCODERS, *PAIRS)
