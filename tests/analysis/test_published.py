"""Publishing a rule, loading it by name, and every rule that is published."""

import os

import numpy as np
import pytest

import lpg_distributed as lpg
from lpg_distributed import config_io
from lpg_distributed.analysis import model_card
from lpg_distributed.analysis import sources
from lpg_distributed.analysis import training_environments
from lpg_distributed.core import meta_update
from lpg_distributed.store import eta_file
from lpg_distributed.store import published
from tests.analysis import run_testing
from tests.analysis import test_figure3

NAME, CONFIG = run_testing.NAME, run_testing.CONFIG


@pytest.fixture(scope='module')
def _weights(tmp_path_factory):
  """Weights of a rule, the mean of a run's last two snapshots."""
  root = tmp_path_factory.mktemp('published')
  run_dir = run_testing.store(root / 'run')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(published, 'DIRECTORY', str(root / 'weights'))
    patch.setattr(training_environments, 'evaluate', test_figure3.fake_evaluate)
    patch.setattr(model_card, '_CHECK', {
        'num_lifetimes': 3, 'num_envs': 4, 'updates': 10, 'seed': 0})
    model_card.publish(run_dir, 'tiny', summary='a test', average_last=2,
                       num_lifetimes=2, commit='0', command='none')
  return root / 'weights'


@pytest.fixture
def directory(_weights, monkeypatch):
  """Replaces the repository's weights by those."""
  monkeypatch.setattr(published, 'DIRECTORY', str(_weights))
  return _weights


def test_a_published_rule_is_loaded_by_its_name(directory, monkeypatch):
  assert published.names() == ('tiny',)
  rule = lpg.load_rule('tiny')
  np.testing.assert_allclose(
      rule.eta, 3. * np.asarray(meta_update.init(CONFIG).eta), rtol=1e-6)
  assert rule.config == CONFIG.rule and rule.info['name'] == 'tiny'
  by_path = lpg.load_rule(str(directory / 'tiny.npz'))
  np.testing.assert_array_equal(by_path.eta, rule.eta)
  with pytest.raises(published.PublishedError, match="'huge'.*allowed: tiny"):
    lpg.load_rule('huge')
  with pytest.raises(eta_file.EtaFileError, match='no file'):
    lpg.load_rule('nowhere/eta.npz')


def test_the_card_describes_the_run(directory):
  card = published.load_card('tiny')
  assert config_io.from_dict(card['config']) == CONFIG
  assert card['averaged_meta_steps'] == [2, 4] and card['seed'] == 0
  assert card['weights_sha256'] == published.sum_of('tiny')
  assert card['env_steps'] == 4 * 2 * 2 * 8 * 3  # steps, lifetimes, K, T, B
  labels = list(card['results'][NAME])
  assert labels == ['trained', 'untrained', 'trained, alpha_y = 0',
                    'trained, phi held', 'A2C']
  assert all(found['num'] == 2 for found in card['results'][NAME].values())
  assert card['curves']['return'][NAME][0] == 0.2  # of the made-up metrics
  source = sources.read('tiny')
  assert source.config == CONFIG and source.about['published'] == 'tiny'
  assert source.bandit == card['bandit']
  assert model_card.lines(card)[-1].startswith(f'| `{NAME}` | ')
  assert model_card.lines(card)[0].startswith(
      f'tiny: {card["env_steps"]} environment steps, meta-steps')
  card['config']['run']['initial_rule'] = 'first'
  assert model_card.lines(card)[0].startswith(
      f'tiny: {card["env_steps"]} environment steps after those of first, ')


def reproduce(name):
  """Returns the result of a card's check, and that of running it now."""
  card = published.load_card(name)
  file = eta_file.load(published.weights_path(name))
  config = config_io.from_dict(card['config'])
  return card['check'], model_card.check(file.eta, config, card['check'])


def test_the_check_of_the_card_is_reproducible(directory):
  stated, found = reproduce('tiny')
  np.testing.assert_allclose(found['mean'], stated['mean'], rtol=1e-4,
                             atol=1e-4)
  assert {'environment', 'arm', 'mean', 'standard_error'} <= set(stated)


