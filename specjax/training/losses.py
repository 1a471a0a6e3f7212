"""Distances between a target's and a drafter's next-token distributions.

One function, `divergence`, holds every objective; `NAMES` lists them.
Speculative decoding accepts a drafted token with probability 1 - TV(p, q),
where p is the target's and q the drafter's distribution. Total variation is
therefore the quantity to minimise; the others have larger gradients while p and
q are far apart.

References:
  Zhou et al. DistillSpec: improving speculative decoding via knowledge
    distillation. ICLR 2024. https://arxiv.org/abs/2310.08461
  Agarwal et al. On-policy distillation of language models. ICLR 2024.
    https://arxiv.org/abs/2306.13649 (generalised JSD)
  LK losses: direct acceptance rate optimization for speculative decoding.
    2026. https://arxiv.org/abs/2602.23881 (negative log acceptance, hybrid)
"""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base

# How fast the hybrid moves from KL to total variation as acceptance grows.
_HYBRID_RATE = 3.0
# Keeps the logarithm of an acceptance finite when p and q hardly meet.
_TINY = 1e-30


def _kl(log_p, log_q):
  """KL(p || q) over the last axis; a token with p = 0 contributes 0."""
  p = jnp.exp(log_p)
  # p 0, log_p -inf: 0 * -inf is NaN, and its gradient too, so both logarithms
  # are replaced before the product.
  safe_p = jnp.where(p > 0, log_p, 0.0)
  safe_q = jnp.where(p > 0, log_q, 0.0)
  return jnp.sum(p * (safe_p - safe_q), -1)


# p [0.5 0.5 0.0] and q [0.25 0.25 0.5]: acceptance 0.5, total variation 0.5,
# KL(p || q) log 2, KL(q || p) infinite.
def _acceptance(log_p, log_q):
  return jnp.sum(jnp.minimum(jnp.exp(log_p), jnp.exp(log_q)), -1)


def _forward_kl(log_p, log_q, beta):
  del beta
  return _kl(log_p, log_q)


def _reverse_kl(log_p, log_q, beta):
  del beta
  return _kl(log_q, log_p)


def _jsd(log_p, log_q, beta):
  # m = beta p + (1 - beta) q, in logarithms to keep tiny probabilities.
  log_m = jnp.logaddexp(log_p + jnp.log(beta), log_q + jnp.log1p(-beta))
  return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def _total_variation(log_p, log_q, beta):
  del beta
  return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), -1)


def _negative_log_acceptance(log_p, log_q, beta):
  del beta
  return -jnp.log(jnp.maximum(_acceptance(log_p, log_q), _TINY))


def _kl_tv(log_p, log_q, beta):
  """weight * KL + (1 - weight) * TV, with weight = exp(-3 acceptance)."""
  # The weight is a schedule and no part of the loss: with a gradient through
  # it, the network could lower the loss by making its weight small.
  acceptance = lax.stop_gradient(_acceptance(log_p, log_q))
  weight = jnp.exp(-_HYBRID_RATE * acceptance)
  return weight * _kl(log_p, log_q) + (1 - weight) * _total_variation(
    log_p, log_q, beta
  )


_SOFT: dict[str, Callable[..., base.Array]] = {
  'forward_kl': _forward_kl,
  'reverse_kl': _reverse_kl,
  'jsd': _jsd,
  'total_variation': _total_variation,
  'negative_log_acceptance': _negative_log_acceptance,
  'kl_tv': _kl_tv,
}
NAMES = ('cross_entropy',) + tuple(_SOFT)


def check_name(name: str) -> None:
  """Raises ValueError, listing the known objectives, for an unknown one."""
  if name not in NAMES:
    raise ValueError(
      f'Unknown objective {name!r}; known are {", ".join(NAMES)}.'
    )


