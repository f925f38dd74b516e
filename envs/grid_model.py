"""Exact models of the grid worlds in NumPy, which can be solved.

They implement Appendix A and the list of choices in `grid_world` independently
of its code, so that each implementation verifies the other. Backups compute the
values of all states at once, for many layouts:

  Q(s, a) = r + gamma * (1 - eps_term) * E[V(s')]

The distribution of s' is a product over objects: each object that was absent
when the step began reappears with its own probability.
"""

import functools
from typing import Iterator, Optional, Protocol

import numpy as np

from lpg_distributed.envs import grid_world

_MOVES = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))


class Model(Protocol):
  """A model that the backups below can solve."""

  def zeros(self) -> np.ndarray:
    """Returns an array for the values of all states, filled with 0."""

  def action_values(self, values: np.ndarray,
                    gamma: float = 1.) -> Iterator[np.ndarray]:
    """Yields Q of each action, shaped as `values`.

    Args:
      values: values of the next state.
      gamma: the discount factor.
    """

  def start_value(self, values: np.ndarray) -> np.ndarray:
    """Returns the mean value of an episode's start states per layout, [L]."""


def _optimal_backup(model: Model, values: np.ndarray) -> np.ndarray:
  """Computes V one step before `values`, under the best action."""
  return functools.reduce(np.maximum, model.action_values(values))


def _uniform_backup(model: Model, values: np.ndarray) -> np.ndarray:
  """Computes V one step before `values`, under the uniform policy."""
  total, num_actions = 0., 0
  for action_value in model.action_values(values):
    total = total + action_value
    num_actions += 1
  return total / num_actions


def _rows(settings: grid_world.GridWorldSettings) -> tuple[str, ...]:
  return settings.walls or ('.' * settings.width,) * settings.height


def open_cells(settings: grid_world.GridWorldSettings) -> list[int]:
  """Returns the cells (row * width + column) without a wall."""
  return [row * settings.width + column
          for row, line in enumerate(_rows(settings))
          for column, mark in enumerate(line) if mark == '.']


def _neighbours(settings) -> tuple[np.ndarray, np.ndarray]:
  """Returns the neighbours of open cells, [F, 9], and whether they exist.

  A neighbour is an index into `open_cells`. If it does not exist, it is the
  index of the cell itself.
  """
  cells = open_cells(settings)
  place = {cell: i for i, cell in enumerate(cells)}
  neighbours = np.zeros((len(cells), len(_MOVES)), int)
  exists = np.zeros(neighbours.shape, bool)
  for i, cell in enumerate(cells):
    row, column = divmod(cell, settings.width)
    for direction, (down, right) in enumerate(_MOVES):
      on_grid = 0 <= column + right < settings.width
      target = place.get((row + down) * settings.width + column + right)
      exists[i, direction] = on_grid and target is not None
      neighbours[i, direction] = target if exists[i, direction] else i
  return neighbours, exists


