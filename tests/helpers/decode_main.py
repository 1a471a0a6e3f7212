"""`decode.main`, called in this process."""

from decode import main
from specjax.commands import cli

LINES = ['the cat', '', 'a dog ran to the', 'one two three', 'the red house']
QUICK = ('--baseline=none', '--config.explain=false')
SHAPE = ('--config.max_new_tokens=12', '--config.batch_size=2')


def call(*argv):
  return cli.call(main.main, ['decode.main', *argv])


def decode(folders, source, *argv):
  return call(
    f'--target={folders["target"]}', f'--input={source}', *SHAPE, *argv
  )
