"""Learned Policy Gradient (Oh et al., 2020), meta-trained in many processes.

What is meant to be used from Python is here, as `import lpg_distributed as
lpg`; `lpg_distributed.api` describes it. JAX is brought in by the first use of
a name and not by the import.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

__all__ = (
    'AgentConfig',
    'Rule',
    'apply_rule',
    'best_hyperparameters',
    'create_rule',
    'load_config',
    'load_environment',
    'load_rule',
    'meta_test',
    'meta_train',
    'save_rule',
    'train_agents',
)


def __getattr__(name: str) -> Any:
  if name in __all__:
    return getattr(importlib.import_module('lpg_distributed.api'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
