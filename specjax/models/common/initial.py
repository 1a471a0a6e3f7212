"""Distributions that weights are drawn from, by a parameter's name."""


def normal(
  path: tuple,
  shape: tuple,
  *,
  norm: float = 1.0,
  table: float,
  query: float | None = None,
) -> tuple[float, float]:
  """(mean, standard deviation) of a parameter named as in `common.layers`.

  Args:
    path: keys of the parameter in its tree.
    shape: shape of the parameter.
    norm: value of the norms' weights.
    table: standard deviation of tables of embeddings.
    query: standard deviation of query projections; None takes `in ** -0.5`, as
      for all other matrices.
  """
  module, leaf = path[-2:]
  if leaf == 'bias':
    return 0.0, 0.0
  if 'norm' in module:
    return norm, 0.0
  if module in ('embed', 'positions', 'mask'):
    return 0.0, table
  if module == 'relative_bias':
    return 0.0, 0.1
  if module == 'q' and query is not None:
    return 0.0, query
  return 0.0, shape[-1] ** -0.5
