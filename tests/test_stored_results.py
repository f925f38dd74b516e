"""Numbers and figures of documents come from stored results.

Each number in a table of the documents must be one that a command prints from
stored results, or its table must be listed here with the reason why not.
"""

import collections
import functools
import importlib
import json
import pathlib
import re
import shlex

import jax
import pytest

from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed.analysis import action_sets
from lpg_distributed.analysis import against_a2c
from lpg_distributed.analysis import atari_summary
from lpg_distributed.analysis import experiment
from lpg_distributed.analysis import figure3
from lpg_distributed.analysis import model_card
from lpg_distributed.analysis import sensitivity
from lpg_distributed.analysis import stored
from lpg_distributed.analysis import training_curves
from lpg_distributed.envs import optimal_returns
from lpg_distributed.figures import intervals
from lpg_distributed.launch import main
from lpg_distributed.store import published
from tests import stated

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_RESULTS = _ROOT / 'docs' / 'results'
_PATHS = sorted(_RESULTS.glob('*.json'))
_PAGES = ['README.md', 'docs/results.md', 'docs/meta_training.md',
          *sorted(f'docs/results/{path.name}' for path in
                  _RESULTS.glob('*.md'))]
_LARGEST = 2 << 20  # bytes of a figure
# Other versions of JAX draw other layouts, so other actions.
_LOCK = jax.__version__ == '0.4.38'

# Tables that no stored result holds, by the text of their first line.
_NOT_STORED = {
    # What rules, runs, flags, files and claims are.
    '| page | experiment |', '| rule or run | what it is |',
    '| run without a file | file | page |',
    '| claim | verdict |', '| claim of the paper | here |',
    '| you want to | read |',
    '| field | of the demonstration | what it changes |',
    '| `--launch_type` | |', '| `--preset` | |', '| file | |',
    '| | paper | here |',
    # Times of runs, with links to the pages that measured them; ranges of the
    # metrics of a run.
    '| run | time | where |',
    '| column | in its first 80 meta-steps | look closer if |',
    '| what you see | try | evidence |',
    '| of the paper | reproduced | evidence | share of the paper\'s budget '
    '| compared with | command, minutes |',
    '| stage | begins with | what is new | why |',
    '| file | commit | flag that is gone |', '| column | |',
    '| claim of [results.md](../results.md) | is refuted by |',
    # Sizes of trainings, and minutes by their logs;
    # `test_steps_of_trainings` computes the steps.
    '| run | kinds | lifetimes | learning rate | meta-steps '
    '| environment steps | minutes |',
    # Means of the metrics of runs; the page names the runs' commands.
    '| | without | with pi(a\\|s) |', '| | 256 units | 32 units, two seeds |',
    # Single trials of a tuning; the page says so.
    '| | learning rate, entropy or KL cost | 9 actions | 18 actions |',
    # What the program of that page prints, and returns of its command.
    '| reward of each step | 0.01 | 0.03 | 0.05 | 0.1 | 0.2 | 0.3 | 1 |',
    # Returns of single snapshots; the page says so.
    '| stage | return at meta-steps |',
    # Differences from the demonstration, in words.
    '| | |',
}


def _load(path):
  return stored.load(str(path), json.loads(path.read_text())['experiment'])


def _module(path):
  name = json.loads(path.read_text())['experiment']
  return importlib.import_module(f'lpg_distributed.analysis.{name}')


def _cells(line):
  return [cell.strip() for cell in re.split(r'(?<!\\)\|', line.strip())[1:-1]]


def _key(cell):
  """The name of a row, without marks and what stands in parentheses."""
  plain = re.sub(r'[`*\\]|\(.*?\)', '', cell)
  return plain.split(',')[0].strip() if '±' not in plain else plain.strip()


def _number(cell):
  return cell.replace('*', '').replace(' %', '%').replace('\\', '').strip()


