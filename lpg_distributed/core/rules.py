"""Update rules for meta-testing: LPG and what it is compared with.

A rule says what an agent learns from a trajectory. All of them go through one
learner (`meta_test.make_learner`), so that a comparison is the same code with
another rule:

* `lpg`: Eq. (7) with a given eta.
* `random`: the same with an eta that was drawn and never trained; the control
  that says what the form of the update does by itself.
* `a2c`: advantage actor-critic (Mnih et al., 2016) with lambda-returns.
* `lpg_v`: LPG-V of Section 4.1. The policy's part of the rule is learned; in
  place of predictions it sees V(s), trained by TD(lambda).
"""

import dataclasses
from typing import Any, Callable, Mapping, NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from lpg_distributed import types
from lpg_distributed.core import agent_update
from lpg_distributed.core import lpg_network

NAMES = ('lpg', 'random', 'a2c', 'lpg_v')
# Those that compute their targets with an eta.
LEARNED = ('lpg', 'random', 'lpg_v')


@dataclasses.dataclass(frozen=True)
class Settings:
  """How an agent learns; the defaults are those of Table 4."""
  num_predictions: int = 30  # M, as the rule has it
  optimiser: str = 'adam'
  learning_rate: float = 5e-4  # alpha_lr
  kl_cost: float = 0.5  # alpha_y; lpg and random
  discount: float = 0.995  # gamma
  trajectory_steps: int = 20  # T
  use_baseline: bool = True  # Eq. (7) or Eq. (2); not in a2c
  # Rewards are multiplied with this before the rule sees them: what a learned
  # rule can say of values has an end (paper silent).
  reward_scale: float = 1.
  # And then clipped to [-x, x], as is the custom on Atari (paper silent); 0:
  # not at all.
  max_abs_reward: float = 1.
  # Of a2c and of lpg_v's value function (paper silent).
  td_lambda: float = 0.95
  value_cost: float = 0.5  # weight of half the squared error
  entropy_cost: float = 0.01  # of a2c; Mnih et al. (2016)


class Output(NamedTuple):
  """What an agent says of a state; None where its rule has no such head."""
  agent: types.AgentOutput  # [..., A], and [..., M] or None
  value: Optional[chex.Array] = None  # [...], V(s), an estimate of return
  baseline: Optional[chex.Array] = None  # [...], f(s) of Eq. (7)


class Experience(NamedTuple):
  """T steps, and what the agent said of them as it took them."""
  trajectory: types.Trajectory  # rewards raw
  output: Output  # leaves [T+1, B, ...]


class ValueTargets(NamedTuple):
  """What a2c and lpg_v ask of an agent."""
  weight: chex.Array  # [T, B], of log pi: the advantage, or pi_hat
  value: chex.Array  # [T, B], what V(s) shall become


# Any tree with leaves [T, B, ...]: `LPGTargets` or `ValueTargets`.
Targets = Any


class UpdateRule(NamedTuple):
  """A rule as pure functions; all that a learner knows of it."""
  name: str  # one of NAMES; results carry it
  # Widths of the agent's outputs beside the policy's.
  num_predictions: int  # M; 0: none
  has_value: bool  # V(s)
  has_baseline: bool  # f(s)
  # (eta, Experience with clipped rewards) -> (Targets, metrics). Constants to
  # the agent's gradient. `eta` is () for a2c.
  compute_targets: Callable[[Any, Experience],
                            tuple[Targets, Mapping[str, chex.Array]]]
  # (Output [t, B, ...], action [t, B], Targets [t, B, ...]) -> [t, B], the
  # loss of each step, to descend.
  loss: Callable[[Output, chex.Array, Targets], chex.Array]


def entropy(logits: chex.Array) -> chex.Array:
  """H of categorical distributions over the last axis, nats."""
  log_p = jax.nn.log_softmax(logits)
  return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def _lambda_returns(experience: Experience, settings: Settings) -> chex.Array:
  # Here, since it brings RLax, and that TensorFlow, which LPG does not need.
  from lpg_distributed.core import critic
  return critic.lambda_returns(
      experience.trajectory, experience.output.value, settings.discount,
      settings.td_lambda)


def _baseline_loss(log_pi: chex.Array, pi_hat: chex.Array,
                   baseline: Optional[chex.Array]) -> chex.Array:
  """The terms of Eq. (7) without y, negated; Eq. (2)'s without `baseline`."""
  if baseline is None:
    return -log_pi * pi_hat
  return (-log_pi * (pi_hat - jax.lax.stop_gradient(baseline))
          + 0.5 * jnp.square(baseline - pi_hat))


