"""The update rules by name: to add one, write its file and add a row.

Names are known without JAX, so that a configuration is refused at once.
"""

import importlib
from typing import Any, NamedTuple, Optional

_PACKAGE = 'lpg_distributed.core.update_rules'


class Row(NamedTuple):
  """Where a rule is, and whether it has an eta."""
  module: str  # has `make(config, network) -> base.UpdateRule`
  learned: bool = True


RULES = {
    'lpg': Row(f'{_PACKAGE}.lpg'),
    'a2c': Row(f'{_PACKAGE}.a2c', learned=False),
    'lpg_v': Row(f'{_PACKAGE}.lpg_v'),
    'lpg_vector': Row(f'{_PACKAGE}.lpg_vector'),
}


# The control of meta-testing, which says what the form of the update does by
# itself: LPG with an eta that is drawn for each seed and never trained.
UNTRAINED = 'random'


def names() -> tuple[str, ...]:
  """What agents of meta-testing can learn by."""
  return (*RULES, UNTRAINED)


def kind_of(name: str) -> str:
  """The row in `RULES` of one of `names`."""
  return 'lpg' if name == UNTRAINED else name


def learned() -> tuple[str, ...]:
  """Rules with an eta, which can be meta-trained: values of `rule.kind`."""
  return tuple(name for name, row in RULES.items() if row.learned)


def make(name: str, config: Optional[Any] = None, **kwargs: Any):
  """Makes the rule called `name`.

  Args:
    name: a key of `RULES`.
    config: its sizes, a `config.RuleConfig`; not needed without an eta.
    **kwargs: `network`, a `base.Network` in place of the usual one.

  Returns:
    A `base.UpdateRule`.

  Raises:
    ValueError: there is none; the message is one line.
  """
  if name not in RULES:
    raise ValueError(f'there is no rule {name!r}; allowed: '
                     f'{", ".join(RULES)}')
  return importlib.import_module(RULES[name].module).make(
      config, **kwargs)


def make_learned(config: Any, **kwargs: Any):
  """Makes the rule of a `config.RuleConfig`; see `make`."""
  return make(config.kind, config, **kwargs)