def _rows(lines):
  for line in lines:
    if line.startswith('|') and not set(line) <= set('|-'):
      yield _cells(line)


def _printed(path):
  """All lines that commands print of a file of results."""
  about, data = _load(path)
  lines = list(_module(path).lines(about, data))
  if 'Best fit of GAE' in '\n'.join(lines):
    fit = sensitivity._fits(about, data)
    strength = lambda name, i: sensitivity._strength(data, 'pi_hat', name)[i]
    for i, name in ((-1, 'trained'), (0, 'untrained')):
      lines.append(
          f'| {name} | {fit[i].td_lambda:.2f} | {fit[i].reward_explained:.0%} '
          f'| {fit[i].phi_explained:.0%} | {strength("reward", i):.2f} '
          f'| {strength("phi", i):.2f} |')
  if _module(path) is figure3 and path.stem in (
      'figure3', 'figure3_convolutions', 'figure3_very_dense'):
    lines += action_sets.lines(action_sets.by_num_actions(about, data))
  for variant in data.get('variants', {}).values():  # Each seed's interval.
    for kind in about['environments']:
      for seed, end in zip(variant['seeds'], variant['ends']):
        cells = [f'{mean:.2f} ± {intervals.half_width(error, 32):.2f}'
                 for mean, error in end[kind].values()]
        lines.append(f'| {kind} | {seed} | {" | ".join(cells)} |')
  return lines


@functools.lru_cache(maxsize=None)
def _groups():
  """Sets of cells that belong together: the rows of one name in one file."""
  groups = collections.defaultdict(set)

  def add(source, lines, num=None):
    for row in _rows(lines):
      group = groups[source, _key(row[0])]
      group.update(map(_number, row))
      group.update(_number(re.sub(r' \(.*\)', '', cell)) for cell in row)
      group.add(str(num))
      optimum = optimal_returns.optima().get(_key(row[0]))
      group.add('-' if optimum is None else f'{optimum:.3g}')

  for path in _PATHS:
    num = _load(path)[0].get('settings', {}).get('num_lifetimes')
    add(path.stem, _printed(path), num)
  add('clipping', _returns_by_meta_step())
  add('seeds', map(_seed_row, ('all_kinds_pi', 'seed_1', 'seed_2')))
  for name in published.names():
    add(name, model_card.lines(published.load_card(name)))
  add('against_a2c', against_a2c.lines(against_a2c.read(
      [word.removeprefix('--results=') for word in _against_a2c()[2:]])))
  add('atari', atari_summary.table(atari_summary.collect(
      [f'{name}={_RESULTS}/atari/{directory}' for name, directory in
       (('2', '2'), ('12', '12'), ('15', '15'), ('A2C', 'a2c'))])[0]))
  return groups


def _returns_by_meta_step():
  """Returns of each seed at four meta-steps, of two variants of the study."""
  _, data = _load(_RESULTS / 'clipping.json')
  columns = [data['meta_steps'].index(step) for step in (18, 78, 138, 234)]
  for name, variant in (('the preset', 'each, rate 0.003'),
                        ('not clipped', 'not clipped')):
    curves = data['variants'][variant]['curves']
    yield '| ' + ' | '.join([name, *(
        ', '.join(f'{curve[column]:.2f}' for curve in curves)
        for column in columns)]) + ' |'


def _seed_row(name):
  """The fit, and what phi knows of values, of the rule of one seed."""
  fit = sensitivity._fits(*_load(_RESULTS / f'sensitivity_{name}.json'))[-1]
  _, data = _load(_RESULTS / f'figure5_{name}.json')
  at = [data['gammas'].index(gamma) for gamma in (0.9, 0.98, 0.995)]
  correlations = [abs(data['correlations'][name]['mean'][i]) for i in at]
  return ' | '.join([
      f'| {name}', f'{fit.td_lambda:.2f}', f'{fit.reward_explained:.0%}',
      f'{fit.phi_explained:.0%}', *(f'{x:.2f}' for x in correlations),
      f'{data["mean"][name][at[0]][-1]:.3g} |'])


