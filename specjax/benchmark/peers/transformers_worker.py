"""Hugging Face's generate; run by `worker`."""

from collections.abc import Callable, Collection, Sequence
import importlib
import json
import os
import pathlib
import shutil
import time
from typing import Any

# Probability of a drafter's token below which transformers ends a draft. It is
# the default of transformers, which adapts it while a text is generated.
_THRESHOLD = 0.4


def make(job: dict, folder: str | None = None) -> tuple[Callable, dict]:
  """Loads the models; returns a function that decodes a batch, and versions."""
  del folder
  torch = importlib.import_module('torch')
  transformers = importlib.import_module('transformers')
  transformers.utils.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  torch.set_num_threads(job['threads'])
  torch.manual_seed(job['seed'])
  device = job['device'] if torch.cuda.is_available() else 'cpu'
  compiled = job['peer'] == 'transformers-compile'
  if compiled:
    check_compiler(device)
  model = load(job['target'], job, torch, transformers, device)
  settings = {'generation_config': generation_settings(job, transformers)}
  # Settings in the model's folder must not fill those that are left open here.
  model.generation_config = transformers.GenerationConfig()
  if job['lookup']:
    settings['prompt_lookup_num_tokens'] = job['num_draft']
  elif job['drafter']:
    assistant = load(job['drafter'], job, torch, transformers, device)
    assistant.generation_config = transformers.GenerationConfig(
      num_assistant_tokens=job['num_draft'],
      num_assistant_tokens_schedule='constant',
      assistant_confidence_threshold=(
        _THRESHOLD if job['peer'] == 'transformers-adaptive' else 0.0
      ),
      pad_token_id=job['pad_id'],
      decoder_start_token_id=job['start_id'],
    )
    settings['assistant_model'] = assistant
  batches = [
    inputs(job, rows, width if compiled else 0, torch, device)
    for rows, width in zip(job['batches'], job['widths'], strict=True)
  ]

  def run(index):
    rows = batches[index]
    # PyTorch's calls return before the device is done.
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
    return {'seconds': seconds, 'tokens': tokens} | device_peak(torch, device)

  if compiled:
    compile_ahead(job, settings, run, torch, transformers)
  versions = {
    'torch': torch.__version__,
    'transformers': transformers.__version__,
  }
  return run, versions


def load(
  folder: str, job: dict, torch: Any, transformers: Any, device: str
) -> Any:
  """A model, whose head may score a part of the vocabulary alone."""
  dtype = getattr(torch, job['dtype'])
  config = json.loads((pathlib.Path(folder) / 'config.json').read_text())
  ids = config.get('output_ids')
  if not ids:
    kind = (
      transformers.AutoModelForSeq2SeqLM
      if job['is_encoder_decoder']
      else transformers.AutoModelForCausalLM
    )
    return kind.from_pretrained(folder, dtype=dtype).to(device).eval()
  kind = getattr(transformers, config['architectures'][0])

  class Head(torch.nn.Linear):
    """Scores the tokens it knows, and -inf for all others."""

    def forward(self, states):
      shape = (*states.shape[:-1], config['vocab_size'])
      scores = states.new_full(shape, -torch.inf)
      return scores.index_copy(-1, self.ids, super().forward(states))

  class Reduced(kind):
    """The model of the folder with such a head."""

    _tied_weights_keys = {
      name: other
      for name, other in (kind._tied_weights_keys or {}).items()
      if name != 'lm_head.weight'
    }

    def __init__(self, settings):
      super().__init__(settings)
      old = self.lm_head
      self.lm_head = Head(old.in_features, len(ids), bias=False)

  model = Reduced.from_pretrained(folder, dtype=dtype).to(device).eval()
  model.lm_head.ids = torch.tensor(ids, device=device)
  return model


def check_compiler(device: str) -> None:
  """Refuses to compile for a processor without a compiler of C++."""
  compiler = os.environ.get('CXX', 'g++')
  if device == 'cpu' and not shutil.which(compiler):
    raise RuntimeError(
      f'torch.compile needs a C++ compiler, and {compiler} is not here; '
      'install one (apt-get install g++) or leave this peer out.'
    )


def compile_ahead(
  job: dict, settings: dict, run: Callable, torch: Any, transformers: Any
) -> None:
  """Compiles a step for the shape of every batch, longest prompts first.

  A static cache grows to the longest prompt seen and its step is compiled anew
  then, which must not happen while time is taken.
  """
  torch._dynamo.config.recompile_limit = 8 + 2 * len(job['batches'])
  config = settings['generation_config']
  config.cache_implementation = 'static'
  config.compile_config = transformers.CompileConfig(
    fullgraph=False, mode='default', dynamic=False
  )
  # Without this only accelerators compile.
  config.compile_config._compile_all_devices = True
  first = {width: index for index, width in enumerate(job['widths'])}
  for _, index in sorted(first.items(), reverse=True):
    run(index)


def generation_settings(job: dict, transformers: Any) -> Any:
  """The `GenerationConfig` with the settings of the job."""
  config = transformers.GenerationConfig(
    max_new_tokens=job['max_new_tokens'],
    do_sample=job['temperature'] > 0,
    use_cache=True,
    pad_token_id=job['pad_id'],
    eos_token_id=job['eos_ids'] or None,
    decoder_start_token_id=job['start_id'],
    **job['settings'],
  )
  if job['temperature'] > 0:
    config.temperature = job['temperature']
    config.top_k = job['top_k']
    config.top_p = job['top_p']
  return config


def inputs(
  job: dict, rows: Sequence[Sequence[int]], width: int, torch: Any, device: str
) -> dict:
  """Prompts padded to a width, or the longest, on the side `generate` wants."""
  # Rows [5, 9, 4] and [7], decoder-only: ids [[5, 9, 4], [0, 0, 7]] and mask
  # [[1, 1, 1], [0, 0, 1]], because `generate` goes on from the last column.
  width = max(width, *map(len, rows))
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


def cut(tokens: list[int], eos_ids: Collection[int]) -> list[int]:
  """New tokens up to the first end token, it included."""
  for index, token in enumerate(tokens):
    if token in eos_ids:
      return tokens[: index + 1]
  return tokens


def device_peak(torch: Any, device: str) -> dict:
  """The most memory in use so far, where the device counts it."""
  if device != 'cuda':
    return {}
  size = torch.cuda.max_memory_allocated()
  return {'peak_bytes': size, 'peak_kind': 'device'}
