"""Measures which inputs pi_hat and y_hat depend on, over how many steps.

Agents learn by the rule for some updates. On their last trajectories, the
rule's outputs at step t are differentiated exactly with respect to its inputs
at step t + k: the reward, the probability of the action, and phi(y). For a rule
that sees them, also the agent's age and the logarithm of its lifetime.

The derivatives are averaged over environments and over pairs of steps in the
same episode. The mean as a function of k is called a kernel: it shows how the
rule assigns credit. The kernel of REINFORCE is gamma^k with respect to rewards.
`gae_fit` compares kernels with those of GAE. If the rule comes from a run,
kernels are computed for several of its snapshots.
"""

from typing import Any, Mapping, Sequence

import numpy as np

from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import gae_fit
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_settings
from lpg_distributed.envs import suite
from lpg_distributed.figures import markdown
from lpg_distributed.figures import style

NAME = 'sensitivity'
INPUTS = ('reward', 'probability', 'phi', 'age', 'lifetime')
OUTPUTS = ('pi_hat', 'y_hat')


def _snapshots(rule: str, average_last: int, num_snapshots: int):
  """Returns the rule's `Source`, and (meta-step, eta) of some snapshots."""
  from lpg_distributed.analysis import sources
  from lpg_distributed.store import eta_file
  source = sources.read(rule, average_last)
  steps = source.about['meta_steps']
  etas = [(0, sources.untrained(source).eta)]
  if 'run' in source.about and num_snapshots > 2:
    found = sources.snapshots(experiment.split(rule)[1])
    found = [(step, path) for step, path in found if step < steps[-1]]
    places = np.unique(np.linspace(0, len(found) - 1, min(
        len(found), num_snapshots - 2)).astype(int)) if found else []
    etas += [(found[i][0], eta_file.load(found[i][1]).eta) for i in places]
  return source, [*etas, (steps[-1], source.eta)]


def compute(rule: str, average_last: int = 1, seed: int = 0,
            environment: str = '', updates: int = 50, num_lifetimes: int = 8,
            num_snapshots: int = 8):
  """Differentiates a rule's outputs; returns `about` and `data`.

  Args:
    rule: see `sources.read`.
    average_last: see `sources.read`.
    seed: seed of layouts, agents and actions.
    environment: name; '' for the first one of the training.
    updates: number of updates that agents learn for.
    num_lifetimes: number of agents.
    num_snapshots: largest number of snapshots of a run.
  """
  # Imported here, since drawing does not need JAX.
  import jax

  from lpg_distributed.analysis import rule_derivatives
  from lpg_distributed.analysis import training_environments
  from lpg_distributed.core import rule_vector
  experiment.check_counts(updates=updates, num_lifetimes=num_lifetimes,
                          snapshots=num_snapshots)
  source, etas = _snapshots(rule, average_last, num_snapshots)
  rule_vector.require_lpg_network(
      source.config.rule, 'sensitivity', same_inputs=True)
  environment = environment or source.config.environments[0]
  try:
    suite.check_name(environment)
  except ValueError as error:
    raise stored.ResultsError(f'--environment: {error}') from None
  config = training_environments.sized(
      source.config, environment, source.config,
      training_settings.ComparisonSettings(updates=updates))
  log_probs = source.arm_log_probs(environment, config.agents[environment])
  key = rule_derivatives.held_out_key(seed)
  measure = jax.jit(lambda eta: rule_derivatives.kernels(
      config.rule, eta, rule_derivatives.rule_inputs(
          config, environment, eta, key, num_lifetimes, log_probs,
          updates)))
  found: list[Mapping[str, Any]] = []
  for step, eta in etas:
    experiment.report(f'{source.label} at meta-step {step}')
    found.append(jax.device_get(measure(np.asarray(eta))))
  about = {'rule': {'label': source.label, **source.about},
           'environment': environment, 'updates': updates,
           'num_lifetimes': num_lifetimes, 'seed': seed,
           'gammas': source.config.meta.gammas,
           'initial_rule': source.config.run.initial_rule}
  return about, {
      'meta_steps': [step for step, _ in etas],
      **{name: [f[name] for f in found] for name in found[0]}}


def _inputs(data) -> list[str]:
  """Returns the names of the inputs that the rule sees."""
  return [name for name in INPUTS if f'deviation/{name}' in data]


