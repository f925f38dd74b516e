"""The evaluator on a small made-up game, and once on a real one."""

import dataclasses
import math
import os
import threading
import time

from dm_env import specs
import jax
import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.core import rule_vector
from lpg_distributed.envs import host
from lpg_distributed.nodes import atari_evaluation
from lpg_distributed.nodes import atari_evaluator
from lpg_distributed.store import agent_file
from lpg_distributed.store import loggers

RULE = config_lib.RuleConfig(num_predictions=4, embedding_size=3, lstm_size=3)
CONFIG = config_lib.EvaluatorConfig(
    games=('breakout',), frames=120, num_envs=2, trajectory_steps=5, share=1.)
_TIMEOUT_S = 60.
ETA = np.asarray(rule_vector.ravel(
    rule_vector.init(RULE, jax.random.PRNGKey(0))))


class Flicker(host.HostEnvironment):
  """Has the smallest frames of the network, and episodes of three steps."""

  frames_per_step = 4

  def __init__(self, config, fail_at=math.inf, pause_s=0.):
    self.num_envs = config.num_envs
    self.seed, self.num_steps, self.closed = None, 0, False
    self._fail_at, self._pause_s = fail_at, pause_s

  def observation_spec(self):
    return specs.BoundedArray((2, 36, 36), np.uint8, 0, 255)

  def action_spec(self):
    return specs.DiscreteArray(3)

  def _observe(self):
    return np.full((self.num_envs, 2, 36, 36), 40 * (self.num_steps % 3),
                   np.uint8)

  def reset(self, seed):
    self.seed = seed
    return self._observe()

  def step(self, actions):
    assert actions.shape == (self.num_envs,) and not self.closed
    self.num_steps += 1
    if self.num_steps >= self._fail_at:
      raise OSError('the emulator\nis gone')
    time.sleep(self._pause_s)
    ended = self.num_steps % 3 == 0
    return host.HostStep(
        self._observe(), np.full(self.num_envs, 2., np.float32),
        np.full(self.num_envs, 0. if ended else 1., np.float32),
        (6.,) * self.num_envs if ended else ())

  def close(self):
    self.closed = True


class Rig:
  """An evaluator in its own thread; the test sets its eta."""

  def __init__(self, run_dir, make_environment, config=CONFIG, rule=RULE,
               eta=ETA):
    self.run_dir, self.stop = str(run_dir), threading.Event()
    self.snapshot = (0, eta)
    self.environments, self.games = [], []
    self.closed = threading.Event()

    def make(config, game, num_threads):
      self.games.append(game)
      self.num_threads = num_threads
      self.environments.append(make_environment(config))
      return [self.environments[-1]]

    self.evaluator = atari_evaluator.AtariEvaluator(
        config, rule, lambda: self.snapshot, self.run_dir, self.stop, seed=7,
        on_closed=self.closed.set, make_environments=make)
    self.thread = threading.Thread(target=self.evaluator.run)
    self.thread.start()

  def rows(self, *events):
    return [row for row in loggers.read_metrics(self.run_dir, 'evaluator')
            if row['event'] in (events or row['event'])]

  def wait_for(self, number, *events):
    deadline = time.monotonic() + _TIMEOUT_S
    while len(self.rows(*events)) < number:
      assert time.monotonic() < deadline, self.rows()
      time.sleep(0.02)
    return self.rows(*events)

  def finish(self):
    begin = time.monotonic()
    self.stop.set()
    self.thread.join(10.)
    assert not self.thread.is_alive() and self.closed.is_set()
    return time.monotonic() - begin


@pytest.fixture
def start(tmp_path, monkeypatch):
  monkeypatch.setattr(atari_evaluator, '_ETA_PERIOD_S', 0.02)
  monkeypatch.setattr(atari_evaluator, '_FIRST_PAUSE_S', 0.05)
  rigs = []

  def make(make_environment=Flicker, **kwargs):
    rigs.append(Rig(tmp_path, make_environment, **kwargs))
    return rigs[-1]

  yield make
  for rig in rigs:
    rig.finish()


