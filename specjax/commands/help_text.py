"""The text of `--help`: flags, settings and the shipped configs.

Every sentence about a setting stands in the `Attributes:` of its dataclass and
nowhere else, so help and code cannot disagree. The words that a setting takes
are those that `validate` checks.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import inspect
import re
import textwrap
from typing import Any, NamedTuple

from absl import flags

from specjax import validation
from specjax.commands import config_files
from specjax.commands import suggestions
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.training.families import registry as family_registry

WIDTH = 79
_FIELD = re.compile(r'  (\w+(?:, \w+)*): (.*)')


class Setting(NamedTuple):
  """A field of a configuration, or a group of them.

  Attributes:
    path: names joined by '.', as in `--config.PATH`.
    value: value of the field; of a group, the dataclass instance.
    sentence: meaning of the field; '' where the dataclass has none.
    words: words that the field takes; () where it takes other values.
  """

  path: str
  value: Any
  sentence: str
  words: tuple[str, ...]

  @property
  def is_group(self) -> bool:
    """Whether settings stand below it."""
    return dataclasses.is_dataclass(self.value)


def sentences(kind: type) -> dict[str, str]:
  """The `Attributes:` of a dataclass and of those that it extends.

  In:  Attributes:
         rate: share of tokens,
           from 0 to 1.
         low, high: bounds.
  Out: {'rate': 'share of tokens, from 0 to 1.', 'low': 'bounds.',
        'high': 'bounds.'}
  """
  found = {}
  # Base classes first, so that a subclass may describe a field anew.
  for one in reversed(kind.__mro__):
    doc = inspect.cleandoc(vars(one).get('__doc__') or '')
    names = []
    for line in doc.partition('\nAttributes:\n')[2].splitlines():
      if entry := _FIELD.fullmatch(line):
        names = entry[1].split(', ')
        found |= dict.fromkeys(names, entry[2])
      elif line.startswith('    '):
        found |= {name: f'{found[name]} {line.strip()}' for name in names}
      elif line:
        break
  return found


def settings(config: Any, prefix: str = '') -> Iterator[Setting]:
  """All fields of a dataclass instance: plain ones, then group by group."""
  about = sentences(type(config))
  fields = dataclasses.fields(config)
  # Groups last: what is set most often stands directly below the command.
  fields = sorted(
    fields, key=lambda x: dataclasses.is_dataclass(getattr(config, x.name))
  )
  for field in fields:
    value = getattr(config, field.name)
    if value is None:
      value = validation.default_of(config, field.name)
    sentence = about.get(field.name) or field.metadata.get('summary', '')
    if not sentence and dataclasses.is_dataclass(value):
      sentence = _first_line(type(value))
    words = validation.choices_of(field)
    yield Setting(prefix + field.name, value, sentence, words)
    if dataclasses.is_dataclass(value):
      yield from settings(value, f'{prefix}{field.name}.')


def text(
  doc: str,
  values: flags.FlagValues,
  config: Any,
  where: str,
  bare: Mapping[str, str],
  *,
  shipped: Iterable[config_files.Shipped],
) -> str:
  """The answer to `--help` of a command with a config.

  Args:
    doc: description of the command.
    values: flags of the command.
    config: config whose values are shown as defaults.
    where: name of that config, FILE or FILE:VARIANT.
    bare: flags that may stand alone, as in `of_flags`.
    shipped: variants of the shipped files.
  """
  lines = [
    of_flags(doc, values, bare),
    *_item('--config=FILE:VARIANT', f'Settings; here those of {where}.'),
    *_item(
      '--help=NAME', f'Settings of one alone: {", ".join(names(config))}.'
    ),
    '',
    'Settings, with their defaults. --config.NAME=VALUE changes one; words of',
    "a list are written word,word and other lists in quotes, as '(1,2)'.",
    '',
    *_lines(settings(config)),
    '',
    'Configs that are shipped:',
  ]
  for one in shipped:
    lines += _item(one.name, one.makes)
  return '\n'.join(lines)


def of_flags(
  doc: str, values: flags.FlagValues, bare: Mapping[str, str] | None = None
) -> str:
  """The description of a command, and its flags with their defaults.

  Args:
    doc: description of the command.
    values: flags of the command.
    bare: flags that may stand alone, with the names of their values.
  """
  lines = [doc.strip(), '', 'Flags:']
  for name in values:
    flag = values[name]
    words = tuple(getattr(flag.parser, 'enum_values', None) or ())
    # absl puts the words in front of a sentence, and a hint behind one.
    sentence = flag.help.removeprefix(f'<{"|".join(words)}>: ')
    sentence = sentence.partition(';\n    repeat this option')[0]
    head = f'--{name}={_shown(flag.default)}'
    if bare and name in bare:
      head = f'--{name}[={bare[name]}]'
    elif flag.default in (None, []):
      head = f'--{name}=VALUE'
    lines += _item(head, sentence, words)
  lines += _item('--version', 'Prints the versions of specjax and JAX.')
  return '\n'.join(lines)


def _uses_drafter(entry: Any) -> str:
  if entry.takes:
    return f'--drafter={entry.name}:{entry.takes.replace(" ", "_")}'
  return f'--drafter={"FOLDER" if entry.families else entry.name}'


# Groups whose members are entries of a registry: the entries, and how one of
# them is asked for.
_REGISTRIES = {
  'drafters': (drafter_registry.entries, _uses_drafter),
  'verifiers': (
    verifier_registry.entries,
    lambda entry: f'--config.verifier={entry.name}',
  ),
  'families': (
    family_registry.families,
    lambda family: f'--config.model.family={"|".join(family.kinds())}',
  ),
}


def _entries(config: Any) -> Iterator[tuple[str, Any, str]]:
  """(group, entry, how it is asked for) of all entries that a config knows."""
  for group, (entries, use) in _REGISTRIES.items():
    if hasattr(config, group):
      for entry in entries():
        yield group, entry, use(entry)


def _kinds(name: str) -> tuple[str, ...]:
  """Kinds of models that the training family of a name trains."""
  for family in family_registry.families():
    if family.name == name:
      return family.kinds()
  return ()


def names(config: Any) -> list[str]:
  """All values of NAME in `--help=NAME`, each once."""
  found = [entry.name for _, entry, _ in _entries(config)]
  known = [word for name in found for word in (name, *_kinds(name))]
  groups = [one.path for one in settings(config) if one.is_group]
  known += [path for path in groups if '.' not in path]
  return list(dict.fromkeys(known))


def about(name: str, config: Any) -> str:
  """The answer to `--help=NAME`.

  Args:
    name: name of a drafter, a rule, a training family, a kind of model that one
      trains, or a group of settings.
    config: config whose values are shown as defaults.

  Raises:
    flags.Error: there is no such name.
  """
  entries = list(_entries(config))
  exact = {group for group, entry, _ in entries if entry.name == name}
  parts = [
    _about_entry(config, group, entry, use)
    for group, entry, use in entries
    if name == entry.name or (group not in exact and name in _kinds(entry.name))
  ]
  every = list(settings(config))
  if any(one.path == name and one.is_group for one in every):
    parts.append('\n'.join(_lines(_below(every, name))))
  if not parts:
    near = suggestions.nearest(name, names(config))
    hint = f'did you mean {" or ".join(near)}?' if near else '--help lists all.'
    raise flags.Error(
      f'--help={name} names no drafter, rule, training family or group of '
      f'settings; {hint}'
    )
  return '\n\n'.join(parts)


def _about_entry(config: Any, group: str, entry: Any, use: str) -> str:
  lines = _item(f'{entry.name} ({use})', entry.summary)
  own = list(_below(list(settings(config)), f'{group}.{entry.name}'))[1:]
  return '\n'.join([*lines, '', *(_lines(own) or ['It has no settings.'])])


def _below(every: list[Setting], path: str) -> Iterator[Setting]:
  for one in every:
    if one.path == path or one.path.startswith(f'{path}.'):
      yield one


def _lines(given: Iterable[Setting]) -> list[str]:
  lines = []
  for one in given:
    if one.is_group:
      lines += ['', *_item(f'{one.path}.*', one.sentence)]
    else:
      lines += _item(f'{one.path}={_shown(one.value)}', one.sentence, one.words)
  return lines


def _item(head: str, sentence: str, words: tuple[str, ...] = ()) -> list[str]:
  """A name and, indented below it, its sentence and the words it takes."""
  sentence = sentence[:1].upper() + sentence[1:]
  if sentence and sentence[-1] not in '.?!':
    sentence += '.'
  if words:
    sentence += f' One of: {", ".join(words)}.'
  indent = ' ' * 6
  body = textwrap.wrap(
    sentence,
    WIDTH,
    initial_indent=indent,
    subsequent_indent=indent,
    break_long_words=False,
    break_on_hyphens=False,
  )
  return [f'  {head}', *body]


def _shown(value: Any) -> str:
  """A value as it is typed on a command line."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, str):
    return value if value and ' ' not in value else repr(value)
  if isinstance(value, tuple) and value:
    if all(isinstance(word, str) and word for word in value):
      return ','.join(value)
  return repr(value)


def _first_line(kind: type) -> str:
  return (kind.__doc__ or '').strip().split('\n')[0]