def test_interrupted_publishing_is_resumed(tmp_path, monkeypatch):
  """Publishing resumes only with the same rule and code."""
  monkeypatch.setattr(published, 'DIRECTORY', str(tmp_path / 'weights'))
  run_dir = run_testing.store(tmp_path / 'run')
  evaluated = []

  def evaluate(name, rules, settings, report, found, keep):
    if not found:
      evaluated.append(name)
    return test_figure3.fake_evaluate(
        name, rules, settings, report, found, keep)

  def interrupt(source):
    raise KeyboardInterrupt

  publish = lambda commit: model_card.publish(
      run_dir, 'mine', summary='', average_last=1, num_lifetimes=2,
      commit=commit, command='none')
  unfinished = lambda: list((tmp_path / 'run').glob('*.unfinished.json'))
  monkeypatch.setattr(training_environments, 'evaluate', evaluate)
  monkeypatch.setattr(model_card, '_make_check', interrupt)
  with pytest.raises(KeyboardInterrupt):
    publish('0')
  assert evaluated == [NAME] and len(unfinished()) == 1
  assert not published.names()
  monkeypatch.setattr(model_card, '_make_check', lambda source: {})
  publish('0')
  assert evaluated == [NAME] and not unfinished()
  assert published.names() == ('mine',)
  publish('1')
  assert evaluated == [NAME, NAME]


def test_a_damaged_card_is_refused(directory, tmp_path, monkeypatch):
  monkeypatch.setattr(published, 'DIRECTORY', str(tmp_path))
  (tmp_path / 'bad.json').write_text('{"format": "other"}')
  (tmp_path / 'bad.npz').write_bytes(b'')
  with pytest.raises(published.PublishedError, match='is damaged'):
    published.load_card('bad')
  monkeypatch.setattr(published, 'LARGEST', 10)
  run_dir = os.path.join(os.path.dirname(directory), 'run')
  monkeypatch.setattr(model_card, '_results', lambda *args: {})
  monkeypatch.setattr(model_card, '_make_check', lambda source: {})
  with pytest.raises(published.PublishedError, match='allowed: 10'):
    model_card.publish(run_dir, 'large', summary='', average_last=1,
                       num_lifetimes=2, commit='0', command='none')
  assert 'large' not in published.names()
  with pytest.raises(published.PublishedError, match="'x'; allowed: chain_"):
    model_card.publish(run_dir, 'large', summary='', average_last=1,
                       num_lifetimes=2, commit='0', command='none',
                       environments=['x'])


# Rules of the repository: each is small enough, has a card, and is the rule
# that its card describes.


def test_every_file_of_weights_belongs_to_a_rule():
  if not os.path.isdir(published.DIRECTORY):
    pytest.skip('no rule is published yet')
  files = {name for name in os.listdir(published.DIRECTORY)
           if name != 'README.md'}
  assert files == {f'{name}{end}' for name in published.names()
                   for end in ('.npz', '.json')}


@pytest.mark.parametrize('name', [
    name if name == 'all_kinds_pi'
    else pytest.param(name, marks=pytest.mark.long)
    for name in published.names()])
def test_published_rules_reproduce_their_cards(name):
  assert os.path.getsize(published.weights_path(name)) <= published.LARGEST
  card = published.load_card(name)
  assert card['weights_sha256'] == published.sum_of(name)
  rule = lpg.load_rule(name)
  assert rule.eta.dtype == np.float32
  assert config_io.from_dict(card['config']).rule == rule.config
  stated, found = reproduce(name)
  # Floating-point results of two machines differ in the last digits. One
  # different action makes a different lifetime of the same distribution. So the
  # means may differ by three standard errors of their difference.
  limit = 3. * np.sqrt(2.) * (stated['standard_error'] or 0.) + 1e-3
  assert abs(found['mean'] - stated['mean']) <= limit
