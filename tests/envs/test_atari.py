"""Atari environments: presets, random streams, rewards and returns."""

import importlib.util
import sys

import numpy as np
import pytest

from lpg_distributed.envs import atari

_NAMES = """
alien amidar assault asterix asteroids atlantis bank_heist battle_zone
beam_rider berzerk bowling boxing breakout centipede chopper_command
crazy_climber defender demon_attack double_dunk enduro fishing_derby freeway
frostbite gopher gravitar hero ice_hockey jamesbond kangaroo krull
kung_fu_master montezuma_revenge ms_pacman name_this_game phoenix pitfall pong
private_eye qbert riverraid road_runner robotank seaquest skiing solaris
space_invaders star_gunner surround tennis time_pilot tutankham up_n_down
venture video_pinball wizard_of_wor yars_revenge zaxxon
"""
GAMES = _NAMES.split()
needs_emulator = pytest.mark.skipif(
    importlib.util.find_spec('ale_py') is None, reason='ale-py is missing')
PRESETS = pytest.mark.parametrize('preset', ['dm_noop', 'machado'])


def play(game, preset='dm_noop', num_envs=3, steps=40, seed=0, **kwargs):
  """Returns the first observation, and the steps of random actions."""
  environment = atari.AtariEnvironment(game, num_envs, preset, **kwargs)
  num_actions = environment.action_spec().num_values
  rng = np.random.default_rng(1)
  first = environment.reset(seed).copy()
  result = []
  for _ in range(steps):
    step = environment.step(rng.integers(0, num_actions, num_envs))
    result.append(step._replace(observation=step.observation.copy()))
  spec = environment.observation_spec()
  environment.close()
  for observation in (first, *(step.observation for step in result)):
    assert observation.shape == (num_envs,) + spec.shape == (
        num_envs, 4, 84, 84)
    assert observation.dtype == spec.dtype == np.uint8
  for step in result:
    assert step.reward.shape == step.discount.shape == (num_envs,)
    assert step.reward.dtype == step.discount.dtype == np.float32
    assert np.isin(step.discount, (0, 1)).all()
  return first, result


def test_games_are_the_57_of_the_paper():
  assert len(GAMES) == 57 and list(atari.games()) == GAMES


def test_scores_and_human_normalised_scores():
  assert atari.scores()['breakout'] == (1.7, 30.5)
  assert atari.scores()['montezuma_revenge'] == (0., 4753.3)
  assert atari.scores()['zaxxon'] == (32.5, 9173.3)
  assert atari.human_normalised('breakout', 1.7) == 0.
  assert atari.human_normalised('breakout', 30.5) == 1.
  np.testing.assert_allclose(atari.human_normalised('skiing', -29859.3), -1.)


@needs_emulator
def test_presets():
  assert atari.PRESETS == {
      'dm_noop': (30, 0., False), 'machado': (0, 0.25, True)}
  for preset, num_actions in (('dm_noop', 4), ('machado', 18)):
    environment = atari.AtariEnvironment('breakout', 1, preset)
    assert environment.action_spec().num_values == num_actions
    assert environment.preset == preset and environment.frames_per_step == 4
    environment.close()


@needs_emulator
@PRESETS
def test_equal_seeds_give_equal_streams(preset):
  runs = [play('breakout', preset, seed=seed) for seed in (3, 3, 4)]
  for other, same in ((runs[1], True), (runs[2], False)):
    equal = np.array_equal(runs[0][0], other[0]) and all(
        np.array_equal(a.observation, b.observation)
        and np.array_equal(a.reward, b.reward)
        and np.array_equal(a.discount, b.discount)
        and a.episode_returns == b.episode_returns
        for a, b in zip(runs[0][1], other[1]))
    assert equal == same
  assert any(step.observation.std() > 0 for step in runs[0][1])


@needs_emulator
def test_environments_of_one_batch_differ():
  """By their no-ops, or by when their actions stick."""
  for preset in atari.PRESETS:
    environment = atari.AtariEnvironment('breakout', 4, preset)
    environment.reset(0)
    for i in range(40):
      step = environment.step(np.full(4, (1, 2, 2, 3)[i % 4]))
    frames = step.observation.copy()
    environment.close()
    assert len(np.unique(frames.reshape(4, -1), axis=0)) > 1, preset


