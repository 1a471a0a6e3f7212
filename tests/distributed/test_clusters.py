"""Settings that a cluster's environment variables state."""

import pytest

from specjax.distributed import clusters


@pytest.mark.parametrize(
  'hosts, first',
  [
    ('node7', 'node7'),
    ('n[01-04,7],m', 'n01'),
    ('a,b', 'a'),
    ('n[3,5].example', 'n3.example'),
    ('10.0.0.3', '10.0.0.3'),
  ],
)
def test_the_first_host_of_a_slurm_job(hosts, first):
  assert clusters.first_host(hosts) == first


def test_clusters_are_read_from_the_environment():
  slurm = {
    'SLURM_STEP_NODELIST': 'n[01-02]',
    'SLURM_JOB_ID': '4100',
    'SLURM_NTASKS': '4',
    'SLURM_PROCID': '3',
    'SLURM_LOCALID': '1',
  }
  assert clusters.find(slurm) == ('n01:61444', 4, 3, [1])
  assert clusters.find(slurm | {'SLURM_NTASKS': '1'}) is None
  del slurm['SLURM_PROCID']
  assert clusters.find(slurm) is None
  tpu = {'TPU_WORKER_HOSTNAMES': 't0,t1', 'TPU_WORKER_ID': '1'}
  assert clusters.find(tpu) == ('t0:8476', 2, 1, None)
  assert clusters.find({}) is None