def lpg(settings: Settings,
        apply: Callable[..., types.LPGTargets] = lpg_network.apply,
        name: str = 'lpg') -> UpdateRule:
  """Eq. (7), or Eq. (2) without its baseline.

  Args:
    settings: static.
    apply: (eta, RuleInput) to targets.
    name: `random` for an eta that is not trained.
  """
  def compute_targets(eta, experience):
    trajectory, output = experience
    inputs = agent_update.rule_input(
        output.agent, trajectory, jnp.float32(settings.discount))
    targets = apply(eta, inputs)
    kl = agent_update.kl_divergence(output.agent.y_logits[:-1],
                                    targets.y_hat_logits)
    return targets, {
        'y_entropy': jnp.mean(entropy(output.agent.y_logits[:-1])),
        'kl': jnp.mean(kl),
        'pi_hat_square': jnp.mean(jnp.square(targets.pi_hat)),
        'value': jnp.mean(output.baseline[:-1]),
    }

  def loss(output, action, targets):
    log_pi = agent_update.log_probability(output.agent.logits, action)
    kl = agent_update.kl_divergence(output.agent.y_logits,
                                    targets.y_hat_logits)
    baseline = output.baseline if settings.use_baseline else None
    return (_baseline_loss(log_pi, targets.pi_hat, baseline)
            + settings.kl_cost * kl)

  return UpdateRule(name, settings.num_predictions, False, True,
                    compute_targets, loss)


def a2c(settings: Settings) -> UpdateRule:
  """Advantage actor-critic with an entropy bonus; it has no eta."""
  def compute_targets(eta, experience):
    del eta
    value = experience.output.value[:-1]
    returns = _lambda_returns(experience, settings)
    advantage = returns - value
    return ValueTargets(advantage, returns), {
        'advantage_square': jnp.mean(jnp.square(advantage)),
        'value': jnp.mean(value),
    }

  def loss(output, action, targets):
    log_pi = agent_update.log_probability(output.agent.logits, action)
    return (-log_pi * targets.weight
            + settings.value_cost * 0.5 * jnp.square(
                output.value - targets.value)
            - settings.entropy_cost * entropy(output.agent.logits))

  return UpdateRule('a2c', 0, True, False, compute_targets, loss)


def lpg_v(settings: Settings,
          apply: Callable[..., chex.Array] = lpg_network.apply_policy
          ) -> UpdateRule:
  """LPG-V: pi_hat by eta from V(s), and V(s) by TD(lambda).

  Args:
    settings: static.
    apply: (eta, RuleInput) to pi_hat [T, B]; `y` of the input is V(s),
      [T+1, B, 1]. Of eta, see `config.RuleConfig.kind`.
  """
  def compute_targets(eta, experience):
    trajectory, output = experience
    log_pi = agent_update.log_probability(output.agent.logits[:-1],
                                          trajectory.action)
    pi_hat = apply(eta, types.RuleInput(
        trajectory.reward, trajectory.discount_t,
        jnp.full_like(trajectory.reward, settings.discount),
        jnp.exp(log_pi), output.value[..., None]))
    returns = _lambda_returns(experience, settings)
    return ValueTargets(pi_hat, returns), {
        'pi_hat_square': jnp.mean(jnp.square(pi_hat)),
        'value': jnp.mean(output.value[:-1]),
    }

  def loss(output, action, targets):
    log_pi = agent_update.log_probability(output.agent.logits, action)
    baseline = output.baseline if settings.use_baseline else None
    return (_baseline_loss(log_pi, targets.weight, baseline)
            + settings.value_cost * 0.5 * jnp.square(
                output.value - targets.value))

  return UpdateRule('lpg_v', 0, True, True, compute_targets, loss)


def make(name: str, settings: Settings) -> UpdateRule:
  """The rule called `name`.

  Raises:
    ValueError: there is none; the message is one line.
  """
  if name not in NAMES:
    raise ValueError(f'there is no rule {name!r}; allowed: '
                     f'{", ".join(NAMES)}')
  if name in ('lpg', 'random'):
    return lpg(settings, name=name)
  return {'a2c': a2c, 'lpg_v': lpg_v}[name](settings)
