"""Meta-trains all variants of a study, over seeds, one after the other.

  lpg study --study=ablations --seeds=0,1,2
  lpg figure7 --study=runs/study_ablations

Each variant and seed is a run of `lpg meta-train` in a directory of its own,
with a comparison at its end. The same command resumes. Studies are data, see
`lpg_distributed/analysis/studies.py`; `lpg figure7` draws them.
"""

import json
import os
import subprocess
import sys
import time

from absl import flags

from lpg_distributed import files
from lpg_distributed.analysis import studies
from lpg_distributed.launch import command
from lpg_distributed.launch import process_environment
from lpg_distributed.launch import stopping

_STUDY = flags.DEFINE_string('study', 'ablations', 'the name of a study')
_ROOT = flags.DEFINE_string('root', None, 'where its runs are, or shall be; '
                            'default: runs/study_<name>')
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'seeds of each variant')
_VARIANTS = flags.DEFINE_list('variants', [], 'names of variants; '
                              'default: all of the study')
_CONFIG = flags.DEFINE_string(
    'config', '', 'a JSON file of fields, for all variants, as of '
    '`lpg meta-train`')
_SET = flags.DEFINE_multi_string(
    'set', [], 'a field and its value, for all variants; many times')
_META_STEPS = flags.DEFINE_integer('meta_steps', None, 'length of each run; '
                                   'default: that of the preset', 1)
_MINUTES = flags.DEFINE_float('minutes', 0., 'start no further run '
                              'after so many minutes; 0: no limit', 0.)


def _arguments(study, variant, seed, root):
  """Flags of `lpg meta-train` for one run."""
  overrides = [*study.common, *study.variants[variant], *_SET.value]
  steps = [] if _META_STEPS.value is None else [
      f'--meta_steps={_META_STEPS.value}']
  config = [f'--config={_CONFIG.value}'] if _CONFIG.value else []
  return [f'--preset={study.preset}', *config, '--launch_type=embedded',
          '--evaluate', f'--seed={seed}',
          f'--run_dir={studies.run_dir(root, variant, seed)}',
          *steps, *(f'--set={override}' for override in overrides)]


def _is_done(run_dir: str) -> bool:
  return os.path.exists(os.path.join(run_dir, 'metrics', 'evaluation.jsonl'))


def _describe(root: str, variants: list[str], seeds: tuple[int, ...]) -> None:
  """Writes which runs belong to the study, with those already written."""
  path = os.path.join(root, studies.FILE)
  about = {'study': _STUDY.value, 'set': _SET.value,
           'meta_steps': _META_STEPS.value, 'config': _CONFIG.value,
           'variants': [], 'seeds': []}
  if os.path.exists(path):
    found = {'config': '', **studies.read(root)}
    for name in ('study', 'set', 'meta_steps', 'config'):
      # Files of earlier versions have no `meta_steps`.
      if found.setdefault(name, about[name]) != about[name]:
        raise command.UsageError(
            f'{root} holds another study, of --{name}={found[name]}; choose '
            'another --root')
    about = found
  about['variants'] = [v for v in studies.load(_STUDY.value).variants
                       if v in {*about['variants'], *variants}]
  about['seeds'] = sorted({*about['seeds'], *seeds})
  os.makedirs(root, exist_ok=True)
  files.write_whole(path, (json.dumps(about, indent=1) + '\n').encode())


def _train(arguments: list[str], log: str, environment: dict[str, str],
           stop: stopping.Stopping) -> int:
  """Runs `lpg meta-train`; passes a signal on to it; returns its exit code."""
  with open(log, 'a', encoding='utf-8') as file:
    child = subprocess.Popen(
        [sys.executable, '-m', 'lpg_distributed', 'meta-train', *arguments],
        env=environment, stdout=file, stderr=file)
    while child.poll() is None and not stop.event.wait(1.):
      pass
    if child.poll() is None:
      child.send_signal(stop.signal)
      child.wait()
  return child.returncode


def main() -> int:
  study = studies.load(_STUDY.value)
  variants = _VARIANTS.value or list(study.variants)
  for variant in variants:
    if variant not in study.variants:
      raise command.UsageError(f'there is no variant {variant!r}; allowed: '
                               f'{", ".join(study.variants)}')
    studies.config_of(study, variant, *_SET.value, file=_CONFIG.value)
  seeds = command.parse_seeds(_SEEDS.value)
  root = _ROOT.value or os.path.join('runs', f'study_{_STUDY.value}')
  _describe(root, variants, seeds)
  environment = process_environment.environment(process_environment.WORKER)
  begin = time.monotonic()
  # Seed by seed, so that a study that is cut short compares all variants.
  jobs = [(variant, seed) for seed in seeds for variant in variants]
  with stopping.Stopping() as stop:
    for number, (variant, seed) in enumerate(jobs):
      run_dir = studies.run_dir(root, variant, seed)
      if _is_done(run_dir):
        continue
      minutes = (time.monotonic() - begin) / 60.
      if _MINUTES.value and minutes > _MINUTES.value:
        print('the time is over; the same command resumes', file=sys.stderr)
        break
      print(f'{number + 1}/{len(jobs)} {variant}, seed {seed}, after '
            f'{minutes:.0f} min', file=sys.stderr, flush=True)
      log = os.path.join(root, 'log')
      code = _train(_arguments(study, variant, seed, root), log, environment,
                    stop)
      if stop.event.is_set():
        print('stopped; the same command resumes', file=sys.stderr)
        break
      if code:
        print(f'error: {run_dir} ended with code {code}; see {log}',
              file=sys.stderr)
        return 1
  return stop.exit_code


if __name__ == '__main__':
  command.run(main)
