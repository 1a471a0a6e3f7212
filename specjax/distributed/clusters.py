"""Processes of a job, read from a cluster's environment variables."""

from collections.abc import Mapping
import re
from typing import NamedTuple

# Default ports of the coordinator: one for each Slurm job.
_FIRST_PORT, _PORTS = 61440, 4096
_TPU_PORT = 8476


class Cluster(NamedTuple):
  """One process among those of a cluster's job.

  Attributes:
    coordinator: HOST:PORT of process 0.
    num_processes: number of processes.
    process_id: number of this process, from 0.
    local_device_ids: devices of this process, where several share a host.
  """

  coordinator: str
  num_processes: int
  process_id: int
  local_device_ids: list[int] | None = None


def find(environment: Mapping[str, str]) -> Cluster | None:
  """The cluster that a process runs in, or None where none is known.

  Slurm and hosts of a TPU slice whose names are in the environment are known;
  others are left to JAX.

  Args:
    environment: environment variables of the process.
  """
  try:
    found = _slurm(environment) or _tpu(environment)
  except (KeyError, ValueError):
    return None  # Half a cluster.
  # A host of its own needs no meeting.
  return found if found is not None and found.num_processes > 1 else None


def _slurm(environment) -> Cluster | None:
  if 'SLURM_STEP_NODELIST' not in environment:
    return None
  host = first_host(environment['SLURM_STEP_NODELIST'])
  port = environment.get('JAX_COORDINATOR_PORT')
  port = port or _FIRST_PORT + int(environment['SLURM_JOB_ID']) % _PORTS
  return Cluster(
    f'{host}:{port}',
    int(environment['SLURM_NTASKS']),
    int(environment['SLURM_PROCID']),
    [int(environment['SLURM_LOCALID'])],
  )


def first_host(hosts: str) -> str:
  """The first of Slurm's list, such as n01 of 'n[01-04,7],m'."""
  # In:  'n[01-04,7]-ib,m' -> name 'n', numbers '01', rest '-ib'
  # Out: 'n01-ib'
  name, numbers, rest = re.match(
    r'([^,\[]*)(?:\[(\w+)[^\]]*\])?([^,]*)', hosts
  ).groups()
  return name + (numbers or '') + rest


def _tpu(environment) -> Cluster | None:
  if 'TPU_WORKER_HOSTNAMES' not in environment:
    return None
  hosts = environment['TPU_WORKER_HOSTNAMES'].split(',')
  return Cluster(
    f'{hosts[0]}:{_TPU_PORT}', len(hosts), int(environment['TPU_WORKER_ID'])
  )
