"""Oracles in numpy float64: the warp, and every rule's exact output law.

Nothing here shares code with the library. A *model* is a function from a tuple
of tokens to a probability vector. A *rule* is a function (p, q, x) -> list of
(probability, next-token distribution), entry t for exactly t accepted tokens,
where p has K + 1 rows, q has K rows and x are the K drafted tokens. A law is a
dict from a tuple of tokens to its probability.
"""

import itertools

import numpy as np


def softmax(logits):
  """[..., V] -> probabilities; -inf is 0."""
  x = np.asarray(logits, np.float64)
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def warp(
  logits,
  history=(),
  *,
  temperature=1.0,
  top_k=0,
  top_p=1.0,
  min_p=0.0,
  repetition_penalty=1.0,
  **before,
):
  """The adjusted distribution [V] of one slot, in the documented order."""
  x = np.array(logits, np.float64)
  for token, bias in before.pop('logit_bias', {}).items():
    x[token] += bias
  for token in set(history):
    x[token] *= repetition_penalty if x[token] < 0 else 1 / repetition_penalty
  x = _processed(x, list(history), **before)
  if temperature == 0:
    return np.eye(len(x))[int(np.argmax(x))]
  x = x / temperature
  if top_k:
    kth = np.sort(x)[::-1][min(top_k, len(x)) - 1]
    x = np.where(x >= kth, x, -np.inf)
  if top_p < 1:
    p = softmax(x)
    above = np.array([p[x > value].sum() for value in x])
    x = np.where(above < top_p, x, -np.inf)
  if min_p > 0:
    p = softmax(x)
    x = np.where(p >= min_p * p.max(), x, -np.inf)
  return softmax(x)


def _processed(
  x,
  history,
  prompt_length=0,
  end_ids=(),
  *,
  frequency_penalty=0.0,
  presence_penalty=0.0,
  no_repeat_ngram_size=0,
  bad_words=(),
  min_new_tokens=0,
  suppress_tokens=(),
):
  """Logits after the processors behind the repetition penalty."""
  generated = history[prompt_length:]
  for token in set(generated):
    x[token] -= frequency_penalty * generated.count(token) + presence_penalty
  size = no_repeat_ngram_size
  windows = [tuple(history[i : i + size]) for i in range(len(history))]
  # A repeated n-gram is a bad word that stands in the history already.
  seen = [word for word in windows if size and len(word) == size]
  for word in (*bad_words, *seen):
    begin = list(word[:-1])
    if history[len(history) - len(begin) :] == begin:
      x[word[-1]] = -np.inf
  if len(generated) < min_new_tokens:
    x[list(end_ids)] = -np.inf
  x[list(suppress_tokens)] = -np.inf
  return x


def _normalised(weights, fallback):
  total = weights.sum()
  return weights / total if total > 1e-15 else fallback


def point_mass(token, size):
  return np.eye(size)[token]


def sampling(p, q, x, lenience=1.0):
  """Leviathan's rule; lossy for lenience < 1."""
  out, alive = [], 1.0
  for t, token in enumerate(x):
    keep = min(1.0, p[t][token] / (lenience * q[t][token]))
    residual = _normalised(np.maximum(p[t] - lenience * q[t], 0), p[t])
    out.append((alive * (1 - keep), residual))
    alive *= keep
  return [*out, (alive, p[len(x)])]


def lenient(lenience):
  return lambda p, q, x: sampling(p, q, x, lenience)


def block(p, q, x):
  """Block verification: accepted = the last prefix whose own test passes."""
  size = len(x)
  w = [1.0]
  for t, token in enumerate(x):
    w.append(min(w[-1] * p[t][token] / q[t][token], 1.0))
  passes = [1.0]
  for t in range(1, size):
    excess = np.maximum(w[t] * p[t] - q[t], 0).sum()
    below = excess + 1 - w[t]
    passes.append(excess / below if below > 1e-15 else 1.0)
  if size:
    passes.append(w[size])
  out = []
  for t in range(size + 1):
    later = np.prod([1 - h for h in passes[t + 1 :]])
    if t == size:
      following = p[size]
    else:
      following = _normalised(np.maximum(w[t] * p[t] - q[t], 0), p[t])
    out.append((passes[t] * later, following))
  return out


def match(p, q, x):
  """The target's own sample, kept while it equals the draft."""
  del q
  out, alive = [], 1.0
  for t, token in enumerate(x):
    other = p[t].copy()
    other[token] = 0
    out.append((alive * (1 - p[t][token]), _normalised(other, p[t])))
    alive *= p[t][token]
  return [*out, (alive, p[len(x)])]


