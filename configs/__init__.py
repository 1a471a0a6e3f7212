"""Config files: functions `get_config(arg) -> dataclass`."""
