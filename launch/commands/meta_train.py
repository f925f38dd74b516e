"""Meta-trains a rule.

  lpg meta-train --preset=demo

The same command resumes a run that was stopped or killed.
"""

import os
import socket
import sys
from typing import Optional

from absl import flags

from lpg_distributed import config as config_lib
from lpg_distributed.launch import command
from lpg_distributed.launch import config_flags
from lpg_distributed.launch import process_environment
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import job_flags
from lpg_distributed.launch.local import environment_check
from lpg_distributed.launch.local import facade_process
from lpg_distributed.launch.local import isolation
from lpg_distributed.store import run_directory

_MAKE_CONFIG = config_flags.define()
_LAUNCH_TYPE = flags.DEFINE_string(
    'launch_type', 'local_mp', ', '.join(command.LAUNCH_TYPES))
_RUN_DIR = flags.DEFINE_string(
    'run_dir', None, 'the directory of the run; default: '
    'runs/<preset>_seed<seed>')
_BANDIT_PORT = flags.DEFINE_integer(
    'bandit_port', 0, 'port of the bandit\'s HTTP facade; 0: any free port')
_BANDIT_HOST = flags.DEFINE_string(
    'bandit_host', '127.0.0.1', 'address of the bandit\'s HTTP facade; one '
    'that is not loopback needs --bandit_token_file')
_BANDIT_TOKEN_FILE = flags.DEFINE_string(
    'bandit_token_file', '', 'a file with the token that the facade requires')
_BANDIT_WRITES = flags.DEFINE_bool(
    'bandit_writes', False, 'let clients of the facade report final returns; '
    'the run is then no longer a function of its seed')
_ISOLATE = flags.DEFINE_enum(
    'isolate', 'auto', ('auto', 'yes', 'no'), 'run the program in a network '
    'of its own, so that nobody else reaches its ports; auto: if the system '
    'allows it')
_MAX_RESTARTS = flags.DEFINE_integer(
    'max_restarts', 10, 'how often in a row the process of a node is '
    'restarted; 0: the program ends with the first death', 0)
_HANG_S = flags.DEFINE_float(
    'hang_s', 60., 'seconds of silence after which a node counts as dead', 5.)
_EVALUATE = flags.DEFINE_bool(
    'evaluate', None, 'at the end, compare the rule with an untrained one on '
    'new lifetimes; default: only after the demo')

_load_resources, _FOLLOW = job_flags.define()

_LOOPBACK = ('127.0.0.1', 'localhost', '::1')


def _make_config(job: Optional[resources.JobResources]) -> config_lib.Config:
  """The configuration, with as many workers as the resource file has."""
  if job is None:
    return _MAKE_CONFIG(None)
  from lpg_distributed.launch.cluster.slurm import launches
  return launches.make_config(_MAKE_CONFIG, job)


def _isolate() -> None:
  if _ISOLATE.value == 'no':
    return
  obstacle = isolation.isolate()
  if obstacle is None:
    return
  if _ISOLATE.value == 'yes':
    raise command.UsageError(
        f'--isolate=yes is not possible here: {obstacle}; allowed: auto, no')
  print(f'warning: no network of its own ({obstacle}): whoever reaches this '
        'machine\'s ports can run code as you; see docs/reliability.md',
        file=sys.stderr)


def _submit(config, run, job: resources.JobResources) -> int:
  from lpg_distributed.launch.cluster.slurm import launches
  from lpg_distributed.launch.cluster.slurm import work
  from lpg_distributed.launch.local import runner
  facade = None
  if _BANDIT_PORT.value or _BANDIT_HOST.value not in _LOOPBACK:
    facade = work.FacadeOptions(
        _BANDIT_HOST.value, _BANDIT_PORT.value, _token_path(),
        _BANDIT_WRITES.value)
  return launches.meta_train(
      config, run, job, runner.Supervision(_MAX_RESTARTS.value, _HANG_S.value),
      facade, _evaluates(), _FOLLOW.value)


def _token_path() -> str:
  """Absolute path of the facade's token; '' for none."""
  return (os.path.abspath(_BANDIT_TOKEN_FILE.value)
          if _BANDIT_TOKEN_FILE.value else '')


def _evaluates() -> bool:
  return (flags.FLAGS.preset == 'demo' if _EVALUATE.value is None
          else _EVALUATE.value)


