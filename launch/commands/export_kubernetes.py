"""Writes the manifests of a meta-training for Kubernetes.

  lpg kubernetes --resources=FILE --out=DIRECTORY

See docs/kubernetes.md.
"""

import os
import secrets

from absl import flags

from lpg_distributed import files
from lpg_distributed.launch import command
from lpg_distributed.launch import config_flags
from lpg_distributed.launch import process_environment
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.kubernetes import objects
from lpg_distributed.launch.cluster.slurm import launches
from lpg_distributed.launch.local import environment_check

_make_config = config_flags.define()
_RESOURCES = flags.DEFINE_string(
    'resources', None, 'a file that says what nodes get; see docs/cluster.md')
_OUT = flags.DEFINE_string('out', None, 'the directory of the manifests')
_RUN = flags.DEFINE_string(
    'run', None, 'the run directory\'s name within the volume; default: the '
    'job\'s name')
_CLAIM = flags.DEFINE_string(
    'claim', 'lpg-runs', 'a PersistentVolumeClaim that pods of many hosts may '
    'write to; it is not among the manifests')
_GPU_LABEL = flags.DEFINE_string(
    'gpu_label', 'nvidia.com/gpu.product', 'the label of hosts that names '
    'their GPUs; on GKE cloud.google.com/gke-accelerator')

_NOTE = ('# Written by launch.export_kubernetes. Checked against the published '
         'schemas;\n# not tried on a live cluster.\n')


def main() -> int:
  command.require(_RESOURCES, _OUT)
  command.require_launchpad('lpg kubernetes')
  job = resources.load(_RESOURCES.value)
  config = launches.make_config(_make_config, job)
  run = _RUN.value or job.name
  if not run.replace('-', '').replace('_', '').isalnum() or not run.isascii():
    raise command.UsageError(f'--run is {run!r}; allowed: letters, digits, '
                             '- and _')
  process_environment.ensure(process_environment.SERVICE)
  environment_check.check(config)
  import yaml

  from lpg_distributed.launch.cluster.kubernetes import manifests
  made = manifests.make(config, job, objects.Export(
      job.name, run, _CLAIM.value, secrets.token_hex(4), _GPU_LABEL.value))
  manifests.open_directory(_OUT.value)
  for name, content in made.items():
    files.write_whole(
        os.path.join(_OUT.value, f'{name}.yaml'),
        (_NOTE + yaml.safe_dump(content, sort_keys=False)).encode())
  print(f'{len(made)} manifests in {_OUT.value}; start them with: '
        f'kubectl apply -f {_OUT.value}')
  return 0


if __name__ == '__main__':
  command.run(main)
