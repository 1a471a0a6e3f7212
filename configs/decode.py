"""Settings of decoding: greedy, sampled, or sampled reproducibly."""

from specjax import variants
from specjax.inference.config import DecodeConfig

_COMMAND = r"""specjax-decode --config={config} --target=TARGET \
    --drafter=DRAFTER --input=prompts.txt"""
VARIANTS = (
  variants.Variant('', 'greedy answers', _COMMAND),
  variants.Variant('sample', 'samples at temperature 1', _COMMAND),
  variants.Variant(
    'reproduce',
    'samples at temperature 1 with the tokens of plain sampling of that seed',
    _COMMAND,
  ),
)

# `coupled` shares the noise of plain sampling, so a seed gives the same tokens
# with and without a drafter. Under 'auto' they are other draws of the same law.
RECIPES = {
  '': {},
  'sample': {'temperature': 1.0},
  'reproduce': {'temperature': 1.0, 'verifier': 'coupled'},
}


def get_config(name: str = '') -> DecodeConfig:
  variants.check(name, VARIANTS)
  return DecodeConfig(**RECIPES[name])
