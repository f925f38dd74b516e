"""Files of agents are complete and of the right shape, or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpg_distributed.store import agent_file
from lpg_distributed.store import tree_file

STATE = {'w': jnp.arange(6.).reshape(2, 3), 'n': jnp.int32(4)}
LIKE = jax.eval_shape(lambda: STATE)


def test_agents_are_loaded_as_saved_and_damage_is_refused(tmp_path):
  path = str(tmp_path / 'agent.npz')
  assert agent_file.load(path, LIKE) is None
  agent_file.save(path, STATE, env_steps=7)
  state, info = agent_file.load(path, LIKE)
  assert info == {'env_steps': 7}
  jax.tree_util.tree_map(np.testing.assert_array_equal, state, STATE)
  with open(path, 'rb') as f:
    data = f.read()
  middle = data.index(np.float32(5.).tobytes())
  for damaged in (data[:100], b'', data[:middle] + b'abcd'
                  + data[middle + 4:]):
    with open(path, 'wb') as f:
      f.write(damaged)
    with pytest.raises(agent_file.AgentFileError) as error:
      agent_file.load(path, LIKE)
    assert path in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('info', [[1], 3, None])
def test_a_header_without_fields_is_refused(info, tmp_path):
  path = tmp_path / 'agent.npz'
  path.write_bytes(tree_file.pack(
      tree_file.named_leaves(STATE), {'format': 'lpg-agent-1', 'info': info}))
  with pytest.raises(agent_file.AgentFileError, match='its format is'):
    agent_file.load(str(path), LIKE)


def test_agents_of_other_shapes_are_refused(tmp_path):
  path = str(tmp_path / 'agent.npz')
  agent_file.save(path, {**STATE, 'w': jnp.zeros((2, 4))})
  with pytest.raises(agent_file.AgentFileError, match=r'float32\[2, 4\]'):
    agent_file.load(path, LIKE)
  agent_file.save(path, {'n': STATE['n']})
  with pytest.raises(agent_file.AgentFileError, match='remove it'):
    agent_file.load(path, LIKE)
