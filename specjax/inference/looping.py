"""Answers that end in a loop, and the runs in which that is no fault."""

from collections.abc import Sequence

from specjax.decoding import loops
from specjax.inference import random_models
from specjax.inference.assemble import Assembled

# Fewer prompts than these give no speed: then all are timed, and marked so.
LEAST_PROMPTS = 3
NOTE = 'with loops'


def is_exempt(assembled: Assembled, ignore_eos: bool) -> bool:
  """Whether acceptance counts inside of loops too.

  Random weights, and a model that may not end, repeat themselves; a drafter
  that was given the target's answers is right as often there as elsewhere.

  Args:
    assembled: target and drafter.
    ignore_eos: whether decoding goes on behind end tokens.
  """
  random = random_models.is_shape(assembled.target.name)
  return ignore_eos or random or assembled.plan.reads_script


def timed(answers: Sequence[Sequence[int]]) -> tuple[list[int], str]:
  """Chooses the prompts on which speed is measured.

  Args:
    answers: new tokens of the plain answer to each prompt.

  Returns:
    (places of the answers without a loop, ''); or, if these are fewer than
    `LEAST_PROMPTS` and others loop, (all places, `NOTE`).
  """
  # Of five answers the second loops: ([0, 2, 3, 4], ''). Of three answers one
  # loops: ([0, 1, 2], 'with loops').
  places = list(range(len(answers)))
  sound = [i for i in places if loops.find_loop(answers[i]) is None]
  if len(sound) < min(LEAST_PROMPTS, len(places)):
    return places, NOTE
  return sound, ''
