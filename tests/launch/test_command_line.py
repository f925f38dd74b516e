"""Commands that cannot run print one line, return 2 and change no files."""

import errno
import os
import re
import socket
import subprocess
import sys
import time

import pytest

from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import presets
from lpg_distributed.analysis import run_page
from lpg_distributed.analysis import training_curves
from lpg_distributed.store import checkpointing
from lpg_distributed.store import run_directory
from tests import directory_testing
from tests.launch import command_testing

DEMO = ('--preset=demo', '--launch_type=embedded')


@pytest.fixture(scope='module')
def meta_train():
  commands = command_testing.Commands('launch.meta_train')
  yield commands
  commands.close()


@pytest.fixture(scope='module')
def plot():
  commands = command_testing.Commands('launch.plot')
  yield commands
  commands.close()


@pytest.fixture(scope='module')
def query_bandit():
  commands = command_testing.Commands('launch.query_bandit')
  yield commands
  commands.close()


def run_process(*arguments, module='launch.meta_train', timeout=100):
  result = subprocess.run(
      [sys.executable, '-m', module, *arguments],
      env=command_testing.environment(), text=True, capture_output=True,
      timeout=timeout, check=False)
  return result.returncode, result.stdout, result.stderr


def assert_refused(result, *parts):
  code, out, err = result
  assert (code, out) == (2, ''), result
  assert err.startswith('error: ') and err.count('\n') == 1
  assert err.endswith('\n') and 'Traceback' not in err
  for part in parts:
    assert part in err
  return err


def make_run(path, steps=(), config=None):
  """Makes a run as a launch leaves it, with small checkpoints."""
  run = run_directory.RunDirectory.open(str(path), config or presets.demo())
  for step in steps:
    records = [checkpointing.write_part(run.path, step, name, b'{"a": 1}' * 99)
               for name in ('bandit', 'learner')]
    checkpointing.commit(run.path, step, records, 9)
  run.close()


def cut_short(path, step):
  file = path / 'checkpoints' / f'step_{step:08d}' / 'learner'
  file.write_bytes(file.read_bytes()[:-1])
  return file


BAD = [
    (('--set=environments=tabular_dens',),
     ['tabular_dens', 'did you mean tabular_dense?', 'chain_long']),
    (('--preset=labtop',), ["'labtop'", 'demo, laptop, paper']),
    (('--preset=',), ['demo, laptop, paper']),
    (('--set=meta.num_update=3',), ['meta.num_update', 'num_updates?']),
    (('--set=agents.*.units=3',), ['units', 'allowed: conv']),
    (('--set=meta.num_updates',), ['allowed: field=value']),
    (('--launch_type=cluster',), ["'cluster'", 'embedded, local_mt']),
    (('--sed=3',), ["'sed'", '--help']),
    (('--meta-steps=3',), ['meta-steps', '--help']),
    (('demo',), ["'demo' is no flag", '--name=value']),
    (('--', '--seed=3'), ['is no flag']),
    (('--bandit_port=-1',), ['-1', '0 to 65535']),
    (('--bandit_port=65536',), ['65536', '0 to 65535']),
    (('--bandit_port=http',), ['bandit_port', 'http']),
    (('--bandit_port=9999', '--launch_type=embedded'), ['no server']),
    (('--bandit_host=0.0.0.0', '--launch_type=local_mp'),
     ['--bandit_host is 0.0.0.0', 'without --bandit_token_file: 127.0.0.1']),
    (('--isolate=perhaps',), ['isolate', 'auto|yes|no']),
    (('--max_restarts=-1',), ['max_restarts', '-1']),
    (('--evaluate=maybe',), ['evaluate', 'maybe']),
    (('--seed=x',), ['run.seed', 'a whole number']),
    (('--seed=-1',), ['run.seed', 'from 0']),
    (('--seed=3000000000',), ['run.seed', '2147483647']),
    (('--num_workers=0',), ['run.num_workers is 0', 'from 1']),
    (('--meta_steps=1.5',), ['run.meta_steps', 'a whole number']),
    (('--set=meta.num_updates=0',), ['meta.num_updates is 0', 'from 1']),
    (('--set=meta.num_updates=-5',), ['meta.num_updates is -5', 'from 1']),
    *[((f'--set=meta.learning_rate={value}',),
       ['meta.learning_rate is', 'allowed: a number > 0 and <= 1'])
      for value in ('0', '-1e-4', 'nan', 'inf', '-inf', '1e400')],
    *[((f'--set=agents.*.learning_rates=20,{value}',),
       ['learning_rates is', 'allowed: a number > 0'])
      for value in ('0', '-20', 'nan', 'inf')],
    (('--set=agents.*.kl_costs=',), ['needs at least one value']),
    (('--set=meta.max_lifetime_gradient_norm=-1',),
     ['meta.max_lifetime_gradient_norm is -1', 'allowed: a number >= 0']),
    (('--set=run.initial_rule=nobody',), ["'nobody'", 'chain_and_grid']),
    (('--set=run.initial_rule=/no/such.npz',), ['no file /no/such.npz']),
    (('--set=run.initial_rule=chain_and_grid', '--set=rule.lstm_size=8'),
     ['chain_and_grid', 'lstm_size=32', 'allowed', 'lstm_size=8']),
    (('--set=environments=',), ['environments needs at least one value']),
    (('--set=meta.num_lifetimes=1',), ['at least one per environment (2)']),
    (('--set=evaluator.games=brekout',), ['did you mean breakout']),
    (('--config=/no/such/file.json',), ['/no/such/file.json', 'No such file']),
    (('--config=',), ['No such file']),
]


