"""The search for hyperparameters, with lifetimes of nobody."""

import json

import numpy as np
import pytest

from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_environments as training
from lpg_distributed.analysis import training_settings
from lpg_distributed.analysis import tuning
from lpg_distributed.core import train_agents

PAIRS = [(float(i), 0.5) for i in range(8)]
SETTINGS = training_settings.ComparisonSettings(
    tuning_lifetimes=2, final_lifetimes=7)


def lives(num, value, bonus=0.):
  """Lifetimes that all return `value`, and `bonus` more on the way."""
  return train_agents.Lifetimes(
      final_return=np.full(num, value),
      episode_return=np.full((4, num), value + bonus),
      num_episodes=np.ones((4, num)), input_means=None, hyper=None, theta=None)


def test_tuning_in_two_rounds():
  """Pair 5 is lucky in the first round; 4 and 6 are the best, 4 earlier."""
  seen = []

  def make(num):
    def live(pair, key):
      seen.append((num, pair, tuple(np.asarray(key))))
      value = {2: pair + (3. if pair == 5 else 0.),
               7: 6.001 if pair == 4 else min(pair, 6.)}[num]
      # Pairs 4 and 6 are as good in the end; 4 was so earlier.
      return lives(num, value, bonus=pair == 4)
    return live

  said = []
  best, final = tuning.tune(PAIRS[:7], make, SETTINGS, said.append)
  assert said == ['7 pairs, 2 lifetimes of each',
                  '4 pairs, 7 lifetimes of each']
  assert best == 4
  np.testing.assert_allclose(final, [0., 1., 2., 3., 6.001, 5., 6.])
  assert [(num, pair) for num, pair, _ in seen] == [
      *((2, i) for i in range(7)), (7, 5), (7, 6), (7, 4), (7, 3)]
  first, second = ({key for num, _, key in seen if num == n} for n in (2, 7))
  assert len(first) == len(second) == 1 and first != second
  test_keys = {tuple(np.asarray(key))
               for key in training._chunk_keys('chain_short', SETTINGS)}
  assert not test_keys & (first | second)


@pytest.mark.parametrize('num_lived', range(1, 10))
def test_a_search_goes_on_from_its_log(num_lived):
  """Interrupted after each pair; pair 2 is never finite."""
  seen, kept = [], []

  def make(num):
    def live(pair, key):
      del key
      if len(seen) == num_lived:
        raise KeyboardInterrupt
      seen.append((num, pair))
      return lives(num, np.nan if pair == 2 else pair)
    return live

  search = lambda rows: tuning.tune(
      PAIRS[:6], make, SETTINGS, lambda text: None,
      tuning.Log(rows, lambda rows: kept.append(stored.plain(rows))))
  with pytest.raises(KeyboardInterrupt):
    search(())
  assert len(kept) == num_lived
  num_lived = 99
  best, final = search(json.loads(json.dumps(kept[-1])))
  assert best == 5 and final == [0., 1., -np.inf, 3., 4., 5.]
  assert seen == [*((2, i) for i in range(6)), (7, 5), (7, 4), (7, 3), (7, 1)]


def test_a_search_goes_on_with_another_grid():
  """Of a pair that has moved within it the same is known."""
  seen, kept = [], []

  def make(num):
    def live(index, key):
      del key
      seen.append((num, index))
      return lives(num, float(index))
    return live

  log = lambda rows: tuning.Log(
      rows, lambda rows: kept.append(stored.plain(rows)))
  tuning.tune(PAIRS[:5], make, SETTINGS, print, log([]))
  first_round = kept[4]
  assert [row[:3] for row in first_round] == [[0, i, 0.5] for i in range(5)]
  seen.clear()
  grid = [PAIRS[7], *PAIRS[1:3], PAIRS[6]]
  _, final = tuning.tune(grid, make, SETTINGS, print, log(first_round))
  assert [at for at in seen if at[0] == 2] == [(2, 0), (2, 3)]
  # The second round is of others than those of whom nothing was known.
  assert sorted(at for at in seen if at[0] == 7) == [
      (7, i) for i in range(4)]
  assert final == [0., 1., 2., 3.]
