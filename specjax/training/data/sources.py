"""Data settings, and files to token streams."""

from collections.abc import Callable
import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from specjax import validation
from specjax.training.data import labels as labels_lib
from specjax.training.data import packing
from specjax.training.data import readers

KINDS = ('pairs', 'text')


@dataclasses.dataclass
class DataConfig:
  """Training data: files, and the shape of batches.

  Attributes:
    kind: kind of examples: pairs of source and target, or text (documents).
    train: files to train on, comma-separated (.tsv, .jsonl or plain text).
    valid: held-out files, comma-separated.
    labelled: files of the target's own answers, comma-separated, as
      specjax-label writes them.
    labelled_fraction: share of the examples taken from `labelled` instead of
      `train`; 0 is ground truth alone and 1 is target-generated alone. Where it
      is not set it is 1 with `labelled` and 0 without.
    on_policy_fraction: share of the batches whose targets the drafter itself
      generates at that step.
    source_field: name of the sources in JSON lines.
    target_field: name of the targets in JSON lines.
    text_fields: names of the texts in JSON lines, comma-separated, joined by a
      newline.
    skip_bad_lines: whether bad lines are counted and left out instead of ending
      the run.
    source_length: tokens of a row of sources.
    target_length: tokens of a row of targets.
    batch_rows: number of rows of a batch, over all hosts.
    pack: whether a row holds several examples.
    joined_fraction: share of the pairs that are joined to passages, from 0 to
      1.
    join_min: fewest pairs in a passage.
    join_max: most pairs in a passage.
    max_examples: number of first examples that are used; 0 uses all.
    threads: number of reading threads.
  """

  kind: str = validation.choice('pairs', KINDS)
  train: str = ''
  valid: str = ''
  labelled: str = ''
  labelled_fraction: float | None = None
  on_policy_fraction: float = 0.0
  source_field: str = 'source'
  target_field: str = 'target'
  text_fields: str = 'text'
  skip_bad_lines: bool = False
  source_length: int = 128
  target_length: int = 128
  batch_rows: int = 32
  pack: bool = True
  joined_fraction: float = 0.0
  join_min: int = 4
  join_max: int = 8
  max_examples: int = 0
  threads: int = 1

  def validate(self) -> None:
    """Raises ValueError with one sentence for a setting that cannot work."""
    validation.check_choices(self, 'data.')
    for name in (
      'source_length',
      'target_length',
      'batch_rows',
      'threads',
      'join_min',
    ):
      validation.at_least(f'data.{name}', getattr(self, name), 1)
    validation.at_least('data.max_examples', self.max_examples, 0)
    share = self.labelled_share()
    validation.between('data.labelled_fraction', share, 0, 1)
    for name in ('on_policy_fraction', 'joined_fraction'):
      validation.between(f'data.{name}', getattr(self, name), 0, 1)
    if self.join_max < self.join_min:
      raise ValueError(
        f'data.join_max ({self.join_max}) must not be below data.join_min '
        f'({self.join_min}).'
      )
    if not self.train and share < 1:
      raise ValueError('data.train names no file to train on.')
    if share > 0 and not self.labelled:
      raise ValueError(
        'data.labelled_fraction is above 0 but data.labelled names no file; '
        'specjax-label writes one.'
      )
    if self.on_policy_fraction > 0 and self.pack:
      raise ValueError(
        'data.on_policy_fraction needs data.pack=False: the drafter answers '
        'one source a row.'
      )

  def labelled_share(self) -> float:
    """The value of `labelled_fraction`, also where it is not set."""
    if self.labelled_fraction is not None:
      return self.labelled_fraction
    return 1.0 if self.labelled else 0.0


