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

import dataclasses
import functools
import os
import sys
from typing import Optional

import launchpad as lp
from launchpad import address as lp_address

from lpg_distributed import config as config_lib
from lpg_distributed.core import rule_vector
from lpg_distributed.nodes import assignment
from lpg_distributed.nodes import checkpointing
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import rpc

META_LEARNER = 'meta_learner'
GRADIENT_QUEUE = 'gradient_queue'
LIFETIME_WORKER = 'lifetime_worker'
BANDIT_SERVER = 'bandit_server'
ATARI_EVALUATOR = 'atari_evaluator'
SERVICES = (GRADIENT_QUEUE, BANDIT_SERVER, ATARI_EVALUATOR)


@dataclasses.dataclass(frozen=True)
class Launch:
  """What a node must know of the launch, beside its configuration."""
  run_dir: str
  checkpoint: Optional[checkpointing.Checkpoint]
  own_processes: bool  # False: all nodes are threads of one process


class _FixedPort(lp_address.AbstractAddressBuilder):

  def __init__(self, port: int):
    self._port = port

  def build(self) -> str:
    return f'localhost:{self._port}'


def _leave(launch: Launch) -> None:
  """Ends a node's own process, and leaves one that it shares alone.

  Its threads may be inside of XLA or Reverb, where Python's orderly shutdown
  would wait for them or abort.
  """
  if launch.own_processes:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class _CourierNode(lp.CourierNode):
  """A Courier node on a port of one's choice, or on any for 0."""

  def __init__(self, constructor, config, launch, *args, port: int = 0,
               **kwargs):
    super().__init__(constructor, config, launch, *args, **kwargs)
    self._launch = launch
    self._fixed_port = port

  def run(self) -> None:
    super().run()
    _leave(self._launch)

  def bind_addresses(self, **kwargs) -> None:
    super().bind_addresses(**kwargs)
    if self._fixed_port:  # Courier listens where its address says.
      self.courier_address.bind(_FixedPort(self._fixed_port))


def _make_bandit_server(config: config_lib.Config, launch: Launch):
  from lpg_distributed.nodes import bandit_server
  state = None if launch.checkpoint is None else checkpointing.load_json(
      launch.checkpoint, 'bandit')
  return bandit_server.BanditServer(config, state, lp.stop_event())


def _make_meta_learner(config, launch, queue, bandit):
  from lpg_distributed.nodes import meta_learner
  stop = lp.stop_event()
  return meta_learner.MetaLearner(
      config, gradient_queue.ReverbGradientReader(queue.resolve()),
      rpc.Client(bandit, BANDIT_SERVER, stop), launch.run_dir,
      launch.checkpoint, stop)


def _run_lifetime_worker(config, launch, worker_id, queue, learner, bandit):
  from lpg_distributed.nodes import lifetime_worker
  stop = lp.stop_event()
  leave = functools.partial(_leave, launch)
  lifetime_worker.LifetimeWorker(
      config, worker_id, assignment.assign(config)[worker_id],
      rpc.Client(learner, META_LEARNER, stop),
      rpc.Client(bandit, BANDIT_SERVER, stop),
      gradient_queue.ReverbGradientWriter(queue.resolve()), launch.run_dir,
      launch.checkpoint, stop, on_closed=leave).run()
  leave()


def _run_atari_evaluator(config, launch, learner):
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
  _leave(launch)


def make_program(config: config_lib.Config, launch: Launch,
                 bandit_port: int = 0):
  """Wires the nodes.

  Args:
    config: the run.
    launch: where it runs.
    bandit_port: where the bandit answers; 0: anywhere.

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
  queue_node = lp.ReverbNode(priority_tables_fn=lambda: [
      gradient_queue.make_table(2 * num_shards, num_parameters)])
  add(GRADIENT_QUEUE, queue_node)
  # The address and no handle: a node decides itself what to import first.
  queue = queue_node.reverb_address
  bandit = add(BANDIT_SERVER, _CourierNode(
      _make_bandit_server, config, launch, port=bandit_port,
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
