"""Drafter networks with random weights, made for the target at hand.

Their drafts are noise; what they cost is real. So the time of drafting by K and
of verifying by width is known before anything is trained.
"""

import jax

from specjax import loading
from specjax import models
from specjax.models import prepared
from specjax.training import config as config_lib
from specjax.training import parallel_build
from specjax.training import parallel_settings

PREFIX = 'network:'


def make(
  name: str, target: loading.Model, *, dtype: str, num_draft: int, seed: int
) -> loading.Model:
  """A drafter network with one layer of the target's own size.

  Args:
    name: 'network:' and a name of `parallel_settings.VARIANTS`.
    target: the model it drafts for. A `parallel` network, which has its own
      embeddings, is a quarter as wide.
    dtype: of its weights.
    num_draft: slots it has.
    seed: of its weights.

  Raises:
    ValueError: there is no such variant.
  """
  given, settings = target.config, config_lib.TrainConfig(task='drafter')
  parallel_settings.apply_variant(settings, name.removeprefix(PREFIX))
  dtype = 'float32' if dtype == 'w8a8' else dtype
  settings.compute_dtype = dtype
  settings.parallel.num_draft = num_draft
  is_pairs = isinstance(given, models.T5Config)
  width = given.d_model if is_pairs else given.hidden_size
  settings.model = config_lib.ModelConfig(
    family=settings.model.family,
    width=max(width // 4, 8),
    layers=1,
    heads=given.num_heads if is_pairs else given.num_attention_heads,
    kv_heads=0 if is_pairs else given.num_key_value_heads,
    head_dim=given.d_kv if is_pairs else given.head_dim,
    mlp=given.d_ff if is_pairs else given.intermediate_size,
    activation='silu',
    gated=True,
    tie_embeddings=False,
  )
  made = parallel_build.model_config(settings, target, None, ())
  params = models.init_params(made, jax.random.key(seed), dtype=dtype)
  if target.layout is None:
    params = prepared.prepare(made, params)
  return loading.Model(
    params=params,
    config=made,
    module=models.make_module(made),
    tokenizer=target.tokenizer,
    lm=None,
    eos_ids=target.eos_ids,
    pad_id=target.pad_id,
    name=name,
  )
