"""A toy language pair and tiny settings, so that a run takes seconds."""

import itertools

from specjax.commands import tokenizer as tokenizer_lib
from specjax.training import config as config_lib
from specjax.training.data import sources as sources_lib
from tests.helpers import settings

_WORDS = ('ba', 'do', 'fe', 'gi', 'ku', 'lo', 'mi', 'nu', 'pa', 'ra')
_OTHER = ('ban', 'den', 'fon', 'gun', 'kin', 'lan', 'men', 'nin', 'pon', 'ren')


def pairs(count, first=0):
  """(source, target) sentences: the target spells each word its own way."""
  out = []
  triples = itertools.product(range(10), repeat=4)
  for a, b, c, d in itertools.islice(triples, first * 7, None, 7):
    ids = [a, b, c, d, (a + c) % 10, (b + d) % 10]
    out.append(
      (' '.join(_WORDS[i] for i in ids), ' '.join(_OTHER[i] for i in ids))
    )
    if len(out) == count:
      break
  return out


def write(folder, train=400, valid=40):
  """Writes train.tsv, valid.tsv, text.txt and tokenizer/ into `folder`."""
  for name, rows in (
    ('train', pairs(train)),
    ('valid', pairs(valid, first=1000)),
  ):
    path = folder / f'{name}.tsv'
    path.write_text('\n'.join('\t'.join(r) for r in rows), encoding='utf-8')
  text = '\n\n'.join(f'{s}. {t}.' for s, t in pairs(train))
  (folder / 'text.txt').write_text(text, encoding='utf-8')
  lines = [' '.join(r) for r in pairs(400)]
  made = tokenizer_lib.train_tokenizer(lines, 340, kind='bpe')
  tokenizer_lib.save(made, str(folder / 'tokenizer'))


def config(folder, **changes):
  """A tiny T5 on the files of `write`."""
  made = config_lib.TrainConfig(
    tokenizer=str(folder / 'tokenizer'),
    steps=12,
    log_every=4,
    eval_every=0,
    save_every=4,
    eval_batches=2,
    eval_prompts=8,
    eval_new_tokens=16,
    model=config_lib.ModelConfig(
      width=32, layers=1, heads=2, head_dim=16, mlp=64
    ),
    data=sources_lib.DataConfig(
      train=str(folder / 'train.tsv'),
      valid=str(folder / 'valid.tsv'),
      source_length=32,
      target_length=32,
      batch_rows=8,
    ),
    optimizer=config_lib.OptimizerConfig(learning_rate=5e-3, warmup_steps=4),
  )
  return settings.assign(made, **changes)
