"""Exact speculative decoding and drafter training in JAX."""

__version__ = '0.1.0'
