"""A job reports the failure of its environment and keeps its results."""

import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.meta_testing import agent_checkpoint
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import loading
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from tests.meta_testing import session_testing

THIS = 'module/tests.meta_testing.test_failing_environments'


class Failing(session_testing.Corridor):
  """Raises in step 123, if asked to."""
  raises = True

  def reset(self):
    self._steps = getattr(self, '_steps', 0)
    return super().reset()

  def step(self, action):
    self._steps += 1
    if self.raises and self._steps == 123:
      raise RuntimeError('the simulator\nhas gone')
    return super().step(action)


def test_a_job_whose_environment_raises_can_be_resumed(tmp_path, monkeypatch):
  job = session_testing.make_job(f'{THIS}:Failing')
  directory = str(tmp_path / 'job')
  with pytest.raises(jobs.JobError) as info:
    session.run(job, directory)
  assert str(info.value) == (
      f'{THIS}:Failing: step raised RuntimeError: the simulator has gone; '
      'saved after 240 steps of seed 0; the same command resumes there')
  assert agent_checkpoint.load(directory).header['env_steps'] == 240
  rows = results.read(directory).rows
  assert [row['env_steps'] for row in rows][-1] == 240
  monkeypatch.setattr(Failing, 'raises', False)
  assert session.run(job, directory)
  assert [row['env_steps'] for row in results.read(directory).rows
          if row['seed'] == 0][:len(rows) + 1] == [
              *(row['env_steps'] for row in rows), 260]


class Unsound:
  """A JAX environment whose reward becomes infinite."""
  num_actions, num_states, max_episode_steps = 2, 400, 400

  def reset(self, params, key):
    return jnp.int32(0), jnp.int32(0)

  def step(self, params, state, action, key):
    ended = state == 299
    state = jnp.where(ended, 0, state + 1)
    return state, (state, jnp.where(ended, jnp.inf, 0.),
                   jnp.where(ended, 0., 1.))


def test_rewards_of_jax_that_are_not_finite_are_an_error(tmp_path):
  with pytest.raises(jobs.JobError, match='gave rewards that are not finite'):
    session.run(session_testing.make_job(f'{THIS}:Unsound', env_steps=4000),
                str(tmp_path / 'job'))


class Broken(Unsound):

  def step(self, params, state, action, key):
    state, (observation, reward, discount) = super().step(
        params, state, action, key)
    return state, (observation, np.float32(0.) * reward, discount > 0.)


def test_a_jax_environment_that_breaks_the_protocol_is_refused():
  with pytest.raises(jobs.JobError) as info:
    loading.load_environment(session_testing.make_job(f'{THIS}:Broken'))
  assert str(info.value).startswith(
      f'{THIS}:Broken: step gives d_t as bool[]; allowed: ')
