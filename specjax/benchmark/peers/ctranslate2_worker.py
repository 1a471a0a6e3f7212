"""CTranslate2 for models of T5's family; run by `worker`.

The Hugging Face folder is converted to a temporary one first, at the precision
asked for.
"""

from collections.abc import Callable
import importlib
import json
import pathlib
import time


def make(job: dict, folder: str) -> tuple[Callable, dict]:
  """Converts and loads; returns a function that decodes, and versions."""
  if not job['is_encoder_decoder']:
    raise ValueError('it is compared for T5 types alone; leave it out here.')
  ctranslate2 = importlib.import_module('ctranslate2')
  # Its interface takes tokens by name, not by id.
  names = convert(job, folder)
  translator = ctranslate2.Translator(
    str(folder / 'converted'),
    device=job['device'],
    compute_type=kind(job),
    inter_threads=1,
    intra_threads=job['threads'],
  )
  batches = [[[names[t] for t in row] for row in b] for b in job['batches']]
  ids = {name: number for number, name in enumerate(names)}
  settings = {
    'beam_size': 1,
    'max_decoding_length': job['max_new_tokens'],
    'max_input_length': 0,
    'return_scores': False,
  }
  if not job['eos_ids']:
    settings['min_decoding_length'] = job['max_new_tokens']
  if job['temperature'] > 0:
    settings['sampling_temperature'] = job['temperature']
    settings['sampling_topk'] = job['top_k']
    settings['sampling_topp'] = job['top_p']
  else:
    settings['sampling_topk'] = 1

  def run(index):
    begin = time.perf_counter()
    made = translator.translate_batch(batches[index], **settings)
    seconds = time.perf_counter() - begin
    tokens = [[ids[name] for name in one.hypotheses[0]] for one in made]
    return {'seconds': seconds, 'tokens': tokens}

  return run, {'ctranslate2': ctranslate2.__version__}


def kind(job: dict) -> str:
  """CTranslate2's name of the precision."""
  return 'int8' if job['peer'].endswith('-int8') else job['dtype']


def convert(job: dict, folder: str) -> list[str]:
  """Writes folder/converted; returns each id's name in its vocabulary."""
  converters = importlib.import_module('ctranslate2.converters')
  transformers = importlib.import_module('transformers')
  source = pathlib.Path(job['target'])
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    named = len(tokenizer) > 0 and (source / 'tokenizer.json').exists()
  except Exception:
    named = False
  if not named:
    source = with_tokenizer(source, folder / 'source')
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
  converters.TransformersConverter(str(source)).convert(
    str(folder / 'converted'), quantization=kind(job), force=True
  )
  # The embedding table may have more rows than the tokenizer has tokens.
  size = json.loads((source / 'config.json').read_text())['vocab_size']
  names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
  return names + [f'madeupword{i}' for i in range(size - len(names))]


def with_tokenizer(source: str, copy: str) -> str:
  """A copy of a folder of random weights whose tokens are t0, t1, and so on."""
  tokenizers = importlib.import_module('tokenizers')
  transformers = importlib.import_module('transformers')
  copy.mkdir()
  for file in source.iterdir():
    (copy / file.name).symlink_to(file.resolve())
  size = json.loads((source / 'config.json').read_text())['vocab_size']
  words = {f't{i}': i for i in range(size)}
  model = tokenizers.models.WordLevel(words, unk_token='t2')
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(model),
    pad_token='t0',
    eos_token='t1',
    unk_token='t2',
  ).save_pretrained(copy)
  return copy