@pytest.mark.parametrize('arguments, parts', BAD)
def test_bad_flags_are_refused(meta_train, tmp_path, arguments, parts):
  path = tmp_path / 'run'
  assert_refused(meta_train(*DEMO, f'--run_dir={path}', *arguments), *parts)
  assert directory_testing.contents(tmp_path) == {str(tmp_path): None}


@pytest.mark.parametrize('content, part', [
    ('{"meta": {', 'not readable as JSON'), ('', 'not readable as JSON'),
    ('[1]', 'allowed: a group of fields'),
    ('{"meta": {"num_updates": 0}}', 'meta.num_updates is 0'),
    ('{"meta": {"learning_rate": NaN}}', 'meta.learning_rate is nan'),
    ('{"mta": {}}', 'did you mean meta?')])
def test_bad_configuration_files_are_refused(
    meta_train, tmp_path, content, part):
  file = tmp_path / 'config.json'
  file.write_text(content)
  before = directory_testing.contents(tmp_path)
  assert_refused(meta_train(*DEMO, f'--config={file}',
                            f'--run_dir={tmp_path / "run"}'), str(file), part)
  assert directory_testing.contents(tmp_path) == before


def test_a_port_in_use_is_refused(meta_train, tmp_path):
  with socket.socket() as busy:
    busy.bind(('127.0.0.1', 0))
    busy.listen()
    port = busy.getsockname()[1]
    assert_refused(
        meta_train(*DEMO, f'--bandit_port={port}',
                   f'--run_dir={tmp_path / "run"}'),
        f'--bandit_port={port}', 'Address already in use')
  assert not (tmp_path / 'run').exists()


def test_a_run_of_another_configuration_is_refused(meta_train, tmp_path):
  make_run(tmp_path / 'run')
  before = directory_testing.contents(tmp_path)
  assert_refused(
      meta_train(*DEMO, f'--run_dir={tmp_path / "run"}', '--seed=7',
                 '--meta_steps=5', '--set=meta.num_updates=3'),
      '(meta.num_updates: 5 -> 3; run.seed: 0 -> 7)', 'another --run_dir')
  assert directory_testing.contents(tmp_path) == before


def test_a_directory_that_is_no_run_is_refused(meta_train, tmp_path):
  (tmp_path / 'notes.txt').write_text('x')
  for path, part in ((tmp_path, 'neither empty nor a run'),
                     (tmp_path / 'notes.txt', 'Not a directory'),
                     ('/proc/no_such_run', 'cannot be written')):
    assert_refused(meta_train(*DEMO, f'--run_dir={path}'), str(path), part)
  assert list(directory_testing.contents(tmp_path).values()) == [None, b'x']


def test_a_run_in_use_is_refused(meta_train, tmp_path):
  holder = run_directory.RunDirectory.open(str(tmp_path), presets.demo())
  before = directory_testing.contents(tmp_path)
  assert_refused(meta_train(*DEMO, f'--run_dir={tmp_path}'), 'in use')
  holder.close()
  assert directory_testing.contents(tmp_path) == before


