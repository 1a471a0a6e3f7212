"""Drafter networks with mask tokens, and the hosts they replace.

A slot is written (anchor a, depth d). Slot (a, 0) is the real token x_a, with
the target's state that predicted it (x_0 has none, zeros); slot (a, d) with
d >= 1 is the d-th mask behind it. Slot (a, d) stands at position a + d and
predicts x_{a+d+1}. Real slots read real slots; a mask reads the real ones up
to its anchor and the earlier masks of its own group. So real slots know
nothing of masks and their keys and values may be kept, and dropping the last
masks changes nothing before them.

While decoding, a group behind the last committed token is a chain, which is an
ordinary cached block. Training runs many groups at once; see
`training.families.speculator_objective`.

References:
  Xiao et al. ParallelSpec: parallel drafter for efficient speculative
    decoding. 2024. https://arxiv.org/abs/2410.05589
  Cai et al. Medusa. ICML 2024. https://arxiv.org/abs/2401.10774
  Li et al. EAGLE. ICML 2024. https://arxiv.org/abs/2401.15077
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from specjax.base import Array
from specjax.base import PyTree
from specjax.models.common import cpu_layout
from specjax.models.common.layers import Embedding
from specjax.models.common.layers import Linear
from specjax.models.common.rope import rope_angles
from specjax.models.decoder.layers import DecoderLayer
from specjax.models.decoder.layers import norm
from specjax.models.speculator.config import ParallelConfig

# Tables of the target that a drafter without its own runs with.
_LENT = ('embed', 'head')


class Parallel(nn.Module):
  """Every kind of drafter network. Parameters: collection 'params' alone.

  With a shared embedding and head the tree holds the target's tables under
  'embed' and 'head' while it runs; see `bind` and `own`.
  """

  config: ParallelConfig

  def setup(self) -> None:
    c, t = self.config, self.config.trunk
    self.embed = Embedding(t.vocab_size, t.hidden_size, 0.02, t.dtype)
    if c.is_shared or not t.tie_word_embeddings:
      rows = len(c.output_ids) or t.vocab_size
      self.head = Embedding(rows, t.hidden_size, t.hidden_size**-0.5, t.dtype)
    if c.is_heads:
      # Nearly zero: every head begins as the target's own.
      self.heads = [
        Linear(t.hidden_size, True, 1e-3, t.dtype) for _ in range(c.num_draft)
      ]
      return
    layer = DecoderLayer
    if t.remat:
      # Argument 5, counted from `self`, is `deterministic`. It is a bool of
      # Python, and traced it could not choose a branch.
      layer = nn.remat(DecoderLayer, static_argnums=(5,))
    self.layers = [
      layer(t, c.encoder_width > 0) for _ in range(t.num_hidden_layers)
    ]
    self.norm = norm(t)
    if c.feature == 'fuse':
      self.fuse = Linear(t.hidden_size, dtype=t.dtype)
    if c.num_masks:
      self.mask_embed = Embedding(c.num_masks, t.hidden_size, 0.02, t.dtype)
      learned = c.mask_feature.endswith('learned') and c.feature != 'none'
      if learned:
        rows = 1 if c.mask_feature == 'shared_learned' else c.num_draft - 1
        self.mask_feature = Embedding(rows, t.hidden_size, 0.02, t.dtype)

  def inputs(
    self, tokens: Array, depth: Array, features: Array | None
  ) -> Array:
    """Returns the input of the first layer.

    Args:
      tokens: int32 [B, T]; anything where `depth` is above 0.
      depth: int32 [B or 1, T]; 0 for real tokens. Depths beyond those trained
        take the last mask.
      features: [B, T, D], the target's states that predicted the tokens; at a
        mask its anchor's. Not read without features.

    Returns:
      [B, T, D].
    """
    c, t = self.config, self.config.trunk
    # Token a with the state h, and two masks behind it, 'per_slot' embeddings:
    # In:  tokens [a . .], depth [0 1 2], features [h h h]
    # Out: [(a, h) (m0, f) (m1, f)]; f is a learned state, or h if 'repeat_last'
    x = self.embed(tokens) * jnp.asarray(t.embed_scale, t.dtype)
    is_mask = (depth > 0)[..., None]
    if c.num_masks:
      # K = 4, depth [0 1 2 5]: rows [0 0 1 2]; that of depth 0 is not used
      row = jnp.clip(depth - 1, 0, c.num_masks - 1)
      x = jnp.where(is_mask, self.mask_embed(row), x)
    if c.feature == 'none':
      return x
    features = features.astype(t.dtype)
    if c.num_masks and c.mask_feature == 'zeros':
      features = jnp.where(is_mask, 0, features)
    elif c.num_masks and c.mask_feature != 'repeat_last':
      rows = self.mask_feature.rows
      known = self.mask_feature(jnp.clip(depth - 1, 0, rows - 1))
      features = jnp.where(is_mask, known, features)
    if c.feature == 'add':
      return x + features
    return self.fuse(jnp.concatenate([x, features], axis=-1))

  def run(
    self,
    x: Array,
    positions: Array,
    mask: Array,
    *,
    pasts: Sequence | None = None,
    sources: Sequence | None = None,
    source_mask: Array | None = None,
    deterministic: bool = True,
  ) -> tuple:
    """Runs the layers on slots.

    Args:
      x: [B, T, D], of `inputs`.
      positions: int32 [B, T].
      mask: bool [B or 1, T, T], or [B or 1, T, L] with pasts.
      pasts: for each layer `cache.Past`, or None.
      sources: result of `project_source`, for encoder-decoder targets.
      source_mask: bool [B, 1, S] or [B, T, S].
      deterministic: no dropout.

    Returns:
      (final states [B, T, D], (keys, values) of each layer).
    """
    angles = rope_angles(
      self.config.trunk.rope, positions, self.config.trunk.head_dim
    )
    kept = []
    for i, layer in enumerate(self.layers):
      past = None if pasts is None else pasts[i]
      source = None if sources is None else (sources[i], source_mask)
      x, pair = layer(x, angles, mask, past, deterministic, source)
      kept.append(pair)
    return self.norm(x), tuple(kept)

  def project_source(self, encoded: Array) -> tuple:
    """(keys, values) of the encoded source [B, S, De], for every layer."""
    return tuple(layer.cross_attn.project(encoded) for layer in self.layers)

  def head_states(self, feature: Array) -> Array:
    """Medusa's heads on the target's states [..., D]: [..., K, D]."""
    feature = feature.astype(self.config.trunk.dtype)
    return jnp.stack(
      [feature + jax.nn.silu(head(feature)) for head in self.heads], axis=-2
    )

  def logits_from_hidden(self, state: Array) -> Array:
    """Projects [..., D] to float32 logits, as many as ids in `output_ids`."""
    c, t = self.config, self.config.trunk
    if c.head_scale != 1:
      state = state * jnp.asarray(c.head_scale, state.dtype)
    tied = not c.is_shared and t.tie_word_embeddings
    logits = (self.embed if tied else self.head).attend(state)
    cap = t.final_logit_softcapping
    return logits if cap is None else cap * jnp.tanh(logits / cap)

  def __call__(self, tokens, encoded):
    """Uses every parameter once; for initialisation."""
    c = self.config
    width = c.trunk.hidden_size
    features = jnp.zeros((*tokens.shape, width))
    self.embed(tokens)
    if c.is_heads:
      return self.logits_from_hidden(self.head_states(features))
    depth = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    x = self.inputs(tokens, depth, features)
    sources = self.project_source(encoded) if c.encoder_width else None
    mask = jnp.ones((1, tokens.shape[1], tokens.shape[1]), bool)
    seen = jnp.ones((1, 1, encoded.shape[1]), bool)
    state, _ = self.run(x, depth, mask, sources=sources, source_mask=seen)
    return self.logits_from_hidden(state)


def init(config: ParallelConfig, key: Array) -> PyTree:
  """Returns initial parameters, without the target's tables."""
  encoded = jnp.zeros((1, 1, config.encoder_width or 1))
  ids = jnp.zeros((1, 2), jnp.int32)
  return own(config, Parallel(config).init(key, ids, encoded)['params'])


