"""The bandit's facade: answers, refusals, and reports."""

import json
import time

import numpy as np
import pytest

from lpg_distributed.nodes import bandit_facade
from lpg_distributed.nodes import bandit_server
from lpg_distributed.nodes import outside_reports
from tests.nodes import facade_testing

CONFIG = facade_testing.CONFIG
TOKEN = 'a' * 32


def test_answers_equal_the_bandits_statistics(serve):
  served = serve()
  expected = served.bandit.get_statistics()
  del expected['epoch']
  assert served.ask('/v1/statistics') == (200, expected)
  code, one = served.ask('/v1/statistics?environment=chain_short')
  assert code == 200 and list(one['environments']) == ['chain_short']
  arms = expected['environments']['chain_short']
  code, answer = served.ask('/v1/distribution?environment=chain_short')
  assert code == 200 and answer['meta_step'] == 1
  assert answer['arms'] == [
      {k: arm[k] for k in ('learning_rate', 'kl_cost', 'probability')}
      for arm in arms]
  np.testing.assert_allclose(sum(a['probability'] for a in answer['arms']), 1.)
  code, health = served.ask('/v1/health')
  assert code == 200 and health['status'] == 'ok' and not health['writable']
  assert served.ask('/v1/schema')[1] == bandit_facade.SCHEMA


def test_arms_are_sampled_from_the_distribution(serve):
  served = serve()
  arms = served.bandit.get_statistics()['environments']['tabular_sparse']
  counts = np.zeros(len(arms))
  for seed in range(2000):
    answer = served.facade._sample({'environment': 'tabular_sparse',
                                    'seed': str(seed)})
    counts[answer['arm']] += 1
    assert answer['learning_rate'] == arms[answer['arm']]['learning_rate']
  expected = 2000 * np.array([arm['probability'] for arm in arms])
  assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
  path = '/v1/sample?environment=chain_short&seed=3'
  assert served.ask(path) == served.ask(path)
  assert served.ask('/v1/sample?environment=chain_short')[0] == 200


def test_refresh_ignores_a_bandit_that_is_not_restored(serve):
  served = serve()
  served.bandit.end_step(1, [[1, 0, 0, 'chain_short', 5, 1.]], 7)
  served.facade.refresh()
  assert served.ask('/v1/statistics')[1]['meta_step'] == 2
  served.facade._bandit = bandit_server.BanditServer(CONFIG)
  served.facade.refresh()
  assert served.ask('/v1/statistics')[1]['meta_step'] == 2
  served.facade._fetched = time.monotonic() - 11
  code, answer = served.ask('/v1/health')
  assert code == 503 and 'has not answered for 10 s' in answer['error'][
      'message']


@pytest.mark.parametrize('path, code, part', [
    ('/', 404, '/v1/statistics'), ('/v1/statistics/', 404, 'no such path'),
    ('/v1/statistics?x=1', 400, 'allowed: environment'),
    ('/v1/health?environment=chain_short', 400, 'allowed: none'),
    ('/v1/statistics?environment=pong', 404, 'chain_short, tabular_sparse'),
    ('/v1/statistics?environment=', 400, 'chain_short'),
    ('/v1/distribution', 400, 'chain_short'),
    ('/v1/sample?environment=chain_short&seed=-1', 400, 'a whole number'),
    ('/v1/sample?environment=chain_short&seed=1&seed=2', 400, 'twice'),
    ('/v1/returns', 405, 'POST')])
def test_bad_requests_get_an_error(serve, path, code, part):
  status, answer = serve().ask(path)
  assert status == code == answer['error']['code']
  assert part in answer['error']['message']


def test_the_facade_is_read_only_by_default(serve):
  served = serve()
  before = served.bandit.get_state()
  code, answer = served.report()
  assert code == 403 and '--bandit_writes' in answer['error']['message']
  assert served.ask('/v1/statistics', 'POST', '{}')[0] == 405
  assert served.bandit.get_state() == before


def test_a_report_counts_once_at_the_end_of_the_step(serve):
  served = serve(writable=True)
  counts = lambda: served.bandit.get_state()['bandits']['chain_short'][
      'counts']
  assert counts()[1] == 0
  assert served.report() == (200, {'accepted': True})
  assert served.report() == (200, {'accepted': False})
  assert counts()[1] == 0  # All lifetimes of a step see one distribution.
  served.bandit.end_step(1, [], 7)
  assert counts()[1] == 1
  assert served.report() == (200, {'accepted': False})
  state = served.bandit.get_state()
  # The learner rolls back: reports that its checkpoint lacks wait again.
  served.report(id='b')
  served.bandit.end_step(2, [], 7)
  assert counts()[1] == 2
  served.bandit.restore(8, state)
  assert counts()[1] == 1
  assert served.report(id='b') == (200, {'accepted': False})
  served.bandit.end_step(2, [], 8)
  assert counts()[1] == 2
  # A restarted server knows the reports of its checkpoint.
  other = bandit_server.BanditServer(CONFIG, json.loads(json.dumps(state)))
  assert other.report_outside(
      'a', 'chain_short', 1, 0.5, 1) == outside_reports.REPEATED


