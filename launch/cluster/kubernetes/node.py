"""The entry point of a container: runs one node under its supervisor.

  python -S lpg_distributed/launch/cluster/kubernetes/node.py LABEL

The node's number is JOB_COMPLETION_INDEX. Kubernetes regards a pod that ends
with code 0 as done. So the code is 0 only if the whole program has ended, as a
file in the run directory tells. It needs the standard library only.

| exit code | |
|---|---|
| 0 | the program has ended |
| 70 | an error that the user must fix; the Job fails, and other nodes end |
| 75 | the node ended, but not the program: the pod is to be created again |
| 143 | the pod was told to end |
| 1 | the node died too many times in a row |
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

_ROOT = os.path.abspath(os.path.join(__file__, *['..'] * 5))
sys.path.insert(0, _ROOT)

from lpg_distributed.launch import process_environment  # noqa: E402
from lpg_distributed.launch import stopping  # noqa: E402

HOPELESS, AGAIN, TERMINATED = 70, 75, 143
ENTRY = 'launchpad.nodes.python.process_entry'
_TICK_S = 1.
# Seconds that a node waits for this file after the learner told it to end.
_PATIENCE_S = 60.


class NodeRunner:
  """Runs one node and decides its exit code."""

  def __init__(self, label: str):
    self._label = label
    self._end = os.environ['LPG_END']
    self._alive = os.environ['LPG_ALIVE']
    self._deaths = os.path.join(os.path.dirname(self._alive), 'deaths')
    self._optional = bool(os.environ.get('LPG_OPTIONAL'))
    self._last = bool(os.environ.get('LPG_LAST'))  # Its end is the program's.
    # The node has no work and would end at once. Its pod is not created again.
    self._idle = (os.environ['JOB_COMPLETION_INDEX']
                  in os.environ.get('LPG_IDLE', '').split(','))
    self._stay_s = float(os.environ.get('LPG_STAY_S', 0))
    self._supervisor = None
    self._terminated = False
    self._deadline = float('inf')
    stopping.take_back()
    stopping.install(self._terminate)

  def _terminate(self, *_) -> None:
    """Ends the node now, or lets it run until the learner ends it.

    A worker that gets SIGTERM asks the learner to end the run. This is right if
    all pods must end, but wrong if only the worker must.
    """
    self._terminated = True
    if self._stay_s:
      self._deadline = min(self._deadline, time.monotonic() + self._stay_s)
    else:
      self._stop()

  def _stop(self) -> None:
    if self._supervisor is not None and self._supervisor.poll() is None:
      self._supervisor.send_signal(signal.SIGTERM)

  def _start(self) -> None:
    variables = (process_environment.SERVICE if os.environ.get('LPG_SERVICE')
                 else process_environment.WORKER)
    self._supervisor = subprocess.Popen(
        [sys.executable, '-S', '-I',
         os.path.join(_ROOT, 'lpg_distributed', 'launch', 'local',
                      'supervisor.py'), '-m', ENTRY,
         '--data_file', os.path.join(os.environ['LPG_NODES'],
                                     f'{self._label}.pkl'),
         '--lp_task_id', os.environ['JOB_COMPLETION_INDEX']],
        stdin=subprocess.DEVNULL, env={
            **process_environment.environment(variables),
            'LPG_NODE': self._label, 'LPG_PYTHON': sys.executable,
            'LPG_LAUNCHER_PID': str(os.getpid()),
            'LPG_DEATHS': self._deaths})

  def _beat(self) -> None:
    """Updates the file whose age the liveness probe checks."""
    with open(self._alive, 'w', encoding='utf-8') as f:
      f.write(str(time.time()))

  def run(self) -> int:
    """Runs until the node or the program has ended; returns the exit code."""
    os.makedirs(os.path.dirname(self._alive), exist_ok=True)
    if self._idle:
      return self._wait_for_end()
    self._start()
    if self._terminated:  # The signal came before the start.
      self._terminate()
    while self._supervisor.poll() is None:
      self._beat()
      if time.monotonic() > self._deadline:  # The program has not ended.
        self._supervisor.kill()
      if not self._last and os.path.exists(self._end):
        self._stop()
      time.sleep(_TICK_S)
    code = self._supervisor.returncode
    if self._terminated:
      return TERMINATED
    if os.path.exists(self._end) and not self._last:
      return 0
    if code == 0 and self._last:
      self._write_end(0)
    elif code and self._is_hopeless():
      self._write_end(HOPELESS)
      return HOPELESS
    if code:
      return 1
    return self._wait_for_end()

  def _wait_for_end(self) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while not os.path.exists(self._end):
      self._beat()
      if self._terminated:
        return TERMINATED
      if time.monotonic() > deadline and not (self._optional or self._idle):
        return AGAIN  # For example, only the learner's pod was evicted.
      time.sleep(_TICK_S)
    return 0

  def _is_hopeless(self) -> bool:
    """Returns whether the last death was an error that the user must fix."""
    try:
      with open(self._deaths, encoding='utf-8') as f:
        return json.loads(f.readlines()[-1])['code'] == HOPELESS
    except (OSError, ValueError, LookupError, TypeError):
      return False

  def _write_end(self, code: int) -> None:
    with contextlib.suppress(OSError):
      os.makedirs(os.path.dirname(self._end), exist_ok=True)
      aside = f'{self._end}.{self._label}.aside'
      with open(aside, 'w', encoding='utf-8') as f:
        f.write(f'{code}\n')
      os.replace(aside, self._end)


if __name__ == '__main__':
  sys.exit(NodeRunner(sys.argv[1]).run())
