"""Reading rules from names, files and runs."""

import dataclasses
import json
import os

import numpy as np
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import figure5
from lpg_distributed.analysis import sources
from lpg_distributed.core import meta_update
from lpg_distributed.core import rule_vector
from lpg_distributed.store import eta_file
from lpg_distributed.store import published
from tests.analysis import run_testing
from tests.launch import command_testing

NAME, CONFIG = run_testing.NAME, run_testing.CONFIG


@pytest.mark.parametrize('text, expected', [
    ('runs/a', ('', 'runs/a')), ('LPG=runs/a', ('LPG', 'runs/a')),
    ('LPG=runs/lr=0.1', ('LPG', 'runs/lr=0.1'))])
def test_labels_are_split_from_paths(text, expected):
  assert experiment.split(text) == expected


def test_the_newest_of_eta_and_snapshots_is_read(tmp_path):
  """After a stop and a resume, a snapshot can be newer than `eta.npz`."""
  run_dir = run_testing.store(tmp_path / 'run', meta_step=3)
  assert sources.latest(run_dir)[1] == [4]
  assert sources.read(run_dir).about['meta_steps'] == [4]
  run_dir = run_testing.store(tmp_path / 'stopped', meta_step=4)
  file, steps = sources.latest(run_dir)
  assert steps == [4] and file.info['meta_step'] == 4
  assert not sources.reached_end(run_dir)


@pytest.mark.parametrize('number', [0, -1])
def test_a_mean_of_no_snapshots_is_refused(number, tmp_path):
  run_dir = run_testing.store(tmp_path / 'run')
  with pytest.raises(sources.SourceError, match='allowed: 1 or more'):
    sources.latest(run_dir, number)


def test_labels_must_be_different(tmp_path, capsys):
  run_dir = run_testing.store(tmp_path / 'run')
  found = sources.read_all([run_dir, f'B={run_dir}'], 1, ('A2C',))
  assert [source.label for source in found] == ['lpg', 'B']
  for texts in ([run_dir, run_dir], [f'A2C={run_dir}']):
    with pytest.raises(sources.SourceError, match='a label of its own'):
      sources.read_all(texts, 1, ('A2C',))
  # It is refused before anything is computed.
  for label in ('untrained', figure5.TD):
    assert command_testing.call('figure5', [f'--run={label}={run_dir}']) == 2
    assert 'a label of its own' in capsys.readouterr().err


def test_a_damaged_card_beside_a_file_is_refused(tmp_path):
  path = str(tmp_path / 'mine.npz')
  eta_file.save(path, meta_update.init(CONFIG).eta, CONFIG.rule, meta_step=7)
  assert sources.read(path).about['meta_steps'] == [7]
  card = tmp_path / 'mine.json'
  for text in ('{', '[]', '{"format": "other"}'):
    card.write_text(text)
    with pytest.raises(published.PublishedError, match='is damaged'):
      sources.read(path)
  card.write_text(json.dumps({'format': published.CARD_FORMAT}))
  with pytest.raises(sources.SourceError, match='is damaged'):
    sources.read(path)


@pytest.mark.parametrize('name, value, problem', [
    ('config', [1], 'a group of fields'), ('bandit', [1], 'is damaged'),
    ('bandit', {'bandits': 3}, 'is damaged'),
    ('config', {'rule': {'lstm_size': 5}}, 'a rule of other sizes'),
    ('averaged_meta_steps', 3, 'is damaged'),
    ('averaged_meta_steps', [None], 'is damaged')])
def test_a_card_of_something_else_is_refused(name, value, problem, tmp_path):
  path = str(tmp_path / 'mine.npz')
  eta_file.save(path, meta_update.init(CONFIG).eta, CONFIG.rule, meta_step=7)
  card = {'format': published.CARD_FORMAT, 'name': 'mine', 'bandit': None,
          'config': config_io.to_dict(CONFIG), 'averaged_meta_steps': [7],
          'env_steps': 8}
  (tmp_path / 'mine.json').write_text(json.dumps(card))
  assert sources.read(path).about['meta_steps'] == [7]
  (tmp_path / 'mine.json').write_text(json.dumps({**card, name: value}))
  with pytest.raises(errors.UserError, match=problem):
    sources.read(path)


def test_a_run_with_the_rule_of_another_is_refused(tmp_path):
  run_dir = run_testing.store(tmp_path / 'run', snapshots=())
  rule = dataclasses.replace(CONFIG.rule, kind='lpg_v')
  eta_file.save(os.path.join(run_dir, 'eta.npz'),
                np.zeros(rule_vector.size(rule)), rule, meta_step=5)
  with pytest.raises(sources.SourceError, match='a rule of other sizes'):
    sources.read(run_dir)


def test_environments_outside_training_have_the_arms_of_table_3(tmp_path):
  """Even if the configuration changes the grids of all environments."""
  run_dir = run_testing.store(tmp_path / 'run')
  results = str(tmp_path / 'a.json')
  kind = 'chain_long'
  grid = config_lib.AGENTS[kind]
  config = dataclasses.replace(CONFIG, agents={
      **CONFIG.agents, kind: dataclasses.replace(grid, kl_costs=(1., 5.))})
  assert kind not in config.environments
  (tmp_path / 'run' / 'config.json').write_text(
      json.dumps(config_io.to_dict(config)))
  assert len(sources.read(run_dir).arm_log_probs(kind, grid)) == 9
  command = [f'--run={run_dir}', f'--environment={kind}', '--updates=2',
             '--num_lifetimes=2', '--snapshots=2', f'--results={results}']
  assert command_testing.call('sensitivity', command) == 0
  assert os.path.exists(tmp_path / 'a.svg')


def test_a_rule_in_a_file_is_not_called_untrained(tmp_path, capsys):
  path = str(tmp_path / 'mine.npz')
  eta_file.save(path, np.float32(2.) * meta_update.init(CONFIG).eta,
                CONFIG.rule)  # Its meta-step is unknown.
  assert command_testing.call('sensitivity', [
      f'--run={path}', '--updates=2', '--num_lifetimes=2',
      '--environment=chain_short', f'--results={tmp_path}/a.json']) == 0
  out = capsys.readouterr().out
  assert out.count('| untrained | ') == 1 and out.count('| 0 | ') == 1
