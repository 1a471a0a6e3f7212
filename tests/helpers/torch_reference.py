"""Tiny random PyTorch models of every family, saved as Hugging Face folders."""

DECODER = {
  'vocab_size': 60,
  'hidden_size': 24,
  'intermediate_size': 40,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 8,
  'max_position_embeddings': 64,
}
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 100.0,
  'factor': 4.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
T5 = {
  'vocab_size': 60,
  'd_model': 24,
  'd_kv': 8,
  'd_ff': 40,
  'num_layers': 2,
  'num_decoder_layers': 3,
  'num_heads': 4,
  'relative_attention_num_buckets': 8,
  'relative_attention_max_distance': 12,
  'decoder_start_token_id': 3,
}
MIXED = ['sliding_attention', 'full_attention']

# Name -> (config class, model class, settings).
DECODERS = {
  'llama': ('LlamaConfig', 'LlamaForCausalLM', {'tie_word_embeddings': False}),
  'llama_tied_biased': (
    'LlamaConfig',
    'LlamaForCausalLM',
    {
      'tie_word_embeddings': True,
      'attention_bias': True,
      'mlp_bias': True,
      'rope_parameters': {
        'rope_type': 'linear',
        'rope_theta': 100.0,
        'factor': 2.0,
      },
    },
  ),
  'llama3_rope': (
    'LlamaConfig',
    'LlamaForCausalLM',
    {'rope_parameters': LLAMA3},
  ),
  'mistral': ('MistralConfig', 'MistralForCausalLM', {'sliding_window': 5}),
  'qwen2': (
    'Qwen2Config',
    'Qwen2ForCausalLM',
    {
      'head_dim': None,
      'use_sliding_window': True,
      'sliding_window': 5,
      'max_window_layers': 1,
    },
  ),
  'qwen3': ('Qwen3Config', 'Qwen3ForCausalLM', {'tie_word_embeddings': True}),
  'gpt2': (
    'GPT2Config',
    'GPT2LMHeadModel',
    {
      'vocab_size': 60,
      'n_embd': 24,
      'n_layer': 2,
      'n_head': 3,
      'n_positions': 40,
      'bos_token_id': 0,
      'eos_token_id': 0,
    },
  ),
  'bitnet': (
    'BitNetConfig',
    'BitNetForCausalLM',
    {'tie_word_embeddings': True, 'head_dim': None},
  ),
  'gemma': (
    'GemmaConfig',
    'GemmaForCausalLM',
    {'num_key_value_heads': 1, 'head_dim': 16},
  ),
  'gemma2': (
    'Gemma2Config',
    'Gemma2ForCausalLM',
    {
      'sliding_window': 5,
      'query_pre_attn_scalar': 12,
      'attn_logit_softcapping': 2.0,
      'final_logit_softcapping': 3.0,
      'layer_types': MIXED,
    },
  ),
  'gemma3': (
    'Gemma3TextConfig',
    'Gemma3ForCausalLM',
    {
      'sliding_window': 5,
      'query_pre_attn_scalar': 12,
      'layer_types': MIXED,
      'rope_parameters': {
        'full_attention': {
          'rope_type': 'linear',
          'factor': 4.0,
          'rope_theta': 1000.0,
        },
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 50.0},
      },
    },
  ),
}

T5S = {
  't5_tied': ('T5Config', 'T5ForConditionalGeneration', {}),
  't5_untied': (
    'T5Config',
    'T5ForConditionalGeneration',
    {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
  ),
  'mt5': (
    'MT5Config',
    'MT5ForConditionalGeneration',
    {'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
  ),
}

FAMILIES = DECODERS | T5S


def build(name, torch, **changes):
  """Returns a PyTorch model whose every parameter matters."""
  import transformers

  config_name, model_name, settings = FAMILIES[name]
  base = T5 if name in T5S else {} if name == 'gpt2' else DECODER
  settings = base | {'bos_token_id': 1, 'eos_token_id': 2} | settings
  settings |= changes
  settings |= {'pad_token_id': 0}
  settings = {k: v for k, v in settings.items() if v is not None}
  config = getattr(transformers, config_name)(
    **settings, attn_implementation='eager'
  )
  torch.manual_seed(0)
  model = getattr(transformers, model_name)(config).eval()
  if settings.get('tie_word_embeddings') is False and name in T5S:
    # transformers 5 ties every T5 unless its file unties it.
    model.lm_head.weight = torch.nn.Parameter(
      torch.empty_like(model.shared.weight)
    )
  with torch.no_grad():
    for key, value in model.named_parameters():
      noise = torch.randn_like(value)
      norm = 'norm' in key or 'ln_' in key
      if norm and key.endswith('weight'):
        value.add_(0.2 * noise)
      else:
        value.copy_(0.2 * noise)
  return model


def save(model, folder):
  """Saves a model and returns the folder as a str."""
  model.save_pretrained(folder)
  return str(folder)
