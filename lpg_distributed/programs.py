"""The distributed program: a Launchpad program, node by node.

                  eta, stop                     log p(alpha|E)
  meta_learner  <-----------  lifetime_worker  --------------->  bandit_server
       ^   \\                     |  (many)                            ^
       |    `---- final returns --|-----------------------------------'
       `------ gradient_queue <---'  meta-gradients
       ^
       `- eta --  atari_evaluator

The functions that build a node's object run in that node's own process. They
contain what only the distributed program needs: RPC clients, the stop event,
and how a process ends.
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
from lpg_distributed.nodes import light_reverb
from lpg_distributed.nodes import rpc
from lpg_distributed.store import run_directory

META_LEARNER = 'meta_learner'
GRADIENT_QUEUE = 'gradient_queue'
LIFETIME_WORKER = 'lifetime_worker'
BANDIT_SERVER = 'bandit_server'
ATARI_EVALUATOR = 'atari_evaluator'
# Exit code for an error that only the user can fix. After it
# `launch/local/supervisor.py` restarts no node.
HOPELESS = 70
_LAST_WORD_S = 1.
_HELD = []  # keeps the run directory open, if this process opened it
SERVICES = (GRADIENT_QUEUE, BANDIT_SERVER, ATARI_EVALUATOR)


@dataclasses.dataclass(frozen=True)
class Launch:
  """Settings of the launch that nodes need beside the configuration."""
  run_dir: str
  own_processes: bool  # False: all nodes are threads of one process
  # Whether the learner's process opens the run directory. It does where the
  # launcher runs on a host without access to the directory.
  opens_run_dir: bool = False


def _leave(launch: Launch, code: int = 0) -> None:
  """Ends the process, unless the node shares it with other nodes.

  It skips Python's orderly shutdown, which would wait for threads inside XLA or
  Reverb, or abort.
  """
  if launch.own_processes:
    with contextlib.suppress(OSError):  # A full disk.
      sys.stdout.flush()
      sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def _life(launch: Launch):
  """Context of a node that runs in a process of its own.

  After a `UserError` the supervisor restarts no node. After any other error it
  restarts this node.
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
  except BaseException:  # Any exception ends the process.
    traceback.print_exc()
    code = 1
  finally:
    _leave(launch, code)


class _CourierNode(lp.CourierNode):
  """A Courier node that ends its process as `_life` does."""

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
  """Opens the run directory if no launcher did, until the process ends."""
  if launch.opens_run_dir:
    _HELD.append(run_directory.RunDirectory.open(launch.run_dir, config))
    _HELD[-1].update(config)


def _make_meta_learner(config, launch, queue, bandit):
  from lpg_distributed.store import checkpointing
  if assignment.learner_worker(config) is None:
    from lpg_distributed.nodes.meta_learner import MetaLearner as make_learner
  else:  # With a worker, so with all that workers import.
    from lpg_distributed.nodes.learner_host import make_learner
  stop = lp.stop_event()
  _open_run_dir(config, launch)
  learner = make_learner(
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
    os.nice(10)  # The evaluator must not slow down training.
  atari_evaluator.AtariEvaluator(
      config.evaluator, config.rule, get_eta, launch.run_dir, stop,
      config.run.seed).run()


def make_program(config: config_lib.Config, launch: Launch):
  """Builds the program from its nodes.

  Args:
    config: configuration of the run.
    launch: run directory and kind of processes.

  Returns:
    The program, and handles to the nodes that answer RPCs, by label.
  """
  program = lp.Program('lpg')
  num_shards = len(config.shards())
  num_parameters = rule_vector.size(config.rule)
  if not launch.own_processes:  # The queue and its clients share a process.
    gradient_queue.import_reverb()

  def add(label, node):
    with program.group(label):
      return program.add_node(node)

  # Room for two meta-steps. Workers never wait for a learner that keeps up, and
  # a learner that does not makes them wait.
  queue_node = light_reverb.import_node()(functools.partial(
      _make_tables, launch, 2 * num_shards, num_parameters))
  add(GRADIENT_QUEUE, queue_node)
  # An address instead of a handle, so that each node controls its own order of
  # imports.
  queue = queue_node.reverb_address
  bandit = add(BANDIT_SERVER, _CourierNode(
      _make_bandit_server, config, launch,
      courier_client_kwargs=rpc.CLIENT_KWARGS,
      courier_kwargs={'thread_pool_size': config.run.num_workers + 16}))
  # Each worker that waits for eta occupies a thread of the learner's server.
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
