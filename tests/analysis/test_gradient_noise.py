"""Norms and agreement of meta-gradients, and the command."""

import numpy as np
import pytest

from lpg_distributed.analysis import gradient_noise
from lpg_distributed.analysis import stored
from tests.analysis import run_testing
from tests.launch import command_testing


def test_agreement_is_the_mean_cosine_of_pairs():
  sums = np.random.default_rng(0).normal(size=(7, 5)) + 0.5
  unit = sums / np.linalg.norm(sums, axis=1, keepdims=True)
  pairs = [unit[i] @ unit[j] for i in range(7) for j in range(7) if i != j]
  np.testing.assert_allclose(gradient_noise.agreement(sums), np.mean(pairs))


def test_agreement_of_noise_and_of_one_direction():
  noise = np.random.default_rng(1).normal(size=(400, 50))
  assert abs(gradient_noise.agreement(noise)) < 0.01
  assert gradient_noise.agreement(np.ones((5, 3)) * 7.) == pytest.approx(1.)
  assert np.isnan(gradient_noise.agreement(np.zeros((2, 3))))


def test_clip_by_hand():
  gradients = np.array([[3., 4.], [0.3, 0.4], [0., 0.]])
  np.testing.assert_allclose(gradient_noise.clip(gradients, 1.),
                             [[0.6, 0.8], [0.3, 0.4], [0., 0.]])
  np.testing.assert_array_equal(gradient_noise.clip(gradients, 0.), gradients)


def test_batches_are_strided_over_ages():
  sums = gradient_noise.batch_sums(10. ** np.arange(7)[:, None], 3)
  assert sums.tolist() == [[10101.], [101010.]]


def test_clipping_raises_agreement_if_a_few_gradients_are_large():
  rng = np.random.default_rng(2)
  gradients = 1. + rng.normal(size=(60, 20))
  gradients[:20] = 1e3 * rng.normal(size=(20, 20))
  found = {limit: gradient_noise.agreement(gradient_noise.batch_sums(
      gradient_noise.clip(gradients, limit), 6)) for limit in (0., 5.)}
  assert found[0.] < 0.2 and found[5.] > 0.5


def test_the_command_stores_and_draws_results(tmp_path, capsys):
  run_dir = run_testing.store(tmp_path / 'run')
  results = str(tmp_path / 'a.json')
  assert command_testing.call('gradient_noise', [
      f'--run=mine={run_dir}', f'--results={results}', '--num_lifetimes=6',
      '--batch=2']) == 0
  out = capsys.readouterr().out
  assert f'| `{run_testing.NAME}` |' in out and '| all together | - |' in out
  _, data = stored.load(results, 'gradient_noise')
  norms = data['norms'][run_testing.NAME]
  assert len(norms) == 6 and min(norms) > 0.
  # With one kind, the row of all kinds equals its row.
  assert (data['agreement'][run_testing.NAME]
          == data['agreement'][gradient_noise.ALL])
  picture = (tmp_path / 'a.svg').read_bytes()
  assert command_testing.call('gradient_noise', [f'--results={results}',
                              f'--figure={tmp_path}/b.svg']) == 0
  assert (tmp_path / 'b.svg').read_bytes() == picture
  capsys.readouterr()
  for bad, part in (('--num_lifetimes=3', '4 or more'), ('--batch=0', '1 or')):
    assert command_testing.call('gradient_noise',
        [f'--run={run_dir}', f'--results={results}', '--batch=2', bad]) == 2
    assert part in capsys.readouterr().err
