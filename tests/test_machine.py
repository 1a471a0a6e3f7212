"""The processor by its description on Linux, and without one."""

import platform

from specjax import machine

X86 = 'processor\t: 0\nmodel name\t: AMD EPYC 7\nflags\t\t: sse fma avx2\n\n'
ARM = 'processor\t: 0\nFeatures\t: fp asimd\n\n'


def test_name_and_instruction_sets(tmp_path, monkeypatch):
  path = tmp_path / 'cpuinfo'
  monkeypatch.setattr(machine, '_PATH', str(path))
  path.write_text(X86 * 2)
  assert machine.processor() == 'AMD EPYC 7'
  assert machine.processor_flags() == ('avx2', 'fma', 'sse')
  path.write_text(ARM)
  assert machine.processor_flags() == ('asimd', 'fp')
  path.unlink()
  assert machine.processor_flags() == ()
  assert machine.processor() in (platform.processor(), platform.machine())
