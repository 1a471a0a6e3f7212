"""Labels: tokens as the target read and wrote them, of one owner."""

import dataclasses
import json
import types
import warnings

import pytest

import specjax
from specjax.checkpoints import digests
from specjax.commands import label as label_command
from specjax.inference import encoding
from specjax.inference.config import DecodeConfig
from specjax.training.data import labels
from specjax.training.data import packing
from specjax.training.data import sources
from tests.helpers import folders
from tests.helpers import labels as label_files
from tests.helpers import tiny

TEMPLATE = (
  '{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}'
  '{% if add_generation_prompt %}assistant:{% endif %}'
)
CHAT = [
  {'role': 'system', 'content': 'sat on the mat'},
  {'role': 'user', 'content': 'one two'},
  {'role': 'assistant', 'content': 'three'},
  {'role': 'user', 'content': 'four five'},
]


@pytest.fixture(scope='module', name='target')
def target_fixture(tmp_path_factory):
  folder = tiny.save(tmp_path_factory.mktemp('tiny') / 'model')
  tokenizer = tiny.tokenizer()
  tokenizer.chat_template = TEMPLATE
  tokenizer.save_pretrained(folder)
  return folder


@pytest.fixture(name='request_of')
def request_of_fixture(target, tmp_path):
  """Makes a request for a chat, an earlier field and a blank line."""
  source = tmp_path / 'in.jsonl'
  rows = [{'messages': CHAT}, {'source': 'a dog ran'}, {'source': ' '}]
  source.write_text(''.join(json.dumps(row) + '\n' for row in rows))

  def make(**changes):
    config = DecodeConfig(max_new_tokens=24, batch_size=2, prefix='the cat ')
    request = label_command.LabelRequest(
      target, '', (str(source),), 'source', str(tmp_path / 'o.jsonl'), 0, config
    )
    return dataclasses.replace(
      request, config=dataclasses.replace(config, **changes)
    )

  return make


def reader(folder, **changes):
  model = specjax.load(folder)
  return labels.Reader(
    digests.of_tokenizer(model.tokenizer),
    digests.of_template(model.tokenizer),
    folder,
    lambda: digests.of_target(folder),
  )._replace(**changes)


def test_a_label_keeps_what_the_target_read(target, request_of, tmp_path):
  """Chat template, system prompt, earlier turns and prefix."""
  assert label_command.label(request_of()).answers == 2
  path = tmp_path / 'o.jsonl'
  head, *rows = map(json.loads, path.read_text().splitlines())
  model = specjax.load(target)
  chat = (
    'system: sat on the mat user: one two assistant: three user: four five '
    'assistant:'
  )
  wanted = [
    model.tokenizer(chat, add_special_tokens=False).input_ids,
    model.tokenizer('the cat a dog ran').input_ids,
  ]
  assert [row['prompt_tokens'] for row in rows] == wanted
  assert [row['prompt_index'] for row in rows] == [0, 1]
  plain = specjax.generate(model, wanted, max_new_tokens=24)
  assert [tuple(row['tokens']) for row in rows] == [a.tokens for a in plain]
  assert {len(row) for row in rows} == {5}
  assert [row['finish_reason'] for row in rows] == [
    a.finish_reason for a in plain
  ]
  assert head['settings']['prefix'] == 'the cat '
  assert head['settings']['max_new_tokens'] == 24
  config = sources.DataConfig(kind='text', target_length=200, batch_rows=1)
  source = sources.load_labelled(config, [str(path)], reader(target), 2)
  assert [packing.get(source.sides[0], i).tolist() for i in (0, 1)] == [
    row['prompt_tokens'] + row['tokens'] for row in rows
  ]
  assert source.given.tolist() == [len(tokens) for tokens in wanted]


def test_answers_cut_by_a_row_are_counted(tmp_path):
  path = tmp_path / 'own.jsonl'
  long = ([3, 4], [50, 51, 52, 1], 'eos')
  loop = ([3], [60] * 4, 'length')
  label_files.write(path, [long, loop, ([3] * 9, [4], 'stop')])
  config = sources.DataConfig(kind='text', target_length=4, batch_rows=1)
  found = sources.load_labelled(config, [str(path)], label_files.READER, 1)
  rows = map(json.loads, path.read_text().splitlines()[1:])
  assert [row['loop_start'] for row in rows] == [None, 0, None]
  assert found.notes == (
    '1 of 3 labelled answers end in a loop.',
    'Cut 1 of 2 labelled answers at the end of a row (data.target_length=4).',
  )
  assert found.too_long == 1
  assert packing.get(found.sides[0], 0).tolist() == [3, 4, 50, 51, 52]


def test_a_pair_without_ends_keeps_its_tokens_in_a_passage(tmp_path):
  """Joined answers lose the end in the middle, and nothing else."""
  path = tmp_path / 'own.jsonl'
  rows = [([5, 1], [6, 1], 'eos'), ([7], [8, 1], 'eos'), ([9, 1], [4], 'stop')]
  label_files.write(path, rows)
  config = sources.DataConfig(source_length=8, target_length=8)
  found = sources.load_labelled(config, [str(path)], label_files.READER, 1)
  assert found.cut.tolist() == [False, True, True]
  assert packing.get(found.sides[0], 1).tolist() == [7]
  assert packing.get(found.sides[1], 2).tolist() == [4]