def _strength(data, output: str, name: str) -> np.ndarray:
  """Sums, per snapshot, the effect of one standard deviation over all lags."""
  kernel = np.abs(stored.as_array(data[f'{output}/{name}']))
  return kernel.sum(axis=1) * stored.as_array(data[f'deviation/{name}'])


def _fits(about, data) -> list[gae_fit.Fit]:
  """Fits GAE to pi_hat's kernels at each meta-step."""
  return [gae_fit.fit(reward, phi, max(about['gammas']))
          for reward, phi in zip(*(stored.as_array(data[f'pi_hat/{name}'])
                                   for name in ('reward', 'phi')))]


def _draw_kernels(axes, data, output: str, names: Sequence[str]) -> None:
  for name in names:
    kernel = stored.as_array(data[f'{output}/{name}'])[-1]
    axes.plot(np.arange(len(kernel)), kernel, label=name, marker='.',
              **style.distinct(INPUTS.index(name)))
  axes.set_title(f'{output} at t by\n{" and ".join(names)} at t + k')
  axes.set_xlabel('k')
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.axhline(0., color='black', linewidth=0.5)


def draw(about, data):
  """Draws the results; returns a matplotlib figure."""
  figure, grid = style.panels(6, 3)
  fit = _fits(about, data)[-1]
  gray = {'color': 'gray', 'linewidth': 1}
  fitted = rf'GAE, $\lambda$ = {fit.td_lambda:.2f}'
  # The first snapshot is skipped if training started from a given rule.
  first = 1 if about.get('initial_rule') else 0
  style.note(figure, f'rule: {_name(about)}, agents on {about["environment"]}')
  for (left, middle, right), output in zip((grid[:3], grid[3:]), OUTPUTS):
    _draw_kernels(left, data, output, ('reward',))
    kernel = stored.as_array(data[f'{output}/reward'])
    lags = np.arange(kernel.shape[1])
    left.plot(lags, kernel[0], label='reward, untrained', **style.distinct(3))
    _draw_kernels(middle, data, output, _inputs(data)[1:])
    if output == 'pi_hat':
      left.plot(lags, kernel[-1][0] * max(about['gammas']) ** lags,
                linestyle=':', label=r'$\gamma^k$, scaled', **gray)
      left.plot(lags, fit.reward, linestyle='--', label=fitted, **gray)
      middle.plot(np.arange(len(fit.phi)), fit.phi, linestyle='--',
                  label=fitted, **gray)
    for name in _inputs(data):
      right.plot(data['meta_steps'][first:],
                 _strength(data, output, name)[first:], label=name, marker='.',
                 **style.distinct(INPUTS.index(name)))
    right.set_title(f'{output}: one deviation\nof an input, all k')
    right.set_xlabel('meta-step')
    left.set_ylabel('derivative')
  style.legend_below(figure, grid, 4)
  return figure


def _name(about) -> str:
  """Names the rule: its published name, or the run that it comes from."""
  rule = about['rule']
  return rule.get('published') or (
      f'the last of the run {rule["run"]}' if 'run' in rule else rule['label'])


def lines(about, data):
  """Formats the results as lines of text."""
  strengths = markdown.table(['output', *_inputs(data)], (
      [output, *(f'{_strength(data, output, name)[-1]:.3g}'
                 for name in _inputs(data))] for output in OUTPUTS))
  fits = markdown.table(
      ['meta-step', 'lambda', 'sign', 'by rewards', 'by phi'], (
          [f'{step if i else "untrained"}', f'{fit.td_lambda:.2f}',
           '+' if fit.phi_factor > 0. else '-', f'{fit.reward_explained:.0%}',
           f'{fit.phi_explained:.0%}']
          for i, (step, fit) in enumerate(
              zip(data['meta_steps'], _fits(about, data)))))
  return [f'{about["rule"]["label"]} on {about["environment"]}, at meta-step '
          f'{data["meta_steps"][-1]}: change of each output by one standard '
          'deviation of an input, summed over lags', '', *strengths, '',
          'Best fit of GAE to the kernels of pi_hat, with phi (sign +) or -phi '
          '(sign -) as the value; shares of squares that it explains:', '',
          *fits]
