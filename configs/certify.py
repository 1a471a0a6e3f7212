"""Settings of `specjax-certify`; a variant names its effort.

`--config=configs/certify.py:quick` is short for `--config.effort=quick`, which
draws fewer samples and gives a verdict, or none, within 90 seconds.
"""

from specjax import variants
from specjax.certify.config import CertifyConfig

_COMMAND = r"""specjax-certify --config={config} --target=TARGET \
    --drafter=DRAFTER --input=prompts.txt"""
VARIANTS = (
  variants.Variant('', 'a verdict from 8,192 draws for each law', _COMMAND),
  variants.Variant('quick', 'a verdict, or none, within 90 seconds', _COMMAND),
  variants.Variant('standard', 'the same as without a variant', _COMMAND),
  variants.Variant(
    'thorough', 'a verdict from 65,536 draws for each law', _COMMAND
  ),
)


def get_config(arg: str = '') -> CertifyConfig:
  variants.check(arg, VARIANTS)
  # The effort decides the numbers; `CertifyConfig.validate` fills them in.
  return CertifyConfig(effort=arg or 'standard')
