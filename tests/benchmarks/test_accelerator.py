"""The accelerator benchmark on a CPU; it must detect wrong numbers."""

import json
import time

import numpy as np
import pytest

from benchmarks import accelerator
from benchmarks import device_checks

KIND = 'chain_short'
FLAGS = [KIND, '--units=8', '--envs=4', '--lifetimes=2', '--check_units=8',
         '--check_envs=4', '--gemm=64', '--repeats=1', '--grid_units=8',
         '--grid_lifetimes=1']

RIGHT = device_checks.ShardResult(
    np.array([3., 4.]), np.array([1., np.nan, 2.]), np.array([10.]))


@pytest.fixture
def run(tmp_path):
  """Runs the command; returns its JSON and its Markdown."""
  def run(*flags):
    output, table = tmp_path / 'figures.json', tmp_path / 'table.md'
    accelerator.main([*FLAGS, *flags, f'--output={output}',
                      f'--markdown={table}'])
    return json.loads(output.read_text()), table.read_text()

  return run


def test_a_small_run(run):
  begin = time.monotonic()
  report, table = run('--grid_units=')
  assert report['platform'] == 'cpu' and report['left_out'] == 0
  assert report['correctness'][KIND]['correct']
  assert [row['lifetimes'] for row in report['speed']] == [2]
  assert report['meta_step']['lifetimes'] == 2
  assert 0. < report['seconds'] < time.monotonic() - begin
  assert f'| `{KIND}` | 8 | 4 | 2 |' in table


class FakeProgram:
  """Replaces all measurements by nothing."""

  def __init__(self, size, precision):
    del precision
    self.size = size

  def measure(self, repeats):
    del repeats
    return {**self.size._asdict(), 'steps_per_s': 1., 'ms': 1.,
            'tflop_per_s': 1., 'temporaries_mib': 1., 'compile_s': 1.}


@pytest.fixture
def without_computing(monkeypatch):
  monkeypatch.setattr(accelerator, 'Program', FakeProgram)
  monkeypatch.setattr(accelerator, 'whole_meta_step', lambda *_: {
      'kinds': 1, 'lifetimes': 2, 's': 1., 'steps_per_s': 1.,
      'tflop_per_s': 1.})


def check_with(error):
  return lambda *_: {KIND: {'gradient': error, 'values': 0., 'loss': 0.,
                            'tolerance': 0.1, 'correct': error < 0.1}}


@pytest.mark.usefixtures('without_computing')
def test_wrong_numbers_end_with_an_error(run, monkeypatch):
  monkeypatch.setattr(accelerator, 'check', check_with(0.5))
  with pytest.raises(SystemExit, match=f'not correct: {KIND}$'):
    run()


@pytest.mark.usefixtures('without_computing')
def test_what_the_budget_leaves_out_is_said(run, monkeypatch):
  monkeypatch.setattr(accelerator, 'check', check_with(0.))
  assert [row['lifetimes'] for row in run()[0]['speed']] == [2, 1]
  report, table = run('--budget_s=0')
  assert report['left_out'] == 1 and len(report['speed']) == 1
  assert '1 measurement was left out' in table


def test_the_same_numbers_have_no_error():
  assert device_checks.errors(RIGHT, RIGHT) == (0., 0., 0.)


def test_errors_are_relative_to_the_norm():
  wrong = RIGHT._replace(gradient=np.array([3., 4.5]), loss=np.array([9.]))
  assert device_checks.errors(wrong, RIGHT) == pytest.approx((0.1, 0., 0.1))


@pytest.mark.parametrize('values', [
    np.array([1., 5., 2.]), np.array([np.nan, np.nan, 2.]),
    np.array([1., np.nan])])
def test_another_shape_or_another_nan_is_an_infinite_error(values):
  found = device_checks.errors(RIGHT._replace(values=values), RIGHT)
  assert found.values == float('inf')


def test_an_infinite_number_is_an_error():
  found = device_checks.errors(
      RIGHT._replace(loss=np.array([np.inf])), RIGHT)
  assert found.loss > 1.