def own(config: ParallelConfig, params: PyTree) -> PyTree:
  """Returns the drafter's own parameters, without the target's tables."""
  if not config.is_shared:
    return params
  return {k: v for k, v in params.items() if k not in _LENT}


def bind(config: ParallelConfig, params: PyTree, target: PyTree) -> PyTree:
  """Adds the target's tables to the parameters of a shared drafter.

  Args:
    config: config of the drafter.
    params: its own parameters.
    target: the target's parameters; its tables are not copied, but for the
      head's rows of `output_ids`.

  Returns:
    Parameters that `Parallel` runs with.
  """
  if not config.is_shared:
    return params
  # Whole modules: a quantised table has scales beside its weights.
  head = target.get('head', target['embed'])
  if config.output_ids:
    ids = np.asarray(config.output_ids, np.int32)
    # Taken in the stored order: prepared for a CPU, rows are columns.
    rows = jax.tree.map(
      lambda x: jnp.take(x, ids, axis=0), cpu_layout.stored(head)
    )
    is_prepared = cpu_layout.KERNEL in head
    head = cpu_layout.tree(rows, False, ('head',)) if is_prepared else rows
  return params | {'embed': target['embed'], 'head': head}


def check_tables(kind: str, params: PyTree, name: str) -> None:
  """Raises ValueError if a drafter of this kind finds no tables in a target.

  Args:
    kind: one of `config.KINDS`.
    params: the target's parameters, or their shapes.
    name: name of the target.
  """
  if kind != 'parallel' and 'embed' not in params:
    raise ValueError(
      f'A drafter of the kind {kind} works with the embeddings and the head of '
      f'its target, and those of {name} are not found; take the kind parallel, '
      'which has its own.'
    )


def slot_mask(
  query: tuple[Array, Array], key: tuple[Array, Array], segments: Array
) -> Array:
  """Returns the mask between slots, by the rule of this module's docstring.

  Args:
    query: (anchor, depth), int32 [B or 1, T] each.
    key: likewise [B or 1, U].
    segments: int32 [B, N]; 0 is padding. An anchor is an index into it.

  Returns:
    bool [B, T, U]; both slots belong to one segment that is not padding.
  """

  # Three real slots of one segment and a group of two masks behind token 1.
  #   (0, 0)  [[1 0 0 0 0]
  #   (1, 0)   [1 1 0 0 0]
  #   (2, 0)   [1 1 1 0 0]
  #   (1, 1)   [1 1 0 1 0]
  #   (1, 2)   [1 1 0 1 1]]
  def segment(anchor):
    rows = jnp.broadcast_to(anchor, (segments.shape[0], anchor.shape[1]))
    return jnp.take_along_axis(segments, rows, axis=1, mode='clip')

  anchor, depth = (x[:, :, None] for x in query)
  other, level = (x[:, None, :] for x in key)
  real = (level == 0) & (other <= anchor)
  group = (other == anchor) & (level <= depth)
  mine, theirs = segment(query[0])[:, :, None], segment(key[0])[:, None]
  return (real | group) & (mine == theirs) & (mine > 0)
