"""Pre-tokenizers of GGUF's byte-level tokenizers, by `tokenizer.ggml.pre`.

The names and expressions are those of llama.cpp (`llama-vocab.cpp`), which
splits text by one expression after the other. A name that is not here would
give other ids, so it is refused and not guessed.
"""

from typing import NamedTuple

_CASES = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_LINES = r'\s*[\r\n]+|\s+(?!\S)|\s+'
_GPT2 = (
  r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
)
# Letters that are not small, then letters that are not capital, both also
# beyond ASCII.
_UPPER, _LOWER = r'((?=[\p{L}])([^a-z]))', r'((?=[\p{L}])([^A-Z]))'


def _words(digits: str, cases: str = _CASES + '|') -> str:
  """Words with one character before them, digits, signs, and line ends."""
  return (
    rf'{cases}[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}'
    rf'| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_LINES}'
  )


def _cased(digits: str, ending: str) -> str:
  """As `_words`, but a word ends before a capital letter."""
  head = r'[^\r\n\p{L}\p{N}]?'
  return (
    rf'{head}{_UPPER}*{_LOWER}+{ending}|{head}{_UPPER}+{_LOWER}*{ending}'
    rf'|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}'
  )


class PreTokenizer(NamedTuple):
  """A way to split text before pieces are merged.

  Attributes:
    expressions: regular expressions; what one matches is split off, and the
      next splits the parts.
    whole_words: whether a part that is a token itself stays whole, whatever
      merges lead to.
    adds_bos: whether a file that does not state it begins texts with BOS.
  """

  expressions: tuple
  whole_words: bool = False
  adds_bos: bool = False


_DIGIT, _DIGITS3 = r'\p{N}', r'\p{N}{1,3}'
_LLAMA3 = _words(_DIGITS3)
_QWEN2 = _words(_DIGIT)
_SPACED = ' ?[^(\\s|.,!?…。，、।۔،)]+'
_HAN_KANA = '[一-龥぀-ゟ゠-ヿ]+'
_DEEPSEEK3 = (
  r'[!"#$%&\'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+'
  r'|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|' + _LINES
)

_BY_SPLIT = {
  PreTokenizer(
    (r'[\p{P}\$\+<=>\^~\|]+', _GPT2, r'\p{N}+', '[0-9][0-9][0-9]')
  ): 'default',
  PreTokenizer((_LLAMA3,), whole_words=True, adds_bos=True): (
    'llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 '
    'jina-v5-nano'
  ),
  PreTokenizer((_LLAMA3,)): 'dbrx smaug-bpe chatglm-bpe',
  PreTokenizer((_LLAMA3,), whole_words=True): 'glm4 glm5',
  PreTokenizer((_QWEN2,)): (
    'qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open '
    'grok-2'
  ),
  PreTokenizer(
    (
      rf'{_CASES}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}'
      rf'| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES}',
    )
  ): 'qwen35',
  PreTokenizer((_GPT2,)): (
    'gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en '
    'jina-v2-code roberta-bpe gigachat a.x-4.0 mellum modern-bert mpt olmo '
    'jais trillion granite-docling exaone4'
  ),
  PreTokenizer((_DIGIT, _GPT2)): (
    'smollm starcoder refact command-r codeshell exaone minerva-7b mellum2'
  ),
  PreTokenizer(
    (_cased(_DIGIT, ''),), whole_words=True, adds_bos=True
  ): 'tekken',
  PreTokenizer((_cased(_DIGITS3, _CASES + '?'),)): (
    'gpt-4o llama4 kanana2 talkie minimax-m2'
  ),
  PreTokenizer((r'[\p{P}\$\+<=>\^~\|`]+', _GPT2, '[0-9][0-9][0-9]')): 'falcon',
  PreTokenizer((_SPACED,)): 'poro-chat bloom gpt3-finnish',
  PreTokenizer((_SPACED, _DIGIT)): 'viking',
  PreTokenizer((_DIGITS3, _HAN_KANA, _DEEPSEEK3)): (
    'deepseek-v3 hunyuan-dense joyai-llm hy_v4'
  ),
  PreTokenizer(
    ('[\r\n]', r'\s?\p{L}+', r'\s?\p{P}+', '[一-龥ࠀ-一가-퟿]+', r'\p{N}')
  ): 'deepseek-coder',
  PreTokenizer((_words(_DIGIT, cases=''),)): 'ufakzeka',
}
PRE_TOKENIZERS = {
  name: split for split, names in _BY_SPLIT.items() for name in names.split()
}


def splits() -> dict[PreTokenizer, str]:
  """{pre-tokenizer: a name of it}, without those that split alike."""
  return {split: names.split()[0] for split, names in _BY_SPLIT.items()}


def named(name: str, path: str) -> PreTokenizer:
  """The pre-tokenizer of a name.

  Args:
    name: `tokenizer.ggml.pre`.
    path: the file, for messages.

  Raises:
    ValueError: it is unknown.
  """
  if name not in PRE_TOKENIZERS:
    raise ValueError(
      f'tokenizer.ggml.pre={name!r} in {path} names a pre-tokenizer that is '
      f'not supported; supported are {", ".join(sorted(PRE_TOKENIZERS))}.'
    )
  return PRE_TOKENIZERS[name]
