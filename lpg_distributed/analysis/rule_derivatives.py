"""Computes derivatives of a rule's outputs by its inputs at later steps."""

import jax
import jax.numpy as jnp

from lpg_distributed import config as config_lib
from lpg_distributed.analysis import evaluation
from lpg_distributed.core import lpg_network
from lpg_distributed.core import meta_gradient
from lpg_distributed.core import rule_inputs as inputs_lib
from lpg_distributed.core import rule_vector
from lpg_distributed.core import train_agents
from lpg_distributed.core.update_rules import registry

# From the name of an input in results to a field of `rule_inputs.RuleInput`, or
# to phi(y).
INPUTS = {'reward': 'reward', 'probability': 'action_probability',
          'phi': 'phi', 'age': 'relative_age', 'lifetime': 'log_lifetime'}
# The deviations of inputs that all agents share in one update: that of an age
# uniform over the lifetime, and a lifetime longer by a factor e.
_DEVIATIONS = {'age': 12. ** -0.5, 'lifetime': 1.}
_STREAM = 3  # see `evaluation.held_out_key`; other modules use other numbers


def held_out_key(seed: int) -> jax.Array:
  """Key of held-out agents, which training does not use."""
  return evaluation.held_out_key(seed, _STREAM)


def rule_inputs(config: config_lib.Config, environment: str,
                eta: jax.Array, key: jax.Array, num_lifetimes: int,
                arm_log_probs: jax.Array, updates: int) -> inputs_lib.RuleInput:
  """Returns the rule's inputs, [T, N], after `updates` updates of agents."""
  kinds: list[meta_gradient.Kind] = []

  def make(kind):
    kinds.append(kind)
    return train_agents.make_learner(config, kind, eta)

  _, (task, progress) = train_agents.simulate(
      config, environment, make, key, num_lifetimes, arm_log_probs, updates)
  return inputs_lib.flatten(train_agents.rule_inputs_of(
      config, kinds[0], task, progress))


def _outputs(config: config_lib.RuleConfig, eta, inputs):
  """Returns pi_hat [T, N, 1] and y_hat [T, N, M]; M is 0 for LPG-V.

  It uses the plain form of the rule, since the fast form has a hand-written
  reverse pass and so no forward-mode derivative.
  """
  targets = lpg_network.apply_reference(eta, config, inputs)
  pi_hat = targets.pi_hat[..., None]
  if targets.y_hat_logits is None:
    return pi_hat, jnp.zeros((*pi_hat.shape[:2], 0))
  represent = registry.make_learned(config).predictions.represent
  return pi_hat, represent(targets.y_hat_logits)


def _phi_direction(eta, y):
  """Returns the change of y that increases phi(y) by 1, [T+1, N, M].

  It is 0 where phi does not depend on y.
  """
  slope = jax.grad(lambda y: jnp.sum(lpg_network.embed(eta, y)))(y)
  square = jnp.sum(jnp.square(slope), axis=-1, keepdims=True)
  return jnp.where(square > 0., slope / jnp.maximum(square, 1e-12), 0.)


def kernels(config: config_lib.RuleConfig, vector: jax.Array,
            inputs: inputs_lib.RuleInput) -> dict[str, jax.Array]:
  """Computes derivatives of outputs at t by inputs at t + k.

  Args:
    config: sizes of the rule.
    vector: [P], eta.
    inputs: [T, N], see `rule_inputs`.

  Returns:
    'OUTPUT/INPUT': [K], for k from 0. For pi_hat it is the mean derivative, for
    y_hat the mean norm of the derivative. For phi, K is T+1: k = 0 is
    phi(y(s_t)), and k = 1 is phi(y(s_t+1)).
    'deviation/INPUT': the standard deviation of that input over steps; of the
    age and the lifetime, `_DEVIATIONS`.

    The age and the lifetime are there only if the rule sees them.
  """
  eta = rule_vector.unravel(config, vector)
  inputs = jax.tree_util.tree_map(jnp.asarray, inputs)
  num_steps = inputs.reward.shape[0]
  direction = _phi_direction(eta, inputs.y)

  def move(name, s, e):
    """Returns the inputs, with `name` at step s increased by e."""
    if name == 'phi':
      return inputs._replace(y=inputs.y.at[s].add(e * direction[s]))
    return inputs._replace(**{name: getattr(inputs, name).at[s].add(e)})

  # Whether no episode ended between t and s: d_t .. d_{s-1} are all 1.
  def connected(t, s):
    steps = jnp.arange(num_steps)
    between = (steps >= t) & (steps < s)
    return jnp.all((inputs.discount_t > 0.) | ~between[:, None], axis=0)

  result = {}
  for name, field in INPUTS.items():
    if field != 'phi' and getattr(inputs, field) is None:
      continue
    length = num_steps + (field == 'phi')

    def by_step(s, field=field):
      """Derivatives of outputs at all steps t by the input at s: [T, N, .]."""
      return jax.jvp(lambda e: _outputs(config, eta, move(field, s, e)),
                     (jnp.float32(0.),), (jnp.float32(1.),))[1]

    pi_hat, y_hat = jax.lax.map(by_step, jnp.arange(length))  # [s, t, N, .]
    t, s = jnp.arange(num_steps)[None, :], jnp.arange(length)[:, None]
    valid = jax.vmap(lambda s: jax.vmap(lambda t: connected(t, s))(
        jnp.arange(num_steps)))(jnp.arange(length))  # [s, t, N]
    lag = s - t
    for output, derivative in (
        ('pi_hat', pi_hat[..., 0]),
        ('y_hat', jnp.sqrt(jnp.sum(jnp.square(y_hat), axis=-1)))):
      def mean_at(k, derivative=derivative):
        chosen = valid & (lag == k)[..., None]
        return jnp.sum(jnp.where(chosen, derivative, 0.)) / jnp.maximum(
            jnp.sum(chosen), 1)
      result[f'{output}/{name}'] = jax.vmap(mean_at)(jnp.arange(length))
    result[f'deviation/{name}'] = jnp.asarray(_DEVIATIONS.get(name, jnp.std(
        lpg_network.embed(eta, inputs.y) if field == 'phi'
        else getattr(inputs, field))))
  return result
