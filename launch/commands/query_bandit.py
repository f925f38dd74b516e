"""Shows which hyperparameters a run's bandit prefers, p(alpha|E).

  lpg bandit --run_dir=runs/demo_seed0
"""

import contextlib
import json
import time

from absl import flags
import rich.console
import rich.live
import rich.table
import rich.text

from lpg_distributed import errors
from lpg_distributed.launch import command
from lpg_distributed.launch.local import facade_client
from lpg_distributed.launch.local import facade_process

_RUN_DIR = flags.DEFINE_string('run_dir', None, 'the run')
_ADDRESS = flags.DEFINE_string(
    'address', None, 'host:port of the bandit\'s HTTP facade; default: that of '
    'the run, or its last checkpoint if it is not running')
_TOKEN_FILE = flags.DEFINE_string(
    'token_file', '', 'a file with the token that the facade requires; '
    'default: that of the run, if its directory contains it')
_ENVIRONMENT = flags.DEFINE_string('environment', '', 'show only this '
                                   'environment')
_WATCH = flags.DEFINE_float('watch', 0., 'show again after so many '
                            'seconds; 0: once')
_JSON = flags.DEFINE_bool('json', False, 'print JSON, not a table')


def _from_checkpoint(run_dir: str):
  from lpg_distributed.store import checkpointing
  from lpg_distributed.store import run_directory
  from lpg_distributed.store import saved_bandit
  config = run_directory.read_config(run_dir)
  checkpoint = checkpointing.latest(run_dir)
  state = (None if checkpoint is None
           else checkpointing.load_json(checkpoint, 'bandit'))
  try:
    return saved_bandit.read(config, state).statistics(_ENVIRONMENT.value)
  except ValueError as error:
    raise command.UsageError(str(error)) from None


def _look():
  """Asks the facade, else reads the last checkpoint.

  Returns:
    Where the statistics are from, and `BanditServer.get_statistics`.
  """
  if _ADDRESS.value:
    token = _TOKEN_FILE.value and facade_process.read_token(_TOKEN_FILE.value)
    return _ADDRESS.value, facade_client.get_statistics(
        facade_client.FacadeAddress(_ADDRESS.value, token), _ENVIRONMENT.value)
  try:
    facade = facade_client.find(_RUN_DIR.value, _TOKEN_FILE.value)
  except FileNotFoundError:  # The run has ended, or is embedded.
    return 'last checkpoint', _from_checkpoint(_RUN_DIR.value)
  try:
    return facade.address, facade_client.get_statistics(
        facade, _ENVIRONMENT.value)
  except facade_client.NoAnswer:  # The run is just ending, or was killed.
    return (f'last checkpoint; nobody answers at {facade.address}',
            _from_checkpoint(_RUN_DIR.value))


def _table(source: str, statistics) -> rich.table.Table:
  table = rich.table.Table(
      title=rich.text.Text(errors.printable(
          f'p(alpha|E) at meta-step {statistics["meta_step"]} ({source})')),
      title_justify='left')
  table.add_column('environment')
  for name in ('learning_rate', 'kl_cost', 'mean return', 'lifetimes',
               'probability'):
    table.add_column(name, justify='right')
  for name, arms in statistics['environments'].items():
    best = max(arm['probability'] for arm in arms)
    for i, arm in enumerate(arms):
      table.add_row(
          rich.text.Text(name if i == 0 else ''), f'{arm["learning_rate"]:g}',
          f'{arm["kl_cost"]:g}',
          f'{arm["mean_return"]:.3g}' if arm['lifetimes'] else '-',
          str(arm['lifetimes']), f'{arm["probability"]:.3f}',
          style='bold' if arm['probability'] == best else None,
          end_section=i == len(arms) - 1)
  return table


def main() -> int:
  if not _RUN_DIR.value and not _ADDRESS.value:
    raise command.UsageError('--run_dir or --address is missing')
  if not 0. <= _WATCH.value < float('inf'):
    raise command.UsageError(f'--watch is {_WATCH.value}; allowed: seconds, '
                             '0 or more')
  console = rich.console.Console()
  with contextlib.ExitStack() as stack:
    stack.enter_context(contextlib.suppress(KeyboardInterrupt))
    if _JSON.value:
      show = lambda look: print(json.dumps(look[1]), flush=True)
    elif _WATCH.value:
      live = stack.enter_context(rich.live.Live(
          console=console, auto_refresh=False, vertical_overflow='visible'))
      show = lambda look: live.update(_table(*look), refresh=True)
    else:
      show = lambda look: console.print(_table(*look))
    show(_look())
    while _WATCH.value:
      time.sleep(_WATCH.value)
      show(_look())
  return 0


if __name__ == '__main__':
  command.run(main)