def test_each_eta_is_evaluated_once_and_logged(start):
  """One evaluation per eta, each with its own seed, in complete rows."""
  rig = start()
  (first,) = rig.wait_for(1, 'end')
  rig.snapshot = None
  time.sleep(0.2)
  assert len(rig.environments) == 1
  assert rig.evaluator.get_status()['state'] == 'waiting'
  rig.snapshot = (40, ETA)
  first, second = rig.wait_for(2, 'end')
  time.sleep(0.2)
  assert len(rig.environments) == 2  # No evaluation without a new eta.
  assert (first['step'], second['step']) == (0, 40)
  assert first['seed'] != second['seed']
  assert [e.seed for e in rig.environments] == [first['seed'], second['seed']]
  # 120 frames: 3 trajectories of 5 steps of 2 environments of 4 frames.
  assert first['frames'] == 120 and first['updates'] == 3
  assert first['episodes'] == 10 and first['return'] == 6.
  assert first['game'] == 'breakout' and first['preset'] == 'dm_noop'
  assert (first['random_score'], first['human_score']) == (1.7, 30.5)
  np.testing.assert_allclose(first['human_normalised'],
                             (6. - 1.7) / (30.5 - 1.7))
  np.testing.assert_allclose(first['frames_per_s'], 120 / first['seconds'],
                             rtol=1e-6)
  np.testing.assert_allclose(first['clipped_reward'], 1.)
  for name in ('policy_entropy', 'y_entropy', 'kl', 'pi_hat_square', 'value'):
    assert math.isfinite(first[name])
  assert all(e.closed for e in rig.environments)
  status = rig.evaluator.get_status()
  assert status['meta_step'] == 40 and status['frames'] == 120
  assert status['return'] == 6. and status['game'] == 'breakout'


def test_a_failing_environment_is_retried_after_growing_pauses(start):
  attempts = []

  def make(config):
    attempts.append(config)
    if len(attempts) <= 2:
      return Flicker(config, fail_at=2)
    if len(attempts) == 3:
      raise ValueError('no emulator')
    return Flicker(config)

  rig = start(make)
  (row,) = rig.wait_for(1, 'end')
  assert row['frames'] == 120
  errors = rig.rows('error')
  assert [r['error'] for r in errors] == ['OSError: the emulator'] * 2 + [
      'ValueError: no emulator']
  assert [r['attempt'] for r in errors] == [1, 2, 3]
  np.testing.assert_allclose([r['retry_in_s'] for r in errors],
                             [0.05, 0.1, 0.2])
  time.sleep(0.1)  # Closed after its error is logged.
  assert all(e.closed for e in rig.environments)
  # After a success, attempts count from one again.
  attempts.clear()
  rig.snapshot = (1, ETA)
  rig.wait_for(2, 'end')
  assert [r['attempt'] for r in rig.rows('error')] == [1, 2, 3, 1, 2, 3]


def test_a_missing_package_is_said_once(start, caplog):
  attempts = []

  def make(config):
    attempts.append(config)
    raise ImportError('Atari needs ale-py')

  rig = start(make)
  rig.wait_for(1, 'error')
  rig.snapshot = (1, ETA)
  time.sleep(0.3)  # A pause between attempts is 0.05 s here.
  rig.finish()
  (row,) = rig.rows('error')
  assert row['error'] == 'ImportError: Atari needs ale-py'
  assert row['retry_in_s'] is None and len(attempts) == 1
  assert [r.getMessage() for r in caplog.records] == [
      'atari_evaluator: breakout ImportError: Atari needs ale-py; training '
      'continues without evaluation on Atari']


def test_an_eta_of_a_wrong_size_is_logged_and_skipped(start):
  rig = start()
  rig.wait_for(1, 'end')
  rig.snapshot = (1, ETA[:-1])
  rig.wait_for(1, 'error')
  rig.snapshot = (2, ETA)
  assert [r['step'] for r in rig.wait_for(2, 'end')] == [0, 2]


def test_run_returns_soon_after_a_stop(start):
  config = dataclasses.replace(CONFIG, frames=10 ** 9)
  rig = start(lambda c: Flicker(c, pause_s=0.01), config=config)
  deadline = time.monotonic() + _TIMEOUT_S
  while rig.evaluator.get_status()['state'] != 'training':
    assert time.monotonic() < deadline
    time.sleep(0.01)
  assert rig.finish() < 1.5
  assert not rig.rows('end')


def test_run_returns_when_stopped_during_compilation(start):
  """A compilation cannot be interrupted; `run` returns before it ends."""
  entered, release = threading.Event(), threading.Event()

  def make(config):
    entered.set()
    release.wait(_TIMEOUT_S)
    return Flicker(config)

  rig = start(make)
  assert entered.wait(_TIMEOUT_S)
  assert rig.finish() < 1.5
  release.set()


