"""Tiny drafter networks, and rows to train them on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from specjax import models
from specjax.models.speculator import modeling as network_lib
from specjax.training.families import speculator_rows

WIDTH, VOCAB, SLOTS = 16, 23, 4
TRUNK = models.DecoderConfig(
  VOCAB, WIDTH, 24, 2, 2, 1, 8, 64, eos_token_id=(2,)
)
TOKEN_ONLY = models.ParallelConfig(
  TRUNK, WIDTH, 1, kind='parallel', num_draft=SLOTS, mask_embedding='shared'
)
EAGLE = models.ParallelConfig(
  TRUNK, WIDTH, 1, kind='eagle', num_draft=SLOTS, feature='fuse'
)
# For an encoder-decoder whose encoder is 12 wide.
EAGLE_T5 = dataclasses.replace(
  EAGLE, encoder_width=12, mask_feature='repeat_last', start_id=0
)
HEADS = models.ParallelConfig(
  TRUNK, WIDTH, 1, kind='medusa', masks=False, num_draft=SLOTS
)


def params(config, seed=0):
  """Bound parameters, large enough that every input matters."""
  key = jax.random.key(seed)
  own = models.init_params(config, key)
  own = jax.tree.map(lambda x: x * (2 if x.ndim > 1 else 1), own)
  for name in own:
    if name.startswith('mask'):
      own[name] = jax.tree.map(lambda x: x * 10, own[name])
  rng = np.random.default_rng(seed)

  def table():
    return {
      'weight': jnp.asarray(rng.normal(0, 0.4, (VOCAB, WIDTH)), 'float32')
    }

  tables = {'embed': table(), 'head': table()}
  if not config.is_shared:
    return own | tables
  return network_lib.bind(config, own, tables)


def rows(config, segments, seed=0, **changes):
  """`Rows` of random tokens and features in documents such as '1112220'."""
  rng = np.random.default_rng(seed)
  segments = np.asarray([[int(c) for c in row] for row in segments])
  batch, count = segments.shape
  places = np.zeros_like(segments)
  for i in range(1, count):
    same = segments[:, i] == segments[:, i - 1]
    places[:, i] = np.where(same, places[:, i - 1] + 1, 0)
  known = rng.normal(0, 1, (batch, count, WIDTH)).astype(np.float32)
  features = np.where(
    places[..., None] > 0, np.pad(known, ((0, 0), (1, 0), (0, 0)))[:, :-1], 0
  )
  encoded = readable = None
  if config.encoder_width:
    encoded = rng.normal(0, 1, (batch, 6, config.encoder_width))
    encoded = encoded.astype(np.float32)
    readable = np.ones((batch, count, 6), bool)
    readable[..., 4:] = False
  made = speculator_rows.Rows(
    tokens=rng.integers(0, VOCAB, (batch, count)),
    target=rng.integers(0, VOCAB, (batch, count)),
    segments=segments,
    positions=places,
    mask=segments > 0,
    features=features,
    known=known,
    encoded=encoded,
    readable=readable,
  )
  made = made._replace(**changes)
  return jax.tree.map(
    lambda x: jnp.asarray(x, jnp.int32 if x.dtype == np.int64 else x.dtype),
    made,
  )
