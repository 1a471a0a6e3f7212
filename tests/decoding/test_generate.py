"""The loop on models made of arrays: identity, ends, budgets, one program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.inference import assemble
from tests.helpers import fakes
from tests.helpers import loops
from tests.helpers import recipes


def _greedy_reference(params, prompt, encoder_decoder, eos, new):
  """Token by token in numpy, straight from the tables."""
  table, source = np.asarray(params['table']), np.asarray(params['source'])
  rows = []
  for tokens, length in zip(
    np.asarray(prompt.tokens), prompt.length, strict=True
  ):
    first = tokens[0]
    history = [0] if encoder_decoder else list(tokens[:length])
    out = []
    while len(out) < new:
      before = history[-2] if len(history) > 1 else loops.VOCAB
      logits = table[before, history[-1]]
      if encoder_decoder:
        logits = logits + source[first]
      out.append(int(np.argmax(logits)))
      history.append(out[-1])
      if out[-1] in eos:
        break
    rows.append(out)
  return rows


@pytest.mark.parametrize('encoder_decoder', [False, True])
@pytest.mark.parametrize(
  'name', ['none', 'itself', 'good', 'random', 'prompt_lookup']
)
@pytest.mark.parametrize(
  ('num_draft', 'batch'), [(1, 7), (2, 1), (3, 4), (5, 7), (8, 7)]
)
def test_greedy_equals_the_tables(encoder_decoder, name, num_draft, batch):
  target = fakes.markov_lm(loops.VOCAB, encoder_decoder=encoder_decoder)
  params = fakes.markov_params(0, loops.VOCAB)
  prompt = loops.prompt(batch, seed=num_draft)
  settings, controls = loops.controls(batch, eos=(3, 7))
  drafting = loops.drafting(name, encoder_decoder)
  got = loops.decode(
    target,
    params,
    prompt,
    controls,
    settings,
    drafting,
    num_draft=num_draft,
  )
  want = _greedy_reference(params, prompt, encoder_decoder, (3, 7), loops.NEW)
  assert loops.new_tokens(got) == want
  for row, status in zip(want, got.status, strict=True):
    ended = row[-1] in (3, 7)
    assert status == (generate_lib.EOS if ended else generate_lib.LENGTH)
  if name == 'itself':
    longest = max(len(row) for row in want)
    assert got.num_rounds == -(-longest // (num_draft + 1))


@pytest.mark.parametrize('verify', ['coupled', 'match'])
@pytest.mark.parametrize('temperature', [0.0, 0.7, 1.3])
@pytest.mark.parametrize('sampler', ['gumbel', 'inverse_cdf'])
@pytest.mark.parametrize('name', ['itself', 'good', 'random', 'prompt_lookup'])
def test_target_sample_rules_equal_plain_sampling(
  verify, temperature, sampler, name
):
  target = fakes.markov_lm(loops.VOCAB)
  params = fakes.markov_params(0, loops.VOCAB)
  prompt = loops.prompt(6)
  settings, controls = loops.controls(
    6,
    temperature=[temperature, 0.0, 1.0, temperature, 0.5, 2.0],
    top_p=0.95,
    repetition_penalty=1.2,
    no_repeat_ngram_size=3,
  )
  plain = loops.decode(
    target, params, prompt, controls, settings, sampler=sampler
  )
  drafting = loops.drafting(name)
  for num_draft in (1, 4):
    got = loops.decode(
      target,
      params,
      prompt,
      controls,
      settings,
      drafting,
      num_draft=num_draft,
      verify=verify,
      sampler=sampler,
    )
    assert loops.new_tokens(got) == loops.new_tokens(plain)


@pytest.mark.parametrize('verify', ['sampling', 'block', 'coupled', 'match'])
def test_rows_do_not_depend_on_mates_order_or_padding(verify):
  target = fakes.markov_lm(loops.VOCAB)
  params = fakes.markov_params(0, loops.VOCAB)
  drafting = loops.drafting('good')
  prompt = loops.prompt(7)
  settings = Sampling(temperature=0.9)
  decode = functools.partial(
    loops.decode,
    target,
    params,
    settings=settings,
    drafting=drafting,
    num_draft=3,
    verify=verify,
  )
  whole = loops.new_tokens(
    decode(
      prompt=prompt,
      controls=settings.controls(row_keys(1, range(7)), loops.NEW, (3,)),
    )
  )
  order = [4, 2, 6]
  padded = base.Prompt(
    jnp.pad(
      prompt.tokens[jnp.array(order)], ((0, 0), (0, 5)), constant_values=2
    ),
    prompt.length[jnp.array(order)],
  )
  part = loops.new_tokens(
    decode(
      prompt=padded,
      controls=settings.controls(row_keys(1, order), loops.NEW, (3,)),
    )
  )
  assert part == [whole[i] for i in order]


@pytest.mark.parametrize('name', ['itself', 'random'])
def test_budgets_of_rows(name):
  target = fakes.markov_lm(loops.VOCAB)
  params = fakes.markov_params(0, loops.VOCAB)
  budgets = [0, 1, 2, 5, loops.NEW, loops.NEW + 9]
  prompt = loops.prompt(6)
  settings, controls = loops.controls(6, eos=(), new=budgets)
  drafting = loops.drafting(name)
  got = loops.decode(
    target,
    params,
    prompt,
    controls,
    settings,
    drafting,
    num_draft=4,
  )
  want = _greedy_reference(params, prompt, False, (), loops.NEW)
  want = [row[:n] for row, n in zip(want, budgets, strict=True)]
  assert loops.new_tokens(got) == want
  assert set(got.status) == {generate_lib.LENGTH}


def test_nan_stops_its_row_alone():
  target = fakes.markov_lm(loops.VOCAB)
  params = fakes.markov_params(0, loops.VOCAB)
  prompt = loops.prompt(5)
  settings, controls = loops.controls(5, eos=())
  want = _greedy_reference(params, prompt, False, (), loops.NEW)
  token = want[2][4]
  params['table'] = params['table'].at[:, token].set(jnp.nan)
  drafting = loops.drafting('good')
  got = loops.decode(
    target,
    params,
    prompt,
    controls,
    settings,
    drafting,
    num_draft=3,
  )
  for row, tokens, status in zip(
    loops.new_tokens(got), want, got.status, strict=True
  ):
    if token in tokens:
      assert status == generate_lib.NAN
      assert row == tokens[: len(row)] and len(row) <= tokens.index(token) + 1
    else:
      assert status == generate_lib.LENGTH and row == tokens


def test_one_program_for_all_values_and_acceptance_patterns():
  target = fakes.markov_lm(loops.VOCAB)
  params = fakes.markov_params(0, loops.VOCAB)
  drafting = loops.drafting('good')
  settings = Sampling(temperature=1.0, top_p=0.9)
  recipe = recipes.recipe(
    target, drafting.drafter, num_draft=3, warp=settings.warp_spec()
  )
  traces = []

  @jax.jit
  def decode(params, prompt, controls):
    traces.append(1)
    return generate_lib.generate(
      recipe, params, prompt, controls, max_new_tokens=loops.NEW
    )

  for i in range(5):
    settings = Sampling(
      temperature=0.3 * i,
      top_p=0.5 + 0.1 * i,
    )
    dials = {'beta': np.int32(i + 1), 'tau': np.float32(i / 2)}
    controls = settings.controls(row_keys(i, range(4)), loops.NEW, (3,), dials)
    draft_params = fakes.markov_params(i, loops.VOCAB)
    decode(
      generate_lib.Params(params, draft_params),
      loops.prompt(4, seed=i),
      controls,
    )
  assert len(traces) == 1
  text = (
    decode.lower(
      generate_lib.Params(params, draft_params), loops.prompt(4), controls
    )
    .compile()
    .as_text()
  )
  assert 'callback' not in text and 'infeed' not in text


def test_capacity_too_small_is_refused():
  target = fakes.markov_lm(loops.VOCAB)
  settings, controls = loops.controls(2)
  recipe = recipes.recipe(target, warp=settings.warp_spec())
  with pytest.raises(ValueError, match='capacity of 4 is too small'):
    generate_lib.generate(
      recipe,
      generate_lib.Params(fakes.markov_params(0, loops.VOCAB)),
      loops.prompt(2),
      controls,
      max_new_tokens=loops.NEW,
      capacity=4,
    )


def test_rounds_end_with_the_last_row():
  """A batch costs its longest row, and nothing once all rows are done."""
  target = fakes.markov_lm(loops.VOCAB)
  drafting = loops.drafting('itself')
  params = generate_lib.Params(
    fakes.markov_params(0, loops.VOCAB), drafting.params
  )
  _, controls = loops.controls(3, eos=(-1,))
  controls = controls.replace(max_new_tokens=jnp.array([2, 7, 4]))
  recipe = recipes.recipe(target, drafting.drafter, num_draft=2)
  state = generate_lib.start(
    recipe, params, loops.prompt(3), controls, max_new_tokens=loops.NEW
  )
  done = generate_lib.run(recipe, params, state)
  assert done.num_rounds == 3 < loops.NEW
  assert generate_lib.finish(done).num_tokens.tolist() == [2, 7, 4]
  again = generate_lib.run(recipe, params, done)
  assert again.num_rounds == done.num_rounds
  assert done.row_rounds.tolist() == [1, 3, 2]
  # A row that is done drafts and emits nothing while others go on.
  np.testing.assert_array_equal(done.rounds.emitted[0, 1:], 0)
  np.testing.assert_array_equal(done.rounds.drafted[0, 1:], 0)


def test_a_state_can_be_run_in_pieces():
  target = fakes.markov_lm(loops.VOCAB)
  drafting = loops.drafting('good')
  params = generate_lib.Params(
    fakes.markov_params(0, loops.VOCAB), drafting.params
  )
  settings, controls = loops.controls(4)
  recipe = recipes.recipe(target, drafting.drafter, num_draft=2)
  prompt = loops.prompt(4)
  whole = generate_lib.generate(
    recipe, params, prompt, controls, max_new_tokens=loops.NEW
  )
  state = generate_lib.start(
    recipe, params, prompt, controls, max_new_tokens=loops.NEW
  )
  for _ in range(loops.NEW):
    state = generate_lib.run(recipe, params, state, max_rounds=1)
  pieces = generate_lib.finish(state)
  np.testing.assert_array_equal(whole.tokens, pieces.tokens)
  np.testing.assert_array_equal(whole.rounds.emitted, pieces.rounds.emitted)


@pytest.mark.parametrize('widths', [(0, 5), (0, 1, 3, 5), (2, 5)])
def test_narrower_blocks_change_nothing(widths):
  target = fakes.markov_lm(loops.VOCAB)
  params = fakes.markov_params(0, loops.VOCAB)
  prompt = loops.prompt(4)
  settings, controls = loops.controls(4, eos=(), new=30)
  recipe = recipes.recipe(target, 'prompt_lookup', num_draft=5)
  call = assemble.compiled(recipe._replace(widths=widths), 30)
  got = jax.device_get(call(generate_lib.Params(params), prompt, controls))
  want = _greedy_reference(params, prompt, False, (), 30)
  assert loops.new_tokens(got) == want
  plain = assemble.compiled(recipe, 30)(
    generate_lib.Params(params), prompt, controls
  )
  np.testing.assert_array_equal(got.rounds.drafted, plain.rounds.drafted)
  np.testing.assert_array_equal(got.rounds.accepted, plain.rounds.accepted)


@pytest.mark.parametrize('temperature', [0.0, 0.8])
def test_the_baseline_is_the_loop_without_drafts(temperature):
  target = fakes.markov_lm(loops.VOCAB)
  params = fakes.markov_params(0, loops.VOCAB)
  prompt = loops.prompt(4)
  settings, controls = loops.controls(4, temperature=temperature)
  got = assemble.generate_autoregressive(
    target,
    params,
    prompt,
    controls,
    max_new_tokens=loops.NEW,
    warp=settings.warp_spec(),
  )
  want = loops.decode(target, params, prompt, controls, settings)
  assert loops.new_tokens(got) == loops.new_tokens(want)
  np.testing.assert_array_equal(got.rounds.emitted.sum(1), got.num_tokens)
