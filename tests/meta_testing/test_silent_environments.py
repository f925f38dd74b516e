"""Environments that do not answer are reported, and Ctrl-C ends the job."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import dm_env
import jax
import jax.numpy as jnp
import pytest

from lpg_distributed.launch import progress
from lpg_distributed.meta_testing import call_watchdog
from lpg_distributed.meta_testing import daemon_pool
from lpg_distributed.meta_testing import run_record
from tests import waiting
from tests.meta_testing import session_testing

THIS = 'module/tests.meta_testing.test_silent_environments'


class SilentStep(session_testing.Corridor):
  """Its 30th step never returns, which is after the first update."""
  steps = 0

  def step(self, action) -> dm_env.TimeStep:
    self.steps += 1
    if self.steps == 30:
      threading.Event().wait()
    return super().step(action)


class SilentReset(session_testing.Corridor):

  def reset(self) -> dm_env.TimeStep:
    return threading.Event().wait()


class SilentMaking(session_testing.Corridor):

  def __init__(self):
    while True:
      time.sleep(0.1)


class SilentJax:
  """JAX; its steps never return, once an action is not 0."""
  num_actions, num_states, max_episode_steps = 2, 4, 4

  def reset(self, params, key):
    return jnp.int32(0), jnp.int32(0)

  def step(self, params, state, action, key):
    state = jax.lax.while_loop(
        lambda x: x + action >= 0, lambda x: 1 - x, jnp.int32(0) + action)
    return state, (jnp.int32(0), jnp.float32(0.), jnp.float32(1.))


COMMAND = """
import sys
from lpg_distributed.meta_testing import call_watchdog
call_watchdog.SILENT_S = call_watchdog.GRACE_S = 1.
from lpg_distributed.launch import command
from lpg_distributed.launch.commands import meta_test
command.run(meta_test.main)
"""


def start(name, directory):
  return subprocess.Popen(
      [sys.executable, '-c', COMMAND, f'--env={THIS}:{name}', '--rule=a2c',
       '--num_envs=2', '--set=trajectory_steps=5', f'--run_dir={directory}'],
      stderr=subprocess.PIPE, text=True,
      env={**os.environ, 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'})


def read_until(stream, pattern):
  lines = []
  while not re.search(pattern, (lines or [''])[-1]):
    lines.append(stream.readline())
    assert lines[-1], ''.join(lines)
  return lines


@pytest.mark.pinned
@pytest.mark.processes
@pytest.mark.parametrize('name, call, saved', [
    ('SilentStep', 'step', True),
    ('SilentReset', 'reset', True),
    ('SilentMaking', 'creating the environment', False),
    # None: on a busy machine compiling it alone takes as long.
    ('SilentJax', 'compiling or running its steps', None),
])
def test_a_command_ends_at_the_first_signal(name, call, saved, tmp_path):
  process = start(name, tmp_path / 'job')
  try:
    found = read_until(process.stderr, rf' s \({call}\)')[-1]
    assert found.startswith(f'warning: {THIS}:{name} has not answered for ')
    assert 'Ctrl-C' in found
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 128 + signal.SIGINT
  finally:
    process.kill()
    process.wait()
    process.stderr.close()
  assert 'Traceback' not in rest
  if saved is not None:
    assert ('the same command resumes' in rest) == saved
  if name == 'SilentStep':  # The update before is saved.
    assert (tmp_path / 'job' / 'checkpoint.npz').exists()


def test_a_call_that_has_not_returned_is_named_more_than_once(monkeypatch):
  monkeypatch.setattr(call_watchdog, 'SILENT_S', 0.05)
  monkeypatch.setattr(call_watchdog, '_POLL_S', 0.01)
  lines = []
  with call_watchdog.CallWatchdog(
      'mine', threading.Event(), lines.append) as found:
    with found.watch('step'):
      waiting.until(lambda: len(lines) >= 2, 'two lines')
      # Twice the time, for the second line.
      assert found.longest_call_s() >= 0.1
    assert found.longest_call_s() == 0.
  assert lines[0].startswith('mine has not answered for 0 s (step); Ctrl-C')


def test_a_stop_ends_the_process_if_the_main_thread_is_blocked(monkeypatch):
  """If another thread is blocked, the host's loop can end by itself."""
  monkeypatch.setattr(call_watchdog, 'GRACE_S', 0.1)
  monkeypatch.setattr(call_watchdog, '_POLL_S', 0.02)
  stop, done, left = threading.Event(), threading.Event(), []
  stop.set()
  with call_watchdog.CallWatchdog('mine', stop, lambda line: None,
                                  lambda: left.append(1)) as found:
    def call():
      with found.watch('step'):
        done.wait()
    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.4)
    assert not left
    with found.watch('creating the environment'):
      waiting.until(lambda: left, 'the end of the process')
    done.set()
    thread.join()


def test_a_pool_closes_with_a_blocked_thread():
  pool, blocked = daemon_pool.DaemonPool(2), threading.Event()
  failing = pool.submit(int, 'x')
  with pytest.raises(ValueError):
    failing.result()
  assert [pool.submit(abs, -i).result() for i in range(5)] == list(range(5))
  waiting = pool.submit(blocked.wait)
  pool.close()
  assert not pool.join(0.1)
  blocked.set()
  assert waiting.result() and pool.join(10.)


def test_progress_notes_that_no_episode_has_ended():
  views = []
  job = session_testing.make_job(session_testing.HOST)
  watch = progress.make_watch(
      job, type('Display', (), {'show': lambda self, v: views.append(v)})())
  for env_steps, last_return in ((0, None), (100, None), (200, 1.)):
    watch(run_record.Status(0, env_steps, 10., 5., last_return))
  assert [view.notes for view in views] == [
      [], ['no episode has ended yet'], []]
  assert '100/1,000 steps' in views[1].headline
