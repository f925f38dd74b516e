"""Speed of meta-testing on Atari: frames per second of the whole and parts.

One process measures these in turn on the same cores, the best of several turns:

  whole      `host_loop.train`, as meta-testing runs it
  emulation  the same environments in the same threads, under random actions
  network    `whole` with environments that cost nothing: acting, the rule and
             learning
  plain      `network` without the activations that acting keeps, so that
             learning runs its own forward pass
  limit      the speed of the network if its matrix products were as fast as a
             large one, in as many threads

Emulation and network compete for the cores. So the whole is at most as fast as
one after the other with no core idle: `both` is 1 / (1 / emulation + 1 /
network). `..._processor_us` is processor time per environment step, which a
busy machine disturbs less. From the repository's root:

  python -m benchmarks.atari [--threads=N] [--rule=NAME] [--output=FILE]
"""

from concurrent import futures
import os
import time
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from benchmarks import arguments
from lpg_distributed import processors
from lpg_distributed.core.update_rules import registry
from lpg_distributed.launch import process_environment

_NUM_ENVS = 30  # Table 4
_NUM_STEPS = 20
_FRAMES = 4  # frames per step


def network_flops(num_actions: int, num_predictions: int) -> float:
  """Counts the FLOPs of one environment step by hand: matrix products only.

  One forward pass serves acting and learning; each 20th state, the last of a
  trajectory, needs another one. The backward pass takes twice the forward pass,
  less a share of the first layer, whose input needs no gradient.
  """
  outputs = num_actions + num_predictions + 1
  layers = [2. * 20 * 20 * 8 * 8 * 4 * 32, 2. * 9 * 9 * 4 * 4 * 32 * 64,
            2. * 7 * 7 * 3 * 3 * 64 * 64, 2. * 3136 * 512, 2. * 512 * outputs]
  forward = sum(layers)
  return forward * (1. + 1. / _NUM_STEPS) + 2. * forward - layers[0]


class _FrozenEnvironments:
  """Environments that cost nothing: each step repeats the first one."""

  def __init__(self, environment):
    self.num_envs = environment.num_envs
    self.frames_per_step = environment.frames_per_step
    self.observation_spec = environment.observation_spec
    self.action_spec = environment.action_spec
    self._frames = environment.reset(0)
    self._step = None
    self._environment = environment

  def reset(self, seed):
    del seed
    return self._frames

  def step(self, actions):
    if self._step is None:
      self._step = self._environment.step(actions)
    return self._step

  def close(self):
    self._environment.close()


class _Best(NamedTuple):
  """Shortest time of a trajectory of 600 steps, in seconds.

  `clock` is elapsed time, `processor` that of all processors together.
  """
  clock: float = float('inf')
  processor: float = float('inf')

  def better(self, since: tuple[float, float]) -> '_Best':
    """Returns the minimum of this and a trajectory that began at `since`."""
    return _Best(*(min(best, now - then) for best, now, then in zip(
        self, _now(), since)))


def _now() -> tuple[float, float]:
  return time.perf_counter(), time.process_time()


def _turn(training, seconds: float, best: _Best) -> _Best:
  """Runs whole trajectories for `seconds`; returns the updated best times."""
  begin = last = _now()
  for progress in training:
    if progress.metrics is None:
      continue
    best, last = best.better(last), _now()
    if last[0] - begin[0] >= seconds:
      break
  return best


def _emulate(pool, groups, seconds: float, best: _Best) -> _Best:
  """Like `_turn`, but only emulates, under random actions."""
  import numpy as np
  actions = [np.random.default_rng(i).integers(
      0, group.action_spec().num_values, (_NUM_STEPS, group.num_envs))
      for i, group in enumerate(groups)]

  def play(group, actions):
    for action in actions:
      group.step(action)

  begin = time.perf_counter()
  while time.perf_counter() - begin < seconds:
    start = _now()
    list(pool.map(play, groups, actions))
    best = best.better(start)
  return best


def _gemm(pool, num_threads: int, repeats: int = 20) -> float:
  """Returns the best FLOP/s of a matrix product, of all threads together."""
  import jax
  import jax.numpy as jnp
  m, k, n = 1024, 256, 1024
  a, b = jnp.ones((m, k)), jnp.ones((k, n))
  product = jax.jit(lambda a, b: a @ b).lower(a, b).compile()

  def several(_):
    for _ in range(8):
      product(a, b).block_until_ready()

  best = float('inf')
  for _ in range(repeats):
    start = time.perf_counter()
    list(pool.map(several, range(num_threads)))
    best = min(best, time.perf_counter() - start)
  return num_threads * 8 * 2. * m * k * n / best


def _rule_seconds(learner, eta, hyper, num_actions: int) -> float:
  """Returns the best time to compute a trajectory's targets, in seconds."""
  import jax
  import numpy as np

  from lpg_distributed import types
  from lpg_distributed.core.update_rules import base
  rng = np.random.default_rng(0)
  shape = (_NUM_STEPS, _NUM_ENVS)
  theta = jax.eval_shape(learner.init, jax.random.PRNGKey(0)).theta
  rows = rng.normal(size=(_NUM_STEPS + 1, _NUM_ENVS,
                          theta['head']['b'].shape[0])).astype(np.float32)
  experience = base.Experience(
      types.Trajectory(None, rng.integers(0, num_actions, shape, np.int32),
                       np.ones(shape, np.float32),
                       np.ones(shape, np.float32)), learner.split(rows))
  best = float('inf')
  for _ in range(20):
    start = time.perf_counter()
    jax.block_until_ready(learner.compute_targets(eta, hyper, experience))
    best = min(best, time.perf_counter() - start)
  return best


