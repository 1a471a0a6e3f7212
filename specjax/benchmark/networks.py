"""Drafter networks with random weights, made for the target at hand.

Their drafts are noise; what they cost is real. So the time of drafting by K and
of verifying by width is known before anything is trained.
"""

import jax

from specjax import models
from specjax.checkpoints import load as loading
from specjax.models.common import cpu_layout
from specjax.training import config as config_lib
from specjax.training.families import spec_drafter as spec_drafter_family
from specjax.training.families import speculator_build
from specjax.training.families import speculator_settings

PREFIX = 'network:'
# Beside `speculator_settings.VARIANTS`.
SPEC_DRAFTER = 'spec_drafter'
# Tokens of a source and of an answer that a random Spec-Drafter has rows for.
_POSITIONS = 2048


def make(
  name: str, target: loading.Model, *, dtype: str, num_draft: int, seed: int
) -> loading.Model:
  """A drafter network of the target's own width.

  Args:
    name: 'network:' and `SPEC_DRAFTER`, a Spec-Drafter of 12 + 2 layers, or a
      name of `speculator_settings.VARIANTS`, of one layer.
    target: the model it drafts for. A `parallel` network, which has its own
      embeddings, is a quarter as wide.
    dtype: of its weights.
    num_draft: slots it has.
    seed: of its weights.

  Raises:
    ValueError: there is no such network, or none for such a target.
  """
  variant = name.removeprefix(PREFIX)
  known = (*speculator_settings.VARIANTS, SPEC_DRAFTER)
  if variant not in known:
    raise ValueError(
      f'Unknown network {variant!r}; known are {", ".join(known)}.'
    )
  dtype = 'float32' if dtype == 'w8a8' else dtype
  build = _spec_drafter if variant == SPEC_DRAFTER else _one_layer
  made = build(variant, target, dtype, num_draft)
  params = models.init_params(made, jax.random.key(seed), dtype=dtype)
  if target.layout is None:
    params = cpu_layout.prepare(made, params)
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


def _one_layer(variant, target, dtype, num_draft):
  """The config of a network that reads the target's states, or stands alone."""
  given, settings = target.config, config_lib.TrainConfig(task='drafter')
  speculator_settings.apply_variant(settings, variant)
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
  return speculator_build.model_config(settings, target, None, ())


def _spec_drafter(variant, target, dtype, num_draft):
  """The config of SpecDec's drafter."""
  spec_drafter_family.check_teacher(variant, target)
  given = target.config
  same = (
    'vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_heads', 'gated', 'hidden_act',
    'decoder_start_token_id', 'pad_token_id', 'eos_token_id',
  )  # fmt: skip
  return models.SpecDrafterConfig(
    **{name: getattr(given, name) for name in same},
    num_layers=12,
    num_decoder_layers=2,
    block=num_draft,
    max_positions=_POSITIONS,
    max_source_positions=_POSITIONS,
    dtype=dtype,
  )
