"""Logits equal Hugging Face's, teacher-forced and through the cache."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from specjax.base import Prompt
from specjax.checkpoints import convert
from specjax.checkpoints import hf
from specjax.checkpoints import load as loading
from specjax.models.decoder import hf as decoder_hf
from tests.helpers import shared
from tests.helpers import torch_reference

TOLERANCE = 1e-4
# Programs that run once: compiling them well costs more than running them.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
# Every width on one family; the others differ inside a layer alone.
WIDTHS = {'llama': (1, 3, 5)}
LENGTHS = (9, 2, 6)


def close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


def blocks(lm, params, prompt, follow, widths):
  """Logits of blocks of these widths, one after the other, [B, sum, V]."""
  cache = lm.prefill(params, prompt, capacity=24).cache
  logits, at = [], 0
  for width in widths:
    scored, cache = lm.extend(params, cache, follow[:, at : at + width])
    # Committed in two steps, one of them too far and taken back.
    cache = lm.commit(cache, jnp.full(len(LENGTHS), width + 2))
    cache = lm.commit(cache, jnp.full(len(LENGTHS), -2))
    logits.append(scored.logits)
    at += width
  return jnp.concatenate(logits, axis=1)


def check_decoder(model, torch_model, torch, widths=(1, 5)):
  """Compares whole rows, and ragged rows through the cache."""
  size = max(LENGTHS) + sum(widths)
  vocab = model.config.vocab_size
  tokens = np.random.default_rng(0).integers(0, vocab, (len(LENGTHS), size))
  with torch.no_grad():
    theirs = torch_model(torch.tensor(tokens)).logits.numpy()
  follow = np.stack(
    [
      row[n - 1 : n - 1 + sum(widths)]
      for row, n in zip(tokens, LENGTHS, strict=True)
    ]
  )

  @quick_jit
  def run(params, tokens, follow):
    whole = model.module.apply({'params': params}, tokens)
    prompt = Prompt(tokens[:, : max(LENGTHS)], jnp.array(LENGTHS))
    return whole, blocks(model.lm, params, prompt, follow, widths)

  whole, cached = run(model.params, tokens, follow)
  assert whole.dtype == jnp.float32
  close(whole, theirs)
  for row, start in enumerate(LENGTHS):
    close(cached[row], theirs[row, start - 1 : start - 1 + sum(widths)])


def check_t5(model, torch_model, torch):
  rng = np.random.default_rng(0)
  source = rng.integers(1, 60, (len(LENGTHS), 20))
  lengths = np.array([20, 5, 13])
  seen = np.arange(20) < lengths[:, None]
  target = rng.integers(0, 60, (len(LENGTHS), 21))
  target[:, 0] = model.lm.start_id
  with torch.no_grad():
    theirs = torch_model(
      input_ids=torch.tensor(source),
      attention_mask=torch.tensor(seen.astype(np.int64)),
      decoder_input_ids=torch.tensor(target),
    ).logits.numpy()

  @quick_jit
  def run(params, source, target):
    whole = model.module.apply({'params': params}, source, seen, target)
    prompt = Prompt(source, jnp.array(lengths))
    pre = model.lm.prefill(params, prompt, capacity=24)
    scored, cache = model.lm.extend(params, pre.cache, target[:, :12])
    cache = model.lm.commit(cache, jnp.full(3, 12))
    second, cache = model.lm.extend(params, cache, target[:, 12:15])
    # Rows stand at different lengths from here on.
    cache = model.lm.commit(cache, jnp.array([3, 1, 2]))
    place = jnp.array([15, 13, 14])[:, None] + jnp.arange(5)
    third, _ = model.lm.extend(
      params, cache, jnp.take_along_axis(target, place, axis=1)
    )
    return whole, scored.logits, second.logits, third.logits, pre.last_token

  whole, first, second, third, last = run(model.params, source, target)
  close(whole, theirs)
  close(first, theirs[:, :12])
  close(second, theirs[:, 12:15])
  for row, start in enumerate((15, 13, 14)):
    close(third[row], theirs[row, start : start + 5])
  assert last.tolist() == [model.lm.start_id] * 3


@pytest.mark.parametrize('name', torch_reference.FAMILIES)
def test_equals_transformers(name, torch, tmp_path):
  theirs = torch_reference.build(name, torch)
  model = loading.load(torch_reference.save(theirs, tmp_path / 'model'))
  assert model.config.dtype == 'float32'
  if name in torch_reference.T5S:
    check_t5(model, theirs, torch)
  else:
    check_decoder(model, theirs, torch, WIDTHS.get(name, (1, 5)))
  check_round_trip(model, theirs, torch, tmp_path / 'again')


def check_round_trip(model, theirs, torch, folder):
  """A written folder has the same logits when transformers reads it."""
  hf.save_hf(folder, model.params, model.config)
  again, info = type(theirs).from_pretrained(
    folder, output_loading_info=True, attn_implementation='eager'
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  assert not info['mismatched_keys']
  ids = torch.arange(1, 13)[None]
  more = {'decoder_input_ids': ids} if model.lm.is_encoder_decoder else {}
  with torch.no_grad():
    before = theirs(ids, **more).logits.numpy()
    after = again.eval()(ids, **more).logits.numpy()
  np.testing.assert_allclose(after, before, atol=1e-6)
  # Our own reading of it is the same model.
  ours = loading.load(str(folder))
  assert ours.config == model.config
  jax.tree.map(np.testing.assert_array_equal, ours.params, model.params)


@pytest.mark.parametrize('name', ['stories260K', 'llama2xs', 'bitllama3M'])
def test_real_checkpoints(name, torch):
  import transformers

  folder = shared.weights(name)
  model = loading.load(folder)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
  check_decoder(model, theirs, torch, widths=(4,))


def test_a_bitnet_file_may_leave_out_what_is_usual():
  """The activation, for one, is a squared ReLU, not that of Llama."""
  import transformers

  usual = transformers.BitNetConfig(pad_token_id=0)
  whole = decoder_hf.from_hf(usual.to_dict())
  assert (whole.hidden_act, whole.norm_eps) == ('relu2', 1e-5)
  left_out = ('hidden_act', 'rms_norm_eps', 'rope_parameters')
  bare = {k: v for k, v in usual.to_dict().items() if k not in left_out}
  assert decoder_hf.from_hf(bare) == whole


def test_old_config_spelling(torch, tmp_path):
  """transformers 4 kept rotary settings in rope_theta and rope_scaling."""
  theirs = torch_reference.build('llama3_rope', torch)
  folder = torch_reference.save(theirs, tmp_path)
  path = tmp_path / 'config.json'
  config = json.loads(path.read_text())
  rope = config.pop('rope_parameters')
  config['rope_theta'] = rope.pop('rope_theta')
  config['rope_scaling'] = rope
  new = hf.parse_config(hf.read_config(folder))
  path.write_text(json.dumps(config))
  assert hf.parse_config(hf.read_config(folder)) == new
  rope['type'] = rope.pop('rope_type')
  path.write_text(json.dumps(config))
  assert hf.parse_config(hf.read_config(folder)) == new


@pytest.mark.parametrize(
  'settings',
  [
    {},
    {'attention_factor': 1.3, 'truncate': False},
    {'mscale': 1.0, 'mscale_all_dim': 0.7, 'beta_fast': 4, 'beta_slow': 0.5},
  ],
)
def test_yarn(settings, torch, tmp_path):
  """As Qwen asks for with long contexts; read, computed, written and read."""
  rope = {
    'rope_type': 'yarn',
    'rope_theta': 100.0,
    'factor': 4.0,
    'original_max_position_embeddings': 64,
  }
  theirs = torch_reference.build(
    'qwen2', torch, rope_parameters=rope | settings
  )
  model = loading.load(torch_reference.save(theirs, tmp_path))
  assert model.lm.max_positions == 256
  check_decoder(model, theirs, torch)
  written = decoder_hf.from_hf(decoder_hf.to_hf(model.config))
  assert written == model.config


@pytest.mark.parametrize(
  'spelling', ['language_model.model.', 'model.language_model.']
)
def test_the_language_model_of_one_with_images(spelling, torch, tmp_path):
  """As Gemma 3 of 4B and more is published, in its two spellings."""
  import transformers

  text = torch_reference.build('gemma3', torch)
  # The defaults of transformers, which its config.json then leaves out.
  settings = text.config.to_dict() | {
    'num_attention_heads': 8,
    'num_key_value_heads': 4,
    'eos_token_id': 2,
  }
  vision = {
    'hidden_size': 16,
    'intermediate_size': 16,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'image_size': 8,
    'patch_size': 4,
  }
  theirs = transformers.Gemma3ForConditionalGeneration(
    transformers.Gemma3Config(
      text_config=settings, vision_config=vision, mm_tokens_per_image=4
    )
  ).eval()
  with torch.no_grad():
    for value in theirs.parameters():
      value.copy_(0.2 * torch.randn_like(value))
  folder = tmp_path / 'model'
  torch_reference.save(theirs, folder)
  config = json.loads((folder / 'config.json').read_text())
  config['eos_token_id'] = [1, 7]
  for name in ('num_attention_heads', 'num_key_value_heads'):
    config['text_config'].pop(name, None)
  (folder / 'config.json').write_text(json.dumps(config))
  tensors = safetensors_numpy.load_file(folder / 'model.safetensors')
  again = {}
  for name, value in tensors.items():
    for known in ('language_model.model.', 'model.language_model.'):
      name = name.replace(known, spelling)
    again[name] = value
  assert any(name.startswith(spelling) for name in again)
  safetensors_numpy.save_file(
    again, folder / 'model.safetensors', metadata={'format': 'pt'}
  )
  model = loading.load(folder)
  assert model.config.eos_token_id == (1, 7)
  check_decoder(model, theirs, torch)
  # What is made of it is the language model alone.
  out = str(tmp_path / 'out')
  convert.execute(convert.plan(convert.Conversion(str(folder), out)))
  alone, info = transformers.AutoModelForCausalLM.from_pretrained(
    out, output_loading_info=True, attn_implementation='eager'
  )
  assert type(alone) is transformers.Gemma3ForCausalLM
  assert not info['missing_keys'] and not info['unexpected_keys']
  check_decoder(loading.load(out), alone.eval(), torch, widths=(1,))
