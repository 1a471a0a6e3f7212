"""Drafters of the user's own, made in a notebook or a file.

`custom` turns a `base.Drafter`, or a function that makes one, into a value that
`specjax.generate` and the commands take. A drafter without probabilities needs
no more than the `base.Drafter` itself; one with probabilities has to draw its
tokens as the verification rule asks, so it is made from a `Style`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from specjax import base
from specjax.decoding import contract
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry


class Custom(NamedTuple):
  """A drafter of the user's own. Hashable by its functions.

  Attributes:
    make: a `base.Drafter`, or `(num_draft, style) -> base.Drafter`.
    num_draft: K, where the drafter itself fixes it; None leaves it to the user.
    max_path: P of trees; None for chains.
    is_tree: drafts are trees.
    has_log_probs: drafts have probabilities if the style asks for them.
    target_hidden_layers: states of the target that `observe` reads.
    widths: draft widths to compile, see `generate.Recipe`.
    row_independent: whether a row's draft depends on that row alone.
    rerouted: (rule, rule run in its place) pairs.
  """

  make: Any
  num_draft: int | None = None
  max_path: int | None = None
  is_tree: bool = False
  has_log_probs: bool = False
  target_hidden_layers: tuple[int, ...] = ()
  widths: tuple[int, ...] = ()
  row_independent: bool = False
  rerouted: tuple[tuple[str, str], ...] = ()


class CustomSource(NamedTuple):
  """A custom drafter and its parameters; the source of `ENTRY`."""

  custom: Custom
  params: base.PyTree


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del target, options, rows
  made = source.given.custom
  # A ready drafter has its K built in, so a user's num_draft counts only where
  # a function makes the drafter.
  num_draft = made.num_draft or num_draft
  # widths (0, 4, 8) with K = 6: (0, 4, 6); K itself is always compiled.
  widths = tuple(width for width in made.widths if width <= num_draft)
  return entry.DraftPlan(
    num_draft,
    made.max_path or num_draft,
    is_tree=made.is_tree,
    has_log_probs=made.has_log_probs,
    widths=tuple(sorted({*widths, num_draft})) if widths else (),
    target_hidden_layers=made.target_hidden_layers,
    row_independent=made.row_independent,
    rerouted=made.rerouted,
    static=made.make,
  )


def _bind(lm, config, plan, style) -> base.Drafter:
  del lm, config
  made = plan.static
  # Cached by the caller on these arguments, so a user's function runs once for
  # each K and style.
  return made if is_drafter(made) else made(plan.num_draft, style)


def _params(plan, target, source, data) -> base.PyTree:
  del plan, target, data
  return source.given.params


ENTRY = entry.DrafterEntry(
  'custom', 'a drafter of your own', _plan, _bind, _params
)


def is_drafter(value: Any) -> bool:
  """Whether a value is a `base.Drafter`."""
  return isinstance(value, base.Drafter)


def custom(
  make: base.Drafter | Callable[[int, drawing.Style], base.Drafter],
  *,
  params: base.PyTree = None,
  name: str = 'custom',
  max_path: int | None = None,
  is_tree: bool = False,
  has_log_probs: bool = False,
  target_hidden_layers: tuple[int, ...] = (),
  widths: tuple[int, ...] = (),
  row_independent: bool = False,
  rerouted: tuple[tuple[str, str], ...] = (),
) -> entry.Source:
  """Wraps a drafter of the user's own for `specjax.generate`.

  Args:
    make: a `base.Drafter`, whose `num_draft` then holds, or a function
      `(num_draft, style) -> base.Drafter`. Programs are remembered by this very
      object, so keep one function and hand it over again.
    params: pytree given to `init`, `propose` and `observe`; data, which may
      change from call to call without compiling anew.
    name: name in messages and statistics.
    max_path: P, the longest path of its trees; None for chains.
    is_tree: whether its drafts are trees (`Draft.tree`).
    has_log_probs: whether it returns `Draft.log_probs` where
      `style.needs_log_probs`; only from a function, since tokens must be drawn
      in the given style.
    target_hidden_layers: layers whose states `observe` reads; -1 is the last.
    widths: draft widths to compile beside K; with 0 among them a round without
      a draft costs a plain step.
    row_independent: whether a row's draft depends on that row alone, and not on
      what is decoded with it.
    rerouted: (rule, rule run in its place) pairs, as ('sampling', 'match').

  Returns:
    A drafter for `specjax.generate(..., drafter=...)`.

  Raises:
    ValueError: it is neither, or a ready drafter claims probabilities.
  """
  if is_tree and max_path is None and not is_drafter(make):
    raise ValueError('A drafter of trees needs max_path, its longest path.')
  shared = dict(
    widths=_tuple('widths', widths),
    target_hidden_layers=_tuple('target_hidden_layers', target_hidden_layers),
    row_independent=row_independent,
    rerouted=_pairs(rerouted),
  )
  if is_drafter(make):
    given = _ready(make, is_tree, has_log_probs, shared)
  elif callable(make):
    given = Custom(make, None, max_path, is_tree, has_log_probs, **shared)
  else:
    raise ValueError(
      'custom takes a base.Drafter or a function (num_draft, style) -> '
      f'base.Drafter, not {type(make).__name__}.'
    )
  return entry.Source(ENTRY, name, None, CustomSource(given, _arrays(params)))


def _arrays(params: base.PyTree) -> base.PyTree:
  """The parameters on the device."""
  contract.check_arrays('params of custom', params)
  # Arrays of numpy cannot be indexed by what a program computes.
  return jax.tree.map(jnp.asarray, params)


def _tuple(what: str, given: Any, items: str = 'numbers') -> tuple:
  """The tuple of what a user gives as a tuple or a list."""
  if not isinstance(given, (tuple, list)):
    raise ValueError(f'{what} must be a tuple of {items}, not {given!r}.')
  # Lists would make the plan unhashable, and a plan is a key of programs.
  return tuple(given)


def _pairs(rerouted: Any) -> tuple[tuple, ...]:
  """`Custom.rerouted` of what a user gives."""
  pairs = _tuple('rerouted', rerouted, 'pairs of rules')
  return tuple(
    _tuple('a pair in rerouted', pair, 'two rules') for pair in pairs
  )


def _ready(drafter, is_tree, has_log_probs, shared) -> Custom:
  """`Custom` of a drafter that is made already."""
  if has_log_probs:
    raise ValueError(
      'A drafter with probabilities must draw as the verification rule asks: '
      'give custom a function (num_draft, style) -> base.Drafter.'
    )
  return Custom(
    drafter,
    drafter.num_draft,
    drafter.max_path,
    # K = 4 and P = 2 can only be a tree; K = P = 4 may be either, and counts as
    # a chain unless it is stated.
    is_tree or drafter.max_path < drafter.num_draft,
    **shared,
  )
