"""The script of docs/operating.md that tells Prometheus how runs get on."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

_PAGE = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'operating.md'


def _write_run(path, meta_step):
  (path / 'metrics').mkdir(parents=True)
  (path / 'checkpoints' / 'step_3').mkdir(parents=True)
  rows = [{'step': step, 'step_s': 0.5, 'gradient_norm': None,
           'resets/not_finite': 2} for step in (1, meta_step)]
  (path / 'metrics' / 'learner.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')


@pytest.mark.skipif(not shutil.which('jq'), reason='jq is not installed')
def test_series_of_two_runs_differ(tmp_path):
  """node_exporter rejects all of its text files if two have a series twice."""
  script, = [block for block in re.findall(
      r'```bash\n(.*?)```', _PAGE.read_text(encoding='utf-8'), re.DOTALL)
             if 'lpg_textfile.sh' in block]
  series = []
  for name, meta_step in (('first', 7), ('second', 8)):
    _write_run(tmp_path / name, meta_step)
    written = tmp_path / f'{name}.prom'
    subprocess.run(
        ['bash', '-c', script, 'script', tmp_path / name, written], check=True,
        timeout=60)
    values = dict(line.rsplit(' ', 1)
                  for line in written.read_text().splitlines())
    label = f'{{run="{name}"}}'
    times = [values.pop(f'lpg_{what}_time_s{label}')
             for what in ('row', 'checkpoint')]
    assert all(time.isdigit() for time in times)
    assert values == {
        f'lpg_meta_step{label}': str(meta_step), f'lpg_step_s{label}': '0.5',
        f'lpg_gradient_norm{label}': 'NaN', f'lpg_not_finite{label}': '2'}
    series += values
  assert len(series) == len(set(series))
