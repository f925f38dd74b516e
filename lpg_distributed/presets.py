"""Named configurations; they differ in sizes, not in the algorithm."""

import dataclasses
import difflib

from lpg_distributed import config as config_lib


def paper() -> config_lib.Config:
  """Tables 2 and 3 as printed: 960 lifetimes, 6.1 M steps per meta-step."""
  return config_lib.Config(run=config_lib.RunConfig(num_workers=60))


def laptop() -> config_lib.Config:
  """All fifteen environments and the paper's rule and windows, scaled down.

  A lifetime has some tens of windows, so within a few hours lifetimes end and
  the bandit learns. Lifetimes are divided by cost: otherwise two lifetimes of
  `random_very_dense` would take most of the time.
  """
  return config_lib.Config(
      lifetimes_by='cost',
      meta=config_lib.MetaConfig(
          learning_rate=1e-3, max_lifetime_gradient_norm=0.03,
          num_lifetimes=30, num_envs=16, lifetime_scale=0.016),
      run=config_lib.RunConfig(meta_steps=2000, checkpoint_period_steps=20,
                               checkpoint_period_s=300.,
                               eta_snapshot_period_steps=50),
      evaluator=config_lib.EvaluatorConfig(frames=50_000))


def demo() -> config_lib.Config:
  """Two tabular environments, a small rule: learns in minutes on two cores.

  Deviations from the paper, for speed: an LSTM of 32 units, 32 lifetimes of 100
  agent updates, and a meta learning rate thirty times as large. The gradient of
  each lifetime is clipped, so that a few large gradients do not dominate; this
  permits the large rate.
  """
  environments = ('chain_short', 'tabular_dense')
  agents = {**config_lib.AGENTS, **{
      name: dataclasses.replace(config_lib.AGENTS[name],
                                lifetime_env_steps=20 * 5 * 20 * 32)
      for name in environments}}
  return config_lib.Config(
      environments=environments,
      agents=agents,
      rule=config_lib.RuleConfig(lstm_size=32),
      meta=config_lib.MetaConfig(
          learning_rate=3e-3, max_lifetime_gradient_norm=0.03,
          num_lifetimes=32, num_envs=32, y_hat_cost=0., y_table_stddev=1.),
      run=config_lib.RunConfig(meta_steps=240, checkpoint_period_steps=40,
                               eta_snapshot_period_steps=40),
      evaluator=config_lib.EvaluatorConfig(
          games=('breakout',), frames=20_000, num_envs=8))


PRESETS = {'demo': demo, 'laptop': laptop, 'paper': paper}


def load(name: str) -> config_lib.Config:
  """Returns the preset that is called `name`.

  Raises:
    ConfigError: there is no such preset.
  """
  if name not in PRESETS:
    close = difflib.get_close_matches(name, PRESETS, 1)
    hint = f'did you mean {close[0]}? ' if close else ''
    raise config_lib.ConfigError(f'there is no preset {name!r}; {hint}'
                                 f'allowed: {", ".join(PRESETS)}')
  return PRESETS[name]()
