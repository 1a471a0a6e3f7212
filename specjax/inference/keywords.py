"""Keywords of `generate`, and which is meant where a name is wrong."""

from collections.abc import Collection, Iterable
import difflib

# Names of the same settings in other libraries.
ELSEWHERE = {
  'assistant_model': 'drafter',
  'bad_words_ids': 'bad_words',
  'beam_size': 'num_beams',
  'beam_width': 'num_beams',
  'draft_length': 'num_draft',
  'draft_model': 'drafter',
  'gamma': 'num_draft',
  'max_gen_tokens': 'max_new_tokens',
  'max_length': 'max_new_tokens',
  'max_output_tokens': 'max_new_tokens',
  'max_tokens': 'max_new_tokens',
  'min_length': 'min_new_tokens',
  'min_tokens': 'min_new_tokens',
  'n': 'num_return_sequences',
  'num_assistant_tokens': 'num_draft',
  'num_samples': 'num_return_sequences',
  'num_speculative_tokens': 'num_draft',
  'prompt_lookup_num_tokens': "num_draft, and drafter='prompt_lookup'",
  'random_seed': 'seed',
  'repeat_penalty': 'repetition_penalty',
  'stop_strings': 'stop',
  'stop_ids': 'stop_token_ids',
  'temp': 'temperature',
  'top_logprobs': 'logprobs',
  'truncate_prompt_tokens': 'truncate',
}
# Settings that have another form here.
INSTEAD = {
  'do_sample': 'temperature: 0 is greedy and above 0 samples',
  'eos_token_id': 'ignore_eos, stop_token_ids or stop; the model has its own',
  'prompt': 'the prompts as the second argument',
  'prompt_logprobs': 'the text as a completion to specjax.score',
  'stream': 'one prompt a call: answers come when all are decoded',
  'tokenizer': 'a model with its tokenizer (see specjax.Model.from_lm)',
}


def check(given: Iterable[str], known: Collection[str]) -> None:
  """Refuses the first keyword that there is not.

  Args:
    given: names.
    known: the names that there are.

  Raises:
    TypeError: one sentence with the name that is meant, where one is near.
  """
  for name in given:
    if name not in known:
      raise TypeError(f'generate has no keyword {name}{_hint(name, known)}.')


def _hint(name: str, known: Collection[str]) -> str:
  if name in INSTEAD:
    return f'; give {INSTEAD[name]}'
  close = difflib.get_close_matches(name.lower(), known, 1)
  meant = ELSEWHERE.get(name) or (close[0] if close else '')
  if meant:
    return f'; give {meant}'
  return '; specjax.DecodeConfig lists those that there are'
