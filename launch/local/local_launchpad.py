"""Launchpad, set up for programs on one machine."""

import contextlib
import os
import shutil
import signal
import tempfile

from lpg_distributed.launch import stopping

_OF_TERMINALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
STOP_S = 60  # seconds that nodes have to save their state and end


def load(logs: str):
  """Imports Launchpad, with its logs in a given directory.

  Args:
    logs: the directory; Launchpad reads this setting when it is imported.

  Returns:
    The module `launchpad`.
  """
  os.environ['LAUNCHPAD_LOGGING_DIR'] = logs
  from absl import flags
  import launchpad as lp
  from launchpad import address
  flags.FLAGS.lp_termination_notice_secs = STOP_S
  # Launchpad needs this flag to pass flags to nodes; the release lacks it.
  flags.DEFINE_multi_string('lp_dummy_config', [], 'unused',
                            allow_override=True)
  address.SimpleLocalAddressBuilder.__init__ = _choose_address
  return lp


def _choose_address(builder) -> None:
  """Makes Launchpad use a numeric address instead of `localhost`.

  Where `localhost` cannot be resolved, nodes would wait for each other for
  ever.
  """
  import portpicker
  builder._address = f'127.0.0.1:{portpicker.pick_unused_port()}'


@contextlib.contextmanager
def temporary_files(path: str):
  """Context with a directory for a launch's temporary files, removed at exit.

  Launchpad writes the pickles there that its nodes execute. So only the owner
  may write there, whatever the umask.
  """
  os.mkdir(path, 0o700)
  os.chmod(path, 0o700)
  before, tempfile.tempdir = tempfile.tempdir, path
  try:
    yield
  finally:
    tempfile.tempdir = before  # Later code needs an existing directory.
    shutil.rmtree(path, ignore_errors=True)


def launch(lp, program, launch_type: str, resources,
           interrupt: stopping.Stopping):
  """Launches a program that this process ends; returns its manager.

  A terminal sends its signals to all processes. Nodes block them, since
  Launchpad's handlers would kill a node at the second signal.

  Args:
    lp: the module `launchpad`.
    program: the program.
    launch_type: `local_mt` or `local_mp`.
    resources: see `lp.launch`.
    interrupt: an entered context, whose signals end the program from now on.
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
  """Makes a signal end the program in an orderly way, even if repeated.

  Launchpad kills all nodes at a second SIGINT and at SIGQUIT, so that no
  checkpoint is written. It also handles signals that should be ignored.
  """
  launchpads = signal.getsignal(signal.SIGTERM)
  stopped = []

  def handle(number, frame):
    interrupt.handle(number, frame)
    if stopped:
      # Not `print`, since the signal may interrupt a call of it.
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
  """Returns how to start the nodes of a group: with these variables."""
  from launchpad.nodes.python import local_multi_processing
  return local_multi_processing.PythonProcess(
      args={'lp_termination_notice_secs': STOP_S}, env=environment, **kwargs)