def test_labels_of_others_are_refused(target, tmp_path):
  path = tmp_path / 'own.jsonl'
  swapped = tiny.tokenizer(swap=('cat', 'dog'))
  swapped.chat_template = TEMPLATE
  anew = f'make labels anew with specjax-label --target={target} --input='
  for tokenizer, words in (
    (swapped, 'another tokenizer'),
    (tiny.tokenizer('t5'), 'another tokenizer'),
    (tiny.tokenizer(), 'another chat template'),
  ):
    label_files.write(path, [([5], [6], 'eos')], tokenizer)
    with pytest.raises(ValueError, match=f'{words} .*; {anew}'):
      labels.read([str(path)], reader(target))
  label_files.write(path, [([5], [6], 'eos')])
  own = label_files.READER._replace(target=lambda: 'y')
  assert labels.read([str(path)], own).others == [str(path)]
  for text in (
    '{"prompt": "a dog", "tokens": [7], "finish_reason": "eos"}\n',
    path.read_text() + '{"prompt": "a dog", "tokens": [7]}\n',
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match='make labels anew with specjax-label'):
      labels.read([str(path)], label_files.READER)


def test_only_the_same_labelling_is_continued(target, request_of, tmp_path):
  path = tmp_path / 'o.jsonl'
  label_command.label(request_of())
  whole = path.read_text()
  lines = whole.splitlines(keepends=True)
  # Killed within the head, behind it, and within an answer.
  for begun, skipped in (
    ('', 0),
    (lines[0][:30], 0),
    (lines[0], 0),
    (''.join(lines[:2]) + lines[2][:9], 1),
  ):
    path.write_text(begun)
    assert label_command.label(request_of(batch_size=1)).skipped == skipped
    assert path.read_text() == whole
  for changes, words in (
    ({'max_new_tokens': 8}, 'with max_new_tokens=24 and not 8'),
    ({'temperature': 0.5}, 'with temperature=0.0 and not 0.5'),
    ({'prefix': ''}, "with prefix='the cat ' and not ''"),
  ):
    with pytest.raises(ValueError, match=words):
      label_command.label(request_of(**changes))
  head = json.loads(lines[0])
  for key, words in digests.OWNERS.items():
    other = json.dumps(head | {key: 'other'}) + '\n'
    path.write_text(other + lines[1])
    with pytest.raises(ValueError, match=rf'with another {words} \(digest'):
      label_command.label(request_of())
  path.write_text(lines[0] + lines[2])
  with pytest.raises(ValueError, match='line 2 does not answer prompt 1'):
    label_command.label(request_of())
  path.write_text('the notes of somebody\n')
  with pytest.raises(ValueError, match='no begun file of labels'):
    label_command.label(request_of())
  assert path.read_text() == 'the notes of somebody\n'


@pytest.mark.parametrize(
  'is_encoder_decoder, text, wanted',
  [
    (False, 'the cat', [5, 6]),
    (True, 'the cat', [5, 6, 2]),
    # One that was typed stays.
    (False, 'the cat</s>', [5, 6, 2]),
  ],
)
def test_no_end_stands_behind_a_prompt_that_goes_on(
  is_encoder_decoder, text, wanted
):
  """A tokenizer that appends the end, as that of specjax-tokenizer does."""
  tokenizer = tiny.tokenizer('t5')
  the_cat = tokenizer('the cat', add_special_tokens=False).input_ids
  lm = types.SimpleNamespace(
    is_encoder_decoder=is_encoder_decoder, vocab_size=96
  )
  model = types.SimpleNamespace(tokenizer=tokenizer, lm=lm)
  ((_, found),) = encoding.encode(model, text, DecodeConfig())
  assert found == the_cat + wanted[2:]


@pytest.mark.parametrize(
  'changes, wanted',
  [
    ({}, {'repetition_penalty': 1.3, 'suppress_tokens': [7, 11]}),
    ({'repetition_penalty': 1.1}, {'suppress_tokens': [7, 11]}),
    ({'generation_config': 'none'}, {}),
  ],
)
def test_the_head_records_what_was_applied(tmp_path, changes, wanted):
  """Values of generation_config.json; not those that a user has set."""
  folder = tiny.save(tmp_path / 'model')
  asked = {'repetition_penalty': 1.3, 'suppress_tokens': [7, 11], 'top_p': 0.5}
  folders.change(tmp_path / 'model', 'generation_config.json', **asked)
  source, output = tmp_path / 'in.txt', tmp_path / 'out.jsonl'
  source.write_text('a dog ran\n')
  config = DecodeConfig(max_new_tokens=4, **changes)
  request = label_command.LabelRequest(
    folder, '', (str(source),), '', str(output), 0, config
  )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    label_command.label(request)
  head = json.loads(output.read_text().splitlines()[0])
  assert head['from_generation_config'] == wanted


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'w8a8'])
def test_it_is_noted_where_tokens_depend_on_the_batch(
  request_of, dtype, capfd, tmp_path
):
  label_command.label(request_of(dtype=dtype, max_new_tokens=2))
  noted = 'may depend on batch_size and num_draft' in capfd.readouterr().err
  assert noted == (dtype != 'float32')
