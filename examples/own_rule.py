"""Your own update rule: an actor-critic that learns the lambda of its GAE.

    python -m examples.own_rule --meta_steps=50

A rule is one file with a function `make`, and one row in the registry. This one
has two parameters, which meta-training changes: lambda of generalised advantage
estimation, and the size of the policy's update. The program meta-trains them on
short chains, whose reward comes at the end of an episode, and prints both. Then
new agents learn by the rule.
"""

import argparse

import jax
import jax.numpy as jnp

import lpg_distributed as lpg
from lpg_distributed.core import distributions
from lpg_distributed.core.update_rules import base
from lpg_distributed.core.update_rules import registry

NAME = 'learned_lambda'
_ROW = registry.Row('examples.own_rule')


def _init(key):
  """Draws eta: lambda begins near 1/2, and the size near 1."""
  return {'lambda': 0.1 * jax.random.normal(key), 'log_size': jnp.zeros(())}


def describe(eta):
  """lambda and the size of updates, of eta [2]; its fields are sorted."""
  return {'lambda': float(jax.nn.sigmoid(eta[0])),
          'size': float(jnp.exp(eta[1]))}


def _compute_targets(eta, experience, hyper):
  # The critic learns V(s), in meta-training; in meta-testing the agent does.
  returns = base.value_targets(experience, hyper._replace(
      td_lambda=jax.nn.sigmoid(eta['lambda'])))  # [T, ...]
  advantage = returns - experience.output.value[:-1]
  return base.Targets(pi_hat=jnp.exp(eta['log_size']) * advantage,
                      value=returns), {'advantage': advantage}


def _loss(output, action, targets, hyper):
  log_pi = distributions.log_probability(output.logits, action)
  return -log_pi * targets.pi_hat + base.value_loss(output, targets, hyper)


def make(config=None, network=None):
  """Makes the rule; it needs neither sizes nor a network."""
  del config, network
  return base.UpdateRule(
      outputs=base.Outputs(value=True), compute_targets=_compute_targets,
      loss=_loss, init=_init,
      y_input=lambda experience: experience.output.value[..., None])


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--meta_steps', type=int, default=50)
  parser.add_argument('--env_steps', type=int, default=50_000,
                      help='steps of the agent that learns by the rule')
  parser.add_argument('--run_dir', default='runs/own_rule')
  parser.add_argument('--set', action='append', default=[],
                      help='a field of the configuration, as meta.num_envs=4')
  flags = parser.parse_args(argv)

  registry.RULES[NAME] = _ROW  # From here on the rule is known by its name.
  config = lpg.load_config(
      'demo', f'rule.kind={NAME}', f'run.meta_steps={flags.meta_steps}',
      'environments=chain_short', 'evaluator.enabled=false', *flags.set)
  print('untrained', describe(lpg.create_rule(config=config.rule).eta))
  rule = lpg.meta_train(config, flags.run_dir)
  print('trained', describe(rule.eta))
  agents = lpg.meta_test(rule, 'gymnax/Catch-bsuite',
                         env_steps=flags.env_steps, learning_rate=0.005)
  print('final return on Catch', agents.final_returns)


if __name__ == '__main__':
  main()
