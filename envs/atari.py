"""The 57 Atari games: B emulators behind the protocol of host environments.

The emulator's vector interface preprocesses frames: grey levels, 84 x 84
pixels, the maximum of the last two frames, a stack of four frames. Each action
is repeated for four frames. ale-py has the licence GPL-2.0, so it is imported
only when a game is loaded.
"""

import csv
import difflib
import functools
import pathlib
from typing import Mapping, NamedTuple

from dm_env import specs
import numpy as np

from lpg_distributed.envs import host

_SCORES_FILE = pathlib.Path(__file__).with_name('atari_scores.csv')
_FRAME_SKIP = 4
_NUM_STACKED = 4
_SIZE = 84  # height and width of frames in pixels
MAX_EPISODE_FRAMES = 108_000  # half an hour of play


class Preset(NamedTuple):
  """An evaluation protocol; results name theirs."""
  max_noops: int  # largest random number of no-ops at an episode's start
  sticky_probability: float  # that the previous action is repeated instead
  all_actions: bool  # True: all 18 actions; False: those that the game uses


PRESETS: Mapping[str, Preset] = {
    # Mnih et al. (2015); the protocol of `SCORES`.
    'dm_noop': Preset(30, 0., False),
    # Machado et al. (2018).
    'machado': Preset(0, 0.25, True),
}


class Scores(NamedTuple):
  """Reference scores of a game, as episode returns."""
  random: float
  human: float


@functools.lru_cache(maxsize=None)
def scores() -> Mapping[str, Scores]:
  """Returns the reference scores per game; the file names their source."""
  with open(_SCORES_FILE, encoding='utf-8', newline='') as f:
    rows = csv.DictReader(line for line in f if not line.startswith('#'))
    return {row['game']: Scores(float(row['random']), float(row['human']))
            for row in rows}


def games() -> tuple[str, ...]:
  """Returns the 57 names in alphabetical order."""
  return tuple(scores())


def check_game(game: str) -> None:
  """Raises a one-line ValueError if `game` is not one of the 57."""
  if game in scores():
    return
  near = difflib.get_close_matches(game.lower(), games(), n=3, cutoff=0.5)
  hint = (f'did you mean {" or ".join(near)}?' if near
          else f'allowed: {", ".join(games())}')
  raise ValueError(f'unknown Atari game {game!r}; {hint}')


def human_normalised(game: str, episode_return: float) -> float:
  """Normalises a return: 0 for the random agent's score, 1 for a human's."""
  random, human = scores()[game]
  return (episode_return - random) / (human - random)


def _import_emulator():
  """Returns the emulator's vector interface, and a function to find games."""
  try:
    # The compiled module, since the package exports the interface only if
    # gymnasium is installed.
    from ale_py import _ale_py
    from ale_py import roms
  except ImportError as error:
    raise ImportError(
        'Atari needs ale-py, which cannot be imported '
        f'({error}); install it with: pip install ale-py') from None
  return _ale_py.ALEVectorInterface, roms.get_rom_path


class AtariEnvironment(host.HostEnvironment):
  """B emulators of one game; see `host.HostEnvironment`.

  Rewards are not clipped; the learner does that. An episode ends when the game
  is over, not when a life is lost, or after `max_episode_frames`.
  """

  frames_per_step = _FRAME_SKIP

  def __init__(self, game: str, num_envs: int, preset: str = 'dm_noop',
               num_threads: int = 1,
               max_episode_frames: int = MAX_EPISODE_FRAMES,
               first_env: int = 0):
    """Loads the game.

    Args:
      game: one of `games()`.
      num_envs: B.
      preset: one of `PRESETS`.
      num_threads: number of emulators that run at once.
      max_episode_frames: frames after which an episode is cut, without those of
        the no-ops at its start.
      first_env: index of the first emulator in a larger batch. Random numbers
        depend on it, so that groups behave like the whole batch.

    Raises:
      ValueError: the game or preset is unknown.
      ImportError: no emulator is installed.
    """
    check_game(game)
    if preset not in PRESETS:
      raise ValueError(f'unknown preset {preset!r}; allowed: '
                       f'{", ".join(PRESETS)}')
    make, rom_path = _import_emulator()
    protocol = PRESETS[preset]
    self.game, self.preset, self.num_envs = game, preset, num_envs
    self._first_env = first_env
    self._emulators = make(
        rom_path=rom_path(game), num_envs=num_envs, num_threads=num_threads,
        frame_skip=_FRAME_SKIP, stack_num=_NUM_STACKED, img_height=_SIZE,
        img_width=_SIZE, grayscale=True, maxpool=True,
        max_episode_steps=max_episode_frames, noop_max=protocol.max_noops,
        repeat_action_probability=protocol.sticky_probability,
        full_action_space=protocol.all_actions, use_fire_reset=False,
        episodic_life=False, reward_clipping=False,
        autoreset_mode='SameStep')
    self._num_actions = len(self._emulators.get_action_set())
    self._paddle = np.ones(num_envs, np.float32)
    self._returns = np.zeros(num_envs)  # of current episodes, so far

  def observation_spec(self) -> specs.BoundedArray:
    """Returns the spec of stacked frames, [4, 84, 84] grey levels."""
    return specs.BoundedArray((_NUM_STACKED, _SIZE, _SIZE), np.uint8, 0, 255,
                              'frames')

  def action_spec(self) -> specs.DiscreteArray:
    return specs.DiscreteArray(self._num_actions, name='action')

  def reset(self, seed: int) -> np.ndarray:
    """Starts all games; returns frames [B, 4, 84, 84]."""
    seeds = np.random.SeedSequence(seed).generate_state(
        self._first_env + self.num_envs)[self._first_env:]
    observation, _ = self._emulators.reset(
        np.arange(self.num_envs), (seeds >> 1).astype(np.int32))
    self._returns[:] = 0.
    return observation

  def step(self, actions: np.ndarray) -> host.HostStep:
    """Takes a step in each game; see `host.HostEnvironment`."""
    actions = np.asarray(actions, np.int32)
    # The emulator would wait for ever for missing actions.
    if actions.shape != (self.num_envs,):
      raise ValueError(f'actions have shape {actions.shape}; allowed: '
                       f'({self.num_envs},)')
    self._emulators.send(actions, self._paddle)
    observation, reward, terminated, truncated, _ = self._emulators.recv()
    ended = np.logical_or(terminated, truncated)
    self._returns += reward
    episode_returns = tuple(self._returns[ended].tolist())
    self._returns[ended] = 0.
    return host.HostStep(observation, reward.astype(np.float32),
                         1. - ended.astype(np.float32), episode_returns)

  def close(self) -> None:
    """Frees the emulators."""
    self._emulators = None


def make_groups(game: str, num_envs: int, num_groups: int,
                preset: str = 'dm_noop') -> list[AtariEnvironment]:
  """Makes B emulators of a game in groups of nearly equal size.

  Together the groups behave like one `AtariEnvironment` with B emulators. Each
  group steps in one thread. Errors are those of `AtariEnvironment`.
  """
  sizes = [len(part) for part in np.array_split(
      np.arange(num_envs), min(num_groups, num_envs))]
  return [AtariEnvironment(game, size, preset,
                           first_env=sum(sizes[:i]))
          for i, size in enumerate(sizes)]
