"""`lpg publish`: what it publishes, and what it refuses."""

import sys

from absl import flags
import pytest

from lpg_distributed.analysis import model_card
from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment
from lpg_distributed.launch.commands import publish
from lpg_distributed.store import published


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Runs the command within this process; returns what was published."""
  asked = {}
  monkeypatch.setattr(process_environment, 'ensure', lambda *args: None)
  monkeypatch.setattr(published, 'DIRECTORY', str(tmp_path))
  monkeypatch.setattr(
      model_card, 'publish',
      lambda run_dir, name, **kwargs: asked.update(
          run_dir=run_dir, name=name, **kwargs) or {
              'name': name, 'env_steps': 7, 'averaged_meta_steps': [1],
              'results': {}, 'config': {'run': {'initial_rule': ''}}})

  def do(*arguments):
    monkeypatch.setattr(sys, 'argv', ['lpg publish', *arguments])
    flags.FLAGS.unparse_flags()
    for flag in flags.FLAGS.get_flags_for_module(publish):
      flag.unparse()
    flags.FLAGS(['publish', *arguments])
    assert publish.main() == 0
    return asked
  return do


def test_a_run_is_published_under_a_new_name(run, tmp_path, capsys):
  asked = run('--run_dir=runs/a', '--name=small_1', '--average_last=3',
              '--summary=Of a test.', '--num_lifetimes=8')
  assert (asked['run_dir'], asked['name']) == ('runs/a', 'small_1')
  assert asked['average_last'] == 3 and asked['num_lifetimes'] == 8
  assert asked['summary'] == 'Of a test.' and asked['commit']
  assert asked['command'].startswith('lpg publish --run_dir=runs/a ')
  assert 'small_1.npz' in capsys.readouterr().out
  for name in ('small_1.npz', 'small_1.json'):
    (tmp_path / name).write_bytes(b'')
  with pytest.raises(command.UsageError, match='published already'):
    run('--run_dir=runs/a', '--name=small_1')
  run('--run_dir=runs/a', '--name=small_1', '--replace')


def test_an_installed_package_is_not_written_to(run, tmp_path, monkeypatch):
  monkeypatch.setattr(publish.process_environment, 'root',
                      lambda: str(tmp_path))
  with pytest.raises(command.UsageError, match='allowed: lpg publish of a'):
    run('--run_dir=runs/a', '--name=small_1')


@pytest.mark.parametrize('arguments, message', [
    (('--name=a',), 'is missing'),
    (('--run_dir=runs/a',), 'is missing'),
    (('--run_dir=runs/a', '--name=../a'), 'allowed: small letters'),
    (('--run_dir=runs/a', '--name=Big'), 'allowed: small letters'),
])
def test_bad_flags_are_refused(run, arguments, message):
  with pytest.raises(command.UsageError, match=message):
    run(*arguments)
