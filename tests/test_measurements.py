"""Times in the documents follow from the tables of benchmarks/README.md."""

import pathlib
import re

import pytest

from lpg_distributed.envs import suite

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_LIFETIMES, _ENVIRONMENTS, _STEPS = 64, 64, 100  # of a kind; of a window


def rows(name, head):
  """Cells of the table of a document whose first line begins with `head`."""
  text = (_ROOT / name).read_text(encoding='utf-8')
  table = text[text.index(head):].split('\n\n')[0].splitlines()
  return [[re.sub(r'[`*,]', '', cell).strip() for cell in line.split('|')[1:-1]]
          for line in table[2:]]


def _prose(name):
  text = (_ROOT / name).read_text(encoding='utf-8')
  return re.sub(r'\s+', ' ', text).replace(',', '')


@pytest.fixture(scope='module', name='kinds')
def _kinds():
  """From each kind to (steps per second, us per step)."""
  found = {row[0]: (float(row[2]), float(row[7])) for row in rows(
      'benchmarks/README.md', '| kind | lifetimes | steps/s')}
  assert list(found) == list(suite.ENVIRONMENTS)
  return found


def test_sizing_follows_from_the_measured_kinds(kinds):
  us = {name: time for name, (_, time) in kinds.items()}
  text = _prose('docs/cluster.md')
  convolutions = ('random_dense', 'random_long_horizon', 'random_very_dense')
  dense = ('random_small', 'random_small_sparse', 'chain_state_distraction')
  tables = [us[name] for name in us if name not in convolutions + dense]
  networks = [us[name] for name in dense]
  assert (f'tables and chains take {min(tables):.0f} to {max(tables):.0f} us '
          f'dense networks {min(networks):.0f} to {max(networks):.0f}') in text
  first, second, largest = (us[name] for name in convolutions)
  assert f'{first:.0f} and {second:.0f} `random_very_dense` {largest:.0f}' in (
      text)
  lifetime = _ENVIRONMENTS * _STEPS * 1e-6  # s for each us of a step
  total = _LIFETIMES * lifetime * sum(us.values())
  assert f'cost {total:.0f} s on one core' in text
  share = largest / sum(us.values())
  assert f'{share:.0%}'.replace('%', ' %') in text
  sizing = rows('docs/cluster.md', '| workers of one core | `run.life')
  for workers, size, shard, step, a_day in sizing:
    slowest = int(size) * lifetime * largest
    seconds = max(total / int(workers), slowest)
    assert [shard, step] == [f'{slowest:.0f}', f'{seconds:.0f}']
    assert float(a_day) == float(f'{86400. / seconds:.2g}')


def test_messages_follow_from_the_measured_kinds(kinds):
  per_s, message_s, megabytes = kinds['tabular_dense'][0], 3.5e-3, 1.11
  shard_steps = 16 * _ENVIRONMENTS * _STEPS
  assert f'{per_s:.0f} a second' in _prose('docs/scale.md')
  for workers, messages, rate, share, least in rows(
      'docs/scale.md', '| workers of one core | messages'):
    found = int(workers) * per_s / shard_steps
    assert float(messages) == pytest.approx(found, rel=0.02)
    assert float(rate) == pytest.approx(found * megabytes, rel=0.02)
    assert float(share.split()[0]) == pytest.approx(
        100. * found * message_s, rel=0.07)
    assert float(least.split()[0]) == pytest.approx(
        int(workers) * message_s, rel=0.2)


def test_both_pages_agree_about_scale():
  text = _prose('benchmarks/README.md')
  found = {row[0]: row for row in rows('docs/scale.md', '| sources |')}
  assert (f'{found["1"][1]} messages per second of one source '
          f'{found["16"][1]} of 16 and {found["64"][1]} of 64') in text


def test_both_pages_agree_about_atari():
  """As the table of benchmarks/README.md, which `benchmarks.atari` printed."""
  names = ('emulation', 'network', 'plain', 'whole', 'both', 'limit')
  found = rows('benchmarks/README.md', '| | frames/s |')
  speed = {name: float(row[1]) for name, row in zip(names, found)}
  time = {name: float(row[2]) for name, row in zip(names, found) if row[2]}
  assert time['both'] == time['emulation'] + time['network']
  text = _prose('docs/performance.md') + _prose('benchmarks/README.md')
  parts = rows('docs/performance.md', '| part | us |\n|---|---|\n| emulation')
  assert [float(cell) for _, cell in parts] == [
      time['emulation'], time['network'], time['whole']]
  for sentence in (
      f'{time["whole"] / time["both"]:.2f} times the processor time of its '
      f'parts alone and {speed["whole"] / speed["both"]:.2f} of the speed that',
      f'{speed["whole"] / speed["both"]:.2f} of what both parts allow together '
      f'and {speed["whole"] / speed["network"]:.2f} of the network alone',
      f'The whole reaches {speed["whole"] / speed["network"]:.2f} of the speed '
      f'of the network alone and {speed["whole"] / speed["plain"]:.2f} of that',
      f'takes {time["plain"]:.0f} us in place of {time["network"]:.0f}'):
    assert sentence in text, sentence


def test_performance_quotes_the_measured_kinds(kinds):
  text = _prose('docs/performance.md')
  found = {row[0]: row for row in rows(
      'benchmarks/README.md', '| kind | lifetimes | steps/s')}
  table = found['tabular_dense']
  assert (f'a step of `tabular_dense` takes {table[7]} us {table[4]} of the '
          f'speed of the best matrix product (GEMM) and its rule alone '
          f'{table[8]}.') in text
  for name in ('random_dense', 'random_very_dense'):
    assert re.search(
        rf'`{name}`( takes)? {kinds[name][1]:.0f} us {found[name][4]}', text)
