"""Settings of the training environments, as plain data.

They are apart from the environments, so that looking up a name needs no JAX.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ObjectType:
  """N x [r, eps_term, eps_respawn] of Appendix A."""
  count: int
  reward: float
  termination: float
  respawn: float


@dataclasses.dataclass(frozen=True)
class GridWorldSettings:
  """One table of Appendix A.1 or A.2."""
  height: int
  width: int
  objects: tuple[ObjectType, ...]
  max_episode_steps: int
  tabular: bool  # False: objects are placed at random and observed as planes
  walls: tuple[str, ...] = ()  # rows; '#' is a wall


@dataclasses.dataclass(frozen=True)
class DelayedChainSettings:
  """One table of Appendix A.3."""
  min_length: int
  max_length: int  # inclusive
  noisy_rewards: bool = False
  distractor: bool = False  # 22 bits are observed, two of them relevant


# The following kinds are not in the paper. Each lifetime draws its constants
# uniformly from ranges, which include both ends.


@dataclasses.dataclass(frozen=True)
class SurvivalChainSettings:
  """Ranges of `survival.SurvivalChain`."""
  lengths: tuple[int, int] = (5, 15)  # cells; at most 32
  limits: tuple[int, int] = (50, 200)  # steps of an episode
  slips: tuple[float, float] = (0., 0.3)
  rewards: tuple[float, float] = (0.2, 1.2)  # of each step


@dataclasses.dataclass(frozen=True)
class BalanceSettings:
  """Ranges of `survival.Balance`; see `survival.BalanceParams`."""
  dimensions: tuple[int, int] = (2, 4)
  max_episode_steps: int = 200
  # The unstable mode grows by 1 + excess. The push is strength * excess, so
  # that it can hold the mode up to the magnitude `strength`.
  excesses: tuple[float, float] = (0.05, 0.15)
  strengths: tuple[float, float] = (1.5, 3.)
  decays: tuple[float, float] = (0.02, 0.2)  # The stable modes have 1 - decay.
  gain: float = 0.4  # largest magnitude that a push gives to a stable mode
  noise: float = 0.05
  start: float = 0.1
  units: tuple[float, float] = (0.3, 3.)  # log-uniform
  rewards: tuple[float, float] = (0.2, 1.2)  # of each step


@dataclasses.dataclass(frozen=True)
class RandomMdpSettings:
  """Ranges of `random_mdp.RandomMdp`."""
  num_states: tuple[int, int] = (4, 20)
  num_actions: tuple[int, int] = (2, 5)
  limits: tuple[int, int] = (20, 200)  # steps of an episode
  offsets: tuple[float, float] = (-0.2, 0.6)  # mean reward of a step
  scales: tuple[float, float] = (0.1, 0.5)  # its standard deviation
  # Chance that a pair of a state and an action ends the episode.
  end_shares: tuple[float, float] = (0., 0.2)
  num_features: int = 0  # 0: the state's number is observed


@dataclasses.dataclass(frozen=True)
class RandomGridsSettings:
  """Ranges of `random_grids.RandomGrids`."""
  sizes: tuple[int, int] = (3, 7)  # height and width
  most_walls: float = 0.25  # fraction of the cells, from 0
  num_objects: tuple[int, int] = (1, 4)
  rewards: tuple[float, float] = (-1., 1.)
  least_first_reward: float = 0.2  # of the first object
  # Fractions of objects that can end the episode, or return; and the range of
  # their chances, log-uniform.
  ending_share: float = 0.5
  terminations: tuple[float, float] = (0.1, 1.)
  returning_share: float = 0.75
  respawns: tuple[float, float] = (0.005, 1.)
  limits: tuple[int, int] = (20, 300)  # steps of an episode
  planes: bool = False  # False: the state's number is observed

  @property
  def height(self) -> int:
    return self.sizes[1]

  @property
  def width(self) -> int:
    return self.sizes[1]

  @property
  def tabular(self) -> bool:  # Objects keep their cells, as in tabular grids.
    return True
