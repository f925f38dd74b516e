"""Reads the bandit's state of a checkpoint or a card, without a server."""

from typing import Any, Mapping, NamedTuple, Optional

import numpy as np

from lpg_distributed import config as config_lib
from lpg_distributed.core import bandit


def unpack(state: Mapping[str, Any]) -> dict[str, bandit.BanditState]:
  """Converts a state of `BanditServer.get_state`, unchecked."""
  return {name: bandit.BanditState(np.asarray(values['counts'], np.int64),
                                   np.asarray(values['window'], np.float64))
          for name, values in state['bandits'].items()}


def parse(config: config_lib.Config, state: Mapping[str, Any]
          ) -> dict[str, bandit.BanditState]:
  """Converts and checks a saved state; returns bandits by environment.

  Args:
    config: configuration of the run.
    state: result of `BanditServer.get_state`, perhaps from a file.

  Raises:
    ValueError: the state belongs to another configuration, or is damaged.
  """
  missing = set(config.environments) - state['bandits'].keys()
  if missing:
    raise ValueError('the saved state has no bandit for '
                     f'{", ".join(sorted(missing))}')
  found = unpack(state)
  for name, restored in found.items():
    if name not in config.environments:
      raise ValueError(f'no bandit for {name!r}; allowed: '
                       f'{", ".join(config.environments)}')
    expected = bandit.init(len(config.agents[name].arms), config.bandit)
    if (restored.counts.shape != expected.counts.shape
        or restored.window.shape != expected.window.shape):
      raise ValueError(f'the saved bandit of {name} has '
                       f'{restored.window.shape} arms and lifetimes; here: '
                       f'{expected.window.shape}')
    bandit.check(restored)
  return found


def statistics(config: config_lib.Config, environment: str,
               state: bandit.BanditState) -> list[dict[str, float]]:
  """Returns statistics of each arm of an environment's grid."""
  probabilities = np.exp(bandit.log_probabilities(state, config.bandit))
  rows = zip(config.agents[environment].arms, bandit.mean_returns(state),
             state.counts, probabilities)
  return [{'learning_rate': arm[0], 'kl_cost': arm[1],
           'mean_return': float(mean), 'lifetimes': int(count),
           'probability': float(probability)}
          for arm, mean, count, probability in rows]


class SavedBandit(NamedTuple):
  """The bandits of a run at one of its meta-steps."""
  config: config_lib.Config
  meta_step: int
  states: Mapping[str, bandit.BanditState]

  def _state(self, environment: str) -> bandit.BanditState:
    if environment not in self.states:
      raise ValueError(f'no bandit for {environment!r}; allowed: '
                       f'{", ".join(self.states)}')
    return self.states[environment]

  def log_probabilities(self, environment: str) -> np.ndarray:
    """log p(alpha|E), [arms] float32."""
    return np.asarray(bandit.log_probabilities(
        self._state(environment), self.config.bandit), np.float32)

  def statistics(self, environment: str = '') -> dict[str, Any]:
    """Like `BanditServer.get_statistics`; '' means all environments."""
    names = [environment] if environment else self.states
    return {'epoch': 0, 'meta_step': self.meta_step, 'environments': {
        name: statistics(self.config, name, self._state(name))
        for name in names}}

  def best_arm(self, environment: str) -> Optional[int]:
    """Returns the most probable arm that was tried; None: none was.
    """
    state = self._state(environment)
    tried = np.flatnonzero(state.counts)
    if not tried.size:
      return None
    known = bandit.BanditState(state.counts[tried], state.window[tried])
    return int(tried[np.argmax(
        bandit.log_probabilities(known, self.config.bandit))])


def read(config: config_lib.Config,
         state: Optional[Mapping[str, Any]]) -> SavedBandit:
  """Reads the bandits of a saved state; None gives those of a new run.

  Raises:
    ValueError: the state belongs to another configuration, or is damaged.
  """
  if state is None:
    return SavedBandit(config, 0, {
        name: bandit.init(len(config.agents[name].arms), config.bandit)
        for name in config.environments})
  try:
    states = parse(config, state)
    return SavedBandit(config, int(state['meta_step']),
                       {name: states[name] for name in config.environments})
  except (AttributeError, KeyError, TypeError, OverflowError) as error:
    raise ValueError(f'the saved bandit is damaged: {error}') from None
