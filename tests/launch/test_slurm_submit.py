"""Submission of jobs, with scripts in place of Slurm's commands."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import types

import pytest

from lpg_distributed import config_io
from lpg_distributed import presets
from lpg_distributed.launch.cluster import resources
from lpg_distributed.launch.cluster.slurm import agent
from lpg_distributed.launch.cluster.slurm import commands
from lpg_distributed.launch.cluster.slurm import launches
from lpg_distributed.launch.cluster.slurm import leader
from lpg_distributed.launch.cluster.slurm import places
from lpg_distributed.launch.cluster.slurm import steps
from lpg_distributed.launch.cluster.slurm import submit
from lpg_distributed.store import checkpointing

# Records its arguments and its environment.
RECORDER = '''#!{python} -S
import json, os, sys
with open(os.path.join({directory!r}, os.path.basename(sys.argv[0])
                       + '.json'), 'w') as f:
  json.dump([sys.argv[1:], dict(os.environ)], f)
print(7)
'''


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """Returns what a command was called with: arguments and environment."""
  directory = tmp_path / 'bin'
  directory.mkdir()
  for name in ('sbatch', 'srun', 'scontrol'):
    path = directory / name
    path.write_text(RECORDER.format(python=sys.executable,
                                    directory=str(directory)))
    path.chmod(0o755)
  monkeypatch.setenv('PATH', f'{directory}:{os.environ["PATH"]}')
  return lambda name: json.loads((directory / f'{name}.json').read_text())


def make_job(**job):
  group = {'nodes': ['service', 'worker'], 'hosts': 2, 'cpus': 2,
           'memory_gb': 3}
  made = resources.from_dict({'job': job, 'groups': {'all': group}})
  return made, resources.place(made, {'service': 1, 'worker': 3})


def option(words, name):
  return [word.split('=', 1)[1] for word in words
          if word.startswith(f'--{name}=')]


def test_paths_with_blanks_quotes_and_per_cent_signs_are_kept(slurm, tmp_path):
  """Slurm would cut such `#SBATCH` lines, or replace what follows `%`."""
  job_dir = tmp_path / 'a \'b" %j' / 'slurm'
  job_dir.mkdir(parents=True)
  job, groups = make_job(time='60', partition='main')
  log = str(tmp_path / 'a \'b" %j' / 'log')
  assert submit.submit(str(job_dir), job, groups, log) == '7'
  words = slurm('sbatch')[0]
  assert option(words, 'chdir') == [str(job_dir)]
  assert option(words, 'output') == [log.replace('%', '%%')]
  assert option(words, 'time') == ['60'] and words[-1] == str(
      job_dir / 'batch.sh')
  assert '#SBATCH' not in (job_dir / 'batch.sh').read_text()
  assert shlex.split((job_dir / 'command').read_text())[1:] == words


def test_each_component_of_a_job_has_its_options():
  job = resources.from_dict({'job': {'time': '60'}, 'groups': {
      'service': {'cpus': 1}, 'worker': {'cpus': 4, 'hosts': 2}}})
  groups = resources.place(job, {'service': 1, 'worker': 2})
  words = submit.arguments(job, groups, '/job', '/log')
  first, second = words[:words.index(':')], words[words.index(':') + 1:]
  assert option(first, 'cpus-per-task') == ['1']
  assert option(second, 'cpus-per-task') == ['4']
  assert option(first, 'output') and not option(second, 'output')


def test_variables_of_the_users_shell_do_not_overrule_the_file(
    slurm, tmp_path, monkeypatch, capsys):
  """Neither SBATCH_TIMELIMIT, nor the SLURM_* of a job that submits."""
  for name, value in {
      'SBATCH_TIMELIMIT': '1', 'SBATCH_PARTITION': 'other',
      'SBATCH_EXPORT': 'NONE', 'SBATCH_ACCOUNT': 'mine',
      'SLURM_JOB_ID': '3', 'SLURM_CPUS_PER_TASK': '9',
      'SLURM_CONF': '/etc/slurm.conf', 'SQUEUE_STATES': 'PENDING'}.items():
    monkeypatch.setenv(name, value)
  submit.submit(str(tmp_path), *make_job(), str(tmp_path / 'log'))
  words, environment = slurm('sbatch')
  left = {name: value for name, value in environment.items()
          if name.startswith(('SBATCH_', 'SLURM_', 'SQUEUE_'))}
  assert left == {'SBATCH_ACCOUNT': 'mine', 'SLURM_CONF': '/etc/slurm.conf'}
  assert option(words, 'export') == ['ALL']
  warning = capsys.readouterr().err
  assert 'SBATCH_TIMELIMIT' in warning and 'SBATCH_ACCOUNT' not in warning
  assert warning.count('\n') == 1


@pytest.mark.parametrize('asked, expected', [
    (None, '--mem=7168M'), ('mem', '--mem=7168M'),
    ('mem-per-cpu', '--mem-per-cpu=1792M'), ('none', None)])
def test_memory_is_requested_by_the_chosen_option(asked, expected):
  """Some clusters refuse `--mem`."""
  job, groups = make_job(**({} if asked is None else {'memory_option': asked}))
  words = submit.arguments(job, groups, '/job', '/log')
  assert [w for w in words if w.startswith('--mem')] == (
      [expected] if expected else [])


def test_an_unknown_option_for_memory_is_refused():
  with pytest.raises(resources.ResourceError, match='memory_option is'):
    make_job(memory_option='all')


@pytest.mark.parametrize('setup, code, last', [
    (['export A=1', 'true'], 3, ''), (['false'], 1, 'setup failed with code 1: '
                                      'false'),
    (['no_such_module_command load x'], 1, 'code 127: no_such_module_command'),
    (['f() { false; }', 'f', 'true'], 1, 'setup failed with code 1: f'),
    (['if false; then', '  false', 'fi', 'false || true'], 3, '')])
def test_a_setup_line_that_fails_ends_the_job(tmp_path, setup, code, last):
  """Otherwise the job would run without it and be COMPLETED."""
  python = tmp_path / 'python'
  python.write_text('#!/bin/sh\nexit 3\n')
  python.chmod(0o755)
  _, groups = make_job(setup=setup, python=str(python))
  script = '#!/bin/bash\n' + submit._script(groups[0].group, '/job', '-c', '')
  done = subprocess.run(['bash', '-c', script], capture_output=True, text=True,
                        check=False)
  assert done.returncode == code
  assert last in done.stderr.strip().splitlines()[-1:][0] if last else (
      done.stderr == '')


def test_a_container_binds_a_path_with_blanks():
  _, groups = make_job(image='/images/lpg.sif')
  script = submit._script(groups[0].group, '/a b/slurm', 'leader')
  words = shlex.split(script.splitlines()[-1])
  assert words[1:5] == ['apptainer', 'exec', '--bind', '/a b']


def test_a_container_of_a_group_with_gpus_sees_them():
  """Without `--nv` Apptainer shows none."""
  _, groups = make_job(image='/images/lpg.sif')
  group = dataclasses.replace(groups[0].group, gpus=1)
  words = shlex.split(submit._script(group, '/job', '').splitlines()[-1])
  assert words[1:5] == ['apptainer', 'exec', '--nv', '--bind']


def test_an_image_is_found_from_the_jobs_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _, groups = make_job(image='lpg.sif')
  script = submit._script(groups[0].group, '/job', '')
  assert str(tmp_path / 'lpg.sif') in shlex.split(script.splitlines()[-1])


def test_the_leader_runs_outside_of_images(slurm, tmp_path):
  """It calls `srun` and `scontrol`, which images do not have."""
  job, groups = make_job(image='/images/lpg.sif', python='python',
                         setup=['module load x'])
  submit.submit(str(tmp_path), job, groups, str(tmp_path / 'log'))
  script = (tmp_path / 'batch.sh').read_text()
  assert shlex.split(script.splitlines()[-1])[:3] == [
      'exec', sys.executable, '-m']
  assert 'module load x' in script


@pytest.mark.parametrize('path', ['/a:b/slurm', '/a\nb/slurm'])
def test_unusable_paths_are_refused_before_anything_is_written(path):
  with pytest.raises(resources.ResourceError, match='choose another') as info:
    submit.write_directory(path, None, None, *make_job(), {})
  assert '\n' not in str(info.value)


@pytest.mark.parametrize('asks', [True, False])
def test_agents_get_the_leaders_environment(slurm, tmp_path, monkeypatch,
                                            asks):
  """Also if the job was submitted with SBATCH_EXPORT=NONE."""
  monkeypatch.setenv('SLURM_JOB_NODELIST', 'host1')
  monkeypatch.setenv('SLURM_EXPORT_ENV', 'NONE')
  monkeypatch.setenv('SLURM_MEM_PER_CPU', '4')
  made = steps.Steps({'hang_s': 5., 'addresses': {}, 'groups': [{
      'nodes': [['worker', 0]], 'hosts': 1, 'cpus': 1, 'asks_memory': asks}]},
      str(tmp_path), str(tmp_path / '0'))
  made.start()
  made.nodes[0].step.wait(30)
  words, environment = slurm('srun')
  assert option(words, 'export') == ['ALL']
  assert option(words, 'mem') == (['0'] if asks else [])
  assert environment['LPG_ATTEMPT'] == '0'
  assert not {'SLURM_EXPORT_ENV', 'SLURM_MEM_PER_CPU'} & environment.keys()
  assert not made.any_started()


@pytest.fixture(name='gpu_steps')
def _gpu_steps(tmp_path, monkeypatch):
  """Four nodes with a GPU each, on two of three hosts, after a heartbeat."""
  monkeypatch.setattr(steps, 'host_names', lambda *_: ['a', 'b', 'c'])
  made = steps.Steps({'hang_s': 5., 'addresses': {'worker': []}, 'groups': [{
      'nodes': [['worker', i] for i in range(4)], 'hosts': 2, 'gpus': 1,
      'nodes_per_host': 2, 'crowd': True}]}, str(tmp_path), str(tmp_path))
  started = []

  def srun(nodes, hosts, life=0):
    started.extend((hosts[0], node.number, node.slot) for node in nodes)
    for node in nodes:
      node.life, node.host = life, ''

  monkeypatch.setattr(made, '_srun', srun)
  (tmp_path / 'beats').mkdir()
  for node in made.nodes:
    node.step = types.SimpleNamespace(poll=lambda: None)
    places.write_in_place(str(tmp_path / 'beats' / node.file), {
        'host': 'ab'[node.index // 2], 'life': 0, 'code': None,
        'slot': node.index % 2})
  made.read_heartbeats()
  return made, started


def test_nodes_that_are_moved_do_not_share_gpus(gpu_steps):
  """Slurm numbers the nodes of each step from 0, so both would use one GPU."""
  made, started = gpu_steps
  for node in made.nodes[2:]:  # One after the other, to the spare host.
    made._lost_hosts = {'b'}
    assert len(made.replace_lost([node])[1]) == 1
  assert started == [('c', 2, 0), ('c', 3, 1)]
  # A dead agent on a good host is restarted there.
  made.replace_lost([made.nodes[1]])
  assert started[2:] == [('a', 1, 1)]


def test_nodes_that_must_share_gpus_are_named(gpu_steps):
  made, started = gpu_steps
  made._lost_hosts = {'b', 'c'}
  _, lines = made.replace_lost(made.nodes[2:])
  assert started == [('a', 2, 0), ('a', 3, 1)]
  assert [line.split(', since')[0] for line in lines[1:]] == [
      'worker/2 shares its GPUs with worker/0',
      'worker/3 shares its GPUs with worker/1']


def test_an_agent_without_its_variables_is_an_error(tmp_path, monkeypatch):
  places.write(str(tmp_path / places.JOB_FILE), {})
  monkeypatch.delenv('LPG_ATTEMPT', raising=False)
  with pytest.raises(SystemExit, match='LPG_ATTEMPT is not set'):
    agent.NodeAgent(str(tmp_path), 0)


@pytest.mark.parametrize('heard, requeues', [(False, 0), (True, 1)])
def test_a_job_whose_nodes_never_began_is_not_requeued(
    monkeypatch, capsys, heard, requeues):
  """Otherwise it would be requeued without end."""
  asked = []
  monkeypatch.setattr(steps, 'requeue', lambda: asked.append(1))
  node = types.SimpleNamespace(
      label='worker', name='worker/0', host='h', heard=0., ended=None)
  made = leader.Leader.__new__(leader.Leader)
  made._job = {'requeue': True, 'beat_s': 0., 'until': ['worker'],
               'optional': []}
  made._dir, made._next_beat, made._began = '/none', 0., True
  made._steps = types.SimpleNamespace(
      nodes=[node], start=lambda: None, write_leader_file=lambda: None,
      read_heartbeats=lambda: None,
      lost=lambda: [node], replace_lost=lambda lost: ('it is lost', []),
      any_started=lambda: heard, stop=lambda how: None, alive=lambda: False,
      close=lambda: None)
  nothing = lambda *_: None
  made._work = types.SimpleNamespace(
      begin=nothing, show=nothing, end=nothing, explain=nothing,
      where_it_ends=lambda: 'here')
  assert made.run() == (0 if requeues else 1)
  assert len(asked) == requeues
  assert ('no node has begun' in capsys.readouterr().err) is not heard


@pytest.mark.parametrize('launch, towards, interfaces, expected', [
    ('10.0.0.1', {'10.0.0.1': '10.0.0.2'}, [], '10.0.0.2'),
    # The name of the first host resolves to 127.0.1.1.
    ('127.0.1.1', {'192.0.2.1': '10.0.0.2'}, [], '10.0.0.2'),
    ('', {'2001:db8::1': 'fd00::2'}, [], '[fd00::2]'),
    ('', {}, ['10.0.0.3'], '10.0.0.3'),  # No default route.
    ('', {}, ['fd00::3'], '[fd00::3]'), ('', {}, [], '127.0.0.1')])
def test_a_host_publishes_an_address_that_others_reach(
    monkeypatch, launch, towards, interfaces, expected):
  """Loopback is its last choice."""
  monkeypatch.setenv('SLURM_LAUNCH_NODE_IPADDR', launch)
  monkeypatch.setattr(agent, '_ip_towards', lambda ip: towards.get(ip, ''))
  monkeypatch.setattr(agent, '_ips_of_interfaces', lambda: interfaces)
  assert agent.own_ip() == expected


def test_addresses_of_interfaces_are_not_loopback():
  assert agent._ip_towards('127.0.0.1') == ''
  for ip in agent._ips_of_interfaces():
    assert not ip.startswith(('127.', 'fe80'))


def test_a_host_without_a_route_publishes_loopback():
  code = ('from lpg_distributed.launch.cluster.slurm import agent\n'
          'from lpg_distributed.launch.local import isolation\n'
          'print(isolation.isolate(), agent.own_ip())')
  done = subprocess.run([sys.executable, '-c', code], check=True,
                        capture_output=True, text=True)
  if not done.stdout.startswith('None'):
    pytest.skip(f'no network namespaces here: {done.stdout}')
  assert done.stdout == 'None 127.0.0.1\n'


def test_calls_of_slurm_ignore_filters_of_the_users_shell(
    slurm, monkeypatch):
  monkeypatch.setenv('SQUEUE_PARTITION', 'other')
  commands.call('scontrol', 'show')
  assert 'SQUEUE_PARTITION' not in slurm('scontrol')[1]


@pytest.mark.parametrize('step, code, expected', [
    (None, 1, 'no job of this run is queued or runs'),  # No run of training.
    (0, 1, 'the last checkpoint is of meta-step 0 of 240'),
    (7, 1, 'the last checkpoint is of meta-step 7 of 240'),
    (240, 0, 'all 240 meta-steps are done'),
])
def test_a_run_without_a_job_says_how_far_it_is(tmp_path, capsys, step, code,
                                                expected):
  if step is not None:
    (tmp_path / 'config.json').write_text(
        json.dumps(config_io.to_dict(presets.load('demo'))))
  if step:
    record = checkpointing.write_part(str(tmp_path), step, 'learner', b'x')
    checkpointing.commit(str(tmp_path), step, [record], kept=3)
  assert launches.show_without_job(str(tmp_path)) == code
  assert expected in capsys.readouterr().out