def _against_a2c():
  text = (_RESULTS / 'against_a2c.md').read_text()
  (line,) = re.findall(r'^lpg against-a2c .*$', text, re.MULTILINE)
  return shlex.split(line)


def _tables(page):
  text = (_ROOT / page).read_text(encoding='utf-8')
  for table in re.findall(r'(?:^\|.*\n)+', text + '\n', re.MULTILINE):
    lines = table.splitlines()
    yield lines[0], list(_rows(lines))[1:]


def _is_stored(row):
  """Whether one row of stored results has all numbers of this one."""
  numbers = {_number(cell) for cell in row[1:] if re.search(r'\d', cell)}
  return any(numbers <= cells for cells in _groups().values())


@pytest.mark.parametrize('page', _PAGES)
def test_tables_have_stored_numbers(page, monkeypatch):
  monkeypatch.chdir(_ROOT)
  for head, rows in _tables(page):
    layouts = ' actions |' in head or head.startswith('| `random_very_dense` |')
    if head in _NOT_STORED or (layouts and not _LOCK):
      continue
    for row in rows:
      assert _is_stored(row), (head, row)


def test_unstored_tables_are_still_there():
  heads = {head for page in _PAGES for head, _ in _tables(page)}
  assert heads >= _NOT_STORED


@pytest.mark.parametrize('path', _PATHS, ids=lambda path: path.stem)
def test_results_name_the_command_that_documents_have(path):
  command = _load(path)[0]['command']
  assert f'--results=docs/results/{path.name}' in command.split()
  pages = '\n'.join((_ROOT / page).read_text() for page in _PAGES)
  # Where a command has changed since, the page has the one that draws.
  draws = f'lpg {command.split()[1]} --results=docs/results/{path.name}'
  assert f'\n{command}\n' in pages or f'\n{draws}\n' in pages
  parts = [part['process_minutes'] for part in _load(path)[1].values()
           if isinstance(part, dict) and 'process_minutes' in part]
  assert sum(parts) <= _load(path)[0].get('process_minutes', 0.) + 0.01


def _figures():
  """Images of documents."""
  pages = [*_ROOT.glob('*.md'), *_ROOT.glob('docs/**/*.md')]
  for page in pages:
    for target in re.findall(r'\]\(([^)\s]+\.(?:svg|png))\)',
                             page.read_text(encoding='utf-8')):
      yield (page.parent / target).resolve()


def test_figures_are_vectors_from_stored_results():
  names = {str(path.relative_to(_RESULTS)) for path in _figures()}
  stems = {path.stem for path in _PATHS}
  others = {'against_a2c.svg', 'atari/atari_curves.svg',
            *(f'training_{name}.svg' for name in ('twelve_kinds',
                                                  'chain_and_grid'))}
  assert others <= names
  for name in names - others:
    assert name.endswith('.svg') and name[:-4] in stems, name
  for path in _RESULTS.rglob('*.svg'):
    assert path.stat().st_size < _LARGEST


@pytest.mark.long
@pytest.mark.parametrize('path', sorted(_RESULTS.rglob('*.svg')),
                         ids=lambda path: path.stem)
def test_figures_are_drawn_again(path, tmp_path, monkeypatch):
  """To the same text and the same lines.

  Coordinates may round otherwise, and glyphs have other names and outlines in
  other versions of Matplotlib.
  """
  monkeypatch.chdir(_ROOT)
  new = str(tmp_path / path.name)
  results = path.with_suffix('.json')
  if results.exists():
    experiment.show(_module(results), str(results), new)
  elif path.stem.startswith('training_'):
    training_curves.draw_published(path.stem.removeprefix('training_'), new)
  elif path.stem == 'against_a2c':
    against_a2c.draw(against_a2c.read(
        [word.removeprefix('--results=') for word in _against_a2c()[2:]]), new)
  else:
    pytest.skip('drawn by a command on several directories')
  changing = (r'<defs>.*?</defs>|<use [^>]*transform=[^>]*>|<dc:title>[^<]*'
              r'|xlink:href="[^"]*"|id="[^"]*"|clip-path="[^"]*"|[\d.-]+|\s')
  shape = lambda text: re.sub(changing, '', text, flags=re.DOTALL)
  assert shape(pathlib.Path(new).read_text()) == shape(path.read_text())


