"""Dummies of everything that can be registered, none of them like ours."""
