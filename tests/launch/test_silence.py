"""Tests that the launcher reports silent nodes, deaths and another device."""

import concurrent.futures
import threading
import types

import pytest

from lpg_distributed import presets
from lpg_distributed.launch.local import runner
from lpg_distributed.store import run_directory
from lpg_distributed.store import run_versions


def test_a_silent_learner_is_named(monkeypatch, capsys):
  """Otherwise a run that makes no step, as behind a proxy, prints nothing."""
  monkeypatch.setattr(runner, 'SILENT_S', 0.2)
  monkeypatch.setattr(runner, 'STATUS_S', -1.9)  # Each call waits for 0.1 s.
  monkeypatch.setattr(runner, '_POLL_S', 0.05)
  done = threading.Event()
  client = types.SimpleNamespace(futures=types.SimpleNamespace(
      get_status=lambda: concurrent.futures.Future()))
  threading.Timer(1.2, done.set).start()
  runner.watch_learner(client, lambda status: None, done)
  lines = capsys.readouterr().err.splitlines()
  assert 1 <= len([x for x in lines if 'has not answered for' in x]) <= 8


@pytest.mark.parametrize('line', [
    '[1]', 'null', '3', '{}', '{"node": "a", "how": "b", "final": true}',
    '{"node": "a", "how": "b", "final": true, "lived_s": "c"}'])
def test_a_death_of_another_form_is_passed_over(line, tmp_path, capsys):
  deaths = runner.FailureReports(str(tmp_path / 'deaths'))
  (tmp_path / 'deaths').write_text(
      f'{line}\n{{"node": "a", "how": "b", "final": false, "lived_s": 2}}\n')
  deaths.show_new()
  assert [death['lived_s'] for death in deaths.of_this_launch] == [2]
  assert 'node a ended (b) after 2 s' in capsys.readouterr().err


def test_another_device_is_named_once(tmp_path, capsys):
  """A worker records it, whose log nobody may read."""
  path = str(tmp_path / 'run')
  run = run_directory.RunDirectory.open(path, presets.demo())
  report = runner.DeviceReport(path)
  for kind, lines in (('cpu', 0), ('cpu', 0), ('GPU 7', 1), ('GPU 7', 0)):
    run_versions.record_device(path, kind)
    report.show_new()
    assert capsys.readouterr().err.count('cpu -> GPU 7') == lines
  run.close()
