"""The training environments as data: the fifteen of Appendix A, and others.

The others, `BEYOND_THE_PAPER`, are not in the paper. They are off by default:
no preset and no figure has them unless it is given their names.
"""

from __future__ import annotations

import difflib
import hashlib
from typing import Mapping, TYPE_CHECKING, Union

from lpg_distributed.envs import settings as settings_lib

if TYPE_CHECKING:
  from lpg_distributed.envs import base

_O = settings_lib.ObjectType
_Grid = settings_lib.GridWorldSettings
_Chain = settings_lib.DelayedChainSettings
Settings = Union[
    _Grid, _Chain, settings_lib.SurvivalChainSettings,
    settings_lib.BalanceSettings, settings_lib.RandomMdpSettings,
    settings_lib.RandomGridsSettings]

_DENSE = (_O(2, 1., 0., 0.05), _O(1, -1., 0.5, 0.1), _O(1, -1., 0., 0.5))
_LONG_HORIZON = (_O(2, 1., 0., 0.01), _O(2, -1., 0.5, 1.))

# Walls of three settings, taken from the paper's pictures.
_LONGER_HORIZON_WALLS = (
    '....#....',
    '.........',
    '....#....',
    '...###...',
    '....#....',
    '.........',
    '....#....',
)
_LONG_DENSE_WALLS = (
    '...........',
    '.....#.....',
    '.....#.....',
    '.....#.....',
    '##.#####.##',
    '.....#.....',
    '.....#.....',
    '...........',
    '.....#.....',
    '.....#.....',
    '.....#.....',
)
_SMALL_WALLS = (
    '.......',
    '..#....',
    '.......',
    '....#..',
    '.......',
)

SETTINGS: Mapping[str, Settings] = {
    'tabular_dense': _Grid(11, 11, _DENSE, 500, True),  # A.1.1
    'tabular_sparse': _Grid(  # A.1.2
        13, 13, (_O(1, 1., 1., 0.), _O(1, -1., 1., 0.)), 50, True),
    'tabular_long_horizon': _Grid(11, 11, _LONG_HORIZON, 1000, True),  # A.1.3
    'tabular_longer_horizon': _Grid(  # A.1.4
        7, 9, (_O(2, 1., 0.1, 0.01), _O(5, -1., 0.8, 1.)), 2000, True,
        _LONGER_HORIZON_WALLS),
    'tabular_long_dense': _Grid(  # A.1.5
        11, 11, (_O(4, 1., 0., 0.005),), 2000, True, _LONG_DENSE_WALLS),
    'random_dense': _Grid(11, 11, _DENSE, 500, False),  # A.2.1
    'random_long_horizon': _Grid(11, 11, _LONG_HORIZON, 1000, False),  # A.2.2
    'random_small': _Grid(  # A.2.3
        5, 7, (_O(2, 1., 0., 0.05), _O(2, -1., 0.5, 0.1)), 500, False,
        _SMALL_WALLS),
    'random_small_sparse': _Grid(  # A.2.4
        5, 7, (_O(1, 1., 1., 1.), _O(2, -1., 1., 1.)), 50, False),
    'random_very_dense': _Grid(  # A.2.5
        11, 11, (_O(1, 1., 0., 1.),), 2000, False),
    'chain_short': _Chain(5, 30),  # A.3.1
    'chain_short_noisy': _Chain(5, 30, noisy_rewards=True),  # A.3.2
    'chain_long': _Chain(5, 50),  # A.3.3
    'chain_long_noisy': _Chain(5, 50, noisy_rewards=True),  # A.3.4
    'chain_state_distraction': _Chain(5, 30, distractor=True),  # A.3.5
}

ENVIRONMENTS: tuple[str, ...] = tuple(SETTINGS)

BEYOND_THE_PAPER: Mapping[str, Settings] = {
    'survival_chain': settings_lib.SurvivalChainSettings(),
    'balance': settings_lib.BalanceSettings(),
    'random_mdp': settings_lib.RandomMdpSettings(),
    'random_mdp_features': settings_lib.RandomMdpSettings(num_features=8),
    'random_grids': settings_lib.RandomGridsSettings(),
    'random_grids_planes': settings_lib.RandomGridsSettings(planes=True),
}

ALL: Mapping[str, Settings] = {**SETTINGS, **BEYOND_THE_PAPER}

# Never change these numbers: stored results depend on them. A new environment
# needs none.
_SEED_NUMBERS: Mapping[str, int] = {
    'tabular_dense': 0,
    'tabular_sparse': 1,
    'tabular_long_horizon': 2,
    'tabular_longer_horizon': 3,
    'tabular_long_dense': 4,
    'random_dense': 5,
    'random_long_horizon': 6,
    'random_small': 7,
    'random_small_sparse': 8,
    'random_very_dense': 9,
    'chain_short': 10,
    'chain_short_noisy': 11,
    'chain_long': 12,
    'chain_long_noisy': 13,
    'chain_state_distraction': 14,
}


def seed_number(name: str) -> int:
  """Returns a number to fold into random keys; it depends on the name only.

  The paper's fifteen environments have the numbers 0 to 14. Any other name has
  a 31-bit number from its SHA-256 hash.
  """
  if name in _SEED_NUMBERS:
    return _SEED_NUMBERS[name]
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:4], 'big') >> 1


def check_name(name: str) -> None:
  """Raises a one-line ValueError if there is no environment of that name."""
  if name not in ALL:
    close = difflib.get_close_matches(str(name), ALL, 1)
    hint = f'did you mean {close[0]}? ' if close else ''
    raise ValueError(f'there is no environment {name!r}; {hint}allowed: '
                     f'{", ".join(ALL)}')


def load(name: str) -> base.Environment:
  """Returns the environment called `name`.

  Raises:
    ValueError: there is no such environment; the message lists all names.
  """
  check_name(name)
  # Imported here, since they import JAX, which checks of names do not need.
  from lpg_distributed.envs import delayed_chain
  from lpg_distributed.envs import grid_world
  from lpg_distributed.envs import random_grids
  from lpg_distributed.envs import random_mdp
  from lpg_distributed.envs import survival
  kinds = {
      _Grid: grid_world.GridWorld,
      _Chain: delayed_chain.DelayedChain,
      settings_lib.SurvivalChainSettings: survival.SurvivalChain,
      settings_lib.BalanceSettings: survival.Balance,
      settings_lib.RandomMdpSettings: random_mdp.RandomMdp,
      settings_lib.RandomGridsSettings: random_grids.RandomGrids,
  }
  return kinds[type(ALL[name])](name, ALL[name])