def test_steps_of_trainings():
  """Environment steps are meta-steps times lifetimes times window."""
  for page in ('docs/results/all_kinds.md', 'docs/results/units_256.md'):
    for head, rows in _tables(page):
      if not head.startswith('| run | kinds |'):
        continue
      for run, *_, meta_steps, env_steps, _ in rows:
        name = {'u12b': 'u12', 'u15c': 'u15'}.get(run.strip('`'),
                                                  run.strip('`'))
        path = _RESULTS / 'runs' / f'{name}.json'
        meta = config_io.load_file(presets.load('demo'), path).meta
        found = int(meta_steps) * meta.num_lifetimes * meta.window_env_steps
        value, power = re.fullmatch(r'([\d.]+) x 10\^(\d)', env_steps).groups()
        assert float(value) * 10. ** int(power) == pytest.approx(
            found, abs=0.06 * 10. ** int(power)), run


def test_the_summary_counts_as_the_comparison(monkeypatch):
  monkeypatch.chdir(_ROOT)
  columns = [column for column in against_a2c.read(
      [word.removeprefix('--results=') for word in _against_a2c()[2:]])
             if column.head.startswith('`all_kinds_pi`')
             and 'trials' not in column.head]
  (tuned,) = against_a2c.read(['docs/results/figure3_tuned.json'])
  signs = {name: intervals.compare(found, {'low': 0., 'high': 0.})
           for name, found in tuned.difference.items()}
  numbers = tuple(str(n) for n in (
      len(signs), *(sum(x == sign for x in signs.values())
                    for sign in (1, 0, -1))))
  pattern = r'of (\d+) {}above on (\d+), level on (\d+), below on (\d+)'
  for page, what in (('README.md', 'compared, '),
                     ('docs/results.md', 'environments ')):
    assert stated.groups(page, pattern.format(what)) == numbers
  (longer,) = stated.groups(
      'docs/results.md', r'also above in longer (.*?) in 640')
  assert set(re.findall('`(.*?)`', longer)) == {
      name for column in columns[1:] for name, sign in column.final.items()
      if sign == 1 and signs.get(name) != 1}
  for name in re.findall('`(.*?)`', stated.groups(
      'docs/results.md', r'- above A2C on (.*?), intervals apart')[0]):
    assert signs.pop(name) == tuned.final[name] == 1
  differences = {name: intervals.text(tuned.difference[name]) for name in signs}
  for name, less in re.findall(r'`(\w+)` by ([\d.]+ ± [\d.]*\d)', stated.groups(
      'docs/results.md', r'- below (.*?)With two')[0]):
    assert signs.pop(name) == -1 and differences[name] == f'-{less}'
  assert not any(signs.values())
  paired = {name: intervals.text(found)
            for column in columns for name, found in column.difference.items()}
  (more,) = stated.groups(
      'docs/results.md', r'has ([\d.]+ ± [\d.]+) more in 512')
  assert more == paired['tabular_longer_horizon']


