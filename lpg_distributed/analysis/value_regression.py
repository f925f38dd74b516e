"""Trains small networks to regress values from predictions, for Figure 5."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

_HIDDEN = 32
_LEARNING_RATE = 0.01


def _forward(x):
  return hk.nets.MLP([_HIDDEN, 1])(x)[..., 0]


@functools.partial(jax.jit, static_argnums=4)
def _fit(x, targets, test_x, test_targets, steps):
  """Fits J networks from x [J, n, F] to targets [J, n]; returns test errors."""
  network = hk.without_apply_rng(hk.transform(_forward))
  schedule = optax.cosine_decay_schedule(_LEARNING_RATE, steps)
  optimiser = optax.adam(schedule)

  def one(x, targets, test_x, test_targets):
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, test_x = (x - mean) / scale, (test_x - mean) / scale
    centre, spread = targets.mean(), targets.std() + 1e-6
    wanted = (targets - centre) / spread
    params = network.init(jax.random.PRNGKey(0), x)

    def loss(params):
      return jnp.mean(jnp.square(network.apply(params, x) - wanted))

    def step(carry, _):
      params, state = carry
      updates, state = optimiser.update(jax.grad(loss)(params), state)
      return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)),
                                  None, steps)
    predicted = network.apply(params, test_x) * spread + centre
    return jnp.square(predicted - test_targets)

  return jax.vmap(one)(x, targets, test_x, test_targets)


def errors(x: np.ndarray, targets: np.ndarray, is_test: np.ndarray,
           visited: np.ndarray, steps: int = 1000) -> np.ndarray:
  """Trains networks with one hidden layer; returns errors on held-out worlds.

  Args:
    x: [R, W, F, M], inputs at R records, in W worlds of F cells.
    targets: [D, W, F], true values at D discounts.
    is_test: [W] bool, held-out worlds; networks are trained on the others.
    visited: [W, F] bool; other cells are left out.
    steps: steps of Adam, each on all examples.

  Returns:
    Squared errors, [R, D, test worlds], means over a world's cells.
  """
  num_gammas = len(targets)
  result = []
  train = visited & ~is_test[:, None]
  test_worlds = visited[is_test]
  for record in x:  # One after another, to limit memory.
    repeat = lambda a: jnp.asarray(np.broadcast_to(
        a, (num_gammas, *a.shape)), jnp.float32)
    squares = np.asarray(_fit(
        repeat(record[train]), jnp.asarray(targets[:, train], jnp.float32),
        repeat(record[is_test].reshape(-1, record.shape[-1])),
        jnp.asarray(targets[:, is_test].reshape(num_gammas, -1),
                    jnp.float32), steps), np.float64)
    squares = squares.reshape(num_gammas, *test_worlds.shape)
    result.append(np.sum(squares * test_worlds, axis=-1)
                  / test_worlds.sum(axis=-1))
  return np.stack(result)
