"""Jobs that finish, stop, are killed and resume, in both loops."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from lpg_distributed.meta_testing import agent_checkpoint
from lpg_distributed.meta_testing import jobs
from lpg_distributed.meta_testing import render
from lpg_distributed.meta_testing import results
from lpg_distributed.meta_testing import session
from lpg_distributed.meta_testing import summary
from lpg_distributed.store import policy_file
from tests.meta_testing import session_testing

HOST, JITTED = session_testing.HOST, session_testing.JITTED
make_job = session_testing.make_job
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
both = pytest.mark.parametrize('environment', [HOST, JITTED])


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Jobs that were never interrupted."""
  paths = {}
  for environment in (HOST, JITTED):
    paths[environment] = str(tmp_path_factory.mktemp('whole'))
    assert session.run(make_job(environment), paths[environment])
  return paths


def without_clock(rows):
  return [{k: v for k, v in row.items() if k != 'seconds'} for row in rows]


def leaves(directory):
  path = os.path.join(directory, agent_checkpoint.FILE)
  with np.load(path, allow_pickle=False) as saved:
    return [saved[name] for name in saved.files if name != 'header']


@both
def test_a_job_trains_all_its_agents(whole, environment):
  result = results.read(whole[environment])
  agents = summary.by_seed(result)
  assert set(agents) == {0, 1}
  for rows in agents.values():
    steps = [row['env_steps'] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 1000
    assert 40 <= len(rows) <= 60
    assert rows[-1]['updates'] == 100
    assert sum(row['episodes'] for row in rows) > 20
    assert all(np.isfinite(row['policy_entropy']) for row in rows)
  assert without_clock(agents[0])[-1] != without_clock(agents[1])[-1]
  for seed in (0, 1):
    assert policy_file.load(policy_file.path_in(whole[environment], seed))


@both
def test_a_finished_job_is_not_run_again(whole, environment):
  before = results.read(whole[environment]).rows
  assert session.run(make_job(environment), whole[environment])
  assert results.read(whole[environment]).rows == before


@both
def test_the_same_seed_gives_the_same_curve(whole, environment, tmp_path):
  """Also on the host, where the environment has no randomness."""
  session.run(make_job(environment), str(tmp_path))
  assert without_clock(results.read(str(tmp_path)).rows) == without_clock(
      results.read(whole[environment]).rows)


def run_and_kill(environment, directory, seed, env_steps):
  """Runs a job in a process; kills it at the given steps."""
  with subprocess.Popen(
      [sys.executable, '-m', 'tests.meta_testing.session_testing', environment,
       directory], cwd=ROOT, stdout=subprocess.PIPE, text=True,
      env={**os.environ, 'PYTHONPATH': ROOT}) as process:
    for line in process.stdout:
      if line.split()[0] == seed and int(line.split()[1]) >= env_steps:
        break
    process.send_signal(signal.SIGKILL)
  assert process.returncode == -signal.SIGKILL


def test_a_killed_job_in_jax_is_resumed(whole, tmp_path):
  """Resuming gives the same numbers as a job without interruption."""
  path = str(tmp_path)
  run_and_kill(JITTED, path, 'None', 400)
  rows = results.read(path).rows
  assert 400 <= rows[-1]['env_steps'] < 1000
  statuses = []
  assert session.run(make_job(JITTED), path, watch=statuses.append)
  assert statuses[0].env_steps >= 380  # It did not begin anew.
  assert without_clock(results.read(path).rows) == without_clock(
      results.read(whole[JITTED]).rows)
  for x, y in zip(leaves(path), leaves(whole[JITTED])):
    np.testing.assert_array_equal(x, y)


@pytest.mark.pinned
def test_a_killed_job_on_the_host_is_resumed(whole, tmp_path):
  """A finished agent is kept; the other resumes from its last row."""
  path = str(tmp_path)
  run_and_kill(HOST, path, '1', 300)
  saved = agent_checkpoint.load(path)
  assert saved.header['index'] == 1 and saved.header['env_steps'] >= 200
  rows = results.read(path).rows
  statuses = []
  assert session.run(make_job(HOST), path, watch=statuses.append)
  assert (statuses[0].seed, statuses[0].env_steps) == (
      1, saved.header['env_steps'])
  agents = summary.by_seed(results.read(path))
  assert agents[0] == [row for row in rows if row['seed'] == 0]
  steps = [row['env_steps'] for row in agents[1]]
  assert steps == sorted(set(steps)) and steps[-1] == 1000
  assert agents[1][-1]['updates'] == 100
  # The result differs from that of a new agent and of another seed.
  whole_rows = summary.by_seed(results.read(whole[HOST]))[1]
  before = [r for r in agents[1] if r['env_steps'] <= saved.header['env_steps']]
  assert without_clock(before) == without_clock(whole_rows[:len(before)])


def test_a_stop_between_two_agents_changes_nothing(whole, tmp_path):
  """The second agent has not begun, so it starts as if nothing had happened."""
  path, stop = str(tmp_path), threading.Event()

  def watch(status):
    if status.seed == 1:
      stop.set()

  assert not session.run(make_job(HOST), path, stop, watch)
  assert session.run(make_job(HOST), path)
  assert without_clock(results.read(path).rows) == without_clock(
      results.read(whole[HOST]).rows)


@both
def test_a_stop_loses_nothing(environment, tmp_path):
  path, stop = str(tmp_path), threading.Event()

  def watch(status):
    if status.env_steps >= 500:
      stop.set()

  assert not session.run(make_job(environment), path, stop, watch)
  rows, state = results.read(path).rows, leaves(path)
  assert 500 <= rows[-1]['env_steps'] < 1000
  # Stopped again before any update.
  assert not session.run(make_job(environment), path, stop)
  assert results.read(path).rows == rows
  for x, y in zip(leaves(path), state):
    np.testing.assert_array_equal(x, y)
  assert session.run(make_job(environment), path)


def test_jobs_that_cannot_run_are_refused(whole, tmp_path):
  with pytest.raises(results.ResultError, match='belongs to another job'):
    session.run(make_job(JITTED, num_envs=3), whole[JITTED])
  with session._lock(str(tmp_path)), pytest.raises(
      session.JobInUseError, match='is in use by another launch'):
    session.run(make_job(JITTED), str(tmp_path))
  with pytest.raises(jobs.JobError, match='cannot be imported'):
    session.run(make_job('module/no.such:thing'), str(tmp_path / 'x'))
  with pytest.raises(jobs.JobError, match='masks some of its actions'):
    session.run(make_job(
        'module/tests.meta_testing.test_session:grid'), str(tmp_path / 'y'))
  path = tmp_path / 'damaged'
  session.run(make_job(JITTED, env_steps=20), str(path))
  file = path / agent_checkpoint.FILE
  file.write_bytes(file.read_bytes()[:200])
  with pytest.raises(agent_checkpoint.AgentCheckpointError, match='is damaged'):
    session.run(make_job(JITTED, env_steps=20), str(path))


@pytest.mark.parametrize('header', [
    {}, {'chunks': '3'}, {'chunks': [3]}, {'chunks': None}, {'chunks': -1}])
def test_a_checkpoint_of_another_header_is_refused(header):
  checkpoint = agent_checkpoint.AgentCheckpoint('x.npz', header)
  with pytest.raises(agent_checkpoint.AgentCheckpointError,
                     match='x.npz is damaged .*chunks.*; remove it'):
    agent_checkpoint.counts(checkpoint, 'chunks')


def grid():
  from lpg_distributed.envs import suite
  return suite.load('tabular_dense')


def test_an_agent_is_drawn(whole, tmp_path):
  from PIL import Image
  path = str(tmp_path / 'new' / 'agent.gif')
  frames = render.render(make_job(HOST), whole[HOST], path, seed=1)
  assert 4 <= frames <= 20
  with Image.open(path) as image:
    assert image.format == 'GIF' and 1 < image.n_frames <= frames
    assert min(image.size) >= 160
  assert render.render(make_job(HOST), whole[HOST], path, max_steps=2) == 2
  with pytest.raises(render.RenderError, match='ends with .gif'):
    render.render(make_job(HOST), whole[HOST], 'agent.png')
  with pytest.raises(render.RenderError, match='no trained agent of seed 7'):
    render.render(make_job(HOST), whole[HOST], path, seed=7)
  with pytest.raises(render.RenderError, match='is not an image'):
    render.render(make_job(JITTED), whole[JITTED], path)
