"""Launchpad, set up for programs on one machine."""

import contextlib
import os
import shutil
import signal
import tempfile

from lpg_distributed.launch import stopping

_OF_TERMINALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
STOP_S = 60  # what nodes get to end, and to save what they have


def load(logs: str):
  """Imports Launchpad, its logs in a directory of their own.

  Args:
    logs: the directory; Launchpad reads it when it is imported.

  Returns:
    The module `launchpad`.
  """
  os.environ['LAUNCHPAD_LOGGING_DIR'] = logs
  from absl import flags
  import launchpad as lp
  from launchpad import address
  flags.FLAGS.lp_termination_notice_secs = STOP_S
  # Passing flags to nodes needs this one, which the released build lacks.
  flags.DEFINE_multi_string('lp_dummy_config', [], 'unused',
                            allow_override=True)
  address.SimpleLocalAddressBuilder.__init__ = _choose_address
  return lp


def _choose_address(builder) -> None:
  """Takes a number where Launchpad takes the name `localhost`.

  Where that name cannot be resolved, nodes would wait for each other without
  end.
  """
  import portpicker
  builder._address = f'127.0.0.1:{portpicker.pick_unused_port()}'


@contextlib.contextmanager
def temporary_files(path: str):
  """Where a launch leaves its temporary files; removed at the end.

  Launchpad leaves there what its nodes run, as pickles. So nobody else may
  write there, whatever the umask.
  """
  os.mkdir(path, 0o700)
  os.chmod(path, 0o700)
  before, tempfile.tempdir = tempfile.tempdir, path
  try:
    yield
  finally:
    tempfile.tempdir = before  # What comes later needs one that is there.
    shutil.rmtree(path, ignore_errors=True)


def launch(lp, program, launch_type: str, resources,
           interrupt: stopping.Stopping):
  """Launches a program whose end is up to this process; returns its manager.

  A terminal sends its signals to all processes. Nodes do not hear them, since
  Launchpad's handlers there would kill them at the second.

  Args:
    lp: the module `launchpad`.
    program: what to launch.
    launch_type: `local_mt` or `local_mp`.
    resources: see `lp.launch`.
    interrupt: entered; its signals end the program from now on.
  """
  before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)
  try:
    manager = lp.launch(program, launch_type, local_resources=resources,
                        terminal='output_to_files')
    take_signals(interrupt)
    return manager
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_signals(interrupt: stopping.Stopping) -> None:
  """Lets a signal end the launched program orderly, however often it comes.

  Launchpad kills all nodes at a second SIGINT and at SIGQUIT, so that no
  checkpoint is written; and it handles signals that were to be ignored.
  """
  launchpads = signal.getsignal(signal.SIGTERM)
  stopped = []

  def handle(number, frame):
    interrupt.handle(number, frame)
    if stopped:
      # Not `print`: the signal may have come within one.
      with contextlib.suppress(OSError):
        os.write(2, b'the nodes are saving and ending; this takes up to '
                 b'%d s\n' % STOP_S)
      return
    stopped.append(number)
    launchpads(signal.SIGTERM, frame)

  interrupt.replace(handle)
  if interrupt.event.is_set():  # A signal came before Launchpad listened.
    os.kill(os.getpid(), signal.SIGTERM)


def node_process(environment: dict[str, str], **kwargs):
  """How a group's nodes are started: with these environment variables."""
  from launchpad.nodes.python import local_multi_processing
  return local_multi_processing.PythonProcess(
      args={'lp_termination_notice_secs': STOP_S}, env=environment, **kwargs)