def greedy(p, q, x):
  """Argmax of p, kept while it equals the draft."""
  return match([point_mass(int(np.argmax(row)), len(row)) for row in p], q, x)


# Rules that are wrong, as found in the wild.


def resample_from_p(p, q, x):
  """After a refusal, draws from p instead of the residual."""
  out = sampling(p, q, x)
  return [(chance, p[t]) for t, (chance, _) in enumerate(out)]


def residual_for_bonus(p, q, x):
  """Subtracts the last q from the bonus distribution."""
  out = sampling(p, q, x)
  last = len(x)
  bonus = _normalised(np.maximum(p[last] - q[last - 1], 0), p[last])
  return [*out[:-1], (out[-1][0], bonus)]


def drafts(q_model, prefix, num_draft):
  """Yields (probability, x, q rows) of every draft after a prefix."""
  size = len(q_model(prefix))
  for x in itertools.product(range(size), repeat=num_draft):
    rows = [q_model(prefix + x[:t]) for t in range(num_draft)]
    chance = np.prod([row[token] for row, token in zip(rows, x, strict=True)])
    if chance > 0:
      yield chance, x, rows


def round_law(rule, p_model, q_model, prefix, num_draft, propose=drafts):
  """Law of the tokens one round emits after a prefix, ends not cut."""
  law = {}
  for chance, x, q in propose(q_model, prefix, num_draft):
    p = [p_model(prefix + x[:t]) for t in range(len(x) + 1)]
    for t, (stop, following) in enumerate(rule(p, q, x)):
      for token, last in enumerate(following):
        mass = chance * stop * last
        if mass > 0:
          emitted = x[:t] + (token,)
          law[emitted] = law.get(emitted, 0.0) + mass
  return law


def _cut(tokens, length, end):
  if end in tokens:
    tokens = tokens[: tokens.index(end) + 1]
  return tokens[:length]


def decoded_law(
  rule, p_model, q_model, prefix, num_draft, *, length, end, propose=drafts
):
  """Law of what repeated rounds emit, cut at an end token and at a length."""
  law = {}
  rounds = round_law(rule, p_model, q_model, prefix, num_draft, propose)
  for emitted, mass in rounds.items():
    kept = _cut(emitted, length, end)
    if kept[-1] == end or len(kept) == length:
      law[kept] = law.get(kept, 0.0) + mass
      continue
    rest = decoded_law(
      rule,
      p_model,
      q_model,
      prefix + kept,
      num_draft,
      length=length - len(kept),
      end=end,
      propose=propose,
    )
    for tail, more in rest.items():
      law[kept + tail] = law.get(kept + tail, 0.0) + mass * more
  return law


def sequence_law(p_model, prefix, length, end):
  """Law of plain sampling, cut at an end token and at a length."""
  law = {(): 1.0}
  for _ in range(length):
    grown = {}
    for tokens, mass in law.items():
      if tokens and tokens[-1] == end:
        grown[tokens] = grown.get(tokens, 0.0) + mass
        continue
      for token, chance in enumerate(p_model(prefix + tokens)):
        if chance > 0:
          grown[tokens + (token,)] = mass * chance
    law = grown
  return law


def total_variation(first, second):
  """Of two laws."""
  keys = set(first) | set(second)
  return 0.5 * sum(abs(first.get(k, 0.0) - second.get(k, 0.0)) for k in keys)


def chi_square(counts, law, least=5.0):
  """Pearson's statistic and degrees of freedom of counts against a law.

  Outcomes expected fewer than `least` times are pooled. An outcome of
  probability 0 that was seen makes the statistic infinite.

  Args:
    counts: dict from outcome to how often it was seen.
    law: dict from outcome to probability.
    least: smallest expected count that stands on its own.

  Returns:
    (statistic, degrees of freedom).
  """
  if any(law.get(outcome, 0.0) <= 0 for outcome in counts):
    return np.inf, 1
  total = sum(counts.values())
  pooled_seen = pooled_expected = statistic = 0.0
  cells = 0
  for outcome, chance in law.items():
    expected, seen = total * chance, counts.get(outcome, 0)
    if expected < least:
      pooled_seen += seen
      pooled_expected += expected
    else:
      statistic += (seen - expected) ** 2 / expected
      cells += 1
  if pooled_expected > 0:
    # Too small a pool would not be chi-square; a floor keeps it conservative.
    statistic += (pooled_seen - pooled_expected) ** 2 / max(
      pooled_expected, least
    )
    cells += 1
  return statistic, cells - 1