class LayoutModel:
  """Model of L layouts with objects in fixed cells, for one action space.

  A state is a mask (bit i: object i is present) and the agent's open cell.
  Values are [N, F, L]: masks, open cells, layouts. Only masks that an episode
  can reach are included.
  """

  def __init__(self, settings: grid_world.GridWorldSettings,
               object_cells: np.ndarray, collects_by_action: bool):
    """Builds the model; `object_cells` are [L, m] cells."""
    self._kinds = [kind for kind in settings.objects
                   for _ in range(kind.count)]
    self._by_action = collects_by_action
    self._next, self._exists = _neighbours(settings)
    self._layout = np.arange(len(object_cells))  # [L]
    self.cells = np.array(open_cells(settings))  # [F]
    # [m, L], as indices into `cells`.
    self._objects = np.searchsorted(self.cells, np.transpose(object_cells))
    self.masks = np.arange(2 ** len(self._kinds))  # [N]
    self.masks = self._reachable()
    self._change = self._mask_chances(None)
    self._changes = [self._mask_chances(i) for i in range(len(self._kinds))]

  def _present(self) -> np.ndarray:
    """Returns which objects are present in each mask, [N, m] bool."""
    return (self.masks[:, None] >> np.arange(len(self._kinds))) & 1 == 1

  def _mask_chances(self, collected: Optional[int]):
    """Probabilities of masks after a step, given the mask before it.

    Args:
      collected: index of the object that is collected, or None.

    Returns:
      Indices [n] of the masks before the step: those with the collected object,
      or all. Probabilities [n, N] of the masks after it.
    """
    before, after = self._present()[:, None], self._present()[None]  # [N, N, m]
    respawn = np.array([kind.respawn for kind in self._kinds])
    chances = np.where(before, after, np.where(after, respawn, 1. - respawn))
    places = np.arange(len(self.masks))
    if collected is not None:
      chances[:, :, collected] = ~after[:, :, collected]
      places = np.flatnonzero(self._present()[:, collected])
    return places, np.prod(chances, axis=-1)[places]

  def _reachable(self) -> np.ndarray:
    """Returns the masks that can be reached from that with all objects."""
    follows = self._mask_chances(None)[1] > 0.
    for i, kind in enumerate(self._kinds):
      if kind.termination < 1.:
        places, chances = self._mask_chances(i)
        follows[places] |= chances > 0.
    reached = self.masks == self.masks[-1]
    while True:
      more = reached | follows[reached].any(axis=0)
      if np.array_equal(more, reached):
        return self.masks[reached]
      reached = more

  def zeros(self) -> np.ndarray:
    """Returns values of 0, [N, F, L]."""
    return np.zeros((len(self.masks), len(self.cells), len(self._layout)))

  def _collect(self, i: int, values, gamma, cells, layouts):
    """Computes Q of collecting object i, with the agent in `cells`.

    `layouts` are the layouts of these cells. Returns the index of these states,
    and their Q.
    """
    places, chances = self._changes[i]
    goes_on = gamma * (1. - self._kinds[i].termination)
    later = chances @ values[:, cells, layouts]
    return ((places[:, None], cells, layouts),
            self._kinds[i].reward + goes_on * later)

  def action_values(self, values: np.ndarray,
                    gamma: float = 1.) -> Iterator[np.ndarray]:
    """Yields Q of each action, [N, F, L]."""
    later = gamma * np.reshape(
        self._change[1] @ values.reshape(len(values), -1), values.shape)
    entered = later
    if not self._by_action:
      entered = later.copy()
      for i, cells in enumerate(self._objects):
        where, gain = self._collect(i, values, gamma, cells, self._layout)
        entered[where] = gain
    for direction in range(len(_MOVES)):
      yield entered[:, self._next[:, direction]]
    if not self._by_action:
      return
    for direction in range(len(_MOVES)):
      result = later.copy()
      for i, cells in enumerate(self._objects):
        # The agent is next to the object, in the opposite direction.
        layouts = self._layout[self._exists[cells, 8 - direction]]
        agents = self._next[cells[layouts], 8 - direction]
        where, gain = self._collect(i, values, gamma, agents, layouts)
        result[where] = gain
      yield result

  def start_value(self, values: np.ndarray) -> np.ndarray:
    """Returns the mean over states with all objects, [L].

    The agent is in a cell without an object.
    """
    free = np.ones(values.shape[1:], bool)
    for cells in self._objects:
      free[cells, self._layout] = False
    return (values[-1] * free).sum(axis=0) / free.sum(axis=0)


class RovingModel:
  """Model of one object that reappears in a random cell, without walls.

  Values are [F + 1, F]: the object's cell, where the last index means that it
  is absent, and the agent's cell.
  """

  def __init__(self, settings: grid_world.GridWorldSettings,
               collects_by_action: bool):
    (self._kind,) = settings.objects
    if self._kind.count != 1 or settings.walls:
      raise ValueError('only for one object and no walls')
    self._by_action = collects_by_action
    self._next, self._exists = _neighbours(settings)

  def zeros(self) -> np.ndarray:
    """Returns values of 0, [F + 1, F]."""
    return np.zeros((len(self._next) + 1, len(self._next)))

  def action_values(self, values: np.ndarray,
                    gamma: float = 1.) -> Iterator[np.ndarray]:
    """Yields Q of each action, [F + 1, F]."""
    cells, kind = np.arange(len(self._next)), self._kind
    later = gamma * values
    # The object does not appear in the agent's cell.
    appears = (later[:-1].sum(axis=0) - later[cells, cells]) / (len(cells) - 1)
    gain = kind.reward + (1. - kind.termination) * later[-1]
    later[-1] = kind.respawn * appears + (1. - kind.respawn) * later[-1]
    entered = later
    if not self._by_action:
      entered = later.copy()
      entered[cells, cells] = gain
    for direction in range(len(_MOVES)):
      yield entered[:, self._next[:, direction]]
    if not self._by_action:
      return
    for direction in range(len(_MOVES)):
      result = later.copy()
      agents = cells[self._exists[:, direction]]
      result[self._next[agents, direction], agents] = gain[agents]
      yield result

  def start_value(self, values: np.ndarray) -> np.ndarray:
    """Returns the mean over pairs of different cells, [1]."""
    num = len(self._next)
    total = values[:-1].sum() - np.trace(values[:-1])
    return np.array([total / (num * (num - 1))])


def start_values(model: Model, max_episode_steps: int,
                 optimal: bool) -> np.ndarray:
  """Returns the mean return of whole episodes per layout, [L].

  Args:
    model: the model.
    max_episode_steps: the step limit.
    optimal: True for the optimal policy, False for the uniform one.
  """
  backup = _optimal_backup if optimal else _uniform_backup
  values = model.zeros()
  for _ in range(max_episode_steps):
    values = backup(model, values)
  return model.start_value(values)
