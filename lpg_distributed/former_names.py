"""Former names of fields, applied wherever files of users are read.

Run directories, checkpoints, cards of rules, results of meta-tests and saved
agents keep the names with which they were written. New files have the names of
today, and flags allow no others.
"""

from typing import Any

# Keys in JSON, and what they are called today.
_KEYS = {'alpha_lr': 'learning_rate', 'alpha_y': 'kl_cost',
         'discount': 'gamma', 'discounts': 'gammas'}
# Fields in the names of arrays today, and what they were called.
_ARRAYS = {'.learning_rate': '.alpha_lr', '.kl_cost': '.alpha_y',
           '.discount_t': '.discount'}


def replace(content: Any) -> Any:
  """Returns content of JSON types with former keys replaced, at any depth."""
  if isinstance(content, dict):
    return {_KEYS.get(key, key): replace(value)
            for key, value in content.items()}
  if isinstance(content, list):
    return [replace(value) for value in content]
  return content


def today(name: str) -> str:
  """Returns today's name of a field; `name` itself if it has not changed."""
  return _KEYS.get(name, name)


def of_array(name: str) -> str:
  """Returns the former name of an array; `name` itself if it had none."""
  for field, former in _ARRAYS.items():
    name = name.replace(field, former)
  return name
