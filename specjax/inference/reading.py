"""Prompts of a job, and the settings that come with them and the target."""

from collections.abc import Sequence
from typing import Any

from specjax.inference import auto_rows
from specjax.inference import encoding
from specjax.inference import generation_config
from specjax.inference import line_settings
from specjax.inference import prompt_checks
from specjax.inference import refusals
from specjax.inference import token_lists
from specjax.inference import truncation
from specjax.inference.config import DecodeConfig


def lines_of(
  model: Any, prompts: encoding.Prompts, config: DecodeConfig, on_error: str
) -> Sequence:
  """The prompts as lines, of which a setting of each has as many values.

  Args:
    model: the target.
    prompts: argument of `generate`.
    config: settings of the job.
    on_error: one of `refusals.ON_ERROR`.
  """
  lines = encoding.listed(prompts)
  prompt_checks.check_per_prompt(config, len(lines))
  skips = on_error == refusals.SKIP
  return refusals.readable(model, lines, config) if skips else lines


def read(
  config: DecodeConfig, model: Any, source: Any, lines: Sequence
) -> tuple[DecodeConfig, generation_config.Taken, encoding.Encoded]:
  """Reads prompts, and the settings that stand elsewhere.

  Args:
    config: settings of the job.
    model: the target.
    source: the drafter's `Source`, or None.
    lines: result of `lines_of`.

  Returns:
    (config with the settings of the target and of the lines, those of the
    target, the prompts).
  """
  encoded = encoding.encode(model, lines, config)
  config, taken = generation_config.apply(config, model, encoded)
  config = token_lists.resolved(line_settings.gather(config, lines), model)
  encoded = truncation.apply(config, model, encoded)
  config = auto_rows.settled(
    config,
    model.config,
    drafter=source,
    prompt_tokens=max(encoded.lengths),
    count=len(encoded) * config.num_return_sequences,
  )
  return config, taken, encoded
