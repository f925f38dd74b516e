"""Launchpad, as our launchers on one machine want it."""

import os

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
  flags.FLAGS.lp_termination_notice_secs = STOP_S
  # Passing flags to nodes needs this one, which the released build lacks.
  flags.DEFINE_multi_string('lp_dummy_config', [], 'unused',
                            allow_override=True)
  return lp


def node_process(environment: dict[str, str], **kwargs):
  """How a group's nodes are started: with these environment variables."""
  from launchpad.nodes.python import local_multi_processing
  return local_multi_processing.PythonProcess(
      args={'lp_termination_notice_secs': STOP_S}, env=environment, **kwargs)
