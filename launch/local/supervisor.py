"""Supervises one node: restarts it at the same address after a failure.

  LPG_NODE=meta_learner python launch/local/supervisor.py program arguments...

runs `$LPG_PYTHON program arguments...` with the same environment, and therefore
at the same address. Each node has a supervisor, a small process that needs the
standard library only. It does not depend on the node's work. Any launcher that
can start a command can start it.

If the supervisor ends, its node ends; if the launcher ends, the supervisor
ends. The kernel's parent-death signal does this, even after SIGKILL.

A node that sent heartbeats (`lpg_distributed/nodes/heartbeat.py`) and stops
doing so is hung. It is killed and counts as dead.

SIGTERM, SIGINT, SIGHUP and SIGQUIT end the node without a restart. A signal
that was ignored at the start stays ignored. A node that does not end within
LPG_STOP_S seconds is killed.

Each death is recorded as a line of JSON in the file LPG_DEATHS. The exit code
is 0 if the node ended with 0 or a signal ended it, else 1.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

# Exit code of a node that must not be restarted.
HOPELESS = 70
_PR_SET_PDEATHSIG = 1
_OF_TERMINALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_SIGNALS = (signal.SIGTERM, *_OF_TERMINALS)
_TICK_S = 1.
_START_S = 300.  # seconds that a node may take until its first heartbeat
_LONGEST_PAUSE_S = 30.
# Seconds that a node has to end after a signal; less than its launcher waits.
_STOP_S = 45.


def die_with_parent(parent: int) -> None:
  """Asks the kernel to kill this process when its parent ends."""
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
  if os.getppid() != parent:  # The parent ended before the request.
    os._exit(1)


def _number(name: str, default: float) -> float:
  return float(os.environ.get(name, default))


def _log(text: str) -> None:
  """Prints to the node's log; ignores errors such as a full disk."""
  with contextlib.suppress(OSError):
    print(f'supervisor: {text}', file=sys.stderr, flush=True)


