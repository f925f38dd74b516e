"""Reads the bandit of a rule's training from a run or a card."""

import os

from lpg_distributed import config_io
from lpg_distributed.store import checkpointing
from lpg_distributed.store import published
from lpg_distributed.store import run_directory
from lpg_distributed.store import saved_bandit


def read_bandit(place: str) -> saved_bandit.SavedBandit:
  """Reads the bandit of a rule's training.

  Args:
    place: a run's directory, a published rule's name, or a file of weights
      with its card beside it.

  Raises:
    ValueError: there is no record of the training, or it is damaged.
  """
  if os.path.isdir(place):
    config = run_directory.read_config(place)
    checkpoint = checkpointing.latest(place)
    return saved_bandit.read(
        config, checkpoint and checkpointing.load_json(checkpoint, 'bandit'))
  card_path = published.resolve(place).removesuffix('.npz') + '.json'
  if not os.path.exists(card_path):
    raise ValueError(f'{place} has no card beside it, so nothing is known of '
                     'its training; allowed: a published name, or a run')
  card = published.read_card(card_path)
  if 'config' not in card or 'bandit' not in card:
    raise ValueError(f'the card {card_path} says nothing of the training')
  return saved_bandit.read(config_io.from_dict(card['config']),
                           card['bandit'])


def best_arm(place: str, environment: str) -> tuple[float, float]:
  """Returns the most probable (learning rate, KL cost) that the bandit tried.

  Raises:
    ValueError: as `read_bandit`; or the bandit tried no arm there.
  """
  saved = read_bandit(place)
  best = saved.best_arm(environment)
  if best is None:
    raise ValueError(f'the bandit has tried nothing on {environment} yet')
  return saved.config.agents[environment].arms[best]
