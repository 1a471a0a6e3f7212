"""Text of tokens that are no whole characters.

A character outside a vocabulary is spelled by several tokens, each a byte
(`<0xE2>`) or some bytes of it. Until the last of them is there, tokenizers put
U+FFFD in its place, those of `<0xE2>` pieces in the place of every byte since
the last piece of another kind.
"""

import codecs
from collections.abc import Collection, Mapping, Sequence
import functools
import json
import re
from typing import Any

# What a decoder puts in the place of bytes that are no character.
REPLACEMENT = '\ufffd'
_BYTE = re.compile(r'<0x([0-9A-F]{2})>')
# No character has more bytes.
LONGEST = 4
# Decoders that turn a token into the same text whatever follows it, but for
# bytes of unfinished characters.
_APPENDING = ('ByteFallback', 'ByteLevel', 'Fuse', 'Metaspace')


def decode(
  tokenizer: Any, tokens: Sequence[int], *, special: bool = False
) -> str:
  """Text of tokens, without an unfinished character at its end.

  Args:
    tokenizer: a tokenizer.
    tokens: ids.
    special: whether special tokens are spelled; else they are left out.
  """
  # An emoji of four bytes after a line end, its last byte missing:
  #   tokens [<0x0A> <0xF0> <0x9F> <0x99>]: the tokenizer gives four U+FFFD
  #   and this a line end
  hide = not special
  text = tokenizer.decode(tokens, skip_special_tokens=hide)
  if not text.endswith(REPLACEMENT):
    return text
  hidden = specials(tokenizer).values() if hide else ()
  kept = [token for token in tokens if token not in hidden]
  last = _names(tokenizer, kept[-LONGEST:])
  data = byte_run(last)
  if data:
    whole = len(kept) - _unfinished(data)
    return tokenizer.decode(kept[:whole], skip_special_tokens=hide)
  if 'ByteLevel' in _kinds(tokenizer):
    return text[:-1] if _unfinished(_level_bytes(last)) else text
  return text