def test_the_summary_of_predictions_and_ablations():
  about, data = _load(_RESULTS / 'figure5_all_kinds_pi.json')
  last = data['gammas'].index(0.9)
  num = about['train_worlds'] + about['test_worlds']
  found = data['correlations']
  half = lambda name: intervals.half_width(
      found[name]['standard_error'][last], num)
  assert stated.groups('docs/results.md', (
      r'correlates ([\d.]+) ± ([\d.]+) with true values at discount 0.9 '
      r'\(untrained: ([\d.]+) ± ([\d.]+)\)')) == (
          f'{found["all_kinds_pi"]["mean"][last]:.2f}',
          f'{half("all_kinds_pi"):.1g}',
          f'{found["untrained"]["mean"][last]:.2f}', f'{half("untrained"):.1g}')
  others = []
  for seed in (1, 2):
    rows = _load(_RESULTS / f'figure5_seed_{seed}.json')[1]['correlations']
    others.append(f'{-rows[f"seed_{seed}"]["mean"][last]:.2f}')
  assert stated.groups('docs/results.md', (
      r'does, by ([\d.]+) and ([\d.]+)\.')) == tuple(others)
  cells = next(row for row in _rows(_printed(
      _RESULTS / 'figure5_all_kinds_pi.json')) if row[0] == '0.9')
  assert stated.groups('docs/results.md', (
      r'squared error is ([\d.]+ ± [\d.]+), where the values\' variance is '
      r'([\d.]+) and TD\(lambda\) trained at 0.995 has '
      r'([\d.]+ ± [\d.]*\d)')) == (
          cells[3], cells[1], cells[2])
  _, data = _load(_RESULTS / 'figure3.json')
  rows = figure3.summaries(data['tabular_long_horizon'])
  assert stated.groups('docs/results.md', (
      r'has ([\d.]+ ± [\d.]+), without learned predictions ([\d.]+ ± [\d.]+), '
      r'and with phi held ([\d.]+ ± [\d.]*\d)')) == tuple(
          intervals.text(rows[label]) for label in (
              'LPG', 'LPG, alpha_y = 0', 'LPG, phi held'))
  costs = [figure3.lines(*_load(_RESULTS / f'{name}.json'))
           for name in ('figure3', 'figure3_seeds')]
  counts = [re.search(r'cost return on (\d+) of 12', line)[1]
            for lines in costs for line in lines
            if line.startswith(('LPG:', 'seed_')) and 'both' in line]
  assert counts == ['10', '6', '6']


def test_cards_and_their_list_agree():
  text = (_ROOT / 'lpg_distributed' / 'weights' / 'README.md').read_text()
  steps = {name: published.load_card(name)['env_steps']
           for name in published.names()}
  # Rules that go on from others count the steps of those as well.
  before = {'all_kinds_pi': 5.9e8, 'twelve_kinds_pi_1': 2.2e8,
            'twelve_kinds_pi_2': 2.2e8, 'all_kinds_256_longer': 1.2e8,
            'all_kinds_256': 7.3e7, 'all_kinds': 5.3e8}
  for name in published.names():
    row = re.search(rf'^\| `{name}` \|.*$', text, re.MULTILINE)[0]
    value, power = re.search(r'([\d.]+) x 10\^(\d+) env', row).groups()
    total = steps[name] + before.get(name, 0.)
    assert float(value) * 10. ** int(power) == pytest.approx(total, rel=0.05)
    units = published.load_card(name)['config']['rule']['lstm_size']
    assert f'{units} units' in row
  a2c = {name: card['results']['tabular_long_horizon']['A2C']['mean']
         for name in published.names()
         if 'tabular_long_horizon' in (
             card := published.load_card(name))['results']}
  means = re.search(r'A2C has ([\d.]+) in those of (.*?), and\s+([\d.]+) on',
                    text, re.DOTALL)
  low = set(re.findall(r'`(\w+)`', means[2]))
  for name, mean in a2c.items():
    assert f'{mean:.1f}' == means[1 if name in low else 3], name


def test_every_experiment_has_a_command():
  for path in _PATHS:
    command = _load(path)[0]['command'].split()
    assert command[0] == 'lpg' and command[1] in main.SUBCOMMANDS
