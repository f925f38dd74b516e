"""Loads rules for experiments: from a run, a file, or by published name."""

import os
import re
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import fields
from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import training_settings
from lpg_distributed.core import meta_update
from lpg_distributed.store import checkpointing
from lpg_distributed.store import eta_file
from lpg_distributed.store import published
from lpg_distributed.store import run_directory
from lpg_distributed.store import saved_bandit

_SNAPSHOT = re.compile(r'eta_(\d{8,})\.npz')


class SourceError(errors.UserError, ValueError):
  """The rule cannot be found or used; the message is one line."""


class Source(NamedTuple):
  """A rule, with the available information on its training."""
  label: str
  eta: np.ndarray  # [P]
  config: config_lib.Config  # that of its training; defaults where unknown
  bandit: Optional[Mapping[str, Any]]  # see `BanditServer.get_state`
  about: Mapping[str, Any]  # information that results store: `meta_steps` etc.

  @property
  def agents(self) -> Mapping[str, config_lib.AgentConfig]:
    """Agents of the training; of Table 3 for kinds that it did not have."""
    return {**config_lib.ALL_AGENTS, **self.config.agents}

  def arm_log_probs(self, environment: str,
                    agent: Optional[config_lib.AgentConfig] = None
                    ) -> np.ndarray:
    """Log-probabilities of the arms by the training's bandit, [arms].

    They are uniform if the bandit does not know the environment, or has another
    grid than `agent`, by default the agent of the training.
    """
    arms = (agent or self.agents[environment]).arms
    if (self.bandit is None or environment not in self.config.environments
        or arms != self.config.agents[environment].arms):
      return np.zeros(len(arms), np.float32)
    return saved_bandit.read(self.config, self.bandit).log_probabilities(
        environment)

  def preferred_arm(self, environment: str,
                    agent: config_lib.AgentConfig) -> Optional[int]:
    """Returns the arm of `agent` that the training's bandit prefers.

    None if the bandit does not know the environment, has another grid, or has
    not tried all arms.
    """
    if (self.bandit is None or environment not in self.config.environments
        or agent.arms != self.config.agents[environment].arms
        or min(self.bandit['bandits'][environment]['counts'], default=0) == 0):
      return None
    return int(np.argmax(self.arm_log_probs(environment, agent)))


def snapshots(run_dir: str) -> list[tuple[int, str]]:
  """Returns (meta-step, file) of a run's snapshots of eta, oldest first."""
  directory = os.path.join(run_dir, 'eta')
  found = os.listdir(directory) if os.path.isdir(directory) else []
  matches = sorted((int(match.group(1)), match.group(0))
                   for match in map(_SNAPSHOT.fullmatch, found) if match)
  return [(step, os.path.join(directory, name)) for step, name in matches]


def reached_end(run_dir: str) -> bool:
  """Returns whether a run has written the rule of its last meta-step."""
  path = os.path.join(run_dir, 'eta.npz')
  return (os.path.exists(path) and eta_file.load(path).info.get('meta_step', 0)
          >= run_directory.read_config(run_dir).run.meta_steps)


def average(paths: list[str]) -> eta_file.EtaFile:
  """Returns the mean of several etas; `info` is that of the last one.

  Raises:
    SourceError: the rules have different shapes.
  """
  found = [eta_file.load(path) for path in paths]
  if any(file.rule != found[0].rule for file in found):
    raise SourceError('rules of different shapes have no mean: '
                      f'{", ".join(paths)}')
  eta = np.mean([file.eta for file in found], axis=0, dtype=np.float64)
  return found[-1]._replace(eta=eta.astype(np.float32))


def latest(run_dir: str, average_last: int = 1
           ) -> tuple[eta_file.EtaFile, list[int]]:
  """Loads the newest rule of a run, or the mean of its last ones.

  Args:
    run_dir: directory of the run; the run may still be in progress.
    average_last: 1: `eta.npz`, or the newest snapshot if that is newer;
      n > 1: the mean over the last n snapshots.

  Returns:
    The rule, and the meta-steps that it is averaged over.

  Raises:
    SourceError: there are fewer snapshots.
  """
  if average_last < 1:
    raise SourceError(f'--average_last is {average_last}; allowed: 1 or more')
  paths = snapshots(run_dir)
  final = os.path.join(run_dir, 'eta.npz')
  if average_last == 1 and os.path.exists(final):
    file = eta_file.load(final)
    step = int(file.info.get('meta_step', 0))
    # A stopped run has `eta.npz`; if it was resumed, a snapshot may be newer.
    if not paths or step >= paths[-1][0]:
      return file, [step]
  if len(paths) < average_last:
    raise SourceError(f'{run_dir} has {len(paths)} snapshots of eta; wanted: '
                      f'{average_last}')
  chosen = paths[-average_last:]
  return average([path for _, path in chosen]), [step for step, _ in chosen]