def _make_learners(spec, num_actions: int, settings, rule):
  """Returns a learner that reuses activations, and one with a plain network."""
  from lpg_distributed.core import agent_networks
  from lpg_distributed.core import atari_network
  from lpg_distributed.meta_testing import learner as learner_lib
  make_network = lambda outputs: atari_network.make_network(spec, outputs)
  make_plain = lambda outputs: agent_networks.Network(
      *make_network(outputs)[:2])
  return tuple(learner_lib.make_learner(make, num_actions, settings, rule)
               for make in (make_network, make_plain))


def measure(game: str, rule: str, num_threads: int, turns: int,
            seconds: float, budget_s: float) -> dict[str, Any]:
  """Measures the whole and its parts; after `budget_s` no turn begins."""
  begin = time.perf_counter()
  # JAX is imported after the environment variables are set.
  import jax

  from benchmarks import timing
  from lpg_distributed import config as config_lib
  from lpg_distributed.envs import atari
  from lpg_distributed.meta_testing import host_loop
  from lpg_distributed.meta_testing import settings as settings_lib

  settings = settings_lib.AgentSettings(trajectory_steps=_NUM_STEPS)
  made = registry.make(rule, config_lib.RuleConfig())
  groups = atari.make_groups(game, _NUM_ENVS, num_threads)
  frozen = [_FrozenEnvironments(group) for group in atari.make_groups(
      game, _NUM_ENVS, num_threads)]
  spec = groups[0].observation_spec()
  num_actions = int(groups[0].action_spec().num_values)
  learner, plain = _make_learners(spec, num_actions, settings, made)
  eta = made.init(jax.random.PRNGKey(0)) if made.init else ()

  def run(environments, learner, best):
    training = host_loop.train(environments, learner, settings, eta, 0,
                               10 ** 12)
    next(item for item in training if item.metrics is not None)  # Compiles.
    best = _turn(training, seconds, best)
    training.close()
    return best

  load = os.getloadavg()[0]
  calls: dict[str, Callable[[_Best], _Best]] = {
      'emulation': lambda best: _emulate(pool, groups, seconds / 2, best),
      'network': lambda best: run(frozen, learner, best),
      'plain': lambda best: run(frozen, plain, best),
      'whole': lambda best: run(groups, learner, best)}
  found = dict.fromkeys(calls, _Best())
  gemm = 0.
  with futures.ThreadPoolExecutor(num_threads) as pool:
    for group in groups:
      group.reset(0)
    done = 0
    while not done or (done < turns
                       and time.perf_counter() - begin < budget_s):
      done += 1
      for name, call in calls.items():
        gemm = max(gemm, _gemm(pool, num_threads))
        found[name] = call(found[name])
  rule_s = _rule_seconds(learner, eta, settings.hyper(), num_actions)
  for group in (*groups, *frozen):
    group.close()
  return {
      'game': game, 'rule': rule, 'threads': num_threads,
      **_figures(found, gemm, rule_s, network_flops(
          num_actions, made.outputs.num_predictions)),
      'turns': done, 'load_before': load, **timing.machine()}


def _figures(found: Mapping[str, _Best], gemm: float, rule_s: float,
             flops: float) -> dict[str, float]:
  """Returns speeds and their ratios.

  Args:
    found: the best trajectory of the whole and of each part, by name.
    gemm: FLOP/s of a large matrix product.
    rule_s: seconds that the targets of a trajectory take.
    flops: FLOPs of one environment step.
  """
  frames = _NUM_ENVS * _NUM_STEPS * _FRAMES
  speed = {name: frames / best.clock for name, best in found.items()}
  processor = {name: best.processor for name, best in found.items()}
  limit = gemm / flops * _FRAMES
  both = 1. / (1. / speed['emulation'] + 1. / speed['network'])
  slower = min(speed['emulation'], speed['network'])
  return {
      **{f'{name}_frames_per_s': value for name, value in speed.items()},
      'limit_frames_per_s': limit, 'both_frames_per_s': both,
      'whole_over_slower': speed['whole'] / slower,
      'possible_over_slower': both / slower,
      'whole_over_both': speed['whole'] / both,
      'whole_over_plain': speed['whole'] / speed['plain'],
      'network_over_limit': speed['network'] / limit,
      **{f'{name}_processor_us': 1e6 * value / (_NUM_ENVS * _NUM_STEPS)
         for name, value in processor.items()},
      'processor_whole_over_parts': processor['whole'] / (
          processor['emulation'] + processor['network']),
      'rule_share': rule_s / processor['whole'],
      'mflop_per_step': flops / 1e6, 'gemm_gflops': gemm / 1e9}


def main(argv: Sequence[str] | None = None) -> None:
  parser = arguments.make_parser(__doc__)
  parser.add_argument('--game', default='breakout')
  parser.add_argument('--rule', default='lpg', choices=tuple(registry.RULES))
  parser.add_argument('--threads', type=arguments.positive,
                      default=processors.count())
  parser.add_argument('--turns', type=arguments.positive, default=5)
  parser.add_argument('--seconds', type=float, default=5.,
                      help='seconds of each measurement in a turn')
  parser.add_argument('--budget_s', type=float, default=120.,
                      help='seconds after which no new turn begins')
  args = parser.parse_args(argv)
  row = measure(args.game, args.rule, args.threads, args.turns, args.seconds,
                args.budget_s)
  for name, value in row.items():
    print(f'{name:<27}{value:,.3f}' if isinstance(value, float)
          else f'{name:<27}{value}')
  arguments.write(args, row)


if __name__ == '__main__':
  process_environment.ensure(process_environment.WORKER)
  main()