def _check_flags(job: Optional[resources.JobResources]) -> None:
  if job is None:  # Else it is on another host.
    command.check_port(_BANDIT_HOST.value, _BANDIT_PORT.value)
  if (_BANDIT_HOST.value not in _LOOPBACK and not _BANDIT_TOKEN_FILE.value):
    raise command.UsageError(
        f'--bandit_host is {_BANDIT_HOST.value}; allowed without '
        f'--bandit_token_file: {", ".join(_LOOPBACK)}')
  if _BANDIT_TOKEN_FILE.value:
    facade_process.read_token(_BANDIT_TOKEN_FILE.value)
  if _BANDIT_PORT.value and _LAUNCH_TYPE.value == 'embedded':
    raise command.UsageError('--bandit_port is set, and embedded has no '
                             'server; allowed there: 0')


def _check_launch_type() -> None:
  if _LAUNCH_TYPE.value not in command.LAUNCH_TYPES:
    raise command.UsageError(
        f'--launch_type is {_LAUNCH_TYPE.value!r}; allowed: '
        f'{", ".join(command.LAUNCH_TYPES)}')
  if _LAUNCH_TYPE.value != 'embedded':
    command.require_launchpad(f'--launch_type={_LAUNCH_TYPE.value}',
                              '--launch_type=embedded')


def _listen() -> Optional[socket.socket]:
  """Opens the facade's port, then isolates the program, if it runs here.

  Both come before any thread is started. The listener stays in the network in
  which it was opened.
  """
  if _LAUNCH_TYPE.value in ('embedded', 'slurm'):
    return None
  listener = facade_process.listen(_BANDIT_HOST.value, _BANDIT_PORT.value)
  _isolate()
  return listener


def _train_here(config, run, checkpoint,
                listener: Optional[socket.socket]) -> int:
  """Runs the program on this machine; returns an exit code."""
  from lpg_distributed.launch.local import runner
  from lpg_distributed.store import checkpointing
  facade = listener and runner.FacadeListener(
      listener, _token_path(), _BANDIT_WRITES.value)
  code = runner.run(config, _LAUNCH_TYPE.value, run, checkpoint,
                    runner.Supervision(_MAX_RESTARTS.value, _HANG_S.value),
                    facade)
  step = _meta_step(checkpointing.latest(run.path))
  if not code and step < config.run.meta_steps:
    print(f'the last checkpoint is of meta-step {step} of '
          f'{config.run.meta_steps}: a node was told to end, or later '
          'checkpoints could not be written', file=sys.stderr)
    code = 1
  if code:
    print('stopped; the same command resumes from the last checkpoint',
          file=sys.stderr)
  return code


def _meta_step(checkpoint) -> int:
  return 0 if checkpoint is None else checkpoint.meta_step


def _train(config, run, job: Optional[resources.JobResources],
           listener: Optional[socket.socket]) -> int:
  """Trains what is left to train, and prints a report; returns a code."""
  # These modules import JAX, which takes seconds. Bad flags are refused first.
  from lpg_distributed.store import checkpointing
  checkpoint = checkpointing.latest(run.path)
  if checkpoint is not None:
    checkpointing.require_same_config(checkpoint, config)
  run.update(config)
  step = _meta_step(checkpoint)
  begin = f'goes on at meta-step {step}' if step else 'begins'
  print(f'run {os.path.relpath(run.path)} {begin}', file=sys.stderr)
  if step < config.run.meta_steps:
    if job is not None:  # The job's leader prints the report.
      return _submit(config, run, job)
    code = _train_here(config, run, checkpoint, listener)
    if code:
      return code
  from lpg_distributed.analysis import report
  if _evaluates():
    report.evaluate(run.path, config)
  for line in report.summarise(run.path, config):
    print(line)
  return 0


def main() -> int:
  _check_launch_type()
  job = _load_resources(_LAUNCH_TYPE.value)
  config = _make_config(job)
  _check_flags(job)
  process_environment.ensure(process_environment.WORKER, here=job is None)
  environment_check.check(config)
  listener = _listen()
  path = _RUN_DIR.value or os.path.join(
      'runs', f'{flags.FLAGS.preset}_seed{config.run.seed}')
  if job is not None:
    from lpg_distributed.launch.cluster.slurm import launches
    code = launches.attach(path, _FOLLOW.value)
    if code is not None:
      return code
  if config.run.initial_rule and not run_directory.is_run(path):
    from lpg_distributed.nodes import initial_rule
    initial_rule.first_state(config)  # A resumed run no longer needs it.
  run = run_directory.RunDirectory.open(path, config, computes=job is None)
  try:
    return _train(config, run, job, listener)
  finally:
    run.close()


if __name__ == '__main__':
  command.run(main)