def test_a_run_without_an_undamaged_checkpoint_is_refused(meta_train, tmp_path):
  """Changes that are allowed on resume are not written either."""
  path = tmp_path / 'run'
  make_run(path, (4, 8))
  files = [cut_short(path, step) for step in (4, 8)]
  before = directory_testing.contents(path)
  assert_refused(
      meta_train(*DEMO, f'--run_dir={path}', '--meta_steps=5'),
      *map(str, files), 'no checkpoint is whole', 'to begin anew')
  assert directory_testing.contents(path) == before


@pytest.mark.parametrize('arguments, parts', [
    ((), ['--run_dir is missing']),
    (('--run_dir=/no/such/run',), ['/no/such/run', 'is no run directory']),
    (('--foo',), ["'foo'", '--help']),
])
def test_plot_refuses_bad_flags(plot, arguments, parts):
  assert_refused(plot(*arguments), *parts)


@pytest.mark.parametrize('arguments, parts', [
    ((), ['--run_dir or --address is missing']),
    (('--run_dir=/nowhere',), ['/nowhere is no run directory']),
    (('--address=localhost:1',), ['localhost:1 did not answer']),
    (('--address=localhost:http',), ['localhost:http did not answer']),
    (('--address=localhost:1', '--token_file=/no/such/token'),
     ['/no/such/token is not readable']),
    (('--run_dir=/nowhere', '--watch=-1'), ['--watch', '0 or more']),
])
def test_query_bandit_refuses_bad_flags(query_bandit, arguments, parts):
  assert_refused(query_bandit(*arguments), *parts)


def test_query_bandit_reads_the_checkpoint_of_a_run(query_bandit, tmp_path):
  make_run(tmp_path)
  assert_refused(query_bandit(f'--run_dir={tmp_path}', '--environment=chain'),
                 "no bandit for 'chain'", 'chain_short')
  (tmp_path / run_directory.LAUNCH_FILE).write_text('{"addresses": 3}')
  assert_refused(query_bandit(f'--run_dir={tmp_path}'), 'is not readable')
  # A launch that was killed leaves its file behind.
  (tmp_path / run_directory.LAUNCH_FILE).write_text(
      '{"addresses": {"bandit_server": "localhost:1"}}')
  assert_refused(query_bandit(f'--run_dir={tmp_path}', '--environment=chain'),
                 "no bandit for 'chain'")
  code, out, _ = query_bandit(f'--run_dir={tmp_path}')
  assert code == 0 and 'nobody answers at localhost:1' in ' '.join(out.split())


def test_plot_refuses_a_run_without_metrics(plot, tmp_path):
  make_run(tmp_path)
  before = directory_testing.contents(tmp_path)
  assert_refused(plot(f'--run_dir={tmp_path}'), 'no metrics yet')
  metrics = tmp_path / 'metrics' / 'learner.jsonl'
  metrics.write_text('{"step": 0, "gradient_norm": 1.0}\n')
  for name in ('no/such/place.png', 'figure.xyz'):
    assert_refused(plot(f'--run_dir={tmp_path}',
                        f'--output={tmp_path / name}'), name)
  metrics.unlink()
  assert directory_testing.contents(tmp_path) == before


# Processes, as users start them.


def test_a_process_refuses_bad_flags_at_once(tmp_path):
  begin = time.monotonic()
  result = run_process('--set=meta.num_updates=0', f'--run_dir={tmp_path}/run')
  seconds = time.monotonic() - begin
  assert_refused(result, 'meta.num_updates is 0')
  assert not os.listdir(tmp_path)
  assert seconds < 10  # 0.3 on an idle machine: JAX is not imported.


@pytest.mark.parametrize('module, usage, flag', [
    ('launch.meta_train', 'lpg meta-train', '--preset'),
    ('launch.plot', 'lpg plot', '--output'),
    ('launch.select', 'lpg select', '--kl_costs'),
    ('launch.figure3', 'lpg figure3', '--run')])
def test_help_has_usage_and_flags(module, usage, flag):
  code, out, err = run_process('--help', module=module)
  assert (code, err) == (0, '')
  assert flag in out and usage in out


