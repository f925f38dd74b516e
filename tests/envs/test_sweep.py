"""A sample of the sweep over all environments, and its page."""

import importlib.metadata
import pathlib

import dm_env
from dm_env import specs
import numpy as np
import pytest

pytest.importorskip('gymnax')
pytest.importorskip('gymnasium')
pytest.importorskip('bsuite')

from tests import sweep

_PAGE = (pathlib.Path(__file__).parents[2] / 'docs' / 'environments_tried.md'
         ).read_text(encoding='utf-8')
_ROWS = sweep.rows(_PAGE)


def test_the_page_has_all_environments_of_the_pinned_packages():
  for package in ('gymnax', 'bsuite', 'gymnasium'):
    assert f'{package} {importlib.metadata.version(package)}' in _PAGE
  assert list(_ROWS) == sweep.identifiers()


def test_every_environment_works_or_is_refused_in_one_line():
  assert not [line for line in _ROWS.values() if line.startswith('FAILED')]
  assert sum(line == sweep.WORKS for line in _ROWS.values()) > 60


@pytest.mark.parametrize('env_id', [
    'gymnax/SimpleBandit-bsuite', 'gymnax/Pendulum-v1', 'bsuite/bandit/0',
    'bsuite/cartpole_swingup/0', 'gymnasium/FrozenLake-v1',
    'gymnasium/Blackjack-v1', 'gymnasium/Ant-v2', 'gymnasium/CarRacing-v3',
    'gymnasium/GymV21Environment-v0', 'gymnasium/phys2d/CartPole-v1'])
def test_a_sample_of_environments_gives_the_lines_of_the_page(env_id):
  assert sweep.try_one(env_id) == _ROWS[env_id]


class Wrong(dm_env.Environment):
  """Every new environment gives another number."""
  made = 0

  def __init__(self):
    Wrong.made += 1
    self._number = np.float32(Wrong.made)

  def observation_spec(self):
    return specs.Array((), np.float32)

  def action_spec(self):
    return specs.DiscreteArray(2)

  def reset(self):
    return dm_env.restart(self._number)

  def step(self, action):
    return dm_env.transition(0., self._number)


def test_observations_unlike_the_packages_are_an_error(monkeypatch):
  monkeypatch.setattr(sweep.registry, '_bsuite_factory',
                      lambda name: lambda seed: Wrong())
  assert sweep.try_one('bsuite/catch/0').startswith(
      'FAILED: AssertionError: the first observation is ')


def test_a_new_page_keeps_the_sections_behind_the_table(tmp_path, monkeypatch):
  path = tmp_path / 'page.md'
  path.write_text('old\n\n## Other packages\n| `gymnax/A` | by hand |\n')
  monkeypatch.setattr(sweep, 'identifiers', lambda: ['gymnax/B'])
  monkeypatch.setattr(sweep, 'try_all', lambda env_ids, say: dict.fromkeys(
      env_ids, sweep.WORKS))
  monkeypatch.setattr(sweep.sys, 'argv', ['sweep', f'--output={path}'])
  assert sweep.main() == 0
  text = path.read_text()
  assert sweep.rows(text) == {'gymnax/B': sweep.WORKS}
  assert text.endswith('\n\n## Other packages\n| `gymnax/A` | by hand |\n')