def test_run_returns_when_stopped_in_the_pause_after_a_failure(
    start, monkeypatch):
  monkeypatch.setattr(atari_evaluator, '_FIRST_PAUSE_S', 100.)
  rig = start(lambda c: Flicker(c, fail_at=1))
  rig.wait_for(1, 'error')
  assert rig.finish() < 1.5


def test_a_diverged_agent_ends_its_evaluation(start):
  eta = np.where(np.arange(ETA.size) == ETA.size - 1, np.nan, ETA)
  rig = start(eta=eta.astype(np.float32))
  (row,) = rig.wait_for(1, 'diverged')
  assert row['updates'] < 3 and row['kl'] is None
  rig.snapshot = (1, ETA)
  rig.wait_for(1, 'end')
  assert len(rig.rows('diverged')) == 1


def test_progress_rows_are_logged_periodically(start, monkeypatch):
  monkeypatch.setattr(atari_evaluation, '_PROGRESS_PERIOD_S', 0.05)
  rig = start(lambda c: Flicker(c, pause_s=0.02))
  rig.wait_for(1, 'end')
  rows = rig.rows('progress')
  assert len(rows) > 1
  frames = [r['frames'] for r in rows]
  assert frames == sorted(frames)
  assert rows[0]['return'] is None or rows[0]['episodes']


def test_games_are_trained_one_after_another(start):
  """A failing game delays no other, and is given up for a newer eta."""
  config = dataclasses.replace(CONFIG, games=('pong', 'breakout', 'boxing'))
  rig = start(lambda c: Flicker(c, 2 if rig_games()[-1] == 'pong' else 10 ** 9),
              config=config)
  rig_games = lambda: rig.games
  rows = rig.wait_for(2, 'end')
  assert [row['game'] for row in rows] == ['breakout', 'boxing']
  assert rows[0]['seed'] == rows[1]['seed']
  assert {row['game'] for row in rig.wait_for(2, 'error')} == {'pong'}
  rig.snapshot = (3, ETA)
  rows = rig.wait_for(4, 'end')
  assert [(row['step'], row['game']) for row in rows[2:]] == [
      (3, 'breakout'), (3, 'boxing')]


def test_evaluations_follow_the_period(start):
  config = dataclasses.replace(CONFIG, period_meta_steps=10)
  rig = start(config=config)
  rig.wait_for(1, 'end')
  rig.snapshot = (9, ETA)
  time.sleep(0.2)
  assert len(rig.rows('end')) == 1
  rig.snapshot = (10, ETA)
  assert [row['step'] for row in rig.wait_for(2, 'end')] == [0, 10]


def test_a_saved_agent_is_resumed_after_a_restart(start, monkeypatch):
  """With its eta and its game; finished games are not repeated."""
  config = dataclasses.replace(CONFIG, games=('pong', 'boxing'), frames=400)
  slow = start(lambda c: Flicker(c, pause_s=0.03), config=config)
  slow.wait_for(1, 'end')
  while slow.evaluator.get_status()['frames'] < 80 or (
      slow.evaluator.get_status()['game'] != 'boxing'):
    time.sleep(0.01)
  assert slow.finish() < 1.5 and len(slow.rows('end')) == 1
  calls = []
  load = atari_evaluation.host_loop.train

  def spy(environments, learner, settings, eta, seed, env_steps, snapshot):
    calls.append((eta, snapshot))
    return load(environments, learner, settings, eta, seed, env_steps,
                snapshot)

  monkeypatch.setattr(atari_evaluation.host_loop, 'train', spy)
  rig = start(config=config, eta=2. * ETA)
  rows = rig.wait_for(2, 'end')
  assert [(row['step'], row['game']) for row in rows] == [
      (0, 'pong'), (0, 'boxing')]
  (eta, snapshot), *_ = calls
  assert 40 <= snapshot.env_steps * 4 < 400
  np.testing.assert_array_equal(rule_vector.ravel(eta), ETA)
  assert rows[1]['frames'] == 400 and rows[1]['updates'] == 10
  rig.snapshot = (1, ETA)
  assert [row['step'] for row in rig.wait_for(4, 'end')] == [0, 0, 1, 1]
  assert calls[1][1] is None


