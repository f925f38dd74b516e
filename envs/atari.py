"""The 57 Atari games, as B emulators behind the host-side protocol.

Frames are preprocessed by the emulator's own vector interface: grey, 84 x 84,
the maximum of the last two frames, four of them stacked, each action held for
four frames. ale-py is GPL-2.0, so it is imported when a game is loaded and by
nothing else.
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
_SIZE = 84  # pixels
MAX_EPISODE_FRAMES = 108_000  # half an hour of play


class Preset(NamedTuple):
  """An evaluation protocol; results name theirs."""
  max_noops: int  # a random number of no-ops, up to this, starts an episode
  sticky_probability: float  # that an action is the one before it instead
  all_actions: bool  # all 18, or only those that the game knows


PRESETS: Mapping[str, Preset] = {
    # Mnih et al. (2015); the protocol of `SCORES`.
    'dm_noop': Preset(30, 0., False),
    # Machado et al. (2018).
    'machado': Preset(0, 0.25, True),
}


class Scores(NamedTuple):
  """What others reach, as episode return."""
  random: float
  human: float


@functools.lru_cache(maxsize=None)
def scores() -> Mapping[str, Scores]:
  """Scores per game; their source is named in the file."""
  with open(_SCORES_FILE, encoding='utf-8', newline='') as f:
    rows = csv.DictReader(line for line in f if not line.startswith('#'))
    return {row['game']: Scores(float(row['random']), float(row['human']))
            for row in rows}


def games() -> tuple[str, ...]:
  """The 57 names, in the order of the alphabet."""
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
  """0 is the random agent's score, 1 the human's."""
  random, human = scores()[game]
  return (episode_return - random) / (human - random)


def _import_emulator():
  """The emulator's vector interface and the path of a game's file."""
  try:
    # From where it is compiled: the package's own name for it exists only
    # where gymnasium is installed too.
    from ale_py import _ale_py
    from ale_py import roms
  except ImportError as error:
    raise ImportError(
        'Atari needs ale-py, which cannot be imported '
        f'({error}); install it with: pip install ale-py') from None
  return _ale_py.ALEVectorInterface, roms.get_rom_path


class AtariEnvironment(host.HostEnvironment):
  """B games of one kind; see `host.HostEnvironment`.

  Rewards are raw: whoever learns from them clips them. An episode ends when
  the game is over (not when a life is lost) or after `MAX_EPISODE_FRAMES`.
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
      num_threads: how many emulators run at once.
      max_episode_frames: emulator frames after which an episode is cut; those
        of the no-ops at its start do not count.
      first_env: where these stand in a larger batch; they draw the same random
        numbers in it and alone.

    Raises:
      ValueError: an unknown game or preset.
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
    self._returns = np.zeros(num_envs)  # of the episodes that go on

  def observation_spec(self) -> specs.BoundedArray:
    """Grey levels of the stacked frames."""
    return specs.BoundedArray((_NUM_STACKED, _SIZE, _SIZE), np.uint8, 0, 255,
                              'frames')

  def action_spec(self) -> specs.DiscreteArray:
    return specs.DiscreteArray(self._num_actions, name='action')

  def reset(self, seed: int) -> np.ndarray:
    seeds = np.random.SeedSequence(seed).generate_state(
        self._first_env + self.num_envs)[self._first_env:]
    observation, _ = self._emulators.reset(
        np.arange(self.num_envs), (seeds >> 1).astype(np.int32))
    self._returns[:] = 0.
    return observation

  def step(self, actions: np.ndarray) -> host.HostStep:
    actions = np.asarray(actions, np.int32)
    # The emulator would wait forever for what is missing.
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
    self._emulators = None


def make_groups(game: str, num_envs: int, num_groups: int,
                preset: str = 'dm_noop') -> list[AtariEnvironment]:
  """B games in groups of nearly equal size, to be stepped at once.

  Together they are what one `AtariEnvironment` with all of them is; each steps
  in a thread of its own. Raises as that does.
  """
  sizes = [len(part) for part in np.array_split(
      np.arange(num_envs), min(num_groups, num_envs))]
  return [AtariEnvironment(game, size, preset,
                           first_env=sum(sizes[:i]))
          for i, size in enumerate(sizes)]