class ExampleSource(NamedTuple):
  """Tokenised examples in memory.

  Attributes:
    sides: token streams of equal count: (source, target), or (text,).
    skipped: lines left out as bad.
    too_long: examples left out because they do not fit a row.
    given: for text, int [n], how many tokens of each example are a prompt and
      carry no loss, at least 1; None for pairs.
    cut: for pairs, bool [n], whether a side does not end with the end token;
      nothing may be joined behind it.
    notes: sentences on what was done to the examples.
  """

  sides: tuple[packing.Stream, ...]
  skipped: int
  too_long: int
  given: np.ndarray | None = None
  cut: np.ndarray | None = None
  notes: tuple[str, ...] = ()


def files(names: str) -> list[str]:
  """Splits a comma-separated list of files."""
  return [name.strip() for name in names.split(',') if name.strip()]


def used_files(config: DataConfig) -> list[str]:
  """The files that a run trains on."""
  share = config.labelled_share()
  found = files(config.train) if share < 1 else []
  return found + (files(config.labelled) if share > 0 else [])


def _encode(values, encode, eos_id, cut=()):
  """Texts or ready ids to lists of ids; all not `cut` end with `eos_id`."""
  # In:  values ['a b' [7 8 1]], end token 1, where 'a b' has the ids [5 6]
  # Out: [[5 6 1] [7 8 1]]
  # All texts in one call, because a fast tokenizer reads a batch in parallel.
  texts = [v for v in values if isinstance(v, str)]
  encoded = iter(encode(texts))
  out = []
  for value, is_cut in itertools.zip_longest(values, cut, fillvalue=False):
    ids = list(next(encoded) if isinstance(value, str) else value)
    # With an end behind a target that was cut, a model would learn to stop in
    # the middle of a sentence.
    if not is_cut and (not ids or ids[-1] != eos_id):
      ids.append(eos_id)
    out.append(ids)
  return out


def load_pairs(
  config: DataConfig,
  paths: list[str],
  encode: Callable[[list[str]], list[list[int]]],
  eos_id: int,
) -> ExampleSource:
  """Reads and tokenises sentence pairs.

  Every side ends with `eos_id`, but a target that its budget cut.
  """
  read = readers.read_pairs(
    paths,
    fields=(config.source_field, config.target_field),
    skip_bad_lines=config.skip_bad_lines,
  )
  sources, targets, cut = (_first(config, values) for values in read[:3])
  pairs = list(
    zip(
      _encode(sources, encode, eos_id),
      _encode(targets, encode, eos_id, cut),
      cut,
      strict=True,
    )
  )
  return _fitting(config, pairs, read.skipped)


def _fitting(config, pairs, skipped, notes=()):
  """Pairs of ids, and whether one is cut, that fit a row; counts the others."""
  fitting = [
    (s, t, c)
    for s, t, c in pairs
    if len(s) <= config.source_length and len(t) <= config.target_length
  ]
  if not fitting:
    raise ValueError(
      f'No pair fits {config.source_length} source and '
      f'{config.target_length} target tokens; raise data.source_length and '
      'data.target_length.'
    )
  *sides, cut = zip(*fitting, strict=True)
  return ExampleSource(
    tuple(packing.stream(side) for side in sides),
    skipped,
    len(pairs) - len(fitting),
    cut=np.asarray(cut, bool),
    notes=notes,
  )


def _first(config, examples):
  return examples[: config.max_examples] if config.max_examples else examples


def load_labelled(
  config: DataConfig,
  paths: list[str],
  reader: labels_lib.Reader,
  eos_id: int,
) -> ExampleSource:
  """Reads what a target answered; its tokens are taken as they are.

  Of text, only the answer carries loss, and an answer that is longer than a row
  is cut; pairs that are longer are left out.

  Args:
    config: settings of the data.
    paths: files of `labels`.
    reader: whose labels they must be.
    eos_id: end token.
  """
  read = labels_lib.read(paths, reader, skip_bad_lines=config.skip_bad_lines)
  prompts = _first(config, read.prompts)
  answers = _first(config, read.answers)
  notes = [
    f'Note: {path} holds answers of another target than {reader.name}.'
    for path in read.others
  ]
  if read.looping:
    notes.append(
      f'{read.looping} of {len(read.answers)} labelled answers end in a loop.'
    )
  if config.kind == 'text':
    return _labelled_text(config, prompts, answers, read.skipped, notes)
  # Nothing is joined behind a side without an end: its last token is real.
  pairs = [
    (prompt, answer, prompt[-1:] != [eos_id] or answer[-1] != eos_id)
    for prompt, answer in zip(prompts, answers, strict=True)
  ]
  return _fitting(config, pairs, read.skipped, tuple(notes))


