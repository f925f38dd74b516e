"""Writes and checks model cards of published rules.

A card is a JSON file that describes a rule and its results. Its `check`
describes a small computation with the published weights, and states the result.
A user repeats it to verify that card and weights belong together.
"""

import hashlib
import json
import os
from typing import Any, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import files
from lpg_distributed.analysis import evaluation
from lpg_distributed.analysis import figure3
from lpg_distributed.analysis import figure7
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_environments
from lpg_distributed.analysis import training_settings
from lpg_distributed.figures import intervals
from lpg_distributed.figures import markdown
from lpg_distributed.store import eta_file
from lpg_distributed.store import published
from lpg_distributed.store import run_versions

LABEL = 'trained'
_POINTS = 40  # number of points of a curve
_CHECK = {'num_lifetimes': 8, 'num_envs': 16, 'updates': 60, 'seed': 0}
_STREAM = 4  # see `evaluation.held_out_key`; other modules use other numbers


def check(eta: np.ndarray, config: config_lib.Config,
          wanted: Mapping[str, Any]) -> dict[str, Any]:
  """Runs the computation that a card's `check` describes.

  Args:
    eta: [P].
    config: configuration of the rule's training.
    wanted: `environment`, `arm` (a row of its grid), `num_lifetimes`,
      `num_envs`, `updates`, `seed`.

  Returns:
    `mean` and `standard_error` of the final returns.
  """
  name = wanted['environment']
  sized = training_environments.sized(
      config, name, config, training_settings.ComparisonSettings(
          updates=wanted['updates'], num_envs=wanted['num_envs']))
  log_probs = evaluation.only_arm(
      wanted['arm'], len(config.agents[name].arms))
  simulate = evaluation.LifetimeSimulator(sized, name, wanted['num_lifetimes'])
  lifetimes = simulate(
      jnp.asarray(eta), evaluation.held_out_key(wanted['seed'], _STREAM),
      log_probs)
  found = intervals.summary(lifetimes.final_return)
  return {key: found[key] for key in ('mean', 'standard_error')}


def _make_check(source: sources.Source) -> dict[str, Any]:
  """Runs the check on the first kind with different final returns.

  Without differences the standard error, and so the tolerance, would be 0.
  """
  for name in source.config.environments:
    wanted = {'environment': name, **_CHECK,
              'arm': int(np.argmax(source.arm_log_probs(name)))}
    found = {**wanted, **check(source.eta, source.config, wanted)}
    if found['standard_error']:
      break
  return found


def _curves(run_dir: str, config: config_lib.Config) -> dict[str, Any]:
  bounds = np.linspace(0, config.run.meta_steps, _POINTS + 1)
  values = figure7.returns_by_part(run_dir, config.environments, bounds)
  return {'meta_step': (bounds[:-1] + bounds[1:]) / 2.,
          'return': dict(zip(config.environments, values))}


def _unfinished(run_dir: str, source: sources.Source, num_lifetimes: int,
                commit: str) -> str:
  """Returns the path of unfinished results, for one rule and one commit."""
  text = json.dumps(stored.plain([source.about, num_lifetimes, commit]))
  key = hashlib.sha256(text.encode() + source.eta.tobytes()).hexdigest()
  return os.path.join(run_dir, f'card_{key[:16]}.unfinished.json')


def _results(path: str, source: sources.Source, num_lifetimes: int,
             environments: Sequence[str]) -> dict[str, Any]:
  """Evaluates rule, ablations and A2C on held-out lifetimes, by kind."""
  settings = training_settings.ComparisonSettings(
      num_lifetimes=num_lifetimes, chunk=min(16, num_lifetimes))
  rules = [source, sources.untrained(source)]
  _, data = figure3.compare(rules, environments, settings, path)
  return {name: figure3.summaries(data[name]) for name in environments}


def publish(run_dir: str, name: str, *, summary: str, average_last: int,
            num_lifetimes: int, commit: str, command: str,
            environments: Sequence[str] = ()) -> dict[str, Any]:
  """Writes a rule's weights and card; returns the card.

  Args:
    run_dir: directory of the training run.
    name: name of the published rule.
    summary: description of the rule in one line.
    average_last: see `sources.latest`.
    num_lifetimes: lifetimes per kind in each comparison.
    commit: commit of the code.
    command: the command that publishes it.
    environments: training environments whose results the card states; empty:
      all.

  Raises:
    UserError: the run has no such rule or environment, or the weights are too
      large.
  """
  source = sources.read(f'{LABEL}={run_dir}', average_last)
  config = source.config
  for environment in environments:
    if environment not in config.environments:
      raise published.PublishedError(
          f'the run has no environment {environment!r}; allowed: '
          f'{", ".join(config.environments)}')
  weights = eta_file.pack(source.eta, config.rule, name=name,
                          meta_step=source.about['meta_steps'][-1])
  if len(weights) > published.LARGEST:
    raise published.PublishedError(f'the weights are {len(weights)} bytes; '
                                   f'allowed: {published.LARGEST}')
  unfinished = _unfinished(run_dir, source, num_lifetimes, commit)
  card = stored.plain({
      'name': name, 'summary': summary,
      'env_steps': source.about['env_steps'],
      'averaged_meta_steps': source.about['meta_steps'],
      'seed': config.run.seed, 'environments': config.environments,
      'commands': {'publish': command, 'train': _training_command(config)},
      'commit': commit, 'versions': run_versions.versions(),
      'num_lifetimes': num_lifetimes,
      'results': _results(unfinished, source, num_lifetimes,
                          environments or config.environments),
      'curves': _curves(run_dir, config),
      'check': _make_check(source)})
  os.makedirs(published.DIRECTORY, exist_ok=True)
  files.write_whole(published.weights_path(name), weights)
  # Not rounded, since reproduction needs exact numbers.
  card = {'format': published.CARD_FORMAT, **card,
          'weights_sha256': published.sum_of(name), 'bandit': source.bandit,
          'config': config_io.to_dict(config)}
  stored.write(published.card_path(name), card)
  os.remove(unfinished)
  return card


def _training_command(config: config_lib.Config) -> str:
  """Returns a command that repeats the run from the card's configuration."""
  return ('lpg meta-train --config=CONFIG.json '
          f'--run_dir=RUN --seed={config.run.seed}, where CONFIG.json is this '
          'card\'s config')


def lines(card: Mapping[str, Any]) -> list[str]:
  """Formats the results as a table."""
  labels = list(dict.fromkeys(
      label for found in card['results'].values() for label in found))
  began = card['config']['run'].get('initial_rule')
  return [f'{card["name"]}: {card["env_steps"]:,} environment steps'
          f'{f" after those of {began}" if began else ""}, '
          f'meta-steps {card["averaged_meta_steps"]}', '',
          *markdown.table(['environment', *labels], (
              [f'`{name}`', *(intervals.text(found.get(label))
                              for label in labels)]
              for name, found in card['results'].items()))]
