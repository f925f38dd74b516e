"""Makes all Kubernetes manifests of a run, with its serialised nodes."""

import os
import tempfile
from typing import Any

from lpg_distributed import config as config_lib
from lpg_distributed import programs
from lpg_distributed.launch import command
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster import serialising
from lpg_distributed.launch.cluster.kubernetes import objects
from lpg_distributed.nodes import assignment


def _never_stops(mark_as_completed: bool = False) -> None:
  del mark_as_completed
  raise NotImplementedError('no node of this program stops the others')


def _idle_workers(config: config_lib.Config) -> tuple[int, ...]:
  """Returns the numbers of the workers without a shard; warns of them."""
  workers = assignment.assign(config)[:config.run.num_workers]
  idle = tuple(i for i, shards in enumerate(workers) if not shards)
  if idle:
    command.warn(
        f'{len(idle)} of {len(workers)} workers have no shard: their pods only '
        f'wait for the end; allowed without: {len(workers) - len(idle)} '
        'workers, or smaller shards')
  return idle


def make(config: config_lib.Config, job: resources.JobResources,
         export: objects.Export) -> dict[str, dict[str, Any]]:
  """Makes all manifests, by the names of their files.

  Raises:
    ResourceError: the resource file does not match the program.
  """
  program, _ = programs.make_program(config, programs.Launch(
      f'{objects.RUNS}/{export.run}', own_processes=True, opens_run_dir=True))
  labels = list(program.groups)
  groups = resources.by_label(resources.place(
      job, {label: len(nodes) for label, nodes in program.groups.items()}))
  for group in groups.values():
    if not group.image:
      raise resources.ResourceError(
          f'groups.{group.name}.image is missing; allowed: the name of an '
          'image in a registry')
  objects.check_name(export.name, max(labels, key=len),
                     max(map(len, program.groups.values())))
  with tempfile.TemporaryDirectory() as directory:
    names = serialising.serialise(
        program, directory,
        lambda label, number, name: serialising.KnownAddress(
            objects.address(export, label, number, labels)), _never_stops)
    contents = {}
    for label in labels:
      with open(os.path.join(directory, f'{label}.pkl'), 'rb') as f:
        contents[f'{label}.pkl'] = f.read()
  ports = {label: objects.port(label, labels) for label in labels
           if names[label]}
  # In the order of creation. The policy that closes ports comes first.
  result = {'1_network_policy': objects.network_policy(
                export, list(ports.values())),
            '2_service': objects.service(export, ports),
            '3_nodes': objects.config_map(export, contents)}
  for label, nodes in program.groups.items():
    result[f'4_{label}'] = objects.job(export, objects.NodeKind(
        label, len(nodes), groups[label], label in ports,
        label in programs.SERVICES, label == programs.ATARI_EVALUATOR,
        label == programs.META_LEARNER,
        _idle_workers(config) if label == programs.LIFETIME_WORKER else ()),
                                         labels)
  return result


def open_directory(path: str) -> None:
  """Creates the directory, or removes its manifests.

  Raises:
    UsageError: it contains other files, or cannot be created.
  """
  try:
    os.makedirs(path, exist_ok=True)
    others = [name for name in os.listdir(path) if not name.endswith('.yaml')]
  except OSError as error:
    raise command.UsageError(f'--out={path} cannot be used: '
                             f'{error.strerror}') from None
  if others:
    raise command.UsageError(f'--out={path} has {others[0]}; allowed: a '
                             'directory of manifests, or none yet')
  for name in os.listdir(path):
    os.remove(os.path.join(path, name))
