"""A learner that advances shards itself, on the devices of its process.

So one host with accelerators runs a whole set-up, and remote workers add
theirs. The shards are a `LifetimeWorker`'s, the same as everywhere, in a
thread; it calls the learner's methods where others call a client's, and its
gradients go to the learner without the queue's server. To the learner it is
one worker more, so that epochs, checkpoints and stops are as with the others.
"""

from concurrent import futures
import threading
from typing import Any, Optional

from lpg_distributed import config as config_lib
from lpg_distributed.nodes import assignment
from lpg_distributed.nodes import gradient_queue
from lpg_distributed.nodes import lifetime_worker
from lpg_distributed.nodes import meta_learner
from lpg_distributed.store import checkpointing


class HostLearner(meta_learner.MetaLearner):
  """A `MetaLearner` with a worker in its process."""

  def __init__(self, config: config_lib.Config, queue: Any, bandit: Any,
               run_dir: str, checkpoint: Optional[checkpointing.Checkpoint],
               stop: threading.Event):
    """See `MetaLearner`; `queue` is also the worker's `GradientWriter`."""
    super().__init__(config, queue, bandit, run_dir, checkpoint, stop)
    worker_id = assignment.learner_worker(config)
    self._worker = lifetime_worker.LifetimeWorker(
        config, worker_id, assignment.assign(config)[worker_id], self, bandit,
        queue, run_dir, stop)

  def run(self) -> None:
    """Both, until the learner's end; what one raises ends the other's use.

    After an error of one the other's thread may go on: the process is to end.
    """
    pool = futures.ThreadPoolExecutor(2)
    jobs = [pool.submit(super().run), pool.submit(self._worker.run)]
    done, _ = futures.wait(jobs, return_when=futures.FIRST_EXCEPTION)
    pool.shutdown(wait=False)
    for job in done:
      job.result()


def make_learner(config: config_lib.Config,
                 queue: gradient_queue.GradientReader, *args: Any
                 ) -> meta_learner.MetaLearner:
  """The learner that the configuration asks for; see `MetaLearner`."""
  if assignment.learner_worker(config) is None:
    return meta_learner.MetaLearner(config, queue, *args)
  return HostLearner(config, queue, *args)