class Supervisor:
  """Runs one node and records its deaths."""

  def __init__(self, command: list[str]):
    self._command = command
    self._node = os.environ.get('LPG_NODE', 'node')
    if '--lp_task_id' in command:  # Launchpad's number of the node in a group.
      task = command[command.index('--lp_task_id') + 1]
      self._node = f'{self._node}/{task}'
    self._max_restarts = _number('LPG_MAX_RESTARTS', 10)
    self._healthy_s = _number('LPG_HEALTHY_S', 30)
    self._hang_s = _number('LPG_HANG_S', 60)
    self._optional = bool(os.environ.get('LPG_OPTIONAL'))
    self._process: subprocess.Popen | None = None
    self._stopping = False
    self._stop_s = _number('LPG_STOP_S', _STOP_S)
    self._deadline = float('inf')
    # If SIGCHLD were ignored, exit codes would be lost. If SIGTERM were
    # blocked, the node could not be ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD, signal.SIGTERM))
    for number in _SIGNALS:
      # `nohup`, and `&` in a script, ignore some signals; they stay ignored.
      if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, self._stop)

  def _stop(self, number, frame) -> None:
    del number, frame
    # Each signal is passed on. A thread of the node may receive one while the
    # main thread waits; Launchpad repeats it every second.
    if self._process is not None:
      self._process.send_signal(signal.SIGTERM)
    if not self._stopping:
      self._deadline = time.monotonic() + self._stop_s
    self._stopping = True

  def run(self) -> int:
    """Runs the node until it must not be restarted; returns the exit code."""
    failures = 0
    while True:
      begin = time.monotonic()
      code, hung = self._run_once()
      lived_s = time.monotonic() - begin
      if code == 0 or self._stopping:
        return 0
      failures = 1 if lived_s > self._healthy_s else failures + 1
      final = code == HOPELESS or failures > self._max_restarts
      pause_s = min(0.1 * 2 ** failures, _LONGEST_PAUSE_S)
      self._note_death(code, hung, lived_s, failures, final, pause_s)
      if final:
        return 0 if self._optional else 1
      end = time.monotonic() + pause_s
      while time.monotonic() < end and not self._stopping:
        time.sleep(min(0.1, pause_s))
      if self._stopping:
        return 0

  def _run_once(self) -> tuple[int, bool]:
    """Runs the node once; returns its exit code, and whether it was hung."""
    beats, beat = os.pipe()
    me = os.getpid()

    def prepare():
      die_with_parent(me)
      # A terminal sends these signals to all processes, but the launcher
      # decides when to end. They are blocked, since Launchpad's handlers in
      # the node may kill it at once, or wait for ever.
      signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)

    kept = [int(fd) for fd in os.environ.get('LPG_PASS_FDS', '').split()]
    self._process = subprocess.Popen(
        self._command, pass_fds=[beat, *kept], preexec_fn=prepare,
        env={**os.environ, 'LPG_HEARTBEAT_FD': str(beat)})
    os.close(beat)
    if self._stopping:  # A signal came before the node was started.
      self._process.send_signal(signal.SIGTERM)
    self._write_pid()
    try:
      return self._watch(beats)
    finally:
      os.close(beats)

  def _watch(self, beats: int) -> tuple[int, bool]:
    last_beat, patience_s = time.monotonic(), max(_START_S, self._hang_s)
    hung, open_end = False, True
    while True:
      asleep_since = time.monotonic()
      if open_end and select.select([beats], [], [], _TICK_S)[0]:
        if os.read(beats, 4096):
          last_beat, patience_s = time.monotonic(), self._hang_s
        else:  # The process is ending.
          open_end = False
      elif not open_end:
        time.sleep(_TICK_S / 20)
      code = self._process.poll()
      if code is not None:
        return code, hung
      now = time.monotonic()
      if now > self._deadline:
        _log(f'{self._node} did not end within {self._stop_s:g} s; killed')
        self._deadline = float('inf')
        self._process.kill()
      if now - asleep_since > 5 * _TICK_S:  # All processes were suspended.
        last_beat = now
      if now - last_beat > patience_s and not hung and not self._stopping:
        _log(f'{self._node} has been silent for {patience_s:g} s; killed')
        hung = True
        self._process.kill()

  def _write_pid(self) -> None:
    directory = os.environ.get('LPG_PIDS')
    if directory:
      path = os.path.join(directory, self._node.replace('/', '.'))
      try:
        with open(path + '.aside', 'w', encoding='utf-8') as f:
          f.write(str(self._process.pid))
        os.replace(path + '.aside', path)
      except OSError as error:
        _log(f'no file for the process id: {error}')

  def _note_death(self, code, hung, lived_s, failures, final,
                  pause_s) -> None:
    how = ('hung' if hung else f'code {code}' if code >= 0
           else f'signal {signal.Signals(-code).name}')
    then = ('not started again' if final
            else f'started again in {pause_s:.1f} s')
    _log(f'{self._node} ended ({how}) after {lived_s:.1f} s, failure '
         f'{failures} in a row; {then}')
    path = os.environ.get('LPG_DEATHS')
    if not path:
      return
    line = json.dumps({
        'time': time.time(), 'node': self._node, 'how': how, 'code': code,
        'lived_s': round(lived_s, 3), 'failures': failures, 'final': final})
    try:
      with open(path, 'a', encoding='utf-8') as f:
        f.write(line + '\n')
    except OSError as error:
      _log(f'the death is not in {path}: {error}')


def main() -> int:
  parent = os.environ.get('LPG_LAUNCHER_PID')
  if parent:
    die_with_parent(int(parent))
  python = os.environ.get('LPG_PYTHON', sys.executable)
  return Supervisor([python, *sys.argv[1:]]).run()


if __name__ == '__main__':
  sys.exit(main())
