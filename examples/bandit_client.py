"""Your own client of the bandit that chooses the agents' hyperparameters.

While `lpg meta-train --launch_type=local_mp` runs, from another terminal:

    python -m examples.bandit_client --run_dir=runs/demo_seed0

This asks the facade, which answers HTTP with JSON, and needs nothing but
Python. docs/reliability.md describes all requests. A node of a Launchpad
program calls the bandit itself, over Courier. That is shown by

    python -m examples.bandit_client --courier

which makes a program of two nodes: the bandit, and a node that calls it.
"""

import argparse
import json
import os
import pathlib
import urllib.error
import urllib.parse
import urllib.request


class HttpBandit:
  """The bandit of a running program, as its facade shows it."""

  def __init__(self, address: str, token: str = ''):
    """Connects to `address`, host:port; `token` if the facade wants one."""
    self._url = f'http://{address}/v1/'
    self._headers = {'Authorization': f'Bearer {token}'} if token else {}

  @classmethod
  def of_run(cls, run_dir: str) -> 'HttpBandit':
    """Finds the facade of a run that this user has started."""
    launch = json.loads(
        pathlib.Path(run_dir, 'launch.json').read_text(encoding='utf-8'))
    token_file = launch.get('token_file')
    token = pathlib.Path(token_file).read_text().strip() if token_file else ''
    return cls(launch['addresses']['bandit_server'], token)

  def _ask(self, path, query=None, report=None):
    url = self._url + path
    if query:
      url += '?' + urllib.parse.urlencode(query)
    headers, data = self._headers, None
    if report is not None:
      data = json.dumps(report).encode()
      headers = {**headers, 'Content-Type': 'application/json'}
    request = urllib.request.Request(url, data, headers)
    try:
      with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)
    except urllib.error.HTTPError as error:
      message = json.load(error)['error']['message']
      raise RuntimeError(f'{path}: {message}') from None

  def get_statistics(self) -> dict:
    """Hyperparameters, returns and probability of each arm."""
    return self._ask('statistics')

  def sample(self, environment: str) -> dict:
    """An arm that was drawn from p(alpha|E), with its hyperparameters."""
    return self._ask('sample', {'environment': environment})

  def report(self, name: str, arm: dict, final_return: float) -> bool:
    """Reports the final return of an agent that used an arm of `sample`.

    The run must have been started with --bandit_writes. A name counts once.
    """
    return self._ask('returns', report={
        'id': name, 'environment': arm['environment'], 'arm': arm['arm'],
        'return': final_return, 'meta_step': arm['meta_step']})['accepted']


def show(statistics: dict) -> None:
  """Prints the most probable arm of each environment."""
  print('meta-step', statistics['meta_step'])
  for name, arms in statistics['environments'].items():
    best = max(arms, key=lambda arm: arm['probability'])
    print(f'{name}: learning_rate {best["learning_rate"]:g}, kl_cost '
          f'{best["kl_cost"]:g}, chosen with {best["probability"]:.2f}')


def call_over_courier() -> None:
  """Makes and runs a Launchpad program whose second node calls the first."""
  os.environ.setdefault('LAUNCHPAD_LOGGING_DIR', os.getcwd())
  import launchpad as lp

  from lpg_distributed import config as config_lib
  from lpg_distributed.nodes import bandit_server
  from lpg_distributed.nodes import rpc

  def make_bandit():
    """The node that is called; it ends with the program."""
    return bandit_server.BanditServer(config_lib.Config(),
                                      stop=lp.stop_event())

  def ask(handle):
    """Your node; of `handle` Launchpad makes a client of the bandit."""
    bandit = rpc.Client(handle, 'bandit_server', lp.stop_event())
    # A final return as the learner reports it: meta-step, shard, slot,
    # environment, arm, return.
    bandit.end_step(0, [[0, 0, 0, 'chain_short', 2, 0.5]])
    show(bandit.get_statistics('chain_short'))
    bandit.release()  # The learner has no checkpoint to write any more.
    lp.stop()

  # The whole program, with the same handle: `programs.make_program`.
  program = lp.Program('bandit_client')
  bandit = program.add_node(lp.CourierNode(
      make_bandit, courier_client_kwargs=rpc.CLIENT_KWARGS),
                            label='bandit_server')
  program.add_node(lp.PyNode(ask, bandit), label='client')
  lp.launch(program, lp.LaunchType.LOCAL_MULTI_THREADING).wait()


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--run_dir', default='runs/demo_seed0')
  parser.add_argument('--courier', action='store_true')
  flags = parser.parse_args(argv)
  if flags.courier:
    call_over_courier()
    return
  bandit = HttpBandit.of_run(flags.run_dir)
  statistics = bandit.get_statistics()
  show(statistics)
  print(bandit.sample(next(iter(statistics['environments']))))


if __name__ == '__main__':
  main()
