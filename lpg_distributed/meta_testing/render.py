"""Renders an episode of a trained agent as an animated image.

Gymnasium's environments render themselves. For others the agent's observation
is drawn, if it is an image: frames, planes or a grid. Gymnax's CartPole is
drawn from the position and the angle in its observation.
"""

import os
from typing import Any, Callable, Iterator, Optional

from dm_env import specs
import jax
import jax.numpy as jnp
import numpy as np

from lpg_distributed import errors
from lpg_distributed.core import observation_networks
from lpg_distributed.envs import registry
from lpg_distributed.meta_testing import agent_checkpoint as checkpoint_lib
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import learner as learner_lib
from lpg_distributed.meta_testing import loading
from lpg_distributed.store import policy_file

_SIDE = 160  # smallest side of an image in pixels
_FRAME_MS = 60
MAX_STEPS = 500
_SEED_FOLD = 0x676966  # makes the episode differ from those of training
# Colours of the planes: Okabe and Ito (2008).
_COLOURS = np.array([
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167),
    (86, 180, 233), (230, 159, 0), (240, 228, 66), (160, 160, 160)], np.uint8)


class RenderError(errors.UserError, ValueError):
  """The episode cannot be drawn; the message is one line."""


def _draw_cart_pole(observation: np.ndarray) -> np.ndarray:
  from PIL import Image
  from PIL import ImageDraw
  image = Image.new('RGB', (160, 100), 'white')
  draw = ImageDraw.Draw(image)
  x, angle = 80. + 30. * float(observation[0]), float(observation[2])
  draw.line((0, 80, 160, 80), fill='black')
  draw.rectangle((x - 12, 72, x + 12, 84), fill=tuple(_COLOURS[0]))
  draw.line((x, 74, x + 50. * np.sin(angle), 74 - 50. * np.cos(angle)),
            fill=tuple(_COLOURS[1]), width=4)
  return np.asarray(image)


