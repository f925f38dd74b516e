"""Counts the floating-point operations (FLOPs) of one environment step by hand.

Only matrix products count, each multiplication and each addition as one FLOP.
Operations that are computed again to save memory do not count. A backward pass
costs twice the forward pass, without the gradient of the observation, which is
not needed.

The rule costs its forward and its backward pass. An agent that is a table costs
nothing. An agent with a network costs:

- a forward pass to act
- a forward and a backward pass for its update
- twice as much for the reverse pass of the update, a second derivative
- a forward and a backward pass of the critic
- a forward and a backward pass for the meta-loss, once in K updates
"""

from typing import NamedTuple

from lpg_distributed import config as config_lib
from lpg_distributed.core import rule_inputs

# Width of x_t without the age; two are phi(y(s_t)) and phi(y(s_{t+1})).
_RULE_INPUTS = len(rule_inputs.INPUTS) + 2


class Work(NamedTuple):
  """FLOPs of a meta-step, per environment step."""
  rule: float
  agent: float

  @property
  def total(self) -> float:
    return self.rule + self.agent


def rule_forward(config: config_lib.RuleConfig, num_steps: int) -> float:
  """Returns the FLOPs of one step of the rule's forward pass.

  phi is computed for T + 1 states in T steps.
  """
  m, e, h = config.num_predictions, config.embedding_size, config.lstm_size
  phi = (m * e + e) * (num_steps + 1) / num_steps
  age = len(rule_inputs.names(config)) - len(rule_inputs.INPUTS)
  return 2. * (phi + (_RULE_INPUTS + age + h) * 4 * h + h * (1 + m))


def network_layers(config: config_lib.AgentConfig,
                   observation_shape: tuple[int, ...],
                   num_outputs: int) -> list[float]:
  """Returns the forward FLOPs of each layer for one state, first to last."""
  layers, shape = [], tuple(observation_shape)
  for filters in config.conv:
    height, width, channels = shape
    layers.append(2. * height * width * 9 * channels * filters)
    shape = (height, width, filters)
  features = 1
  for n in shape:
    features *= n
  for units in config.dense + (num_outputs,):
    layers.append(2. * features * units)
    features = units
  return layers


def _forward_and_backward(layers: list[float]) -> tuple[float, float]:
  return sum(layers), 2. * sum(layers) - layers[0]


def meta_step(config: config_lib.Config, agent: config_lib.AgentConfig,
              observation_shape: tuple[int, ...], num_actions: int) -> Work:
  """Counts the FLOPs of a meta-step of one kind, per environment step."""
  rule = 3. * rule_forward(config.rule, config.meta.trajectory_steps)
  if agent.is_table:
    return Work(rule, 0.)
  forward, backward = _forward_and_backward(network_layers(
      agent, observation_shape, num_actions + config.rule.num_predictions))
  critic = sum(_forward_and_backward(
      network_layers(agent, observation_shape, 1)))
  both = forward + backward
  return Work(rule, forward + 3. * both + critic
              + both / config.meta.num_updates)
