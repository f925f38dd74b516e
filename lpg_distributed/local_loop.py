"""The embedded program: the whole system in one process, without RPC.

The learner, workers, bandit and evaluator of `programs` run as threads, with a
plain queue between them. Results equal those of the distributed program, bit
for bit.
"""

from concurrent import futures
import threading
from typing import Any, Callable, Optional

from lpg_distributed import config as config_lib
from lpg_distributed.nodes import assignment
from lpg_distributed.nodes import bandit_server
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import lifetime_worker
from lpg_distributed.nodes import meta_learner
from lpg_distributed.store import checkpointing

_WATCH_PERIOD_S = 0.5


def run(config: config_lib.Config, run_dir: str,
        checkpoint: Optional[checkpointing.Checkpoint] = None,
        stop: Optional[threading.Event] = None,
        watch: Callable[[dict[str, Any]], None] = lambda status: None
        ) -> dict[str, Any]:
  """Meta-trains in this process until the run ends or `stop` is set.

  Args:
    config: configuration of the run.
    run_dir: path of an opened run directory.
    checkpoint: the checkpoint to resume from, or None.
    stop: if set, the run writes a checkpoint and ends.
    watch: called repeatedly with the learner's status.

  Returns:
    The learner's last status, and `eta` [P].

  Raises:
    Exception: a node raised it. The other nodes are stopped first.
  """
  stop = stop or threading.Event()
  queue = gradient_queue.LocalGradientQueue(2 * len(config.shards()))
  bandit = bandit_server.BanditServer(config)
  learner = meta_learner.MetaLearner(
      config, queue, bandit, run_dir, checkpoint, stop)
  workers = [
      lifetime_worker.LifetimeWorker(
          config, worker_id, shards, learner, bandit, queue, run_dir, stop)
      for worker_id, shards in enumerate(assignment.assign(config))]
  nodes = [learner.run] + [worker.run for worker in workers]
  watchers = []
  if config.evaluator.enabled:
    watchers.append(_make_evaluator(config, run_dir, learner, stop).run)

  with futures.ThreadPoolExecutor(len(nodes) + len(watchers)) as pool:
    running = [pool.submit(node) for node in nodes]
    watching = [pool.submit(watcher) for watcher in watchers]
    try:
      pending = set(running)
      while pending:
        done, pending = futures.wait(pending, _WATCH_PERIOD_S,
                                     futures.FIRST_COMPLETED)
        for node in done:
          node.result()  # Re-raises the node's exception.
        watch(learner.get_status())
    finally:
      stop.set()
    for watcher in watching:
      watcher.result()
  return {**learner.get_status(), **learner.get_eta()}


def _make_evaluator(config, run_dir, learner, stop):
  # Imported here, since it needs the Atari emulator, which is optional.
  from lpg_distributed.nodes import atari_evaluator

  def get_eta():
    answer = learner.get_eta()
    return answer['meta_step'], answer['eta']

  return atari_evaluator.AtariEvaluator(
      config.evaluator, config.rule, get_eta, run_dir, stop, config.run.seed)
