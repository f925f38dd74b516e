"""Meta-trains on Vertex AI by Launchpad's own launcher.

  lpg vertex-ai --resources=FILE --bucket=NAME

Launchpad makes one image for each set of nodes with equal needs, from this
package and `requirements.txt`. XManager builds and starts the images in
Google's cloud. That needs credentials and the packages of
`launch/cluster/vertex_requirements.txt`. docs/cluster.md says what was tried.
"""

import importlib.util
import os
import tempfile

from absl import flags

from lpg_distributed.launch import command
from lpg_distributed.launch import config_flags
from lpg_distributed.launch import process_environment
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster import vertex_ai
from lpg_distributed.launch.cluster.slurm import launches
from lpg_distributed.launch.local import environment_check

_make_config = config_flags.define()
_RESOURCES = flags.DEFINE_string(
    'resources', None, 'a file that says what nodes get; see docs/cluster.md')
_BUCKET = flags.DEFINE_string(
    'bucket', None, 'a bucket of Cloud Storage, for the images\' sources and '
    'the run')
_RUN = flags.DEFINE_string(
    'run', 'lpg', 'the run directory\'s name within the bucket')


def main() -> int:
  command.require(_RESOURCES, _BUCKET)
  command.require_launchpad('lpg vertex-ai')
  job = resources.load(_RESOURCES.value)
  config = launches.make_config(_make_config, job)
  if importlib.util.find_spec('xmanager') is None:
    raise command.UsageError('XManager is missing; install '
                             'launch/cluster/vertex_requirements.txt')
  packages = os.path.join(process_environment.root(), 'requirements.txt')
  if not os.path.exists(packages):
    raise command.UsageError(f'there is no {packages}; allowed: lpg vertex-ai '
                             'of a checkout, whose lock the images install')
  process_environment.ensure(process_environment.CLIENT)
  environment_check.check(config)
  os.environ['GOOGLE_CLOUD_BUCKET_NAME'] = _BUCKET.value
  with tempfile.TemporaryDirectory() as code:
    vertex_ai.launch(config, job, f'/gcs/{_BUCKET.value}/{_RUN.value}', code,
                     packages)
  return 0


if __name__ == '__main__':
  command.run(main)