@pytest.mark.parametrize('change', [
    {'id': ''}, {'id': 'x' * 65}, {'id': 'a b'}, {'id': 3}, {'arm': 9},
    {'arm': -1}, {'arm': True}, {'arm': 0.}, {'arm': '1'}, {'return': None},
    {'return': '1'}, {'return': True}, {'return': float('nan')},
    {'return': float('inf')}, {'return': 1e10}, {'meta_step': -1},
    {'meta_step': True}, {'meta_step': 1.}, {'meta_step': None},
    {'meta_step': 1 << 60}, {'environment': 'pong'},
    {'environment': 3}, {'extra': 1}])
def test_bad_reports_change_nothing(serve, change):
  served = serve(writable=True)
  before = served.bandit.get_state()
  code, answer = served.report(**change)
  assert code in (400, 404), answer
  served.bandit.end_step(1, [], 7)
  after = served.bandit.get_state()
  assert after['bandits'] == before['bandits'] and not after['outside']


def test_a_report_needs_the_content_type_json(serve):
  served = serve(writable=True)
  assert served.ask('/v1/returns', 'POST', '{}', Content_Type='text/plain')[
      0] == 415
  for body in (b'', b'{', b'[' * 4000, b'\xff', b'[]', b'null'):
    code, _ = served.ask('/v1/returns', 'POST', body,
                         Content_Type='application/json')
    assert code == 400


def test_requests_need_the_token(serve):
  served = serve(token=TOKEN)
  assert served.ask('/v1/health')[0] == 401
  for shown in ('Bearer ' + 'b' * 32, 'Bearer', TOKEN, 'bearer ' + TOKEN,
                'Bearer ' + TOKEN[:-1], 'Bearer ' + TOKEN + 'a'):
    assert served.ask('/v1/health', Authorization=shown)[0] == 401
  assert served.ask('/v1/health', Authorization='Bearer ' + TOKEN)[0] == 200
  assert served.ask('/v1/health')[0] == 401
  # With a token, names of other hosts are allowed.
  assert served.ask('/v1/health', Authorization='Bearer ' + TOKEN,
                    Host='bandit.example.org')[0] == 200


def test_without_a_token_only_local_host_names_are_allowed(serve):
  served = serve()
  for host in ('evil.example.org', 'localhost.example.org:80', '', '0.0.0.0'):
    assert served.ask('/v1/health', Host=host)[0] == 403, host
  for host in ('localhost', '127.0.0.1:99', '[::1]:99', '[::1]'):
    assert served.ask('/v1/health', Host=host)[0] == 200, host


def test_replayed_reports_never_count_again(serve):
  served = serve(writable=True)
  bandit = served.bandit
  total = lambda: sum(bandit.get_state()['bandits']['chain_short']['counts'])
  before = total()
  assert served.report(id='first') == (200, {'accepted': True})
  step = 1
  for i in range(10_400):
    if i % 900 == 899:
      bandit.end_step(step, [], 7)
      step += 1
    assert bandit.report_outside(
        f'other{i}', 'chain_short', 0, 0.5, step) == outside_reports.ACCEPTED
  bandit.end_step(step, [], 7)
  assert total() == before + 10_401
  code, answer = served.report(id='first')
  assert code == 409 and 'meta_step' in answer['error']['message']
  # A restarted server refuses it too.
  other = bandit_server.BanditServer(CONFIG, json.loads(json.dumps(
      bandit.get_state())))
  assert other.report_outside(
      'first', 'chain_short', 1, 0.5, 1) == outside_reports.TOO_OLD
  bandit.end_step(step + 1, [], 7)
  assert total() == before + 10_401


def test_reports_of_future_meta_steps_are_refused(serve):
  served = serve(writable=True)
  code, answer = served.report(meta_step=2)
  assert code == 409 and 'not at that meta-step' in answer['error']['message']
  served.bandit.end_step(1, [], 7)
  assert served.report(meta_step=2) == (200, {'accepted': True})


def test_too_many_reports_of_one_meta_step_are_refused(serve, monkeypatch):
  monkeypatch.setattr(outside_reports, '_MOST_WAITING', 1)
  served = serve(writable=True)
  assert served.report(id='a')[0] == 200
  assert served.report(id='b')[0] == 503
  served.bandit.end_step(1, [], 7)
  assert served.report(id='b') == (200, {'accepted': True})


def test_a_state_in_the_format_without_meta_steps_is_read():
  server = bandit_server.BanditServer(CONFIG)
  server.end_step(0, [])
  state = {**server.get_state(), 'outside': ['a', 'b']}
  del state['forgotten_step']
  other = bandit_server.BanditServer(CONFIG, json.loads(json.dumps(state)))
  assert other.report_outside(
      'a', 'chain_short', 1, 0.5, 1) == outside_reports.REPEATED
  assert other.get_state()['outside'] == {'a': 1, 'b': 1}
