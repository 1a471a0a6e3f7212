"""What `decode.certify` does unless told otherwise.

`--config=configs/certify.py:quick` draws fewer samples, and says so.
"""

from specjax.certify.config import CertifyConfig


def get_config(arg: str = '') -> CertifyConfig:
  if arg == 'quick':
    return CertifyConfig(
      samples=2048, num_prompts=4, max_new_tokens=16, law_prompts=1, num_draft=2
    )
  if arg:
    raise ValueError(f'There is no variant {arg!r}; there is quick.')
  return CertifyConfig()
