"""Recipes of models made of arrays, through the one assembler."""

import types

from specjax import base
from specjax.checkpoints import model as model_lib
from specjax.decoding import warp as warp_lib
from specjax.decoding.drafters.draft_model import ENTRY as DRAFT_MODEL
from specjax.decoding.drafters.entry import Source
from specjax.decoding.drafters.entry import Target
from specjax.decoding.drafters.hybrid import ENTRY as HYBRID
from specjax.decoding.drafters.suffix_search import SuffixParams
from specjax.decoding.verifiers import registry
from specjax.inference import assemble
from specjax.inference import sources


def source_of(drafter):
  """A `Source` of a name, a `CachedLM`, a model or a source; None for none."""
  if isinstance(drafter, base.CachedLM):
    return Source(DRAFT_MODEL, 'draft', model_lib.Model.from_lm(drafter, None))
  return sources.resolve(drafter)


def hybrid(lm):
  """A hybrid of `suffix` and a model made of arrays."""
  return Source(HYBRID, 'hybrid', model_lib.Model.from_lm(lm, None))


def network(config, vocab_size=None):
  """A drafter network without parameters, of so many known ids."""
  tokenizer = None
  if vocab_size is not None:
    vocab = {str(token): token for token in range(vocab_size)}
    tokenizer = types.SimpleNamespace(get_vocab=lambda: vocab)
  model = model_lib.Model(None, config, None, tokenizer, None, (), 0, 'network')
  return sources.of_model(model)


def assembled(
  target,
  drafter=None,
  *,
  num_draft=4,
  verify='auto',
  warp=warp_lib.WarpSpec(),
  sampler='gumbel',
  drafters=None,
  verifiers=None,
  allowed_tokens=(),
  config=None,
  **rest,
):
  """Assembles a `CachedLM` and a drafter."""
  settings = assemble.Settings(
    num_draft=num_draft,
    verifier=verify,
    drafters=drafters or {},
    verifiers=verifiers or {},
    warp=warp,
    sampler=sampler,
    allowed_tokens=allowed_tokens,
    **rest,
  )
  return assemble.assemble(Target(target, config), source_of(drafter), settings)


def recipe(target, drafter=None, **settings):
  """The recipe of `assembled`."""
  return assembled(target, drafter, **settings).recipe


def of(target, drafter, verifier, warp, widths=(), is_tree=None):
  """A recipe of ready parts."""
  if is_tree is None:
    is_tree = drafter.max_path < drafter.num_draft
  return assemble.plain(target, warp)._replace(
    drafter=drafter, verifier=verifier, widths=widths, is_tree=is_tree
  )


def rule(name, sampler='gumbel', max_path=0):
  """The verification rule of that name."""
  return registry.make(registry.resolve(name), sampler, max_path)


def suffix_params(index=None, least=0.0):
  """Parameters of `suffix`, which drafts whatever it finds."""
  return SuffixParams(index, least)
