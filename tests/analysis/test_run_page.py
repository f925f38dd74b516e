"""The page about a run: its content, and its display by a browser."""

import html.parser
import os
import shutil
import subprocess

import pytest

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import run_page
from lpg_distributed.store import loggers
from lpg_distributed.store import run_directory

CONFIG = config_lib.Config(environments=('chain_short', 'tabular_dense'))
ARMS = len(CONFIG.agents['chain_short'].arms)


@pytest.fixture(name='run_dir')
def _run_dir(tmp_path):
  path = str(tmp_path / 'a <run> & more')
  run_directory.RunDirectory.open(path, CONFIG).close()
  learner = loggers.MetricsLogger(path, 'learner', tensorboard=False)
  for step in range(1000):
    learner.write(step, {
        'return/chain_short': step / 1000., 'gradient_norm': 0.1,
        'env_steps': 10. * (step + 1), 'env_steps_per_s': 123456.,
        'resets': 7, 'resets/collapsed': 0, 'resets/not_finite': 0,
        'elapsed_s': 3600. * (step + 1) / 1000., 'entropy/chain_short': 0.5})
  learner.close()
  bandit = loggers.MetricsLogger(path, 'bandit', tensorboard=False)
  for step in (0, 500):
    bandit.write(step, {'chain_short': [1. / ARMS] * ARMS})
  bandit.close()
  loggers.MetricsLogger(path, 'evaluation', tensorboard=False).write(
      1000, {'untrained/chain_short': -0.125, 'trained/chain_short': 0.875})
  return path


class _Page(html.parser.HTMLParser):
  """Text of all elements, their ids, and what they refer to."""

  def __init__(self, text):
    super().__init__()
    self.ids, self.references, self.open, self.text = [], [], [], ''
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    if 'id' in attributes:
      self.ids.append(attributes['id'])
    self.references += [value for name, value in attrs
                        if name in ('src', 'href', 'xlink:href')]
    if tag not in ('meta', 'link', 'br'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def test_the_page_has_the_numbers_of_the_run(run_dir):
  page = _Page(run_page.make(run_dir))
  assert not page.open
  for expected in ('a <run> & more', '1,000 of', '10,000', '123,456',
                   '0.95',  # mean return of the last tenth
                   '-0.125', '0.875', 'probabilities by the bandit', 'jaxlib'):
    assert expected in page.text, expected
  assert 'has stored no probabilities' not in page.text


def test_the_page_needs_no_network_and_has_unique_ids(run_dir):
  page = _Page(run_page.make(run_dir))
  inside = [r[1:] for r in page.references if r.startswith('#')]
  assert all(r.startswith(('#', 'data:')) for r in page.references)
  assert len(page.ids) == len(set(page.ids)) > 10
  assert inside and set(inside) <= set(page.ids)


def test_long_curves_are_means_of_equal_parts():
  rows = run_page.Rows([{'step': i, 'x': float(i)} for i in range(900)])
  steps, values = rows.curve('x')
  assert len(steps) == 300
  assert (values[0], values[-1]) == (1., 898.)


def test_a_run_without_metrics_is_refused_in_one_line(tmp_path):
  path = str(tmp_path / 'run')
  run_directory.RunDirectory.open(path, CONFIG).close()
  with pytest.raises(config_lib.ConfigError, match='no metrics yet'):
    run_page.make(path)


def test_a_page_that_cannot_be_written_is_refused(run_dir, tmp_path):
  with pytest.raises(config_lib.ConfigError, match='cannot be written'):
    run_page.write(run_dir, str(tmp_path / 'none' / 'page.html'))


@pytest.mark.skipif(
    shutil.which('chromium') is None and not os.environ.get('CI'),
    reason='needs Chromium')
def test_a_browser_shows_the_page(run_dir, tmp_path):
  path = run_page.write(run_dir, str(tmp_path / 'page.html'))
  shown = subprocess.run(
      ['chromium', '--headless', '--no-sandbox', '--disable-gpu',
       '--disable-quic', '--no-first-run', '--disable-background-networking',
       '--disable-component-update', '--disable-sync',
       f'--user-data-dir={tmp_path / "profile"}', '--dump-dom',
       f'file://{path}'], capture_output=True, text=True, timeout=120,
      check=True).stdout
  assert shown.count('<svg') == run_page.make(run_dir).count('<svg') > 2
  assert 'a &lt;run&gt; &amp; more' in shown
