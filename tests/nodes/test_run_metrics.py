"""A run logs a row per meta-step, and p(alpha|E) of some meta-steps."""

import math

import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.nodes import bandit_server
from lpg_distributed.nodes import run_metrics
from lpg_distributed.store import loggers


def make_config(meta_steps):
  return config_lib.Config(environments=('chain_short',),
                           run=config_lib.RunConfig(meta_steps=meta_steps))


def test_preferences_are_the_servers_probabilities():
  config = make_config(1)
  server = bandit_server.BanditServer(config)
  arms = len(config.agents['chain_short'].arms)
  server.end_step(0, [[0, 0, i, 'chain_short', i, float(i == 2)]
                      for i in range(arms)])
  found = run_metrics.preferences(config, server.get_state())['chain_short']
  expected = server.get_log_probabilities('chain_short')['log_probabilities']
  assert found == pytest.approx([math.exp(p) for p in expected], abs=1e-4)
  assert max(found) == found[2] > 0.9


def test_preferences_are_logged_at_most_200_times(tmp_path):
  config = make_config(450)
  state = bandit_server.BanditServer(config).get_state()
  metrics = run_metrics.RunMetrics(config, str(tmp_path), 0)
  for step in range(450):
    metrics.write(step, {'loss': 1.}, state)
  metrics.close()
  steps = [row['step'] for row in loggers.read_metrics(str(tmp_path),
                                                       'bandit')]
  assert steps == list(range(0, 450, 3))
  assert len(list(loggers.read_metrics(str(tmp_path), 'learner'))) == 450


def test_a_resumed_run_logs_each_step_once(tmp_path):
  config = make_config(4)
  state = bandit_server.BanditServer(config).get_state()
  for resume_step in (0, 2):
    metrics = run_metrics.RunMetrics(config, str(tmp_path), resume_step)
    for step in range(resume_step, 4):
      metrics.write(step, {}, state)
    metrics.close()
  for name in ('learner', 'bandit'):
    assert [row['step'] for row in loggers.read_metrics(
        str(tmp_path), name)] == [0, 1, 2, 3]
