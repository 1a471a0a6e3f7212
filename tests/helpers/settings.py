"""Fields of nested settings, named as `holder__field`."""


def assign(config, **changes):
  """Sets fields of a config in place and returns it."""
  for name, value in changes.items():
    *holders, field = name.split('__')
    holder = config
    for part in holders:
      holder = getattr(holder, part)
    assert hasattr(holder, field), name
    setattr(holder, field, value)
  return config
