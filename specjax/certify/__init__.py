"""Certifies that drafter, verifier and warp are lossless; see `runner`."""

from specjax.certify.config import CertifyConfig
from specjax.certify.runner import certify
from specjax.certify.runner import certify_subject
from specjax.certify.verdict import Certificate
from specjax.certify.verdict import INCONCLUSIVE
from specjax.certify.verdict import LOSSLESS
from specjax.certify.verdict import NOT_LOSSLESS

__all__ = [
  'INCONCLUSIVE',
  'LOSSLESS',
  'NOT_LOSSLESS',
  'Certificate',
  'CertifyConfig',
  'certify',
  'certify_subject',
]
