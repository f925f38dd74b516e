"""Meta-steps compile for TPUs, by Google's own compiler and without a TPU."""

import os
import subprocess
import types

import pytest

from benchmarks import libtpu
from benchmarks import tpu

# Small shapes: what is compiled has every part of a large program. To save
# time these are four of the sixteen programs. They cover each sort of agent,
# and each generation with one and with eight devices.
SIZES = {'lifetimes': 2, 'units': 8, 'envs': 4, 'num_updates': 2,
         'trajectory_steps': 3, 'num_predictions': 4}
PROGRAMS = [
    ('tabular_dense', 'v4', 1), ('chain_short', 'v5e', 8),
    ('random_small', 'v4', 8),  # dense layers
    ('random_dense', 'v5e', 1)]  # convolutions
# A kind with convolutions compiles faster without full precision.
PRECISIONS = {'random_dense': 'default'}


@pytest.fixture(scope='module')
def answers():
  try:
    libtpu.install()
  except libtpu.LibtpuError as error:
    if os.environ.get('CI'):
      raise
    pytest.skip(str(error))
  requests = [{'name': name, 'generation': generation, 'num_devices': devices,
               'precision': PRECISIONS.get(name, 'highest'), **SIZES}
              for name, generation, devices in PROGRAMS]
  return {(row['name'], row['generation'], row['num_devices']): row
          for row in tpu.compile_all(requests)}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('program', PROGRAMS, ids=str)
def test_one_program_serves_all_devices_and_fits(program, answers):
  row = answers[program]
  assert row['devices_of_program'] == program[2]
  assert row['temporaries_gib'] < tpu.MEMORY_GIB
  assert row['program_mib'] > 0. and row['cycles'] > 0.
  assert {'v4': 'TPU v4', 'v5e': 'TPU v5 lite'}[program[1]] in row['device']
  assert tpu.roofline(row)['steps_per_s'] > 0.


def test_the_compiler_belongs_to_this_jax():
  assert libtpu.requirement().startswith('libtpu==0.')


def test_no_compiler_is_one_line(monkeypatch, tmp_path):
  monkeypatch.setattr(libtpu, '_parent', lambda: tmp_path)
  failed = types.SimpleNamespace(returncode=1, stderr='a\nno such package\n')
  monkeypatch.setattr(subprocess, 'run', lambda *args, **kwargs: failed)
  with pytest.raises(libtpu.LibtpuError, match='installed: no such package$'):
    libtpu.install()
  with pytest.raises(SystemExit, match='benchmarks.tpu: libtpu==.* cannot be'):
    tpu.main(['chain_short'])


def test_temporaries_that_do_not_fit_are_an_error(monkeypatch, capsys):
  row = {'name': 'chain_short', 'generation': 'v4', 'num_devices': 1,
         'lifetimes': 64, 'units': 256, 'envs': 64, 'precision': 'highest',
         'compile_s': 1., 'program_mib': 2., 'temporaries_gib': 17.,
         'hbm_bytes': 1e9, 'cycles': 1e6}
  monkeypatch.setattr(tpu, 'compile_all', lambda requests: iter([row]))
  with pytest.raises(SystemExit, match=r'over 16 GiB: chain_short \(v4\)'):
    tpu.main(['chain_short', '--generations=v4'])
  assert 'chain_short' in capsys.readouterr().out


@pytest.mark.parametrize('precision, passes', [('highest', 6), ('default', 1)])
def test_a_full_product_takes_six(precision, passes):
  row = {'name': 'chain_short', 'generation': 'v4', 'lifetimes': 64,
         'units': 256, 'envs': 64, 'precision': precision, 'hbm_bytes': 0.,
         'cycles': 0.}
  expected = 1e3 * passes * tpu.roofline(row)['tflop'] / 137.5
  assert tpu.roofline(row)['arithmetic_ms'] == pytest.approx(expected)
