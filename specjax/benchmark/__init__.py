"""Measures speed and compares it with a prediction; see `run`."""

from specjax.benchmark.config import BenchmarkConfig
from specjax.benchmark.request import BenchmarkRequest
from specjax.benchmark.runner import Results
from specjax.benchmark.runner import run

__all__ = ['BenchmarkConfig', 'BenchmarkRequest', 'Results', 'run']
