"""The bandit server, Eq. (6): repeated calls, bad reports, restarts."""

import json
import threading

import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.nodes import bandit_server
from lpg_distributed.nodes import rpc

CONFIG = config_lib.Config(
    environments=('chain_short', 'chain_state_distraction'),
    agents={
        'chain_short': config_lib.AgentConfig(
            learning_rates=(20., 40.), kl_costs=(0.5,)),
        'chain_state_distraction': config_lib.AgentConfig(
            (), (16,), 'adam', (0.01,), (0.1, 1.))},
    bandit=config_lib.BanditConfig(window=2))


def report(arm, value, environment='chain_short', meta_step=0):
  return [meta_step, 0, 0, environment, arm, value]


@pytest.fixture
def server():
  return bandit_server.BanditServer(CONFIG)


def probabilities(server, environment='chain_short'):
  return np.exp(server.get_log_probabilities(environment)['log_probabilities'])


def test_served_probabilities_by_hand(server):
  np.testing.assert_allclose(probabilities(server), [0.5, 0.5])
  assert server.end_step(0, [report(0, 9.), report(0, 1.), report(0, 0.5),
                             report(1, 0.7)])
  # R is the mean of the last two returns, N counts all three.
  weights = np.exp((np.array([0.75, 0.7]) + 0.2 / np.sqrt([3, 1])) / 0.1)
  np.testing.assert_allclose(probabilities(server), weights / weights.sum(),
                             rtol=1e-12)
  np.testing.assert_allclose(
      probabilities(server, 'chain_state_distraction'), [0.5, 0.5])
  rows = server.get_statistics()['environments']['chain_short']
  assert [row['learning_rate'] for row in rows] == [20., 40.]
  assert [row['lifetimes'] for row in rows] == [3, 1]
  np.testing.assert_allclose([row['mean_return'] for row in rows],
                             [0.75, 0.7])
  np.testing.assert_allclose([row['probability'] for row in rows],
                             weights / weights.sum())


def test_reports_of_a_step_count_once(server):
  reports = [report(0, 1.), report(1, 2.)]
  assert server.get_log_probabilities('chain_short')['meta_step'] == 0
  assert server.end_step(0, reports)
  before = server.get_state()
  assert not server.end_step(0, reports)
  assert not server.end_step(0, [report(0, 5.)])
  assert server.get_state() == before and before['meta_step'] == 1
  assert server.end_step(1, [])
  assert server.end_step(2, [report(0, 3.)])
  assert not server.end_step(1, [report(0, 3.)])  # Late.
  answer = server.get_log_probabilities('chain_short')
  assert answer['meta_step'] == 3
  assert server.get_state()['bandits']['chain_short']['counts'] == [2, 1]


@pytest.mark.parametrize('bad', [
    report(2, 0.), report(-1, 0.), report(0, float('nan')),
    report(0, float('inf')), report(0, 0., 'tabular_dense'),
    report(0, None), report('0', 0.), report(0.5, 0.), report(True, 0.),
    report(0, 1e308), report(0, 0.)[:-1]])
def test_a_bad_report_changes_nothing(server, bad):
  server.end_step(0, [report(1, 1.)])
  before = server.get_state()
  with pytest.raises((ValueError, TypeError)):
    server.end_step(1, [report(0, 1.), bad,
                        report(0, 1., 'chain_state_distraction')])
  assert server.get_state() == before
  with pytest.raises(ValueError, match='meta_step is nan'):
    server.end_step(float('nan'), [report(0, 1.)])
  assert server.get_state() == before
  assert server.end_step(1, [report(0, 1.)])


def test_unknown_environments_are_named(server):
  for call in (server.get_log_probabilities, server.get_statistics):
    with pytest.raises(ValueError, match='allowed: chain_short'):
      call('tabular_dense')


def test_state_survives_a_restart(server):
  values = np.random.default_rng(0).normal(size=12).tolist()
  for step, value in enumerate(values):
    server.end_step(step, [report(step % 2, value),
                           report(0, -value, 'chain_state_distraction')])
  state = json.loads(json.dumps(server.get_state()))
  other = bandit_server.BanditServer(CONFIG, state)
  assert other.get_state() == server.get_state()
  for each in (server, other):
    assert not each.end_step(11, [report(0, 1.)])
    assert each.end_step(12, [report(0, 0.125)])
  assert other.get_state() == server.get_state()
  assert (other.get_log_probabilities('chain_short')
          == server.get_log_probabilities('chain_short'))


@pytest.mark.parametrize('change', [
    lambda s: s['bandits']['chain_short'].update(counts=[0] * 3),
    lambda s: s['bandits']['chain_short'].update(window=[[0.] * 3] * 2),
    lambda s: s['bandits'].update(
        tabular_dense=s['bandits']['chain_short']),
    lambda s: s['bandits'].pop('chain_short'),
    lambda s: s['bandits']['chain_short'].update(counts=[-1, 0]),
    lambda s: s['bandits']['chain_short']['window'][0].__setitem__(0, 1e308),
    lambda s: s['bandits']['chain_short']['window'][1].__setitem__(
        0, float('nan')),
])
def test_states_that_do_not_fit_the_arms_are_refused(server, change):
  state = server.get_state()
  change(state)
  with pytest.raises(ValueError):
    bandit_server.BanditServer(CONFIG, state)


def test_answers_and_state_are_plain_values(server):
  server.end_step(0, [report(0, 1.)])
  for answer in (server.get_log_probabilities('chain_short'),
                 server.get_statistics(), server.get_state(),
                 server.end_step(0, [])):
    rpc.check_argument(answer)


def test_concurrent_calls_count_each_step_once(server):
  """A step that many threads report counts once; readers see whole steps."""
  num_steps, num_callers = 60, 8
  applied, torn = [], []
  barrier = threading.Barrier(num_callers)

  def call():
    for step in range(num_steps):
      barrier.wait(20)
      applied.append(server.end_step(
          step, [report(0, 1.), report(1, 1.)]))
      state = server.get_state()
      counts = state['bandits']['chain_short']['counts']
      if counts != [state['meta_step']] * 2:
        torn.append(state)

  threads = [threading.Thread(target=call) for _ in range(num_callers)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  assert not torn and sum(applied) == num_steps
  assert server.get_state()['meta_step'] == num_steps


def test_serves_until_released_by_the_learner():
  stop = threading.Event()
  server = bandit_server.BanditServer(CONFIG, stop=stop)
  thread = threading.Thread(target=server.run)
  thread.start()
  stop.set()
  thread.join(0.2)
  assert thread.is_alive() and server.end_step(0, [])
  server.release()
  thread.join(5)
  assert not thread.is_alive()