def test_a_process_refuses_a_run_of_another_configuration(tmp_path):
  """After it has restarted itself with the variables that it needs."""
  make_run(tmp_path / 'run')
  before = directory_testing.contents(tmp_path)
  assert_refused(run_process(f'--run_dir={tmp_path / "run"}', '--seed=7'),
                 'run.seed: 0 -> 7')
  assert directory_testing.contents(tmp_path) == before


def test_a_damaged_checkpoint_is_named_and_the_previous_is_used(tmp_path):
  """The run is at its last meta-step, so that no training follows."""
  path = tmp_path / 'run'
  config = config_io.apply_overrides(presets.demo(), ['run.meta_steps=4'])
  make_run(path, (4, 8), config)
  file = cut_short(path, 8)
  (path / 'metrics' / 'learner.jsonl').write_text(
      '{"step": 0, "gradient_norm": 1.0}\n')
  code, out, err = run_process('--noevaluate', '--meta_steps=4',
                               f'--run_dir={path}')
  assert code == 0, err
  assert f'{file} is damaged' in err and 'goes on at meta-step 4' in err
  assert re.search('^figure: ', out, re.MULTILINE)
  assert (path / 'figures' / 'training.png').stat().st_size > 1000


@pytest.mark.parametrize('number, code, one_line', [
    (errno.EROFS, 2, True), (errno.ENOSPC, 2, True), (errno.EPIPE, 1, False)])
def test_errors_of_the_disk_are_one_line(number, code, one_line):
  """Other errors of the system are the program's, with a traceback."""
  result = subprocess.run(
      [sys.executable, '-c', 'from launch import command\n'
       'def main():\n'
       f'  raise OSError({number}, "the system says so", "a/file")\n'
       'command.run(main, flag_values=None)\n'],
      capture_output=True, text=True, timeout=100, check=False)
  assert result.returncode == code and "'a/file'" in result.stderr
  assert (result.stderr.count('\n') == 1) == one_line, result.stderr


@pytest.mark.parametrize('error, code, text', [
    ('MemoryError', 2, 'error: there is not enough memory; allowed: smaller '
     'settings, or a higher limit (ulimit -v) if there is one\n'),
    ('KeyboardInterrupt', 130, 'interrupted\n')])
def test_memory_and_early_signals_are_one_line(error, code, text):
  """There is no traceback."""
  result = subprocess.run(
      [sys.executable, '-c', 'from launch import command\n'
       'def main():\n'
       f'  raise {error}\n'
       'command.run(main, flag_values=None)\n'],
      capture_output=True, text=True, check=False)
  assert (result.returncode, result.stderr) == (code, text)


@pytest.mark.parametrize('arguments', [
    '--config={}', '--set=run.initial_rule={}',
    '--bandit_token_file={} --launch_type=local_mp',
    '--launch_type=slurm --resources={}'])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    meta_train, tmp_path, arguments):
  os.mkfifo(tmp_path / 'pipe')
  assert_refused(
      meta_train(*DEMO, f'--run_dir={tmp_path / "run"}',
                 *arguments.format(tmp_path / 'pipe').split()),
      'pipe', 'not a plain file')


@pytest.mark.parametrize('name, arguments, place', [
    ('figure3', '--results={}', 'pipe'), ('figure3', '--run={}', 'pipe'),
    ('sensitivity', '--rule={}', 'pipe'),
    ('sensitivity', '--rule={}', 'config.json'),
    ('figure7', '--study={}', 'study.json'),
    ('mini_table', '--table=a={}', 'table.json')])
def test_a_pipe_in_a_directory_is_not_waited_for(
    name, arguments, place, tmp_path, capsys):
  if place != 'pipe':
    make_run(tmp_path / 'run')
    tmp_path = tmp_path / 'run'
    (tmp_path / place).unlink(missing_ok=True)
  os.mkfifo(tmp_path / place)
  assert command_testing.call(name, [arguments.format(
      tmp_path / place if place == 'pipe' else tmp_path)]) == 2
  err = capsys.readouterr().err
  assert 'not a plain file' in err and err.count('\n') == 1


def test_a_pipe_among_the_metrics_is_not_waited_for(tmp_path):
  make_run(tmp_path)
  os.mkfifo(tmp_path / 'metrics' / 'learner.jsonl')
  for read in (run_page.make, training_curves.draw):
    with pytest.raises(errors.UserError, match='not a plain file'):
      read(str(tmp_path))
