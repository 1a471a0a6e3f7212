"""Small models of both kinds, shared by tests of caches and folders."""

from specjax import models

CAPACITY = 32


CONFIGS = {
  't5': models.T5Config(
    vocab_size=40,
    d_model=16,
    d_kv=8,
    d_ff=16,
    num_layers=1,
    num_decoder_layers=2,
    num_heads=4,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=10,
  ),
  'decoder': models.DecoderConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=CAPACITY,
    sliding_window=4,
    sliding_layers=(True, False),
  ),
}