def _make_image_function(environment: str, spec: specs.Array
             ) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a function from an observation to an RGB image [H, W, 3] of bytes.

  Raises:
    RenderError: observations of `spec` are not images.
  """
  if environment == 'gymnax/CartPole-v1':
    return _draw_cart_pole
  kind = observation_networks.kind(spec)
  grey = lambda x: np.repeat(x[..., None], 3, axis=-1)
  if kind == 'frames':
    return lambda x: grey(np.asarray(x[-1], np.uint8))
  if kind == 'planes':
    num_planes = spec.shape[2]
    if num_planes > len(_COLOURS):
      raise RenderError(f'{environment} has {num_planes} planes; allowed: up '
                        f'to {len(_COLOURS)}')

    def paint(x):
      image = np.zeros(x.shape[:2] + (3,), np.uint8)
      for i in range(num_planes):
        image[x[..., i] > 0] = _COLOURS[i]
      return image

    return paint
  if len(spec.shape) == 2:
    return lambda x: grey(np.uint8(
        255. * np.clip(np.asarray(x, np.float32), 0., 1.)))
  raise RenderError(f'observations of {environment} have shape '
                    f'{tuple(spec.shape)}, which is not an image; allowed: '
                    'images, grids, and gymnasium\'s environments, which '
                    'render themselves')


def _make_host(job: jobs.Job, loaded: registry.LoadedEnvironment):
  """Returns a batch of one environment, and a function that draws it.

  The function maps an observation to an RGB image [H, W, 3] of bytes.
  """
  kind, name = registry.split(job.environment)
  if kind != 'gymnasium':
    batch = loaded.make_host(1)
    paint = _make_image_function(job.environment, batch.observation_spec())
    return batch, lambda observation: paint(observation)
  from lpg_distributed.envs import host_batch
  made = []

  def factory():
    made.append(registry.make_gymnasium(name, render_mode='rgb_array'))
    return made[-1]

  def paint(observation):
    del observation
    try:
      return np.asarray(made[-1].render(), np.uint8)
    except Exception as error:  # For example no pygame, or no display.
      reason = ' '.join(str(error).split())
      raise RenderError(f'gymnasium cannot draw {name} ({reason})') from None

  return host_batch.HostBatch(factory, 1, job.environment), paint


def _host_frames(job, loaded, theta, key, max_steps) -> Iterator[np.ndarray]:
  batch, paint = _make_host(job, loaded)
  try:
    learner = _learner(job, batch)
    observation = batch.reset(int(jax.random.randint(key, (), 0, 2 ** 30)))
    for t in range(max_steps):
      yield paint(observation[0])
      action, _ = learner.act(theta, observation, key, np.int32(t))
      step = batch.step(np.asarray(action))
      observation = step.observation
      if not step.discount[0]:
        return
  finally:
    batch.close()


def _jax_frames(job, environment, theta, key, max_steps
                ) -> Iterator[np.ndarray]:
  paint = _make_image_function(job.environment, environment.observation_spec())
  learner = _learner(job, environment)
  params = environment.init_params(key)
  state, observation = environment.reset(params, key)
  step = jax.jit(environment.step)
  for t in range(max_steps):
    yield paint(np.asarray(observation))
    action, _ = learner.act(theta, observation[None], key, np.int32(t))
    state, timestep = step(params, state, action[0],
                           jax.random.fold_in(key, t))
    observation = timestep.observation
    if not timestep.discount:
      return


def _learner(job: jobs.Job, environment: Any) -> learner_lib.Learner:
  return learner_lib.make_learner(
      loading.make_network(environment.observation_spec()),
      int(environment.action_spec().num_values), job.settings,
      loading.make_rule(job))


def _load_agent(job: jobs.Job, directory: str, seed: int,
                environment: Any) -> Any:
  path = policy_file.path_in(directory, seed)
  if os.path.exists(path):
    return policy_file.load(path).theta
  # Jobs before 0.1.0 kept a checkpoint there.
  saved = checkpoint_lib.load(os.path.dirname(path))
  if saved is None:
    raise RenderError(f'{directory} has no trained agent of seed {seed} yet')
  init = _learner(job, environment).init
  like = jax.eval_shape(init, jax.random.PRNGKey(0)).theta
  return jax.tree_util.tree_map(
      jnp.asarray, checkpoint_lib.restore(saved, like))


def _enlarge(frame: np.ndarray) -> np.ndarray:
  times = -(-_SIDE // min(frame.shape[:2]))
  return np.repeat(np.repeat(frame, times, axis=0), times, axis=1)


def check(job: jobs.Job, path: str) -> None:
  """Raises RenderError if the job's agents cannot be drawn to `path`."""
  if not path.endswith('.gif'):
    raise RenderError(f'{path} is not a GIF image; allowed: a name that ends '
                      'with .gif')
  loaded = loading.load_environment(job)
  if loaded.jax is not None:
    _make_image_function(job.environment, loaded.jax.observation_spec())
    return
  batch, paint = _make_host(job, loaded)
  try:
    paint(batch.reset(0)[0])
  finally:
    batch.close()


def render(job: jobs.Job, directory: str, path: str,
           seed: Optional[int] = None, max_steps: int = MAX_STEPS) -> int:
  """Plays an episode with an agent of a finished job, and draws it.

  Args:
    job: the job.
    directory: directory of the job's files.
    path: path of the image, `.gif`.
    seed: seed of the agent; None: the first of the job.
    max_steps: largest number of steps that are drawn.

  Returns:
    The number of frames.

  Raises:
    RenderError: there is no such agent, observations are not images, or `path`
      cannot be written.
  """
  check(job, path)
  from PIL import Image
  loaded = loading.load_environment(job)
  seed = job.seeds[0] if seed is None else seed
  key = jax.random.fold_in(jax.random.PRNGKey(seed), _SEED_FOLD)
  if loaded.jax is not None:
    theta = _load_agent(job, directory, seed, loaded.jax)
    frames = _jax_frames(job, loaded.jax, theta, key, max_steps)
  else:
    batch = loaded.make_host(1)
    theta = _load_agent(job, directory, seed, batch)
    batch.close()
    frames = _host_frames(job, loaded, theta, key, max_steps)
  images = [Image.fromarray(_enlarge(frame)) for frame in frames]
  try:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:],
                   duration=_FRAME_MS, loop=0)
  except OSError as error:
    raise RenderError(f'{path} cannot be written: {error}') from None
  return len(images)
