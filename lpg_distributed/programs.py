"""The distributed path: the Launchpad program, node by node.

                  eta, stop                     log p(alpha|E)
  meta_learner  <-----------  lifetime_worker  --------------->  bandit_server
       ^   \\                     |  (many)                            ^
       |    `---- final returns --|-----------------------------------'
       `------ gradient_queue <---'  meta-gradients
       ^
       `- eta --  atari_evaluator

Functions that build a node's object run in that node's own process; they hold
what only the distributed path needs: clients, `stop`, how a process ends.
"""

import contextlib
import dataclasses
import functools
import os
import sys
import traceback

import launchpad as lp

from lpg_distributed import config as config_lib
from lpg_distributed import errors
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import assignment
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import heartbeat
from lpg_distributed.nodes import rpc
from lpg_distributed.store import run_directory

META_LEARNER = 'meta_learner'
GRADIENT_QUEUE = 'gradient_queue'
LIFETIME_WORKER = 'lifetime_worker'
BANDIT_SERVER = 'bandit_server'
ATARI_EVALUATOR = 'atari_evaluator'
# The exit code after which `launch/local/supervisor.py` starts no node again.
HOPELESS = 70
_LAST_WORD_S = 1.
_HELD = []  # the open run directory, if it is this process's to open
SERVICES = (GRADIENT_QUEUE, BANDIT_SERVER, ATARI_EVALUATOR)


@dataclasses.dataclass(frozen=True)
class Launch:
  """What a node must know of the launch, beside its configuration."""
  run_dir: str
  own_processes: bool  # False: all nodes are threads of one process
  # Whether the learner's process opens the run directory, since the launcher
  # is on a host that does not have it.
  opens_run_dir: bool = False


def _leave(launch: Launch, code: int = 0) -> None:
  """Ends a node's own process, and leaves one that it shares alone.

  Its threads may be inside of XLA or Reverb, where Python's orderly shutdown
  would wait for them or abort.
  """
  if launch.own_processes:
    with contextlib.suppress(OSError):  # A full disk.
      sys.stdout.flush()
      sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def _life(launch: Launch):
  """What happens at the ends of a node's life in a process of its own.

  An error of the user's ends it for good; after another its supervisor starts
  it again.
  """
  if not launch.own_processes:
    yield
    return
  heartbeat.start()
  code = 0
  try:
    yield
  except errors.UserError as error:
    print(f'error: {error}', file=sys.stderr)
    code = HOPELESS
  except BaseException:  # Whatever it is, the process ends here.
    traceback.print_exc()
    code = 1
  finally:
    _leave(launch, code)


class _CourierNode(lp.CourierNode):
  """A Courier node that ends its process in our way."""

  def __init__(self, constructor, config, launch, *args, **kwargs):
    super().__init__(constructor, config, launch, *args, **kwargs)
    self._launch = launch

  def run(self) -> None:
    with _life(self._launch):
      super().run()


def _make_tables(launch, capacity, num_parameters):
  if launch.own_processes:
    heartbeat.start()
  return [gradient_queue.make_table(capacity, num_parameters)]


def _make_bandit_server(config: config_lib.Config, launch: Launch):
  del launch
  from lpg_distributed.nodes import bandit_server
  return bandit_server.BanditServer(config, stop=lp.stop_event())


def _open_run_dir(config: config_lib.Config, launch: Launch) -> None:
  """Where no launcher has, and holds it as long as this process lives."""
  if launch.opens_run_dir:
    _HELD.append(run_directory.RunDirectory.open(launch.run_dir, config))
    _HELD[-1].update(config)


def _make_meta_learner(config, launch, queue, bandit):
  from lpg_distributed.nodes import learner_host
  from lpg_distributed.store import checkpointing
  stop = lp.stop_event()
  _open_run_dir(config, launch)
  learner = learner_host.make_learner(
      config, gradient_queue.ReverbGradientReader(queue.resolve()),
      rpc.Client(bandit, BANDIT_SERVER, stop), launch.run_dir,
      checkpointing.latest(launch.run_dir), stop)
  learner.last_word_s = _LAST_WORD_S if launch.own_processes else 0.
  return learner


def _run_lifetime_worker(config, launch, worker_id, queue, learner, bandit):
  with _life(launch):
    from lpg_distributed.nodes import lifetime_worker
    stop = lp.stop_event()
    lifetime_worker.LifetimeWorker(
        config, worker_id, assignment.assign(config)[worker_id],
        rpc.Client(learner, META_LEARNER, stop),
        rpc.Client(bandit, BANDIT_SERVER, stop),
        gradient_queue.ReverbGradientWriter(queue.resolve()), launch.run_dir,
        stop, on_closed=functools.partial(_leave, launch)).run()


def _run_atari_evaluator(config, launch, learner):
  with _life(launch):
    _evaluate_on_atari(config, launch, learner)


def _evaluate_on_atari(config, launch, learner):
  from lpg_distributed.nodes import atari_evaluator
  stop = lp.stop_event()
  client = rpc.Client(learner, META_LEARNER, stop)

  def get_eta():
    try:
      answer = client.get_eta()
    except (rpc.Stopped, rpc.RpcError):
      return None
    return answer['meta_step'], answer['eta']

  if launch.own_processes:
    os.nice(10)  # It watches the run and must not slow it down.
  atari_evaluator.AtariEvaluator(
      config.evaluator, config.rule, get_eta, launch.run_dir, stop,
      config.run.seed).run()


def make_program(config: config_lib.Config, launch: Launch):
  """Wires the nodes.

  Args:
    config: the run.
    launch: where it runs.

  Returns:
    The program, and handles to the nodes that answer calls, by label.
  """
  program = lp.Program('lpg')
  num_shards = len(config.shards())
  num_parameters = rule_vector.size(config.rule)
  gradient_queue.import_reverb()

  def add(label, node):
    with program.group(label):
      return program.add_node(node)

  # Two meta-steps of room: a worker never waits for a learner that is awake,
  # and one that is asleep pushes back.
  queue_node = lp.ReverbNode(functools.partial(
      _make_tables, launch, 2 * num_shards, num_parameters))
  add(GRADIENT_QUEUE, queue_node)
  # The address and no handle: a node decides itself what to import first.
  queue = queue_node.reverb_address
  bandit = add(BANDIT_SERVER, _CourierNode(
      _make_bandit_server, config, launch,
      courier_client_kwargs=rpc.CLIENT_KWARGS,
      courier_kwargs={'thread_pool_size': config.run.num_workers + 16}))
  # A worker that waits for eta occupies a thread of the learner's server.
  learner = add(META_LEARNER, _CourierNode(
      _make_meta_learner, config, launch, queue, bandit,
      courier_client_kwargs=rpc.CLIENT_KWARGS,
      courier_kwargs={'thread_pool_size': config.run.num_workers + 16}))
  with program.group(LIFETIME_WORKER):
    for worker_id in range(config.run.num_workers):
      program.add_node(lp.PyNode(_run_lifetime_worker, config, launch,
                                 worker_id, queue, learner, bandit))
  if config.evaluator.enabled:
    add(ATARI_EVALUATOR, lp.PyNode(_run_atari_evaluator, config, launch,
                                   learner))
  return program, {META_LEARNER: learner, BANDIT_SERVER: bandit}
