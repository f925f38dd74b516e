"""Packs a program for Vertex AI and hands it to Launchpad's own launcher."""

import os
import shutil
from typing import Any, Sequence

from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment
from lpg_distributed.launch.cluster import own_modules
from lpg_distributed.launch.cluster import resources


def check_pools(placed: Sequence[resources.PlacedGroup], learner: str) -> None:
  """Checks the pools of nodes with equal needs.

  Vertex AI ends a job when its first pool of one node ends. So that node must
  be the learner.

  Raises:
    ResourceError: it is not the learner, or there are more than four pools.
  """
  pools: dict[Any, list[str]] = {}
  for one in placed:
    need = _need(one.group)
    pools.setdefault(tuple(need.items()), []).extend(
        label for label, _ in one.nodes)
  first = next((nodes for nodes in pools.values() if len(nodes) == 1), None)
  if first != [learner]:
    raise resources.ResourceError(
        f'{learner} does not make the first pool; allowed for Vertex AI: a '
        'group of its own whose cpus, memory_gb or accelerators no other has, '
        'and no other group of a single node')
  if len(pools) > 4:
    raise resources.ResourceError(
        f'groups make {len(pools)} pools; allowed for Vertex AI: 4')


def _need(group: resources.Group) -> dict[str, Any]:
  """Returns a group's needs as arguments of XManager's JobRequirements."""
  need: dict[str, Any] = {'cpu': group.cpus, 'ram': group.memory_mb << 20}
  for number, kind, label in ((group.gpus, group.gpu_type, 'gpu_type'),
                              (group.tpus, group.tpu_type, 'tpu_type')):
    if number and not kind:
      raise resources.ResourceError(f'groups.{group.name}.{label} is missing; '
                                    'allowed: a name that XManager has')
    if number:
      need[kind.lower().replace('-', '_')] = number
  return need


def stage(directory: str, environments: Sequence[str] = ()) -> None:
  """Copies the code that nodes import to the directory of the image."""
  shutil.copytree(
      os.path.join(process_environment.root(), 'lpg_distributed'),
      os.path.join(directory, 'lpg_distributed'),
      ignore=shutil.ignore_patterns('__pycache__'))
  own_modules.copy(environments, directory)


def launch(config, job: resources.JobResources, run_dir: str, code: str,
           packages: str) -> None:
  """Packs the program and launches it.

  Args:
    config: configuration of the run.
    job: resources of the nodes.
    run_dir: path of the run directory on the nodes.
    code: an empty directory, for the code of the images.
    packages: path of the requirements that the images install.

  Raises:
    UsageError: there are no credentials.
    ResourceError: the resource file does not match the program.
  """
  import launchpad as lp
  from launchpad.nodes.python import xm_docker
  from xmanager import xm

  from lpg_distributed import programs

  program, _ = programs.make_program(config, programs.Launch(
      run_dir, own_processes=True, opens_run_dir=True))
  placed = resources.place(job, {
      label: len(nodes) for label, nodes in program.groups.items()})
  check_pools(placed, programs.META_LEARNER)
  stage(code, config.environments)
  configs = {}
  for label, group in resources.by_label(placed).items():
    try:
      need = xm.JobRequirements(**_need(group))
    except (KeyError, TypeError, ValueError) as error:
      raise resources.ResourceError(
          f'groups.{group.name} is nothing that XManager knows: '
          f'{error}') from None
    configs[label] = xm_docker.DockerConfig(code, packages, need)
  try:
    lp.launch(program, lp.LaunchType.VERTEX_AI, xm_resources=configs)
  except Exception as error:
    if type(error).__name__ != 'DefaultCredentialsError':
      raise
    raise command.UsageError(
        'Google Cloud knows no credentials here; allowed: those that '
        '`gcloud auth application-default login` makes, or a file that '
        'GOOGLE_APPLICATION_CREDENTIALS names') from None
