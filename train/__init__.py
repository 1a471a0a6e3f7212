"""Training commands: thin, imported by nobody."""
