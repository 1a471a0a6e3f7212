"""How to decode: `--config=configs/decode.py:NAME`.

(nothing)   greedy
sample      temperature 1
reproduce   temperature 1 with the verifier `coupled`: the same tokens as
            plain sampling with the same seed
"""

from specjax.inference.config import DecodeConfig

RECIPES = {
  '': {},
  'sample': {'temperature': 1.0},
  'reproduce': {'temperature': 1.0, 'verifier': 'coupled'},
}


def get_config(name: str = '') -> DecodeConfig:
  if name not in RECIPES:
    known = ', '.join(filter(None, RECIPES))
    raise ValueError(f'there is no recipe {name!r}; known: {known}.')
  return DecodeConfig(**RECIPES[name])
