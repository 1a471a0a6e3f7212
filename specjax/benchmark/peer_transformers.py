"""Hugging Face's generate in a process of its own; started by `peers`.

Reads JSON lines: first the job, then {'run': index}. Answers JSON lines. Holds
no import of this package, so that neither JAX nor its threads are started.
"""

import importlib
import json
import os
import sys
import time


def main() -> None:
  # Libraries print on standard output; keep a clean copy for the answers.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)

  def answer(message) -> None:
    answers.write(json.dumps(message) + '\n')
    answers.flush()

  job = json.loads(sys.stdin.readline())
  try:
    begin = time.perf_counter()
    run, versions = make(job)
    answer({'versions': versions, 'seconds': time.perf_counter() - begin})
    for line in sys.stdin:
      answer(run(json.loads(line)['run']))
  except Exception as error:  # told to the reader in one line
    text = ' '.join(str(error).split())
    answer({'error': f'{type(error).__name__}: {text[:400]}'})


def make(job):
  """Loads the models; returns what decodes a batch, and versions."""
  torch = importlib.import_module('torch')
  transformers = importlib.import_module('transformers')
  transformers.utils.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  torch.set_num_threads(job['threads'])
  torch.manual_seed(job['seed'])
  device = job['device'] if torch.cuda.is_available() else 'cpu'
  kind = (
    transformers.AutoModelForSeq2SeqLM
    if job['is_encoder_decoder']
    else transformers.AutoModelForCausalLM
  )

  def load(folder):
    model = kind.from_pretrained(folder, dtype=getattr(torch, job['dtype']))
    return model.to(device).eval()

  model = load(job['target'])
  settings = generation_settings(job, transformers)
  drafter = job['drafter']
  if drafter == 'prompt_lookup':
    settings['prompt_lookup_num_tokens'] = job['num_draft']
  elif drafter:
    assistant = load(drafter)
    config = assistant.generation_config
    config.num_assistant_tokens = job['num_draft']
    config.num_assistant_tokens_schedule = 'constant'
    config.assistant_confidence_threshold = 0.0
    settings['assistant_model'] = assistant
  if job['peer'] == 'transformers-compile':
    settings['cache_implementation'] = 'static'
    compile_config = transformers.CompileConfig(
      fullgraph=False, mode='default', dynamic=False
    )
    compile_config._compile_all_devices = True
    settings['compile_config'] = compile_config
  batches = [inputs(job, rows, torch, device) for rows in job['batches']]

  def run(index):
    rows = batches[index]
    if device == 'cuda':
      torch.cuda.synchronize()
    begin = time.perf_counter()
    with torch.inference_mode():
      out = model.generate(**rows, **settings)
    if device == 'cuda':
      torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    given = 1 if job['is_encoder_decoder'] else rows['input_ids'].shape[1]
    tokens = [cut(row[given:].tolist(), job['eos_ids']) for row in out]
    return {
      'seconds': seconds,
      'tokens': tokens,
      'peak_bytes': peak_bytes(torch, device),
    }

  versions = {
    'torch': torch.__version__,
    'transformers': transformers.__version__,
  }
  return run, versions


def generation_settings(job, transformers):
  """Arguments of `generate` that ask for what we measure."""
  config = transformers.GenerationConfig(
    max_new_tokens=job['max_new_tokens'],
    do_sample=job['temperature'] > 0,
    use_cache=True,
    pad_token_id=job['pad_id'],
    eos_token_id=job['eos_ids'] or None,
    decoder_start_token_id=job['start_id'],
  )
  if job['temperature'] > 0:
    config.temperature = job['temperature']
    config.top_k = job['top_k']
    config.top_p = job['top_p']
  if not job['eos_ids']:
    config.min_new_tokens = job['max_new_tokens']
  return {'generation_config': config}


def inputs(job, rows, torch, device):
  """Prompts padded to the side that `generate` wants."""
  width = max(map(len, rows))
  left = not job['is_encoder_decoder']
  ids, mask = [], []
  for row in rows:
    gap = [job['pad_id']] * (width - len(row))
    zeros, ones = [0] * len(gap), [1] * len(row)
    ids.append(gap + row if left else row + gap)
    mask.append(zeros + ones if left else ones + zeros)
  return {
    'input_ids': torch.tensor(ids, device=device),
    'attention_mask': torch.tensor(mask, device=device),
  }


def cut(tokens, eos_ids):
  """New tokens up to the first end token, it included."""
  for index, token in enumerate(tokens):
    if token in eos_ids:
      return tokens[: index + 1]
  return tokens


def peak_bytes(torch, device):
  if device == 'cuda':
    return torch.cuda.max_memory_allocated()
  with open('/proc/self/status', encoding='ascii') as file:
    for line in file:
      if line.startswith('VmHWM:'):
        return int(line.split()[1]) * 1024
  return 0


if __name__ == '__main__':
  main()
