"""Floating-point operations of one environment step, on paper.

Products of matrices only, a multiplication and an addition each. What the
mathematics needs is counted, not what is computed again to save memory:
- the rule: forward and backward, so three times its forward pass;
- an agent with a network: acting; per update a forward and a backward pass,
  and twice that for its reverse, which is a second derivative; the outer
  critic, forward and backward; a K-th of the outer loss, the same. A backward
  pass costs twice a forward pass, less what the first layer would hand to the
  observation. Tables cost nothing.
"""

from typing import NamedTuple

from lpg_distributed import config as config_lib
from lpg_distributed.core import rule_inputs

_RULE_INPUTS = len(rule_inputs.INPUTS) + 2  # and phi(y_t), phi(y_{t+1})


class Work(NamedTuple):
  """FLOPs per environment step of a full meta-step."""
  rule: float
  agent: float

  @property
  def total(self) -> float:
    return self.rule + self.agent


def rule_forward(config: config_lib.RuleConfig, num_steps: int) -> float:
  """One step of the rule; phi is computed for T + 1 states per T steps."""
  m, e, h = config.num_predictions, config.embedding_size, config.lstm_size
  phi = (m * e + e) * (num_steps + 1) / num_steps
  return 2. * (phi + (_RULE_INPUTS + h) * 4 * h + h * (1 + m))


def network_layers(config: config_lib.AgentConfig,
                   observation_shape: tuple[int, ...],
                   num_outputs: int) -> list[float]:
  """Forward FLOPs of each layer, first to last, for one state."""
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
  """Counts the work of one environment step of one kind of lifetime."""
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
