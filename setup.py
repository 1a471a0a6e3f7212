"""Packaging.

`train`, `decode` and `configs` are thin leaves at the top of the checkout. They
install as `specjax.train`, `specjax.decode` and `specjax.configs`, so that
nothing with so general a name lands in anyone's site-packages. In a bare
checkout `python -m decode.main` is the installed command `specjax-decode`.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
LEAVES = ('configs', 'decode', 'train')

COMMANDS = {
  'specjax-benchmark': 'specjax.decode.benchmark:run',
  'specjax-certify': 'specjax.decode.certify:run',
  'specjax-convert': 'specjax.train.convert:run',
  'specjax-decode': 'specjax.decode.main:run',
  'specjax-label': 'specjax.train.label:run',
  'specjax-tokenizer': 'specjax.train.tokenizer:run',
  'specjax-train': 'specjax.train.main:run',
}


def version() -> str:
  text = (ROOT / 'specjax' / '__init__.py').read_text(encoding='utf-8')
  return re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE).group(1)


def packages() -> list[str]:
  found = setuptools.find_packages(str(ROOT), include=['specjax', 'specjax.*'])
  for leaf in LEAVES:
    found.append(f'specjax.{leaf}')
    found += [
      f'specjax.{leaf}.{inner}'
      for inner in setuptools.find_packages(str(ROOT / leaf))
    ]
  return found


def description() -> str:
  """The README with plain text in the place of links into the repository."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  return re.sub(r'\[([^\]]+)\]\((?!https://)[^)]*\)', r'\1', text)


setuptools.setup(
  name='specjax',
  version=version(),
  description='Exact speculative decoding and drafter training in JAX.',
  long_description=description(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  packages=packages(),
  package_dir={f'specjax.{leaf}': leaf for leaf in LEAVES},
  package_data={
    'specjax': ['py.typed', 'assets/**/*', 'benchmark/*.html', '**/*.md'],
    'specjax.configs': ['*.md', 'prompts/*'],
    'specjax.decode': ['*.md'],
    'specjax.train': ['*.md'],
  },
  entry_points={
    'console_scripts': [f'{name}={where}' for name, where in COMMANDS.items()]
  },
  install_requires=[
    'absl-py>=2.1,<3',
    'flax>=0.12,<0.14',
    'gguf>=0.19,<0.21',
    'grain>=0.2.15,<0.4',
    'jax>=0.10.0,!=0.11.1,<0.13',
    'jinja2>=3.1,<4',
    'ml_collections>=1.1,<2',
    'numpy>=2.0,<3',
    'optax>=0.2.8,<0.4',
    'orbax-checkpoint>=0.12,<0.14',
    'protobuf>=5,<8',
    'safetensors>=0.6,<0.10',
    'scipy>=1.14,<2',
    'sentencepiece>=0.2,<0.3',
    'tensorboardX>=2.6.2,<3',
    'tensorstore>=0.1.75,<0.3',
    'tokenizers>=0.22,<0.25',
    'tqdm>=4.66,<5',
    'transformers>=5,<6',
  ],
  extras_require={
    'test': [
      'matplotlib>=3.9,<4',
      'pytest>=8,<10',
      'pytest-xdist>=3.6,<4',
      'ruff==0.17.5',
      'sacrebleu>=2.4,<3',
    ],
    'plots': ['matplotlib>=3.9,<4'],
    'cuda': ['jax[cuda13]>=0.10.0,!=0.11.1,<0.13'],
    'tpu': ['jax[tpu]>=0.10.0,!=0.11.1,<0.13'],
  },
  classifiers=[
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
