"""Measured speed beside predicted speed; see `run` and `report`."""

from specjax.benchmark.config import BenchmarkConfig
from specjax.benchmark.request import BenchmarkRequest
from specjax.benchmark.runner import Results
from specjax.benchmark.runner import run

__all__ = ['BenchmarkConfig', 'BenchmarkRequest', 'Results', 'run']
