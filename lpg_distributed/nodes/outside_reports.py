"""Final returns that other programs report; each is counted once."""

from typing import Any, Mapping, NamedTuple

_MOST_WAITING = 1000  # reports per meta-step
_MOST_REMEMBERED = 10_000  # names of reports that were applied

# Verdicts on a report.
ACCEPTED = 'accepted'
REPEATED = 'repeated'  # The report was accepted before.
TOO_OLD = 'too old'  # It may have been accepted, but names are forgotten.
NOT_REACHED = 'not reached'  # Its meta-step is in the future.
TOO_MANY = 'too many'  # Too many wait for the end of the meta-step.


class Report(NamedTuple):
  environment: str
  arm: int
  value: float  # the final return
  meta_step: int  # that of the distribution that the arm was drawn from


class OutsideReports:
  """Pending reports, and the names of applied ones.

  The names of the newest meta-steps are remembered. A report of an older
  meta-step is refused, because it may have been counted.
  """

  def __init__(self):
    # Applied reports are kept too: they become pending again when the learner
    # restores an earlier state.
    self._reports: dict[str, Report] = {}
    self._applied: dict[str, int] = {}  # name to meta-step
    # Names of reports of this meta-step and before may have been forgotten.
    self._forgotten_step = -1

  def _waiting(self) -> list[tuple[str, Report]]:
    return [(name, report) for name, report in self._reports.items()
            if name not in self._applied]

  def judge(self, name: str, meta_step: int, now: int) -> str:
    """Returns the verdict on a report; `add` may follow if it is ACCEPTED.

    Args:
      name: name of the report, chosen by its sender.
      meta_step: meta-step of the distribution that the arm was drawn from.
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
    """Adds a report that `judge` has ACCEPTED to the pending ones."""
    self._reports[name] = report

  def apply(self) -> list[Report]:
    """Marks all pending reports as applied and returns them, oldest first.

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
    """Replaces the names of applied reports; all other reports are pending.

    Args:
      state: result of `get_state`, or empty. Old states have a list of names
        without meta-steps.
      meta_step: meta-step of the state.
    """
    applied = state.get('outside', {})
    if not isinstance(applied, dict):
      applied = dict.fromkeys(applied, meta_step)
    self._applied = {str(name): int(step) for name, step in applied.items()}
    self._forgotten_step = int(state.get('forgotten_step', -1))
