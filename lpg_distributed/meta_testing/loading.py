"""Builds the rule, the environment and the network of a job."""

from typing import Any, Callable, Optional

import jax
import jax.numpy as jnp

from lpg_distributed import processors
from lpg_distributed.core import observation_networks
from lpg_distributed.core import rule_vector
from lpg_distributed.core.update_rules import base as rule_lib
from lpg_distributed.core.update_rules import registry as rule_registry
from lpg_distributed.envs import protocol
from lpg_distributed.envs import registry
from lpg_distributed.meta_testing import compiled_loop
from lpg_distributed.meta_testing import jobs
from lpg_distributed.store import eta_file
from lpg_distributed.store import published

# Folded into an agent's key, to draw eta for the rule `random`.
_ETA_FOLD = 0x657461


def load_eta(job: jobs.Job, seed: int) -> Any:
  """Returns eta for one agent; () for a rule without eta."""
  if job.rule_config is None:
    return ()
  if job.rule == rule_registry.UNTRAINED:
    key = jax.random.fold_in(jax.random.PRNGKey(seed), _ETA_FOLD)
    return rule_vector.init(job.rule_config, key)
  saved = eta_file.load(published.resolve(job.eta))
  return rule_vector.unravel(saved.rule, jnp.asarray(saved.eta))


def make_rule(job: jobs.Job) -> rule_lib.UpdateRule:
  """Makes the job's update rule."""
  if job.rule == rule_registry.UNTRAINED:
    return rule_registry.make_learned(job.rule_config)
  return rule_registry.make(job.rule, job.rule_config)


def load_environment(job: jobs.Job) -> registry.LoadedEnvironment:
  """Loads the job's environment.

  Raises:
    JobError: there is no such environment, or agents cannot use it.
  """
  try:
    loaded = registry.load(job.environment, job.preset or 'dm_noop')
    if loaded.jax is not None:
      if loaded.kind == 'module':
        protocol.check(loaded.jax)
      compiled_loop.check(loaded.jax)
      observation_networks.kind(loaded.jax.observation_spec())
    return loaded
  except (ValueError, ImportError) as error:
    raise job_error(job, error) from None


def job_error(job: jobs.Job, error: Exception,
              more: str = '') -> jobs.JobError:
  """Converts an error to a JobError that names the environment once."""
  text = ' '.join(str(error).split())
  where = '' if text.startswith(job.environment) else f'{job.environment}: '
  return jobs.JobError(where + text + more)


def make_network(spec) -> Callable[[int], Any]:
  """Returns a function from the number of outputs to a network for `spec`."""
  return lambda num_outputs: observation_networks.make_network(
      spec, num_outputs)


def _make_batches(loaded: registry.LoadedEnvironment, num_envs: int,
                  num_threads: Optional[int]) -> list[Any]:
  if loaded.make_groups is None:
    return [loaded.make_host(num_envs)]
  return loaded.make_groups(num_envs,
                            num_threads or processors.count())


def load_batches(loaded: registry.LoadedEnvironment, job: jobs.Job,
                 num_threads: Optional[int]) -> list[Any]:
  """Builds batches of the job's environments, which are stepped on the host.

  Args:
    loaded: result of `load_environment`.
    job: the job.
    num_threads: number of batches on Atari, one per thread; None: one per
      processor. Elsewhere there is one batch.

  Raises:
    JobError: agents cannot use the environments.
  """
  batches = []
  try:
    batches = _make_batches(loaded, job.num_envs, num_threads)
    observation_networks.kind(batches[0].observation_spec())
    return batches
  except (ValueError, ImportError) as error:
    for batch in batches:
      batch.close()
    raise job_error(job, error) from None