def _labelled_text(config, prompts, answers, skipped, notes):
  """Prompts and answers, one behind the other, cut to a row."""
  examples, given, too_long, shortened = [], [], 0, 0
  for prompt, answer in zip(prompts, answers, strict=True):
    if len(prompt) > config.target_length:
      too_long += 1
      continue
    # A row of n places takes n + 1 tokens: the last one is predicted, not read.
    whole = prompt + answer
    examples.append(whole[: config.target_length + 1])
    shortened += len(whole) > len(examples[-1])
    given.append(max(len(prompt), 1))
  if not examples:
    raise ValueError(
      f'No labelled prompt fits {config.target_length} tokens; raise '
      'data.target_length.'
    )
  if shortened:
    notes.append(
      f'Cut {shortened} of {len(examples)} labelled answers at the end of a '
      f'row (data.target_length={config.target_length}).'
    )
  return ExampleSource(
    (packing.stream(examples),),
    skipped,
    too_long,
    np.asarray(given),
    notes=tuple(notes),
  )


def load_text(
  config: DataConfig,
  paths: list[str],
  encode: Callable[[list[str]], list[list[int]]],
  eos_id: int,
) -> ExampleSource:
  """Reads and tokenises documents, cut to pieces that fit a row."""
  documents, skipped = readers.read_documents(
    paths,
    fields=files(config.text_fields),
    skip_bad_lines=config.skip_bad_lines,
  )
  documents = _first(config, documents)
  pieces = []
  for ids in _encode(documents, encode, eos_id):
    pieces += packing.cut(np.asarray(ids, np.int32), config.target_length)
  # One token alone leaves nothing to predict.
  pieces = [p for p in pieces if len(p) > 1]
  if not pieces:
    raise ValueError(f'No text of two tokens or more in {", ".join(paths)}.')
  given = np.ones(len(pieces), np.int64)
  return ExampleSource((packing.stream(pieces),), skipped, 0, given)


def check_joinable(encode: Callable, texts: list[str], eos_id: int) -> None:
  """Raises ValueError unless token-wise joining spells the joined text.

  Passages are joined as tokens, because joining anew in every epoch must not
  tokenise anew. Sentencepiece-like tokenizers mark a word by the space before
  it and allow that; byte-level ones do not.
  """
  first, second = texts[0], texts[-1]
  # parts [[5 6 1] [7 1]]: the whole must be [5 6 7 1]. A byte-level tokenizer
  # spells the second sentence with a space in front, which is another id.
  parts = _encode([first, second], encode, eos_id)
  (whole,) = _encode([f'{first} {second}'], encode, eos_id)
  if parts[0][:-1] + parts[1] != whole:
    raise ValueError(
      'This tokenizer spells a sentence differently after another one, so '
      'pairs cannot be joined to passages; set data.joined_fraction=0.'
    )


def frequent_ids(
  sources: list[ExampleSource], count: int, eos_id: int
) -> tuple[int, ...]:
  """The `count` most frequent ids of the targets, in rising order.

  The end of a sequence is always among them.
  """
  # In:  targets [3 3 3 5 5 1], count 2, end token 1
  # Out: (1, 3); the end counts six times, so it is in, and 5 is not
  tokens = np.concatenate([source.sides[-1].tokens for source in sources])
  times = np.bincount(tokens, minlength=eos_id + 1)
  times[eos_id] = len(tokens)
  # Stable, so that of equally frequent ids every machine takes the same.
  ranked = np.argsort(-times, kind='stable')[:count]
  return tuple(sorted(int(i) for i in ranked if times[i]))
