"""Studies: several configurations of meta-training, compared over seeds.

This module holds data only. `lpg study` runs studies; `analysis.figure7` reads
their results. Variants differ in one setting, unless stated otherwise.
"""

import os
import re
from typing import Any, Mapping, NamedTuple

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import errors
from lpg_distributed import files
from lpg_distributed import presets

FILE = 'study.json'  # in the root of a study's runs; describes the study


class StudyError(errors.UserError, ValueError):
  """There is no such study, or it has no runs; the message is one line."""


class Study(NamedTuple):
  """A preset, and overrides in the form of `--set`, by name of the variant."""
  preset: str
  common: tuple[str, ...]
  variants: Mapping[str, tuple[str, ...]]


def _middle(values: tuple[float, ...]) -> float:
  return values[(len(values) - 1) // 2]


def fixed_hyper_params() -> tuple[str, ...]:
  """Returns overrides with one pair per kind, so that the bandit has no choice.

  The pair is the middle of the values in Table 3.
  """
  return tuple(
      text for name, agent in config_lib.AGENTS.items() for text in (
          f'agents.{name}.learning_rates={_middle(agent.learning_rates)}',
          f'agents.{name}.kl_costs={_middle(agent.kl_costs)}'))


# A small run: no evaluator, one worker on one core.
_SMALL = ('evaluator.enabled=false', 'run.num_workers=1',
          'run.eta_snapshot_period_steps=20')
# Clips the summed gradient instead of each lifetime's, which needs a smaller
# learning rate.
_SUM_CLIPPED = ('meta.learning_rate=0.001', 'meta.max_gradient_norm=0.02',
                'meta.max_lifetime_gradient_norm=0')

STUDIES: Mapping[str, Study] = {
    # Figure 7.
    'ablations': Study('demo', (*_SMALL, 'meta.y_hat_cost=0.001'), {
        'LPG': (),
        'without softmax of y': ('rule.kind=lpg_vector',),
        'without entropy of y': ('meta.prediction_entropy_cost=0',),
        'without L2': ('meta.pi_hat_cost=0', 'meta.y_hat_cost=0'),
        'fixed hyperparameters': fixed_hyper_params(),
        'LPG-V': ('rule.kind=lpg_v',),
    }),
    # Kinds of predictions, for a rule that does not see pi(a|s) and so can
    # represent values only by predictions; see `channels`.
    'predictions': Study('demo', (
        *_SMALL, 'meta.y_hat_cost=0.001', 'rule.sees_policy=false',
        'agents.*.kl_costs=1,5'), {
        'LPG': (),
        'without softmax of y': ('rule.kind=lpg_vector',),
        'without entropy of y': ('meta.prediction_entropy_cost=0',),
        'without L2': ('meta.pi_hat_cost=0', 'meta.y_hat_cost=0'),
        'first y of deviation 0.1': ('meta.y_table_stddev=0.1',),
        'alpha_y of Table 3': ('agents.*.kl_costs=0.1,0.5,1',),
    }),
    # By which inputs does a rule represent values: y or pi(a|s)? Training is
    # long enough for a rule that sees pi(a|s) to stop using predictions.
    'channels': Study('demo', (*_SMALL, *_SUM_CLIPPED), {
        'LPG': (),
        'alpha_y 1, 5': ('agents.*.kl_costs=1,5',),
        'without pi(a|s)': ('rule.sees_policy=false',),
        'without pi(a|s), alpha_y 1, 5': ('rule.sees_policy=false',
                                          'agents.*.kl_costs=1,5'),
    }),
    # Inputs that the paper's rule does not have; see `core.agent_life`. With
    # `--config=docs/results/runs/options.json` the study has nine kinds.
    'options': Study('demo', _SMALL, {
        'LPG': (),
        'sees the age': ('rule.sees_age=true',),
        'signed log of r': ('rule.reward_input=signed_log',),
        'normalised r': ('rule.reward_input=normalised',),
    }),
    # The A2C that estimates Eq. (4), whose details the paper does not give.
    'outer': Study('demo', _SMALL, {
        'LPG': (),
        'lambda 0.8': ('outer.td_lambda=0.8',),
        'lambda 1': ('outer.td_lambda=1',),
        'lambda 1, no values': ('outer.td_lambda=1',
                                'outer.table_learning_rate=1e-9'),
        'slower values': ('outer.table_learning_rate=0.1',),
        'advantages scaled': ('outer.advantage_ema_decay=0.99',),
    }),
    # Lifetimes against units of the rule's LSTM, for a fixed computation.
    'scale': Study('demo', _SMALL, {
        'LPG': (),
        'not staggered': ('meta.staggered_ages=false',),
        '16 lifetimes': ('meta.num_lifetimes=16',),
        '64 lifetimes': ('meta.num_lifetimes=64',),
        '8 units': ('rule.lstm_size=8',),
        '128 units': ('rule.lstm_size=128',),
    }),
    # Ways to limit the effect of a few gradients that are a thousand times
    # larger than the others: clip the sum, or each lifetime's gradient.
    'clipping': Study('demo', (
        *_SMALL, 'meta.learning_rate=0.001', 'meta.max_lifetime_gradient_norm=0'
    ), {
        'not clipped': (),
        'the sum, rate 0.001': ('meta.max_gradient_norm=0.02',),
        'the sum, rate 0.003': ('meta.max_gradient_norm=0.02',
                                'meta.learning_rate=0.003'),
        'each, rate 0.001': ('meta.max_lifetime_gradient_norm=0.03',),
        'each, rate 0.003': ('meta.max_lifetime_gradient_norm=0.03',
                             'meta.learning_rate=0.003'),
    }),
}


def load(name: str) -> Study:
  """Returns the study called `name`; raises StudyError if there is none."""
  if name not in STUDIES:
    raise StudyError(f'there is no study {name!r}; allowed: '
                     f'{", ".join(STUDIES)}')
  return STUDIES[name]


def config_of(study: Study, variant: str, *more: str,
              file: str = '') -> config_lib.Config:
  """Returns the configuration of a variant.

  Args:
    study: the study.
    variant: name of the variant.
    *more: overrides for all variants.
    file: JSON file of fields for all variants, below the study's own.

  Raises:
    ConfigError: an override is not allowed.
  """
  base = presets.load(study.preset)
  return config_io.apply_overrides(
      config_io.load_file(base, file) if file else base,
      [*study.common, *study.variants[variant], *more])


def read(root: str) -> dict[str, Any]:
  """Reads the description that `lpg study` wrote of the runs at `root`.

  Returns:
    `study` and `set`. Except in old files also `meta_steps` of the command
    (None: the preset's), `config` of the command, and the requested `variants`
    and `seeds`.

  Raises:
    StudyError: `root` is not that of a study, or its file is damaged.
  """
  path = os.path.join(root, FILE)
  try:
    found = files.read_object(path)
    if not isinstance(found['study'], str):
      raise ValueError('study is no text')
    for name, kind in (('set', str), ('variants', str), ('seeds', int)):
      if not isinstance(found[name], list) or not all(
          type(value) is kind for value in found[name]):
        raise ValueError(f'{name} is no list of {kind.__name__}')
    return found
  except (FileNotFoundError, NotADirectoryError):
    raise StudyError(f'{root} holds no study') from None
  except (OSError, ValueError, KeyError) as error:
    raise StudyError(f'{path} is damaged: {error}') from None


def run_dir(root: str, variant: str, seed: int) -> str:
  """Returns the directory of a run of a study."""
  slug = re.sub(r'[^a-z0-9]+', '_', variant.lower()).strip('_')
  return os.path.join(root, f'{slug}_seed{seed}')