def cross_entropy(
  logits: base.Array,
  labels: base.Array,
  mask: base.Array,
  label_smoothing: float = 0.0,
) -> base.Array:
  """-log q(label) at each position.

  Args:
    logits: [..., V].
    labels: int32 [...]; anything where `mask` is 0.
    mask: [...], bool or 0/1.
    label_smoothing: share of the label's mass spread over the vocabulary.

  Returns:
    float32 [...], 0 where masked.
  """
  # In:  logits [[0 0] [nan nan]], labels [1 -1], mask [1 0]
  # Out: [0.69 0.0]; the masked row has gradient 0, which `where` after the
  #      arithmetic alone would not give
  mask = mask.astype(bool)
  logits = jnp.where(mask[..., None], logits.astype(jnp.float32), 0.0)
  labels = jnp.where(mask, labels, 0)
  log_z = jax.nn.logsumexp(logits, -1)
  chosen = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
  loss = log_z - chosen
  if label_smoothing:
    uniform = log_z - jnp.mean(logits, -1)
    loss = (1 - label_smoothing) * loss + label_smoothing * uniform
  return jnp.where(mask, loss, 0.0)


def token_divergence(
  name: str,
  target_logits: base.Array | None,
  draft_logits: base.Array,
  mask: base.Array,
  temperature: float = 1.0,
  *,
  labels: base.Array | None = None,
  beta: float = 0.5,
  label_smoothing: float = 0.0,
) -> base.Array:
  """The divergence at each position; arguments as in `divergence`.

  Returns:
    float32 [...], 0 with zero gradient where masked.
  """
  check_name(name)
  mask = mask.astype(bool)
  if name == 'cross_entropy':
    if labels is None:
      if target_logits is None:
        raise ValueError("'cross_entropy' needs labels or the target's logits.")
      labels = jnp.argmax(target_logits, -1)
    return cross_entropy(draft_logits, labels, mask, label_smoothing)
  if target_logits is None:
    raise ValueError(f"{name!r} needs the target's logits.")
  if name == 'jsd' and not 0 < beta < 1:
    raise ValueError(f'beta must lie strictly between 0 and 1, not {beta}.')
  # Replaced before any arithmetic: 0 * inf and 0 * nan would leak otherwise.
  keep = mask[..., None]
  target_logits = jnp.where(keep, target_logits.astype(jnp.float32), 0.0)
  draft_logits = jnp.where(keep, draft_logits.astype(jnp.float32), 0.0)
  # float32 whatever the networks compute in: differences of small probabilities
  # are what remains when a drafter is good.
  log_p = jax.nn.log_softmax(lax.stop_gradient(target_logits) / temperature)
  log_q = jax.nn.log_softmax(draft_logits / temperature)
  return jnp.where(mask, _SOFT[name](log_p, log_q, beta), 0.0)


def divergence(
  name: str,
  target_logits: base.Array | None,
  draft_logits: base.Array,
  mask: base.Array,
  temperature: float = 1.0,
  *,
  labels: base.Array | None = None,
  beta: float = 0.5,
  label_smoothing: float = 0.0,
) -> base.Array:
  """Mean distance of the drafter from the target over unmasked positions.

  Args:
    name: one of `NAMES`. 'cross_entropy' has hard labels; 'forward_kl' is
      KL(p || q), 'reverse_kl' KL(q || p), 'jsd' the generalised
      Jensen-Shannon divergence, 'total_variation' 1 - acceptance,
      'negative_log_acceptance' -log(acceptance), 'kl_tv' the hybrid whose
      weight moves from forward KL to total variation as acceptance grows.
    target_logits: [..., V]; no gradient flows into them. None is allowed for
      'cross_entropy' with `labels`.
    draft_logits: [..., V].
    mask: [...], bool or 0/1; masked positions contribute exactly nothing,
      whatever they hold.
    temperature: both distributions are softmax(logits / temperature);
      positive. Not used by 'cross_entropy'.
    labels: int32 [...] for 'cross_entropy'; None takes the target's argmax.
    beta: weight of the target in the mixture of 'jsd', strictly between 0 and
      1.
    label_smoothing: share of a label's mass that 'cross_entropy' spreads.

  Returns:
    float32 scalar; 0 if everything is masked.

  Raises:
    ValueError: unknown name, or an argument that the objective needs is
      missing.
  """
  values = token_divergence(
    name,
    target_logits,
    draft_logits,
    mask,
    temperature,
    labels=labels,
    beta=beta,
    label_smoothing=label_smoothing,
  )
  # In:  values [0.7 0.0 0.3], mask [1 0 1]
  # Out: 0.5, the masked position not being counted
  count = jnp.sum(mask.astype(jnp.float32))
  return jnp.sum(values) / jnp.maximum(count, 1.0)