def test_a_saved_agent_of_other_settings_is_not_used(start):
  slow = start(lambda c: Flicker(c, pause_s=0.03),
               config=dataclasses.replace(CONFIG, frames=4000))
  while slow.evaluator.get_status()['frames'] < 80:
    time.sleep(0.01)
  slow.finish()
  rig = start(config=dataclasses.replace(CONFIG, kl_cost=0.1))
  (row,) = rig.wait_for(1, 'end')
  assert row['frames'] == 120 and row['updates'] == 3
  path = rig.evaluator._evaluations._path
  assert not os.path.exists(path)
  rig.finish()
  with open(path, 'wb') as f:  # A full disk may leave such a file.
    f.write(b'damaged')
  rig = start(config=dataclasses.replace(CONFIG, frames=240))
  rig.snapshot = (1, ETA)
  assert [r['step'] for r in rig.wait_for(2, 'end')] == [0, 1]


@pytest.mark.parametrize('change', [
    {'identity': [1]}, {'game': ['breakout']}, {'meta_step': 'x'},
    {'record': 3}, {'record': {}}])
def test_a_saved_agent_of_another_form_is_not_used(change, tmp_path):
  evaluations = atari_evaluation.Evaluations(
      CONFIG, RULE, str(tmp_path), 7, lambda *args: [])
  os.makedirs(os.path.dirname(evaluations._path))
  info = {'identity': evaluations._identity(), 'game': 'breakout',
          'meta_step': 3, 'record': {'env_steps': 5}}
  agent_file.save(evaluations._path, {'eta': ETA}, **info)
  assert evaluations.interrupted()[:2] == (3, 'breakout')
  agent_file.save(evaluations._path, {'eta': ETA}, **{**info, **change})
  assert evaluations.interrupted() is None


def test_pace_sets_threads_and_pauses(monkeypatch):
  """Pauses bring the use of all cores down to the share."""
  pauses, now = [], [100.]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])

  class Stop:
    wait = pauses.append

  for share, cores, threads, pause in [
      (0.25, 2, 1, 3.), (0.5, 2, 1, None), (1., 4, 4, None), (0.4, 8, 3, None),
      (0.1, 1, 1, 27.), (0.75, 2, 1, None)]:
    pace = atari_evaluation.Pace(share, cores)
    assert pace.num_threads == threads
    pace.begin()
    now[0] += 3.
    pauses.clear()
    pace.rest(Stop)
    expected = [] if pause is None else [pause]
    np.testing.assert_allclose(pauses, expected, rtol=1e-6)


def test_an_evaluation_keeps_to_its_share_of_the_cores(start):
  """Half of one core: half of the time is pause."""
  cores = len(os.sched_getaffinity(0))
  config = dataclasses.replace(CONFIG, share=0.5 / cores, frames=200)
  rig = start(lambda c: Flicker(c, pause_s=0.02), config=config)
  (row,) = rig.wait_for(1, 'end')
  assert rig.num_threads == 1
  # 25 steps of 0.02 s, four of five trajectories followed by a pause.
  assert row['seconds'] > 0.5 + 4 * 0.1


def test_evaluations_are_separated_by_a_pause(start):
  rig = start(config=dataclasses.replace(CONFIG, pause_s=100.))
  rig.wait_for(1, 'end')
  rig.snapshot = (1, ETA)
  time.sleep(0.3)
  assert len(rig.environments) == 1
  assert rig.finish() < 1.5


def test_an_evaluation_on_breakout(tmp_path):
  """The real game, network and rule; few frames, two environments."""
  pytest.importorskip('ale_py')
  rule = config_lib.RuleConfig()
  eta = np.asarray(rule_vector.ravel(
      rule_vector.init(rule, jax.random.PRNGKey(0))))
  config = dataclasses.replace(CONFIG, frames=240, trajectory_steps=10)
  rig = Rig(tmp_path, lambda config: atari_evaluator.load_game(
      config, 'breakout', 1)[0], config, rule, eta)
  rig.wait_for(1, 'end')
  rig.finish()
  (row,) = rig.rows('end')
  assert row['frames'] == 240 and row['updates'] == 3
  assert row['frames_per_s'] > 0 and row['seconds'] > 0
  # Breakout has four actions; after three updates the policy is near uniform.
  assert 0.9 * math.log(4) < row['policy_entropy'] <= math.log(4) + 1e-5
  assert 0.9 * math.log(30) < row['y_entropy'] <= math.log(30) + 1e-5
  assert not rig.rows('error', 'diverged')
