"""The launcher reports a learner that does not answer."""

import concurrent.futures
import threading
import types

from lpg_distributed.launch.local import runner


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
