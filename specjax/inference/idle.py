"""Options that change nothing beside the others: named, or refused.

An option of the drafter in use that this plan leaves unread was meant to change
something, so it is refused. An option of another drafter may stand in a config
that serves several, so it is named and the run goes on; but for trees beside
a draft model that can draft none at all.
"""

from collections.abc import Collection, Sequence
import dataclasses
from typing import Any
import warnings

import numpy as np

from specjax import options as options_lib
from specjax.decoding.drafters import registry as drafter_registry


def check(config: Any, assembled: Any) -> list[str]:
  """Sentences about settings that change nothing.

  Args:
    config: `DecodeConfig`.
    assembled: `assemble.Assembled`, what decodes.

  Raises:
    ValueError: an option that the drafter in use cannot obey.
  """
  return [*_of_settings(config), *of_options(config, [assembled])]


def _of_settings(config: Any) -> list[str]:
  """Sentences about settings other than options that change nothing."""
  notes = [config.sampling().idle()]
  if config.num_beams == 1:
    notes += [
      f'{name} changes nothing without a beam search; give num_beams above 1.'
      for name in ('length_penalty', 'early_stopping')
      if getattr(config, name) != getattr(type(config), name)
    ]
  least = np.asarray(config.in_force('min_new_tokens'))
  if np.any(least > config.max_new_tokens):
    notes.append(
      'min_new_tokens is above max_new_tokens: no end token comes before the '
      'budget is spent.'
    )
  return [note for note in notes if note]


def of_options(
  config: Any, runs: Sequence[Any], rules: Collection[str] = ()
) -> list[str]:
  """Sentences about options of drafters and rules that change nothing.

  What one of several runs reads is wanted: of an option that is named here, or
  refused, none of them reads anything.

  Args:
    config: settings with options of `drafters` and `verifiers`.
    runs: every `assemble.Assembled` that decodes.
    rules: names of further rules whose options are read.

  Raises:
    ValueError: an option that no run of its drafter can obey.
  """
  runs = [run for run in runs if run.drafts]
  if not runs:
    return []
  entries = {run.source.entry.name: run.source.entry for run in runs}
  used = {run.rule.name: None for run in runs}
  notes = []
  for name in options_lib.changed(config.drafters):
    if name not in entries:
      for run in runs:
        _check_trees(config, name, run.source)
      notes.append(
        f'drafters.{name} changes nothing: {_in_use("drafter", entries)}.'
      )
  for name in entries:
    _check_read([run for run in runs if run.source.entry.name == name])
  return notes + [
    f'verifiers.{name} changes nothing: {_in_use("verifier", used)}.'
    for name in options_lib.changed(config.verifiers)
    if name not in used and name not in rules
  ]


def _in_use(what: str, names: Collection[str]) -> str:
  if len(names) == 1:
    return f'the {what} in use is {"".join(names)}'
  return f'the {what}s in use are {", ".join(names)}'


def _check_read(runs: Sequence[Any]) -> None:
  """Refuses options of a drafter that none of its runs reads."""
  # With num_draft 4 and 8, model_draft=7 is read in the second run.
  entry = runs[0].source.entry
  unread = [dict(run.plan.unread_options) for run in runs]
  for field, why in unread[0].items():
    given = getattr(runs[0].drafter_options, field)
    if given != getattr(entry.options(), field) and all(
      field in one for one in unread
    ):
      raise ValueError(
        f'drafters.{entry.name}.{field}={given!r} changes nothing {why}; leave '
        'it out.'
      )


def _check_trees(config, name: str, source) -> None:
  """Refuses trees of another drafter beside a model that drafts none."""
  other, entry = drafter_registry.find(name), source.entry
  if other is None or source.model is None or _has_trees(entry):
    return
  given = getattr(options_lib.of(config.drafters, other), 'tree', None)
  if given:
    raise ValueError(
      f'drafters.{name}.tree={given!r} asks for trees, but the drafter in use, '
      f'{entry.name}, drafts chains alone; leave it out, or take the drafter '
      f'{name}.'
    )


def _has_trees(entry) -> bool:
  return 'tree' in {field.name for field in dataclasses.fields(entry.options)}


def note(config: Any, assembled: Any) -> None:
  """Warns of settings that change nothing beside the others.

  Args:
    config: argument of `check`.
    assembled: argument of `check`.
  """
  for sentence in check(config, assembled):
    warnings.warn(sentence, stacklevel=3)
