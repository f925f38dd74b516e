"""Learned Policy Gradient (Oh et al., 2020), meta-trained in many processes.

What is meant to be used from Python is here, as `import lpg_distributed as
lpg`; `lpg_distributed.api` and `lpg_distributed.policies` describe it. JAX is
brought in by the first use of a name and not by the import.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

_IN_POLICIES = ('Policy', 'load_policy', 'make_policy', 'save_policy')
__all__ = (
    'AgentConfig',
    'Policy',
    'Rule',
    'apply_rule',
    'best_hyperparameters',
    'create_rule',
    'load_config',
    'load_environment',
    'load_policy',
    'load_rule',
    'make_policy',
    'meta_test',
    'meta_train',
    'save_policy',
    'save_rule',
    'train_agents',
)


def __getattr__(name: str) -> Any:
  if name in __all__:
    module = 'policies' if name in _IN_POLICIES else 'api'
    return getattr(importlib.import_module(f'lpg_distributed.{module}'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
