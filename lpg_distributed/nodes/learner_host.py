"""A learner with a worker in its process, on the devices of its process.

One host with accelerators can so run everything; remote workers may join. The
worker is an ordinary `LifetimeWorker` in a thread. It calls the learner's
methods directly, and its gradients bypass the queue's server. Epochs,
checkpoints and stops work as for other workers.
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
    """Runs learner and worker; if either raises, re-raises.

    After an error the other thread may still run: end the process.
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
  """Makes the learner, with a worker if `run.learner_speed` is set."""
  if assignment.learner_worker(config) is None:
    return meta_learner.MetaLearner(config, queue, *args)
  return HostLearner(config, queue, *args)
