"""Small models of both kinds, shared by tests of caches and folders."""

from specjax import models

CAPACITY = 32


CONFIGS = {
  't5': models.T5Config(
    40,
    16,
    8,
    16,
    1,
    2,
    4,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=10,
  ),
  'decoder': models.DecoderConfig(
    40,
    16,
    16,
    2,
    4,
    2,
    8,
    CAPACITY,
    sliding_window=4,
    sliding_layers=(True, False),
  ),
}
