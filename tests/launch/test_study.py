"""Studies: the runs that they start, and a short Figure 7."""

import json
import os
import shutil
import signal
import sys

from absl import flags
import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed.analysis import figure7
from lpg_distributed.analysis import report
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import studies
from lpg_distributed.launch import command
from lpg_distributed.launch.commands import study
from lpg_distributed.store import eta_file
from lpg_distributed.store import loggers
from tests.analysis import run_testing
from tests.launch import command_testing


class FakeMetaTrain:
  """Stands in for `lpg meta-train`: records its flags."""

  def __init__(self, code=0):
    self.commands, self._code = [], code

  def __call__(self, arguments, **kwargs):
    del kwargs
    assert arguments[:4] == [sys.executable, '-m', 'lpg_distributed',
                             'meta-train']
    self.commands.append(arguments[4:])
    run_dir = self.value('run_dir')
    if self._code == 0:
      os.makedirs(os.path.join(run_dir, 'metrics'))
      with open(os.path.join(run_dir, 'metrics', 'evaluation.jsonl'), 'w',
                encoding='utf-8'):
        pass
    return self

  def value(self, name, index=-1):
    (value,) = [a.partition('=')[2] for a in self.commands[index]
                if a.startswith(f'--{name}=')]
    return value

  def config(self, index):
    """Builds the configuration that `lpg meta-train` builds of the flags."""
    overrides = [a.removeprefix('--set=') for a in self.commands[index]
                 if a.startswith('--set=')]
    base = presets.load(self.value('preset', index))
    if any(a.startswith('--config=') for a in self.commands[index]):
      base = config_io.load_file(base, self.value('config', index))
    return config_io.apply_overrides(
        base, [f'run.seed={self.value("seed", index)}', *overrides])

  @property
  def returncode(self):
    return self._code

  def poll(self):
    return self._code


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Runs the command within this process."""
  def do(*arguments, code=0):
    meta = FakeMetaTrain(code)
    monkeypatch.setattr(study.subprocess, 'Popen', meta)
    flags.FLAGS.unparse_flags()
    for flag in flags.FLAGS.get_flags_for_module(study):
      flag.unparse()
    flags.FLAGS(['study', f'--root={tmp_path}/root', *arguments])
    return study.main(), meta
  yield do
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


def test_a_study_starts_each_run_once_seed_by_seed(run, tmp_path):
  code, meta = run('--study=ablations', '--seeds=3,4', '--variants=LPG,LPG-V',
                   '--set=meta.num_envs=4')
  assert code == 0 and len(meta.commands) == 4
  assert [(meta.value('seed', i), meta.config(i).rule.kind)
          for i in range(4)] == [('3', 'lpg'), ('3', 'lpg_v'), ('4', 'lpg'),
                                 ('4', 'lpg_v')]
  assert '--evaluate' in meta.commands[0]
  assert meta.value('run_dir', 1) == f'{tmp_path}/root/lpg_v_seed3'
  expected = studies.config_of(studies.load('ablations'), 'LPG-V',
                               'meta.num_envs=4', 'run.seed=4')
  assert meta.config(3) == expected
  # Finished runs are skipped; other variants can be added.
  code, meta = run('--study=ablations', '--seeds=3', '--set=meta.num_envs=4',
                   '--variants=LPG,without L2')
  assert len(meta.commands) == 1 and meta.config(0).meta.y_hat_cost == 0.
  with open(tmp_path / 'root' / 'study.json', encoding='utf-8') as f:
    about = json.load(f)
  assert about['variants'] == ['LPG', 'without L2', 'LPG-V']
  assert about['seeds'] == [3, 4]
  with pytest.raises(command.UsageError, match='holds another study'):
    run('--study=predictions')
  with pytest.raises(command.UsageError, match='of --meta_steps=None'):
    run('--study=ablations', '--set=meta.num_envs=4', '--meta_steps=9')
  # A study whose file has no length, as older ones, is continued.
  del about['meta_steps']
  (tmp_path / 'root' / 'study.json').write_text(json.dumps(about))
  assert run('--study=ablations', '--seeds=3', '--set=meta.num_envs=4',
             '--variants=LPG', '--meta_steps=9')[0] == 0
  with open(tmp_path / 'root' / 'study.json', encoding='utf-8') as f:
    assert json.load(f)['meta_steps'] == 9
  (tmp_path / 'root' / 'study.json').write_text('{}')
  with pytest.raises(studies.StudyError, match='study.json is damaged'):
    run('--study=ablations')


def test_a_file_sets_fields_of_all_variants(run, tmp_path):
  file = tmp_path / 'fields.json'
  file.write_text('{"meta": {"num_envs": 4}, "run": {"meta_steps": 9}}')
  code, meta = run('--study=options', '--seeds=0', f'--config={file}',
                   '--variants=LPG,sees the age')
  assert code == 0
  configs = [meta.config(i) for i in range(2)]
  assert [c.rule.sees_age for c in configs] == [False, True]
  assert {(c.meta.num_envs, c.run.meta_steps) for c in configs} == {(4, 9)}
  assert configs[1] == studies.config_of(
      studies.load('options'), 'sees the age', 'run.seed=0', file=str(file))
  with pytest.raises(command.UsageError, match='of --config=.*fields.json'):
    run('--study=options', '--seeds=0')
  with pytest.raises(config_lib.ConfigError, match='is not readable'):
    run('--study=options', '--config=none.json')


def test_a_run_that_fails_ends_the_study(run, capsys):
  code, meta = run('--study=predictions', '--seeds=0', code=7)
  assert code == 1 and len(meta.commands) == 1
  assert 'ended with code 7' in capsys.readouterr().err
  with pytest.raises(command.UsageError, match="no variant 'x'; allowed: LPG"):
    run('--study=predictions', '--variants=x')


@pytest.mark.long
def test_a_short_figure_7_is_trained_and_drawn(tmp_path, capsys):
  """Two meta-steps of each variant by all nodes, compared, and the figure."""
  ablations = studies.load('ablations')
  root = tmp_path / 'study'
  etas = {}
  for variant, overrides in ablations.variants.items():
    known = [text for text in overrides if not text.startswith('agents.')
             or text.split('.')[1] in run_testing.CONFIG.agents]
    config = config_io.apply_overrides(run_testing.CONFIG, [
        *ablations.common, *known, 'run.meta_steps=2'])
    run_dir = studies.run_dir(str(root), variant, 0)
    rule = lpg.meta_train(config, run_dir)
    etas[variant] = np.asarray(rule.eta)
    assert rule.config.kind == config.rule.kind
    rows = list(loggers.read_metrics(run_dir, 'learner'))
    assert len(rows) == 2 and all(row['gradient_norm'] > 0. for row in rows)
    report.evaluate(run_dir, config, num_lifetimes=2)
    assert 'trained' in report.summarise(run_dir, config)[1]
  variants = list(ablations.variants)
  for i, one in enumerate(variants):
    assert np.all(np.isfinite(etas[one]))
    for other in variants[:i]:  # Each differs.
      assert not np.array_equal(etas[one], etas[other]), (one, other)
  (root / 'study.json').write_text(json.dumps({
      'study': 'ablations', 'set': [], 'variants': variants, 'seeds': [0, 1]}))
  results = str(tmp_path / 'figure7.json')
  # A run that was stopped has a rule, but does not count.
  stopped = studies.run_dir(str(root), variants[0], 1)
  shutil.copytree(studies.run_dir(str(root), variants[0], 0), stopped)
  eta_file.save(f'{stopped}/eta.npz', etas[variants[0]],
                run_testing.CONFIG.rule, meta_step=1)
  assert command_testing.call('figure7',
      [f'--study={root}', f'--results={results}', '--points=2']) == 0
  out = capsys.readouterr().out
  assert all(out.count(f'| {variant} | ') == 1 for variant in variants)
  assert (tmp_path / 'figure7.svg').exists()
  _, data = stored.load(results, figure7.NAME)
  assert all(found['seeds'] == [0] for found in data['variants'].values())
  for bad, message in (
      ([f'--study={root}', f'--study={root}'], '--study is given 2 times'),
      ([f'--study={tmp_path}'], 'holds no study')):
    assert command_testing.call('figure7', [*bad, f'--results={results}']) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1
