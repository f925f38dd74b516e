"""Registry of update rules. To add one, write its file and add a row here.

This module does not import JAX, so that a configuration is checked quickly.
"""

import importlib
from typing import Any, NamedTuple, Optional

_PACKAGE = 'lpg_distributed.core.update_rules'


class Row(NamedTuple):
  """The module of a rule, and whether the rule has an eta."""
  module: str  # defines `make(config, network) -> base.UpdateRule`
  learned: bool = True  # whether the rule has an eta


RULES = {
    'lpg': Row(f'{_PACKAGE}.lpg'),
    'a2c': Row(f'{_PACKAGE}.a2c', learned=False),
    'ppo': Row(f'{_PACKAGE}.ppo', learned=False),
    'lpg_v': Row(f'{_PACKAGE}.lpg_v'),
    'lpg_vector': Row(f'{_PACKAGE}.lpg_vector'),
}


# A control in meta-testing: a rule with an untrained eta, drawn for each seed.
# It is LPG, or of the kind and sizes of an eta that is given. It shows what the
# form of the update achieves without meta-training.
UNTRAINED = 'random'


def names() -> tuple[str, ...]:
  """Returns the names of all rules that meta-testing offers."""
  return (*RULES, UNTRAINED)


def learned() -> tuple[str, ...]:
  """Returns the rules that can be meta-trained: the values of `rule.kind`."""
  return tuple(name for name, row in RULES.items() if row.learned)


def make(name: str, config: Optional[Any] = None, **kwargs: Any):
  """Makes the rule that is called `name`.

  Args:
    name: a key of `RULES`.
    config: sizes of the rule, a `config.RuleConfig`; not needed without eta.
    **kwargs: `network`, a `base.Network` that replaces `lpg_network.apply`.

  Returns:
    A `base.UpdateRule`.

  Raises:
    ValueError: there is no such rule; the message is one line.
  """
  if name not in RULES:
    raise ValueError(f'there is no rule {name!r}; allowed: '
                     f'{", ".join(RULES)}')
  return importlib.import_module(RULES[name].module).make(
      config, **kwargs)


def make_learned(config: Any, **kwargs: Any):
  """Makes the rule that a `config.RuleConfig` describes; see `make`."""
  return make(config.kind, config, **kwargs)