def _of_run(label: str, run_dir: str, average_last: int) -> Source:
  config = run_directory.read_config(run_dir)
  file, steps = latest(run_dir, average_last)
  checkpoint = checkpointing.latest(run_dir)
  bandit = checkpoint and checkpointing.load_json(checkpoint, 'bandit')
  _check(run_dir, file, config, bandit)
  return Source(label or config.rule.kind, file.eta, config, bandit, {
      'run': os.path.basename(os.path.normpath(run_dir)),
      'seed': config.run.seed, 'meta_steps': steps,
      'env_steps': steps[-1] * config.meta.window_env_steps
                   * config.meta.num_lifetimes,
      'training_environments': config.environments})


def _check(place: str, file: eta_file.EtaFile, config: config_lib.Config,
           bandit: Optional[Mapping[str, Any]]) -> None:
  """Raises SourceError if a rule and the record of its training disagree."""
  if file.rule != config.rule:
    raise SourceError(f'{place} holds a rule of other sizes ({file.rule}) than '
                      f'the record of its training ({config.rule})')
  try:
    saved_bandit.read(config, bandit)
  except ValueError as error:
    raise SourceError(f'{place}: {error}') from None


def _of_file(label: str, path: str, card: Optional[Mapping[str, Any]]
             ) -> Source:
  file = eta_file.load(path)
  if card is None:
    config = config_lib.Config(
        rule=file.rule, evaluator=config_lib.EvaluatorConfig(enabled=False))
    return Source(label, file.eta, config, None, {
        'file': os.path.basename(path), **file.info,
        'meta_steps': [int(file.info.get('meta_step', 0))]})
  try:
    config = config_io.from_dict(card['config'])
    _check(path, file, config, card['bandit'])
    steps = [fields.Integer(0).check('averaged_meta_steps', step)
             for step in card['averaged_meta_steps']]
    return Source(label, file.eta, config, card['bandit'], {
        'published': card['name'], 'seed': config.run.seed,
        'meta_steps': steps, 'env_steps': card['env_steps'],
        'training_environments': config.environments})
  except (KeyError, TypeError, fields.FieldError) as error:
    raise SourceError(f'the card of {path} is damaged: {error}') from None


def read(text: str, average_last: int = 1) -> Source:
  """Loads the rule that `[LABEL=]PLACE` names.

  Args:
    text: PLACE is a run's directory, a file, or a published rule's name.
    average_last: number of a run's snapshots to average; see `latest`.

  Raises:
    UserError: it cannot be loaded; the message is one line.
  """
  label, place = experiment.split(text)
  if os.path.isdir(place):
    return _of_run(label, place, average_last)
  path = published.resolve(place)
  card, beside = None, path.removesuffix('.npz') + '.json'
  if published.is_name(place) and path == published.weights_path(place):
    card = published.load_card(place)
  elif os.path.exists(beside):
    card = published.read_card(beside)
  return _of_file(label or place, path, card)


def read_all(texts: Sequence[str], average_last: int,
             reserved: Sequence[str]) -> list[Source]:
  """Loads several rules with distinct labels; see `read`.

  Raises:
    SourceError: a label occurs twice, or is in `reserved`, the labels of other
      curves.
  """
  rules = [read(text, average_last) for text in texts]
  labels = [source.label for source in rules]
  if len({*labels, *reserved}) != len(labels) + len(reserved):
    raise SourceError(
        f'the rules have the labels {", ".join(labels)}; give each a label of '
        f'its own other than {" or ".join(reserved)}, as --rule=LABEL=PLACE')
  return rules


def untrained(source: Source,
              label: str = training_settings.UNTRAINED) -> Source:
  """Draws an untrained rule with the sizes of `source`, as training does."""
  return source._replace(
      label=label, eta=np.asarray(meta_update.init(source.config).eta),
      about={'untrained': True, 'seed': source.config.run.seed})