@needs_emulator
def test_groups_equal_one_batch():
  groups = atari.make_groups('breakout', 5, 2, 'machado')
  assert [group.num_envs for group in groups] == [3, 2]
  whole = atari.AtariEnvironment('breakout', 5, 'machado')
  environments = [whole, *groups]
  for environment in environments:
    environment.reset(7)
  actions = np.random.default_rng(0).integers(0, 18, (30, 5))
  for action in actions:
    one, *parts = [environment.step(a) for environment, a in zip(
        environments, (action, action[:3], action[3:]))]
    np.testing.assert_array_equal(
        one.observation, np.concatenate([p.observation for p in parts]))
  assert len(np.unique(one.observation.reshape(5, -1), axis=0)) > 2
  for environment in environments:
    environment.close()
  assert len(atari.make_groups('breakout', 2, 8)) == 2


@needs_emulator
def test_reset_with_the_same_seed_repeats_the_start():
  environment = atari.AtariEnvironment('breakout', 2)
  first = environment.reset(5).copy()
  for _ in range(10):
    environment.step(np.ones(2))
  np.testing.assert_array_equal(environment.reset(5), first)
  environment.close()


@needs_emulator
def test_rewards_are_not_clipped():
  """Asterix gives 50 points for each object."""
  _, steps = play('asterix', steps=50)
  assert set(np.unique([step.reward for step in steps])) == {0., 50.}


@needs_emulator
def test_episode_returns_are_sums_of_rewards():
  """Episodes are cut after 200 frames, which are 50 steps."""
  _, steps = play('asterix', steps=230, max_episode_frames=200)
  discount = np.array([step.discount for step in steps])
  totals, num_episodes = np.zeros(3), 0
  for t, step in enumerate(steps):
    totals += step.reward
    ended = step.discount == 0.
    assert step.episode_returns == tuple(totals[ended])
    num_episodes += ended.sum()
    totals[ended] = 0.
    assert len(step.episode_returns) == ended.sum(), t
  assert num_episodes == 3 * 4
  for env in range(3):
    ends = np.flatnonzero(discount[:, env] == 0.)
    assert (np.diff(ends) == 50).all() and abs(ends[0] - 49) <= 1
  assert max(max(step.episode_returns, default=0.) for step in steps) > 0.


@needs_emulator
def test_a_lost_life_does_not_end_the_episode():
  """Breakout has five lives; without moves the first is lost soon."""
  environment = atari.AtariEnvironment('breakout', 1)
  environment.reset(0)
  ended = 0
  for i in range(160):
    ended += environment.step(np.array([1 if i % 20 == 0 else 0])
                              ).discount[0] == 0.
  environment.close()
  assert ended == 0


@pytest.mark.parametrize('game', ['brekout', 'Breakout', 'ALE/Breakout-v5', ''])
def test_unknown_games_are_refused(game):
  with pytest.raises(ValueError) as error:
    atari.AtariEnvironment(game, 1)
  message = str(error.value)
  assert repr(game) in message and '\n' not in message
  assert 'did you mean' in message or 'allowed: alien, ' in message
  if game == 'brekout':
    assert 'did you mean breakout' in message


def test_a_missing_emulator_is_an_error(monkeypatch):
  """The error says how to install the emulator."""
  monkeypatch.setitem(sys.modules, 'ale_py', None)
  with pytest.raises(ImportError, match='pip install ale-py') as error:
    atari.AtariEnvironment('breakout', 1)
  assert '\n' not in str(error.value)


@needs_emulator
def test_unknown_presets_and_wrong_actions_are_refused():
  with pytest.raises(ValueError, match='allowed: dm_noop, machado'):
    atari.AtariEnvironment('breakout', 1, 'dm')
  environment = atari.AtariEnvironment('breakout', 2)
  environment.reset(0)
  with pytest.raises(ValueError, match=r'allowed: \(2,\)'):
    environment.step(np.zeros(1))
  environment.close()


@pytest.mark.long
@needs_emulator
@PRESETS
@pytest.mark.parametrize('game', GAMES)
def test_every_game_runs(game, preset):
  _, steps = play(game, preset, num_envs=1, steps=8)
  assert np.isfinite([step.reward for step in steps]).all()
