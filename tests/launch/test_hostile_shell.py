"""Two launches from a shell with as many unusual settings as possible."""

import json
import os
import signal
import stat
import subprocess
import sys

import pytest

from lpg_distributed.launch import process_environment
from lpg_distributed.store import eta_file
from tests import chaos
from tests import waiting
from tests.launch import test_faults

pytestmark = [pytest.mark.processes, pytest.mark.long]

DEAD_PROXY = 'http://127.0.0.1:9'
SETTINGS = {
    **dict.fromkeys(('http_proxy', 'https_proxy', 'grpc_proxy', 'HTTP_PROXY',
                     'HTTPS_PROXY'), DEAD_PROXY),
    'JAX_ENABLE_X64': '1', 'JAX_DEFAULT_PRNG_IMPL': 'rbg',
    'JAX_DEBUG_NANS': '1', 'JAX_DISABLE_JIT': '1',
    'XLA_FLAGS': '--xla_cpu_enable_fast_math=false',
    'PYTHONOPTIMIZE': '2', 'PYTHONIOENCODING': 'ascii', 'LC_ALL': 'C',
    'TERM': 'no-such-terminal', 'PATH': ''}


def launch(tmp_path, ignored=(), closed=(), settings=(), overrides=(),
           **kwargs):
  """Starts the program as `nohup`, `&` in a script, or a daemon would."""
  def prepare():
    os.umask(0)
    for number in ignored:
      signal.signal(number, signal.SIG_IGN)
    for descriptor in closed:
      os.close(descriptor)

  (tmp_path / 'file').write_text('')
  # The cache of the real home, since compiling takes minutes.
  cache = process_environment.with_packages({}).get(
      'JAX_COMPILATION_CACHE_DIR', '')
  removed = ('JAX_COMPILATION_CACHE_DIR', 'XDG_CACHE_HOME', 'PYTHONPATH',
             'MPLCONFIGDIR', *process_environment.WORKER)
  environment = {k: v for k, v in os.environ.items() if k not in removed}
  return subprocess.Popen(
      [sys.executable, '-m', 'launch.meta_train', '--preset=demo',
       f'--run_dir={tmp_path}/run', '--launch_type=local_mp', '--noevaluate',
       *(f'--set={override}' for override in test_faults.OVERRIDES),
       *(f'--set={override}' for override in overrides)],
      env={**environment, **chaos.QUICK_COMPILATION, 'HOME':
           f'{tmp_path}/file/home', 'JAX_COMPILATION_CACHE_DIR': cache,
           **dict(settings), 'PYTHONPATH':
           process_environment.root()},
      cwd=tmp_path, preexec_fn=prepare, start_new_session=True, **kwargs)


@pytest.mark.timeout(1200)
def test_a_run_trains_and_ends_normally_under_unusual_settings(tmp_path):
  """Each setting alone could end a run, or keep it from its first step."""
  run, metrics = tmp_path / 'run', tmp_path / 'run/metrics/learner.jsonl'
  process = launch(tmp_path, [signal.SIGHUP], [0], SETTINGS.items(),
                   stderr=subprocess.PIPE, text=True)
  try:
    waiting.until(lambda: waiting.lines(metrics) >= 3, 'meta-steps',
                  process=process)
    # A terminal that is closed under `nohup`.
    os.killpg(process.pid, signal.SIGHUP)
    steps = waiting.lines(metrics)
    waiting.until(lambda: waiting.lines(metrics) > steps + 3, 'more',
                  process=process)
    for name, mode in (('tmp', 0o700), ('', 0o755), ('metrics', 0o755)):
      assert stat.S_IMODE(os.stat(run / name).st_mode) == mode
    # An impatient user.
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGQUIT):
      os.killpg(process.pid, number)
    _, output = process.communicate(timeout=waiting.PATIENCE_S)
  finally:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
  assert process.returncode == 128 + signal.SIGINT, output
  assert 'Traceback' not in output
  assert 'or ends it: PYTHONOPTIMIZE=2, JAX_ENABLE_X64=1' in output
  steps = waiting.lines(metrics)
  assert (run / 'checkpoints' / f'step_{steps:08d}' / 'manifest.json').exists()
  assert not (run / 'launch.json').exists() and not (run / 'tmp').exists()
  assert sorted(os.listdir(tmp_path)) == ['file', 'run']
  _finish(tmp_path, steps)


def _finish(tmp_path, steps):
  """Resumes the run under other settings, with standard output closed."""
  with open(tmp_path / 'said', 'w', encoding='utf-8') as output:
    process = launch(tmp_path, [signal.SIGINT], [1], {'NPROC': '2'}.items(),
                     [f'run.meta_steps={steps + 20}'], stderr=output)
  try:
    assert process.wait(waiting.PATIENCE_S) == 0
  finally:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
  output = (tmp_path / 'said').read_text()
  assert 'Traceback' not in output and 'NPROC: 1 -> 2' in output, output
  run = tmp_path / 'run'
  assert eta_file.load(str(run / 'eta.npz')).info['meta_step'] == steps + 20
  assert list((run / 'figures').iterdir())
  record = json.loads((run / 'versions.json').read_text())
  assert record['earlier'][0]['settings']['XLA_FLAGS'].startswith(
      SETTINGS['XLA_FLAGS'])