def texts(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
  """Text of each token alone, with the spaces that it stands for.

  Special tokens have their names, bytes of an unfinished character U+FFFD, and
  bytes of other vocabularies their names, as `<0xE2>`.

  Args:
    tokenizer: a tokenizer; None gives the ids themselves.
    tokens: ids.
  """
  # '▁cat' of one vocabulary and 'Ġcat' of a byte-level one: ' cat'
  if tokenizer is None:
    return [str(token) for token in tokens]
  names = _names(tokenizer, tokens)
  if not names:
    return [tokenizer.decode([int(token)]) for token in tokens]
  hidden, level = specials(tokenizer), 'ByteLevel' in _kinds(tokenizer)

  def text(name):
    if name in hidden:
      return name
    if level:
      return _level_bytes([name]).decode('utf-8', 'replace')
    return name.replace('▁', ' ')

  return list(map(text, names))


def byte_run(names: Sequence[str]) -> bytes:
  """The bytes of the `<0xE2>` pieces at the end of a row of pieces."""
  data = bytearray()
  for name in reversed(names):
    found = _BYTE.fullmatch(name)
    if not found:
      break
    data.append(int(found[1], 16))
  return bytes(reversed(data))


def byte_values(tokenizer: Any) -> dict[int, int]:
  """{id: byte} of a tokenizer's `<0xE2>` pieces."""
  convert = getattr(tokenizer, 'convert_tokens_to_ids', None)
  if convert is None:
    return {}
  every = [f'<0x{byte:02X}>' for byte in range(256)]
  # Names that there are not have the id of the unknown token, or None.
  found = [(id_, byte) for byte, id_ in enumerate(convert(every))]
  found = [(id_, byte) for id_, byte in found if id_ is not None]
  names = _names(tokenizer, [id_ for id_, _ in found])
  return {
    id_: byte
    for (id_, byte), name in zip(found, names, strict=False)
    if name == every[byte]
  }


def cut_before(
  tokens: Sequence[int],
  place: int,
  values: Mapping[int, int],
  hidden: Collection[int],
) -> int:
  """Where a row may be cut without changing the text behind the cut.

  No name is looked up here, because a long row is cut at many places and a run
  of bytes may be all of it.

  Args:
    tokens: ids.
    place: number of tokens before the cut that is wished for.
    values: result of `byte_values`.
    hidden: ids of special tokens, which `decode` leaves out.

  Returns:
    The nearest number, at most `place`. The cut is not inside a character of
    `<0xE2>` pieces. Behind such pieces that are no whole characters it is in
    front of some that are none either, because one of them turns all into
    U+FFFD.
  """
  # [a <0xE2> <0x82> | <0xAC>]: 1, and [a <0xC3> <0xA4> | <0xC3>]: 3
  # [a <0x41> <0xA4> <0xA4> <0x41> | <0x41>]: 3, which is no character
  places = []
  for start in range(place - 1, -1, -1):
    # Special tokens are skipped, so they do not end a row of bytes.
    if tokens[start] in values:
      places.append(start)
    elif tokens[start] not in hidden:
      break
  places.reverse()
  data = bytes(values[tokens[at]] for at in places)
  whole = len(data) - _unfinished(data[-LONGEST:])
  try:
    data[:whole].decode()
  except UnicodeDecodeError:
    return places[_last_fault(data[:whole])]
  return places[whole] if whole < len(data) else place


def _last_fault(data: bytes) -> int:
  """The last place from which bytes, which are no text, are none either."""
  # 41 A4 41 42: 1, and C3 41 42: 0
  for at in range(len(data) - 1, -1, -1):
    try:
      data[at : at + LONGEST].decode()
    except UnicodeDecodeError as error:
      if error.start == 0 and error.reason != 'unexpected end of data':
        return at
  return 0


def specials(tokenizer: Any) -> dict[str, int]:
  """{text: id} of the tokens that `decode` leaves out."""
  added = getattr(tokenizer, 'added_tokens_decoder', {})
  found = {
    token.content: id_
    for id_, token in added.items()
    if token.special and token.content
  }
  names = getattr(tokenizer, 'all_special_tokens', ())
  return found | dict(
    zip(names, getattr(tokenizer, 'all_special_ids', ()), strict=False)
  )


def only_appends(tokenizer: Any) -> bool:
  """Whether more tokens never change the text of whole characters before.

  Tokenizers that clean up spaces do: `do n` becomes `don't`.
  """
  backend = getattr(tokenizer, 'backend_tokenizer', None)
  if backend is None or backend.decoder is None:
    return False
  cleans = getattr(tokenizer, 'clean_up_tokenization_spaces', True)
  return not cleans and _kinds(tokenizer) <= {*_APPENDING}


def _kinds(tokenizer: Any) -> set[str]:
  """Names of the steps by which a tokenizer joins tokens."""
  backend = getattr(tokenizer, 'backend_tokenizer', None)
  if backend is None or backend.decoder is None:
    return set()
  state = json.loads(backend.decoder.__getstate__())
  return {_kind(step) for step in state.get('decoders', [state])}


def _kind(step: dict) -> str:
  """A step's name; those that change single tokens alone count as 'Fuse'."""
  replaced = step.get('pattern', {}).get('String', '')
  replaces_one = len(replaced) == 1
  strips_start = step['type'] == 'Strip' and not step['stop']
  return 'Fuse' if replaces_one or strips_start else step['type']


def _names(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
  """Tokens as the vocabulary spells them; '' for ids outside of it."""
  convert = getattr(tokenizer, 'convert_ids_to_tokens', None)
  if convert is None:
    return []
  return [name or '' for name in convert([int(token) for token in tokens])]


def _unfinished(data: bytes) -> int:
  """Number of bytes at the end that begin a character and do not finish it."""
  decoder = codecs.getincrementaldecoder('utf-8')('replace')
  decoder.decode(data)
  return len(decoder.getstate()[0])


def _level_bytes(names: Sequence[str]) -> bytes:
  """The bytes that byte-level pieces stand for."""
  table = _level_table()
  return b''.join(
    table[letter] if letter in table else letter.encode()
    for name in names
    for letter in name
  )


@functools.cache
def _level_table() -> dict[str, bytes]:
  """{letter: byte} of byte-level pieces, as GPT-2 defined it.

  Printable bytes stand for themselves, the others for letters from 256 on.
  """
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  table = {chr(byte): bytes([byte]) for byte in printable}
  table |= {chr(256 + i): bytes([byte]) for i, byte in enumerate(others)}
  return table
