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
