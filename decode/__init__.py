"""Decoding commands: thin, imported by nobody."""
