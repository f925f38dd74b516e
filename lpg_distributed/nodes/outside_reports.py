"""Final returns that other programs report to the bandit: each counts once."""

from typing import Any, Mapping, NamedTuple

_MOST_WAITING = 1000  # reports per meta-step
_MOST_REMEMBERED = 10_000  # names of reports that were applied

# What becomes of a report.
ACCEPTED = 'accepted'
REPEATED = 'repeated'  # The report was accepted before.
TOO_OLD = 'too old'  # Nobody knows any more whether it was accepted.
NOT_REACHED = 'not reached'  # Its meta-step lies ahead.
TOO_MANY = 'too many'  # Too many wait for the end of the meta-step.


class Report(NamedTuple):
  environment: str
  arm: int
  value: float  # the final return
  meta_step: int  # of the distribution that the arm was drawn from


class OutsideReports:
  """Reports that wait, and the names of those that were applied.

  The names of the newest meta-steps are remembered. A report of an older
  meta-step is refused, because it may have been counted.
  """

  def __init__(self):
    # Applied reports are kept too: they wait again when the learner restores a
    # state from before them.
    self._reports: dict[str, Report] = {}
    self._applied: dict[str, int] = {}  # name to meta-step
    # Names of reports of this meta-step and before may have been forgotten.
    self._forgotten_step = -1

  def _waiting(self) -> list[tuple[str, Report]]:
    return [(name, report) for name, report in self._reports.items()
            if name not in self._applied]

  def judge(self, name: str, meta_step: int, now: int) -> str:
    """Says what becomes of a report that `add` would receive.

    Args:
      name: of the report, chosen by its sender.
      meta_step: of the distribution that the arm was drawn from.
      now: the bandit's meta-step.

    Returns:
      One of the constants above.
    """
    if name in self._reports or name in self._applied:
      return REPEATED
    if meta_step <= self._forgotten_step:
      return TOO_OLD
    if meta_step > now:
      return NOT_REACHED
    return TOO_MANY if len(self._waiting()) >= _MOST_WAITING else ACCEPTED

  def add(self, name: str, report: Report) -> None:
    """Lets a report wait, which `judge` has called ACCEPTED."""
    self._reports[name] = report

  def apply(self) -> list[Report]:
    """Returns the reports that wait, the oldest first, and marks them applied.

    Forgets the oldest names if there are too many.
    """
    waiting = self._waiting()
    self._applied.update((name, r.meta_step) for name, r in waiting)
    while len(self._applied) > _MOST_REMEMBERED:
      self._forgotten_step = min(self._applied.values())
      for name, meta_step in list(self._applied.items()):
        if meta_step <= self._forgotten_step:
          del self._applied[name]
          self._reports.pop(name, None)
    return [report for _, report in waiting]

  def get_state(self) -> dict[str, Any]:
    """Returns the names of the applied reports, as plain JSON."""
    return {'outside': dict(self._applied),
            'forgotten_step': self._forgotten_step}

  def restore(self, state: Mapping[str, Any], meta_step: int) -> None:
    """Replaces what was applied; all other reports wait.

    Args:
      state: from `get_state`. A list of names without meta-steps, the former
        format, and an empty state are taken too.
      meta_step: of the state.
    """
    applied = state.get('outside', {})
    if not isinstance(applied, dict):
      applied = dict.fromkeys(applied, meta_step)
    self._applied = {str(name): int(step) for name, step in applied.items()}
    self._forgotten_step = int(state.get('forgotten_step', -1))
