"""Files of labels, as specjax-label writes them."""

import json

from specjax.checkpoints import digests
from specjax.training.data import labels

# Whose labels `write` makes unless a tokenizer is given.
READER = labels.Reader('t', 'c', 'TARGET')


def write(path, rows, tokenizer=None, target='x'):
  """Writes answers of a target.

  Args:
    path: path of the file.
    rows: (prompt ids, answer ids, finish reason) of each answer.
    tokenizer: tokenizer whose digests stand in the head; None for `READER`'s.
    target: digest of the target.
  """
  own = READER.tokenizer, READER.chat_template
  if tokenizer is not None:
    own = digests.of_tokenizer(tokenizer), digests.of_template(tokenizer)
  lines = [labels.head(*own, target, {}, {})]
  lines += [labels.record(i, *row) for i, row in enumerate(rows)]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
